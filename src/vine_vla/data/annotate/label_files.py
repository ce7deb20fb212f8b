"""Label files: JSON lines and CSV, read row by row, each with its place for errors."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vine_vla.core.errors import VineError
from vine_vla.storage.json import decode, typed

MAX_LINE = 2**20
"""Characters of the longest line that is read."""

_SHORT = {"episode": "episode_index", "frame": "frame_index"}


class EpisodeRow(msgspec.Struct):
    """What every line of a JSON file of labels has.

    Args:
        episode_index: of the dataset. length: frames that the episode should have, if it is to be checked.
    """

    episode_index: int
    length: int | None = None


def json_rows[R: EpisodeRow](path: Path, kind: type[R]) -> Iterator[tuple[str, R]]:
    """Place (file and line) and content of every line that is not blank; `episode` stands for
    `episode_index`, `frame` for `frame_index`.

    Raises:
        VineError: the file cannot be read, or a line is no `kind`; names the field.
    """
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            where = f"{path}, line {number}"
            data = decode(line, dict[str, Any], where)
            full = {name: data[short] for short, name in _SHORT.items() if short in data}
            yield where, typed(full | data, kind, where)


def csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and content of every row of a CSV file with a header.

    Raises:
        VineError: the file cannot be read, or lacks one of `columns`.
    """
    reader = csv.DictReader(_lines(path))
    try:
        for column in columns:
            if column not in (reader.fieldnames or ()):
                raise VineError(
                    f"column {column} is missing", where=str(path), hint=f"header: {','.join(columns)}"
                )
        for row in reader:
            yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise VineError(f"no CSV: {error}", where=f"{path}, line {reader.line_num}") from error


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            while line := file.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise VineError(f"a line of more than {MAX_LINE} characters", where=str(path))
                yield line
    except (OSError, UnicodeDecodeError) as error:
        raise VineError(f"cannot be read: {error}", where=str(path)) from error
