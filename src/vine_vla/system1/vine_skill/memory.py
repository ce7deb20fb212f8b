"""A LeRobot dataset that holds its frames in memory, because decoding would take most of a step.

LeRobot reads an item by decoding a PNG per camera and by a row look-up per action of the chunk; a batch
of 64 takes several times as long as the gradient step of a small policy. Here every frame is decoded
once, and the columns that the policy's `delta_timestamps` ask for are gathered once; frames that would
not fit decoded are kept as the files they are, and decoded a batch at a time. A batch is the same to the
last bit once the trainer has divided the images by 255 (tested).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch
from lerobot.datasets import LeRobotDataset
from torch import Tensor

from vine_vla.core.errors import VineError
from vine_vla.data.lerobot.tables import to_matrix

DECODED_BYTES = 12e9
"""Frames that would take more are kept encoded, which takes about a fifth."""


class InMemoryDataset(LeRobotDataset):
    """`LeRobotDataset` with image columns (not videos) that reads them on construction; same arguments.

    Raises:
        VineError: the dataset has video features, or image transforms or several frames are asked for.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        deltas = self.reader.delta_indices or {}
        if (
            self.meta.video_keys
            or self.image_transforms is not None
            or any(deltas.get(key, [0]) != [0] for key in self.meta.image_keys)
        ):
            raise VineError(
                "only single frames of image features fit in memory",
                where=str(self.root),
                hint="train on an export (`vine export skills`), or with LeRobot's own loader",
            )
        table = self.reader.hf_dataset.with_format("arrow")[:]
        self._columns: dict[str, Tensor] = {}
        self._timed: set[str] = set()
        self._encoded: dict[str, list[pa.Buffer]] = {}
        sizes = [np.prod(f["shape"]) for f in self.meta.features.values() if f["dtype"] == "image"]
        fits = len(table) * float(sum(sizes)) <= DECODED_BYTES
        for name, feature in self.meta.features.items():
            if feature["dtype"] == "image":
                # By chunk: one array of all would overflow its offsets at 2 GB.
                files = [f.as_buffer() for part in table[name].chunks for f in part.field("bytes")]
                if fits:
                    self._columns[name] = _decode(files, range(len(files)), feature["shape"])
                else:
                    self._encoded[name] = files
            elif feature["dtype"] != "string":
                values = to_matrix(table[name]) if feature["dtype"] == "float32" else table[name].to_numpy()
                column = torch.from_numpy(np.array(values))
                self._columns[name] = (
                    column[:, 0] if tuple(feature["shape"]) == (1,) and column.ndim == 2 else column
                )
        self._gather(deltas)
        self._tasks = [str(task) for task in self.meta.tasks.sort_values("task_index").index]
        self._task_of = [self._tasks[i] for i in self._columns["task_index"].tolist()]

    def _gather(self, deltas: dict[str, list[int]]) -> None:
        """Chunks and their padding masks, clamped to the episode as LeRobot does."""
        episode = self._columns["episode_index"].numpy()
        changes = np.flatnonzero(np.diff(episode)) + 1
        starts, ends = np.concatenate([[0], changes]), np.concatenate([changes, [len(episode)]])
        lengths = ends - starts
        first, last = np.repeat(starts, lengths), np.repeat(ends - 1, lengths)
        self._timed = set(deltas) & set(self.meta.image_keys)  # the present frame, with an axis of time
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

    def column(self, name: str) -> Tensor:
        """All values of a feature that is no image, [N, ...]."""
        return self._columns[name]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """What a DataLoader fetches for one batch."""
        images = {
            name: _decode(files, indices, self.meta.features[name]["shape"])
            for name, files in self._encoded.items()
        }
        items = [
            {name: column[index] for name, column in self._columns.items()}
            | {name: column[place] for name, column in images.items()}
            | {"task": self._task_of[index]}
            for place, index in enumerate(indices)
        ]
        for item in items:
            item |= {name: item[name][None] for name in self._timed}
        return items


def _decode(files: Sequence[pa.Buffer], indices: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The encoded images at `indices` as uint8 [N, 3, height, width]."""
    out = torch.empty((len(indices), shape[2], shape[0], shape[1]), dtype=torch.uint8)
    images = out.numpy()

    def decode(places: range) -> None:
        for place in places:
            data = np.frombuffer(files[indices[place]], np.uint8)
            images[place] = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1)

    parts = [range(start, min(start + 256, len(indices))) for start in range(0, len(indices), 256)]
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(decode, parts):
            pass
    return out
