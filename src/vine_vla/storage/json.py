"""JSON files: written whole, without NaN, read with errors that name the file; and append-only rows."""

from __future__ import annotations

import gzip
import json
import math
import os
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
