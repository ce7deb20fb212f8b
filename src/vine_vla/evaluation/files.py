"""Files of an evaluation: rows appended as they come, tables written at once, revision and versions."""

from __future__ import annotations

import gzip
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from vine_vla.errors import VineError

PACKED_ABOVE = 1_000_000
"""Tables of more bytes are written with gzip."""


def write_bytes(file: Path, data: bytes) -> None:
    """Write `file` at once: to a temporary name, flushed to disk, then renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with open(temporary, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)


def write_json(file: Path, data: object) -> None:
    plain = json.loads(json.dumps(data, default=_plain))
    write_bytes(file, (json.dumps(without_nan(plain), indent=1, allow_nan=False) + "\n").encode())


def without_nan(data: Any) -> Any:
    """JSON-ready data with None for every number that is none: JSON has no NaN."""
    if isinstance(data, dict):
        return {name: without_nan(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _plain(value: object) -> object:
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, (Path, range, set, frozenset)):
        return str(value) if isinstance(value, Path) else sorted(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def write_table(file: Path, table: pd.DataFrame) -> Path:
    """Write `file` (.csv), as .csv.gz over 1 MB; the other form of an earlier writing is removed."""
    data = table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()
    packed = file.with_name(file.name + ".gz")
    target, other = (packed, file) if len(data) > PACKED_ABOVE else (file, packed)
    write_bytes(target, gzip.compress(data, mtime=0) if target is packed else data)
    other.unlink(missing_ok=True)
    return target


def read_table(file: Path) -> pd.DataFrame:
    """Read what `write_table` wrote; VineError when there is neither form."""
    packed = file.with_name(file.name + ".gz")
    for candidate in (file, packed):
        if candidate.is_file():
            return pd.read_csv(candidate, keep_default_na=True)
    raise VineError(f"no {file.name}", where=str(file.parent), mend="run `vine eval` first")


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
        self._out.write((json.dumps(row, default=_plain) + "\n").encode())
        self._out.flush()
        os.fsync(self._out.fileno())

    def close(self) -> None:
        self._out.close()


def revision() -> str:
    """Git revision of the code, `+` behind it when files differ; `unknown` outside a repository."""
    folder = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "src"],
            cwd=folder.parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def environment(
    packages: Sequence[str] = ("vine-vla", "torch", "mujoco", "numpy", "scipy"),
) -> dict[str, str]:
    """Revision, date, Python and package versions, to be saved with every result."""
    found = {"revision": revision(), "date": now(), "python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_scenes(text: str) -> tuple[int, ...]:
    """`0:60`, `0:60:3`, `5` or `1,7,9` as scene numbers; the end is exclusive."""
    try:
        scenes: list[int] = []
        for part in text.split(","):
            if ":" in part:
                numbers = [int(n) for n in part.split(":")]
                scenes += range(*numbers)
            else:
                scenes.append(int(part))
    except (ValueError, TypeError):
        raise VineError(f"not a list of scenes: {text!r}", mend="write 0:60 or 1,7,9") from None
    if not scenes or min(scenes) < 0 or len(set(scenes)) != len(scenes):
        raise VineError(f"no scenes, a negative or a repeated one in {text!r}", mend="write 0:60 or 1,7,9")
    return tuple(scenes)


def join(names: Iterable[str]) -> str:
    return ", ".join(names)
