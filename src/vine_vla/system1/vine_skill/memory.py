"""The frames of a LeRobot dataset in memory, because decoding would take most of a step.

LeRobot's loader reads an item by decoding a PNG per camera and by a row look-up per action of the chunk; a
batch of 64 takes several times as long as the gradient step of a small policy. Here every frame is decoded
once, and the columns that the policy's `delta_timestamps` ask for are gathered once; frames that would not
fit decoded are kept as the files they are, and decoded a batch at a time. A batch is the same to the last bit
(tested).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lerobot.datasets import LeRobotDatasetMetadata
from torch import Tensor

from vine_vla.core.errors import VineError
from vine_vla.storage.parquet import to_matrix

DECODED_BYTES = 12e9
"""Frames that would take more are kept encoded, which takes about a fifth."""


class FramesInMemory:
    """All frames of the dataset at `root`, read on construction.

    Args:
        meta: of a dataset with image columns (not videos).
        delta_timestamps: seconds relative to a frame, by feature, as LeRobot's `resolve_delta_timestamps`
            gives them; images have none but 0.

    Raises:
        VineError: the dataset has video features, or several frames of a camera are asked for.
    """

    def __init__(
        self, meta: LeRobotDatasetMetadata, delta_timestamps: Mapping[str, Sequence[float]] | None = None
    ) -> None:
        self.meta = meta
        deltas = {
            name: [round(second * meta.fps) for second in seconds]
            for name, seconds in (delta_timestamps or {}).items()
        }
        if meta.video_keys or any(deltas.get(key, [0]) != [0] for key in meta.image_keys):
            raise VineError(
                "only single frames of image features fit in memory",
                where=str(meta.root),
                hint="train on an export (`vine export skills`), or with `lerobot-train`",
            )
        files = sorted(Path(meta.root).glob("data/*/*.parquet"))
        table = pa.concat_tables(pq.read_table(file, columns=list(meta.features)) for file in files)
        self._columns: dict[str, Tensor] = {}
        self._encoded: dict[str, list[pa.Buffer]] = {}
        sizes = [np.prod(f["shape"]) for f in meta.features.values() if f["dtype"] == "image"]
        fits = len(table) * float(sum(sizes)) <= DECODED_BYTES
        for name, feature in meta.features.items():
            if feature["dtype"] == "image":
                # By chunk: one array of all would overflow its offsets at 2 GB.
                images = [f.as_buffer() for part in table[name].chunks for f in part.field("bytes")]
                if fits:
                    self._columns[name] = _decode(images, range(len(images)), feature["shape"])
                else:
                    self._encoded[name] = images
            elif feature["dtype"] != "string":
                values = to_matrix(table[name]) if feature["dtype"] == "float32" else table[name].to_numpy()
                column = torch.from_numpy(np.array(values))
                scalar = tuple(feature["shape"]) == (1,) and column.ndim == 2
                self._columns[name] = column[:, 0] if scalar else column
        self._timed = set(deltas) & set(meta.image_keys)  # the present frame, with an axis of time
        self._gather(deltas)
        tasks = [str(task) for task in meta.tasks.sort_values("task_index").index]
        self._task_of = [tasks[i] for i in self._columns["task_index"].tolist()]

    def _gather(self, deltas: dict[str, list[int]]) -> None:
        """Chunks and their padding masks, clamped to the episode as LeRobot does."""
        episode = self._columns["episode_index"].numpy()
        changes = np.flatnonzero(np.diff(episode)) + 1
        starts, ends = np.concatenate([[0], changes]), np.concatenate([changes, [len(episode)]])
        lengths = ends - starts
        first, last = np.repeat(starts, lengths), np.repeat(ends - 1, lengths)
        for name in self._timed:
            self._columns[f"{name}_is_pad"] = torch.zeros((len(episode), 1), dtype=torch.bool)
        for name, offsets in deltas.items():
            if name in self._timed:
                continue
            wanted = np.arange(len(episode))[:, None] + np.asarray(offsets)
            outside = (wanted < first[:, None]) | (wanted > last[:, None])
            inside = np.clip(wanted, first[:, None], last[:, None])
            self._columns[name] = self._columns[name][torch.from_numpy(inside)]
            self._columns[f"{name}_is_pad"] = torch.from_numpy(outside)

    def __len__(self) -> int:
        return len(self._task_of)

    def column(self, name: str) -> Tensor:
        """All values of a feature that is no image, [N, ...]."""
        return self._columns[name]

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """The frames at `rows`, collated: images float32 in [0, 1], `task` a list of texts."""
        index = torch.as_tensor(np.asarray(rows))
        found: dict[str, Any] = {name: column[index] for name, column in self._columns.items()}
        for name, files in self._encoded.items():
            found[name] = _decode(files, rows, self.meta.features[name]["shape"])
        for name in self.meta.image_keys:
            found[name] = found[name].to(torch.float32) / 255.0
        for name in self._timed:
            found[name] = found[name][:, None]
        return found | {"task": [self._task_of[row] for row in rows]}


def _decode(files: Sequence[pa.Buffer], rows: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The encoded images at `rows` as uint8 [N, 3, height, width]."""
    out = torch.empty((len(rows), shape[2], shape[0], shape[1]), dtype=torch.uint8)
    images = out.numpy()

    def decode(places: range) -> None:
        for place in places:
            data = np.frombuffer(files[rows[place]], np.uint8)
            images[place] = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1)

    parts = [range(start, min(start + 256, len(rows))) for start in range(0, len(rows), 256)]
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(decode, parts):
            pass
    return out
