"""JSON files: written whole and without NaN, read into types with errors that name file and field; and
append-only rows.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vine_vla.core.errors import VineError
from vine_vla.storage import untrusted
from vine_vla.storage.files import write_text


def write_json(path: Path, data: object) -> None:
    """JSON with a line break at the end, written atomically; keys keep their order, NaN becomes null."""
    plain = without_nan(json.loads(json.dumps(data, default=as_plain)))
    write_text(path, json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


_FIELD = re.compile(r" - at (?:key in )?`\$\.?(.*)`$")


def typed[T](data: object, kind: type[T], where: str, hint: str = "") -> T:
    """Plain data (dictionaries, lists, words, numbers) as a `kind`, a type with annotations, checked in full.

    Raises:
        VineError: a field is missing, or of another type; names it.
    """
    try:
        return msgspec.convert(data, kind, str_keys=True)
    except msgspec.ValidationError as error:
        what, place = str(error), _FIELD.search(str(error))
        if place is not None:
            what, where = what[: place.start()], f"{where}, field {place[1]}" if place[1] else where
        raise VineError(what, where=where, hint=hint) from error


def decode[T](text: bytes | str, kind: type[T], where: str, hint: str = "") -> T:
    """JSON text as a `kind`; VineError as of `untrusted.parse_json` and `typed`."""
    return typed(untrusted.parse_json(text, where, hint), kind, where, hint)


def read_typed[T](path: Path, kind: type[T], hint: str = "") -> T:
    """A JSON file as a `kind`; VineError as of `untrusted.read_json` and `typed`."""
    return typed(untrusted.read_json(path, hint), kind, str(path), hint)


def check_version(data: Mapping[str, Any], newest: int, where: str) -> int:
    """Version of a format by its field `version`; files from before it was written are of version 1.

    Raises:
        VineError: no whole number from 1 to `newest`.
    """
    version = data.get("version", 1)
    if type(version) is not int or not 1 <= version <= newest:
        raise VineError(
            f"format version {version!r}, this VINE reads 1 to {newest}",
            where=f"{where}, field version",
            hint="it was written by a newer VINE: update this one",
        )
    return version


def read_json(path: Path, *, missing: str = "file is missing", hint: str = "") -> dict[str, Any]:
    """A JSON object.

    Args:
        missing: what a missing file means. hint: what to do about a missing or damaged one.

    Raises:
        VineError: the file is missing, no JSON, no object, or out of bounds (`untrusted`).
    """
    if not path.is_file():
        raise VineError(missing, where=str(path), hint=hint)
    found = untrusted.read_json(path, hint)
    if not isinstance(found, dict):
        raise VineError("not a JSON object", where=str(path), hint=hint)
    return found


def read_struct[T](path: Path, kind: type[T], *, hint: str = "") -> T:
    """A JSON file, plain or `.gz`, as an object of `kind`, a msgspec struct; unknown fields are ignored.

    Raises:
        VineError: the file is missing, no JSON, or a field is missing or of another type.
    """
    try:
        raw = path.read_bytes()
        return msgspec.json.decode(gzip.decompress(raw) if path.suffix == ".gz" else raw, type=kind)
    except msgspec.ValidationError as error:
        raise VineError(str(error), where=str(path), hint=hint) from error
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise VineError(f"damaged JSON: {error}", where=str(path), hint=hint) from error


def without_nan(data: Any) -> Any:
    """JSON-ready data with None for every number that is none: JSON has no NaN."""
    if isinstance(data, dict):
        return {name: without_nan(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def as_plain(value: object) -> object:
    """What `json.dumps` cannot write by itself: NumPy numbers and arrays, paths, ranges and sets."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (range, set, frozenset)):
        return sorted(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


class RowLog:
    """Append-only JSON lines that survive a kill: a line that was cut off is dropped at the next opening."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        if file.is_file():
            data = file.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            self.rows = [json.loads(line) for line in whole.splitlines()]
            if len(whole) != len(data):
                with open(file, "r+b") as out:
                    out.truncate(len(whole))
        self._out = open(file, "ab")  # noqa: SIM115 - held open while the run lasts

    def append(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))
        self._out.write((json.dumps(row, default=as_plain) + "\n").encode())
        self._out.flush()
        os.fsync(self._out.fileno())

    def close(self) -> None:
        self._out.close()
