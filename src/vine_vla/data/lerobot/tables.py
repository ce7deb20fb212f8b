"""LeRobot v3 files, read with pyarrow: fast, and with errors that name file and column.

LeRobot's own reader answers a missing file by asking the hub and a damaged one by a traceback, so it is not
used for reading; a test compares what is read here with what `LeRobotDataset` gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.storage.json import read_json, typed
from vine_vla.storage.parquet import is_list, read_columns, read_parquet, read_schema, to_matrix, to_numpy
from vine_vla.storage.untrusted import check_inner

VERSION = "v3.0"
CONVERT = "convert it with `python -m lerobot.scripts.convert_dataset_v21_to_v30"


class _Info(TypedDict):
    codebase_version: str
    fps: Annotated[float, msgspec.Meta(gt=0)]
    features: dict[str, Any]


class _Feature(TypedDict):
    dtype: str
    shape: list[int]


@dataclass(frozen=True)
class EpisodeRow:
    """One row of `meta/episodes`.

    Args:
        index: episode_index. length: frames.
        tasks: task texts that occur in it, in no order.
        data_file: parquet file with its frames.
        videos: feature key -> (file, start in seconds).
        extra: further columns that are not LeRobot's own (labels, SARM subtasks).
        begin: `dataset_from_index`, its first frame's `index`.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    data_file: Path
    videos: Mapping[str, tuple[Path, float]]
    extra: Mapping[str, Any]
    begin: int


@dataclass(frozen=True)
class LeRobotFiles:
    """What a LeRobot v3 dataset says of itself.

    Args:
        root: its folder. info: `meta/info.json`.
        episodes: in order of index.
        tasks: task_index -> text.
    """

    root: Path
    info: Mapping[str, Any]
    episodes: tuple[EpisodeRow, ...]
    tasks: Mapping[int, str]

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        features: Mapping[str, Mapping[str, Any]] = self.info["features"]
        return features

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    @property
    def camera_keys(self) -> tuple[str, ...]:
        return tuple(k for k, f in self.features.items() if f["dtype"] in ("image", "video"))


def read_info(root: Path) -> dict[str, Any]:
    """`meta/info.json` of any version; raises VineError when it is no LeRobot dataset."""
    path = root / "meta/info.json"
    if not path.is_file():
        raise VineError(
            "no LeRobot dataset", where=str(root), hint="meta/info.json is missing; give its root folder"
        )
    info = read_json(path)
    typed(info, _Info, str(path))
    for name in ("data_path", "video_path"):
        if info.get(name) is not None:
            check_inner(info[name], f"{path}, field {name}")
    for key, feature in info["features"].items():
        typed(feature, _Feature, f"{path}, feature {key}")
    return info


def read_files(root: Path) -> LeRobotFiles:
    """Read everything but the frames; raises VineError when it is no readable v3 dataset."""
    info = read_info(root)
    if info["codebase_version"] != VERSION:
        raise VineError(
            f"LeRobot format {info['codebase_version']}, VINE reads {VERSION}",
            where=f"{root / 'meta/info.json'}, field codebase_version",
            hint=f"{CONVERT} --repo-id=me/name --root={root} --push-to-hub=false`",
        )
    episodes = _read_episodes(root, info)
    return LeRobotFiles(root, info, episodes, _read_tasks(root) if episodes else {})


def _read_tasks(root: Path) -> dict[int, str]:
    path = root / "meta/tasks.parquet"
    table = read_parquet(path)
    name = next((n for n in ("task", "__index_level_0__") if n in table.column_names), None)
    if name is None or "task_index" not in table.column_names:
        raise VineError("columns task and task_index are needed", where=str(path))
    return dict(zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True))


def _read_episodes(root: Path, info: Mapping[str, Any]) -> tuple[EpisodeRow, ...]:
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not files:
        if info.get("total_episodes") == 0:
            return ()
        raise VineError("file is missing", where=str(root / "meta/episodes/chunk-000/file-000.parquet"))
    cameras = [k for k, f in info["features"].items() if f["dtype"] == "video"]
    needed = ["episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
    needed += [f"videos/{k}/{n}" for k in cameras for n in ("chunk_index", "file_index", "from_timestamp")]
    rows = []
    for file in files:
        table = read_parquet(file)
        for column in needed:
            if column not in table.column_names:
                raise VineError(f"column {column} is missing", where=str(file))
            if table[column].null_count:
                raise VineError("a value is missing", where=f"{file}, column {column}")
        table = table.select([n for n in table.column_names if not n.startswith("stats/")])
        rows += table.to_pylist()
    return tuple(sorted((_episode(root, info, cameras, row) for row in rows), key=lambda e: e.index))


def _episode(root: Path, info: Mapping[str, Any], cameras: Sequence[str], row: dict[str, Any]) -> EpisodeRow:
    def place(template: str, prefix: str, **names: str) -> Path:
        return root / template.format(
            chunk_index=row[f"{prefix}/chunk_index"], file_index=row[f"{prefix}/file_index"], **names
        )

    own = ("data/", "videos/", "meta/", "dataset_", "stats/")
    tasks = row.get("tasks") or []
    return EpisodeRow(
        index=row["episode_index"],
        length=row["length"],
        tasks=(tasks,) if isinstance(tasks, str) else tuple(tasks),
        data_file=place(info["data_path"], "data"),
        videos={
            k: (place(info["video_path"], f"videos/{k}", video_key=k), row[f"videos/{k}/from_timestamp"])
            for k in cameras
        },
        extra={
            k: v
            for k, v in row.items()
            if not k.startswith(own) and k not in ("episode_index", "length", "tasks")
        },
        begin=row["dataset_from_index"],
    )


TOLERANCE = 1e-4
"""LeRobot's own tolerance of timestamps, in seconds."""


def check_counts(files: LeRobotFiles) -> None:
    """Raises VineError when info.json and meta/episodes disagree about how much there is."""
    where = str(files.root / "meta/info.json")
    held = {"total_episodes": len(files.episodes), "total_frames": sum(e.length for e in files.episodes)}
    for field, count in held.items():
        declared = files.info.get(field)
        if declared is not None and declared != count:
            raise VineError(
                f"{declared} in info.json, {count} in meta/episodes",
                where=f"{where}, field {field}",
                hint="the files are not of one version: copy the dataset again",
            )
    if [e.index for e in files.episodes] != list(range(len(files.episodes))):
        raise VineError(
            "episodes are not numbered from 0", where=f"{files.root}/meta/episodes, column episode_index"
        )


_ARROW_NAMES = {"float": "float32", "double": "float64", "halffloat": "float16"}


def check_types(files: LeRobotFiles, path: Path) -> None:
    """Raises VineError unless the columns of a data file have the types that info.json declares."""
    schema = read_schema(path)
    for name, feature in files.features.items():
        if feature["dtype"] in ("video", "image", "language"):
            continue
        if name not in schema.names:
            raise VineError(f"column {name} is missing", where=str(path))
        kind = schema.field(name).type
        while is_list(kind):
            kind = kind.value_type
        if isinstance(kind, pa.BaseExtensionType):  # tensors of LeRobot's `datasets`
            continue
        held = _ARROW_NAMES.get(str(kind), str(kind))
        if held.removeprefix("large_") != feature["dtype"]:
            raise VineError(
                f"{name} is {held}, info.json says {feature['dtype']}",
                where=f"{path}, column {name}",
                hint="write the column with the type that is declared",
            )


def off_grid(time: NDArray[Any], frame: NDArray[Any], fps: float) -> NDArray[np.float64]:
    """How far each timestamp is from frame / fps, in seconds; 0 within LeRobot's tolerance. [N]"""
    away = np.abs(time.astype(np.float64) - frame / fps)
    grain = np.spacing(np.abs(time).astype(np.float32)).astype(np.float64)  # what float32 cannot resolve
    return np.where(away > TOLERANCE + grain, away, 0.0)


def off_grid_error(away: NDArray[np.float64], episode: NDArray[Any], path: Path) -> VineError:
    """The error for timestamps off the grid, as `off_grid` found them."""
    wrong = np.unique(episode[away > 0])
    return VineError(
        f"timestamps are up to {away.max():.3g} s off frame_index / fps in {len(wrong)} episodes, so that"
        " LeRobot would fetch wrong images or none",
        where=f"{path}, column timestamp, episode {wrong[0]}",
        hint="if the video has one frame a row, set timestamp to frame_index / fps",
    )


class FrameTable:
    """Columns of the frame table, read once a file and kept; large columns only when asked for.

    Args:
        files: the dataset.
        columns: names to read; those that a file lacks raise VineError.
    """

    def __init__(self, files: LeRobotFiles, columns: Sequence[str]) -> None:
        self._rows: dict[int, pa.Table] = {}
        wanted = ["episode_index", *[c for c in columns if c != "episode_index"]]
        for path in sorted({e.data_file for e in files.episodes}):
            table = read_columns(path, wanted)
            index = to_numpy(table["episode_index"])
            starts = (
                np.concatenate([[0], np.flatnonzero(np.diff(index)) + 1, [len(index)]]) if len(index) else [0]
            )
            for begin, end in zip(starts[:-1], starts[1:], strict=True):
                episode = int(index[begin])
                if episode in self._rows:
                    raise VineError(f"frames of episode {episode} are not together", where=str(path))
                self._rows[episode] = table.slice(begin, end - begin)
        for row in files.episodes:
            held = len(self._rows.get(row.index, ()))
            if held != row.length:
                raise VineError(
                    f"episode {row.index} has {held} frames, meta/episodes says {row.length}",
                    where=f"{row.data_file}, column episode_index",
                    hint="the files are not of one version: copy the dataset again",
                )

    def column(self, episode: int, name: str) -> pa.ChunkedArray:
        return self._rows[episode][name]

    def vector(self, episode: int, name: str) -> NDArray[np.float32]:
        """A column of vectors as float32 [L, n]; scalars become [L, 1]."""
        return to_matrix(self._rows[episode][name])


def image_size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of an image feature in pixels; LeRobot datasets have channels first or last."""
    shape, order = list(feature["shape"]), list(feature.get("names") or [])
    first = order[0] in ("channel", "channels", "c") if order else shape[0] == 3 and shape[-1] != 3
    height, width = shape[1:3] if first else shape[:2]
    return int(height), int(width)
