"""Tables of results as CSV, compressed when they are large."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd

from vine_vla.core.errors import VineError
from vine_vla.storage.files import write_bytes

PACKED_ABOVE = 1_000_000
"""Tables of more bytes are written with gzip."""


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
    raise VineError(f"no {file.name}", where=str(file.parent), hint="run `vine eval` first")
