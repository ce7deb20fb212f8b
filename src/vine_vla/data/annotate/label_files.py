"""Label files: JSON lines and CSV, read row by row with the line number for errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of a JSONL file."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise VineError(f"no JSON: {error}", where=f"{path}, line {number}") from error
        if not isinstance(row, dict):
            raise VineError("no JSON object", where=f"{path}, line {number}")
        if "episode_index" not in row and "episode" in row:
            row["episode_index"] = row["episode"]
        if "frame_index" not in row and "frame" in row:
            row["frame_index"] = row["frame"]
        yield number, row


def csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and row of a CSV file with a header."""
    reader = csv.DictReader(_lines(path))
    for column in columns:
        if column not in (reader.fieldnames or ()):
            raise VineError(
                f"column {column} is missing", where=str(path), hint=f"header: {','.join(columns)}"
            )
    for row in reader:
        yield reader.line_num, row


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VineError(f"cannot be read: {error}", where=str(path)) from error


def as_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise VineError(f"expected a list, got {value!r}", where=where)
    return value
