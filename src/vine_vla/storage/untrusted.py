"""Files that others wrote: JSON and safetensors headers are bounded, names stay inside their folder."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from vine_vla.core.errors import VineError

JSON_BYTES = 32 * 2**20
"""Size of a JSON file, at most; a tokenizer's is the largest that is met."""

JSON_DEPTH = 64
"""Objects and lists inside one another, at most."""

HEADER_BYTES = 16 * 2**20
"""Length of a safetensors header, at most: some 100,000 tensors."""


def read_json(path: Path, hint: str = "") -> Any:
    """The contents of a JSON file.

    Raises:
        VineError: it cannot be read, is no JSON, too large (`JSON_BYTES`) or too deep (`JSON_DEPTH`).
    """
    return parse_json(read_text(path, hint), str(path), hint)


def read_text(path: Path, hint: str = "") -> str:
    """A text file of `JSON_BYTES` at most; raises VineError if it is larger or cannot be read."""
    try:
        size = path.stat().st_size
        if size > JSON_BYTES:
            raise VineError(f"{size} bytes of JSON, at most {JSON_BYTES}", where=str(path), hint=hint)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise VineError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from error
    except UnicodeDecodeError as error:
        raise VineError("damaged JSON: not UTF-8", where=str(path), hint=hint) from error


def parse_json(text: str | bytes, where: str, hint: str = "") -> Any:
    """What a JSON text says; raises VineError, naming `where`, if it is damaged or too deep."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise VineError(f"damaged JSON: {error}", where=where, hint=hint) from error
    except RecursionError as error:
        raise _too_deep(where, hint) from error
    level: list[Any] = [data]
    for _ in range(JSON_DEPTH + 1):
        level = [v for item in level if isinstance(item, dict | list) for v in _values(item)]
        if not level:
            return data
    raise _too_deep(where, hint)


def _values(item: dict[str, Any] | list[Any]) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else item


def _too_deep(where: str, hint: str) -> VineError:
    return VineError(f"JSON nested deeper than {JSON_DEPTH}", where=where, hint=hint)


def check_tensors(path: Path, hint: str = "") -> None:
    """Raises VineError unless the header of a safetensors file is as long as may be, and JSON.

    The library that loads the tensors checks their types, shapes and places.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            room = path.stat().st_size - 8
            if length > min(room, HEADER_BYTES):
                raise VineError(
                    f"damaged weights: a header of {length} bytes, at most {max(0, min(room, HEADER_BYTES))}",
                    where=str(path),
                    hint=hint,
                )
            header = file.read(length)
    except OSError as error:
        raise VineError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from error
    parse_json(header, f"{path}, header", hint)


def check_inner(name: object, where: str, hint: str = "") -> PurePosixPath:
    """A path inside its folder, as a file names it; VineError naming `where` if it leaves the folder."""
    if isinstance(name, str) and name and "\\" not in name and "\0" not in name:
        inner = PurePosixPath(name)
        if not inner.is_absolute() and ".." not in inner.parts and not PureWindowsPath(name).drive:
            return inner
    raise VineError(f"{name!r} is no path inside the folder", where=where, hint=hint)
