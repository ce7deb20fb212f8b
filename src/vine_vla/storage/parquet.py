"""Parquet tables: written whole, read with errors that name file and column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.storage.files import write_atomically


def write_parquet(path: Path, table: pa.Table) -> None:
    """A parquet table, written atomically."""
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))


def read_schema(path: Path) -> pa.Schema:
    """Columns of a parquet file; VineError when it cannot be read."""
    return _reading(path, lambda: pq.read_schema(path))


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a parquet file; VineError naming file and column."""
    present = read_schema(path).names
    for column in columns:
        if column not in present:
            raise VineError(f"column {column} is missing", where=str(path))
    return _reading(path, lambda: _load(path, list(columns)))


def read_parquet(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """A parquet file, with `schema` its columns alone, of these types.

    Raises:
        VineError: it cannot be read, or a column is missing, of another type, or has no value where it must
            have one; names file and column.
    """
    table = _reading(path, lambda: _load(path, None))
    if schema is None:
        return table
    for column in schema:
        if column.name not in table.column_names:
            raise VineError(f"column {column.name} is missing", where=str(path))
        if not column.nullable and table[column.name].null_count:
            raise VineError("a value is missing", where=f"{path}, column {column.name}")
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        wrong = next((f.name for f in schema if table.schema.field(f.name).type != f.type), "?")
        raise VineError(
            f"{table.schema.field(wrong).type} where {schema.field(wrong).type} is due",
            where=f"{path}, column {wrong}",
        ) from error


def is_list(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are lists, of one length or not."""
    return isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType))


def to_matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Vectors of one length as float32 [L, n], scalars as [L, 1]; ValueError if lengths differ."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = array.flatten() if is_list(array.type) else array
    if array.null_count or flat.null_count:
        raise ValueError("a value is missing")
    if is_list(array.type) and len(set(array.value_lengths().to_pylist())) > 1:
        raise ValueError("vectors differ in length")
    return np.asarray(to_numpy(flat), np.float32).reshape(len(array), -1 if len(array) else 0)


def to_numpy(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """The values of a column; unlike pyarrow's own conversion it imports no pandas, which takes longer than
    reading most datasets does.

    Columns with missing values or of other types than numbers and truth values are converted as pyarrow does
    it: missing numbers are NaN.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if pa.types.is_boolean(kind) and not array.null_count:
        return np.from_dlpack(array.cast(pa.uint8())).view(np.bool_)
    if array.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    return np.from_dlpack(array)


def _load(path: Path, columns: list[str] | None) -> pa.Table:
    """Unlike `pyarrow.parquet.read_table` this does not import pandas."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=columns)


def _reading[T](path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except FileNotFoundError as error:
        raise VineError("file is missing", where=str(path)) from error
    except (OSError, pa.ArrowException) as error:
        raise VineError(
            f"parquet cannot be read ({str(error).splitlines()[0]})",
            where=str(path),
            hint="copy or write it again",
        ) from error
