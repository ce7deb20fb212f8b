"""Writing LeRobot's frame table: one row group an episode, a new file when one is full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.feature_utils import get_hf_features_from_features
from numpy.typing import NDArray

FILE_BYTES = 100_000_000
"""A file of more bytes gets no further episode."""


class FrameWriter:
    """Writes the frames of a new dataset, episode by episode.

    Args:
        meta: the dataset's metadata, for its features and folder.
        compression: of the parquet files; `none` for images that are compressed already.
    """

    def __init__(self, meta: LeRobotDatasetMetadata, compression: str) -> None:
        features = get_hf_features_from_features(meta.features)
        empty = {name: [] for name in features}
        self.schema: pa.Schema = datasets.Dataset.from_dict(empty, features=features).data.schema
        self.frames = 0
        """Frames written so far."""
        self._meta, self._compression = meta, compression
        self._parquet: pq.ParquetWriter | None = None
        self._number = 0

    def index_columns(self, episode: int, length: int, task: str) -> dict[str, NDArray[Any]]:
        """Columns that number the next episode's frames; its task must be known to the metadata."""
        return {
            "timestamp": (np.arange(length) / self._meta.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode),
            "index": np.arange(self.frames, self.frames + length),
            "task_index": np.full(length, self._meta.get_task_index(task), np.int64),
        }

    def write(self, frames: Mapping[str, NDArray[Any] | Sequence[Any]]) -> dict[str, int]:
        """Append an episode; returns where it stands, in the columns of `meta/episodes`.

        Args:
            frames: column -> values of all frames; images as `{"bytes": png, "path": None}`.
        """
        if self._parquet is not None and self._path.stat().st_size >= FILE_BYTES:
            self.close()
            self._number += 1
        if self._parquet is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            packed = self._compression != "none"
            self._parquet = pq.ParquetWriter(
                self._path, self.schema, compression=self._compression, use_dictionary=packed
            )
        columns = {
            field.name: pa.array(
                list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else values,
                None if isinstance(values, np.ndarray) else field.type,
            )
            for field in self.schema
            for values in [frames[field.name]]
        }
        table = pa.table(columns).cast(self.schema)
        self._parquet.write_table(table)
        begin, self.frames = self.frames, self.frames + len(table)
        return {
            "data/chunk_index": 0,
            "data/file_index": self._number,
            "dataset_from_index": begin,
            "dataset_to_index": self.frames,
        }

    def close(self) -> None:
        """Finish the last file."""
        if self._parquet is not None:
            self._parquet.close()
        self._parquet = None

    @property
    def _path(self) -> Any:
        name = self._meta.data_path.format(chunk_index=0, file_index=self._number)
        return self._meta.root / name
