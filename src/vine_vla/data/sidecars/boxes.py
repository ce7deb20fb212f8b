"""Boxes as columns, in memory and in `meta/vine_boxes.parquet`: one row an object, camera and frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Box
from vine_vla.storage.parquet import read_parquet, to_numpy, write_parquet
from vine_vla.storage.transaction import current

BOXES = "meta/vine_boxes.parquet"
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_SCHEMA = pa.schema(
    [
        ("episode_id", pa.string()),
        ("frame", pa.int32()),
        ("camera", pa.string()),
        ("object_id", pa.string()),
        *[(name, pa.float32()) for name in _CORNERS],
    ]
)


@dataclass(frozen=True)
class BoxTable:
    """Boxes of one episode as columns.

    Args:
        frame: frame in the episode. int32 [N]
        camera: index into the schema's cameras. int32 [N]
        object: index into `objects`. int32 [N]
        box: x_min, y_min, x_max, y_max, normalised. float32 [N, 4]
        objects: object ids.
    """

    frame: NDArray[np.int32]
    camera: NDArray[np.int32]
    object: NDArray[np.int32]
    box: NDArray[np.float32]
    objects: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, str, Box]] = ()) -> BoxTable:
        """From rows of frame, camera index, object id and box."""
        names = {name: index for index, name in enumerate(dict.fromkeys(row[2] for row in rows))}
        return cls(
            np.array([row[0] for row in rows], np.int32),
            np.array([row[1] for row in rows], np.int32),
            np.array([names[row[2]] for row in rows], np.int32),
            np.array([row[3] for row in rows], np.float32).reshape(-1, 4),
            tuple(names),
        )

    def rows(self) -> list[tuple[int, int, str, Box]]:
        """Inverse of `of`."""
        columns = (self.frame, self.camera, self.object, self.box)
        return [
            (frame, camera, self.objects[item], Box(*box))
            for frame, camera, item, box in zip(*(c.tolist() for c in columns), strict=True)
        ]


def write_boxes(root: Path, boxes: Iterable[tuple[str, BoxTable]], cameras: Sequence[str]) -> None:
    """Write box tables, given as (episode_id, table); `cameras` are the schema's roles."""
    parts = []
    for name, table in boxes:
        if not len(table.frame):
            continue
        columns: dict[str, Any] = {
            "episode_id": pa.array([name] * len(table.frame)),
            "frame": table.frame,
            "camera": pa.array(np.array(cameras, object)[table.camera]),
            "object_id": pa.array(np.array(table.objects, object)[table.object]),
        }
        columns |= {corner: table.box[:, i] for i, corner in enumerate(_CORNERS)}
        parts.append(pa.table(columns, schema=_SCHEMA))
    write_parquet(root / BOXES, pa.concat_tables(parts) if parts else _SCHEMA.empty_table())


def read_boxes(root: Path, cameras: Sequence[str]) -> dict[str, BoxTable]:
    """episode_id -> boxes, sorted by frame; empty when there is no sidecar."""
    path = current(root, BOXES)
    if not path.is_file():
        return {}
    table = read_parquet(path, _SCHEMA).combine_chunks()
    if not len(table):
        return {}
    column = {name: table[name].combine_chunks() for name in table.column_names}
    views, episodes, objects = (
        column[name].dictionary_encode() for name in ("camera", "episode_id", "object_id")
    )
    shot, names = views.dictionary.to_pylist(), tuple(objects.dictionary.to_pylist())
    if unknown := [name for name in column["camera"].unique().to_pylist() if name not in cameras]:
        raise VineError(f"unknown camera {unknown[0]!r}", where=f"{root / BOXES}, column camera")
    camera = np.array([list(cameras).index(name) for name in shot], np.int32)[to_numpy(views.indices)]
    episode, frame = to_numpy(episodes.indices), to_numpy(column["frame"])
    values = (frame, camera, to_numpy(objects.indices))
    box = np.stack([to_numpy(column[name]) for name in _CORNERS], -1)
    order = np.lexsort((frame, episode))
    starts = np.searchsorted(episode[order], np.arange(len(episodes.dictionary) + 1))
    return {
        name: BoxTable(*(v[rows] for v in values), box[rows], names)
        for i, name in enumerate(episodes.dictionary.to_pylist())
        for rows in [order[starts[i] : starts[i + 1]]]
    }
