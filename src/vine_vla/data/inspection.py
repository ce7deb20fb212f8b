"""Inspection: what a dataset holds and what is wrong with it, all problems at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration, EpisodeOutcome, Outcome
from vine_vla.data.lerobot.dataset import DemoDataset, foreign_demonstrations, open_dataset
from vine_vla.data.lerobot.legacy import read_legacy
from vine_vla.data.lerobot.tables import (
    VERSION,
    LeRobotFiles,
    check_counts,
    check_types,
    image_size,
    off_grid,
    off_grid_error,
    read_files,
    read_info,
)
from vine_vla.data.lerobot.video import check_present, frame_times, silence_codec_logs
from vine_vla.data.problems import Problem, label_problems
from vine_vla.data.sidecars import files as sidecars
from vine_vla.storage.parquet import is_list, read_columns, read_schema, to_numpy


@dataclass
class Inspection:
    """What `vine inspect` reports.

    Args:
        path: dataset folder. format: LeRobot's `codebase_version`. robot_type: from info.json.
        episodes, frames: counted in the files. fps: frames a second.
        cameras: role -> key, height and width in pixels, codec.
        tasks: task texts.
        sidecars: whether VINE's sidecars are there.
        outcomes: episode outcome -> count. splits, collectors: likewise.
        segments: verb -> outcome -> count.
        graphs, boxes: how many are stored.
        missing_labels: ids of the episodes with unknown outcome.
        problems: what is wrong.
    """

    path: str
    format: str = ""
    robot_type: str | None = None
    episodes: int = 0
    frames: int = 0
    fps: float = 0.0
    cameras: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)
    sidecars: bool = False
    outcomes: dict[str, int] = field(default_factory=lambda: {o.value: 0 for o in EpisodeOutcome})
    splits: dict[str, int] = field(default_factory=dict)
    collectors: dict[str, int] = field(default_factory=dict)
    segments: dict[str, dict[str, int]] = field(default_factory=dict)
    graphs: int = 0
    boxes: int = 0
    missing_labels: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        return [p for p in self.problems if p.level == "error"]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def validate(path: Path | str) -> list[Problem]:
    """Everything that is wrong with a dataset; empty when nothing is."""
    return inspect_dataset(path).problems


def inspect_dataset(path: Path | str, decode: bool = False) -> Inspection:
    """Read and check every file of a dataset.

    Args:
        path: LeRobot dataset folder, with sidecars or without, of any format.
        decode: also decode the frames of every segment (of whole episodes where there are none); about 5 ms a
            frame of 640 x 480.

    Raises:
        VineError: there is no dataset at all.
    """
    silence_codec_logs()
    root = Path(path)
    info = read_info(root)
    report = Inspection(
        str(root),
        str(info["codebase_version"]),
        info.get("robot_type"),
        fps=float(info["fps"]),
        cameras=_cameras(info),
    )
    if info["codebase_version"] != VERSION:
        legacy = read_legacy(root, info)
        report.episodes, report.frames, report.tasks = legacy.episodes, legacy.frames, list(legacy.tasks)
        report.outcomes[EpisodeOutcome.UNKNOWN.value] = legacy.episodes
        report.problems += [Problem.of(e) for e in legacy.errors]
        return report
    try:
        files = read_files(root)
    except VineError as error:
        report.problems.append(Problem.of(error))
        return report
    report.episodes, report.tasks = len(files.episodes), sorted(files.tasks.values())
    report.frames = sum(e.length for e in files.episodes)
    report.sidecars = sidecars.has_sidecars(root)
    report.problems += [Problem.of(e) for e in _file_errors(files)]
    if not files.episodes:
        report.problems.append(
            Problem("error", "the dataset is empty", str(root), "collect or convert episodes first")
        )
        return report
    try:
        dataset = open_dataset(root, check=False)
        demonstrations: Sequence[Demonstration] = dataset.demonstrations
        report.cameras = _cameras(info, dataset.cameras)
    except VineError as error:
        dataset = None
        report.problems.append(Problem.of(error))
        demonstrations = [] if report.sidecars else _labels_alone(files, report)
    _count(demonstrations, report)
    if dataset is not None:
        report.problems += list(label_problems(demonstrations, str(root)))
        _count_boxes(dataset, report)
        if decode and not report.errors:
            report.problems += list(_decoding_errors(dataset))
    return report


def _cameras(info: Mapping[str, Any], roles: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    features = info["features"]
    keys = [k for k, f in features.items() if f["dtype"] in ("image", "video")]
    names = {key: role for role, key in (roles or {}).items()}
    found = {}
    for key in keys:
        height, width = image_size(features[key])
        codec = (features[key].get("info") or {}).get("video.codec")
        found[names.get(key, key)] = {"key": key, "height": height, "width": width, "codec": codec}
    return found


def _file_errors(files: LeRobotFiles) -> Iterable[VineError]:
    """Errors of LeRobot's own files: counts, columns, values, times, videos."""
    try:
        check_counts(files)
    except VineError as error:
        yield error
    for path in sorted({e.data_file for e in files.episodes}):
        yield from _table_errors(files, path)
    yield from _video_errors(files)


def _table_errors(files: LeRobotFiles, path: Path) -> Iterable[VineError]:
    try:
        check_types(files, path)
        images = {k for k, f in files.features.items() if f["dtype"] == "image"}
        table = read_columns(path, [n for n in read_schema(path).names if n not in images])
    except VineError as error:
        yield error
        return
    episode, frame = to_numpy(table["episode_index"]), to_numpy(table["frame_index"])
    for name in table.column_names:
        yield from _value_errors(table[name], path, name, episode, frame, files.features.get(name, {}))
    for row in (e for e in files.episodes if e.data_file == path):
        mine = episode == row.index
        held, at = int(mine.sum()), f"{path}, column episode_index"
        if held != row.length:
            yield VineError(
                f"episode {row.index} has {held} frames, meta/episodes says {row.length}",
                where=at,
                hint="the files are not of one version: copy the dataset again",
            )
        elif not np.array_equal(frame[mine], np.arange(held)):
            yield VineError(f"frame_index of episode {row.index} does not count from 0", where=at)
        elif not np.array_equal(to_numpy(table["index"])[mine], row.begin + np.arange(held)):
            yield VineError(f"index of episode {row.index} does not count from {row.begin}", where=at)
    away = off_grid(to_numpy(table["timestamp"]), frame, files.fps)
    if away.any():
        yield off_grid_error(away, episode, path)


def _value_errors(
    column: pa.ChunkedArray, path: Path, name: str, episode: Any, frame: Any, feature: Mapping[str, Any]
) -> Iterable[VineError]:
    """Missing values, vectors of a wrong size, NaN and infinity: the first of each column."""
    where = f"{path}, column {name}"
    if feature.get("dtype") == "language":
        return
    array = column.combine_chunks()
    if array.null_count:
        row = int(np.flatnonzero(to_numpy(array.is_null()))[0])
        yield VineError(f"a value is missing (episode {episode[row]}, frame {frame[row]})", where=where)
        return
    size = 1
    if is_list(array.type):
        lengths = to_numpy(array.value_lengths())
        size = int(feature["shape"][0]) if len(feature.get("shape", ())) == 1 else int(lengths[0])
        if (lengths != size).any():
            row = int(np.flatnonzero(lengths != size)[0])
            yield VineError(
                f"a vector of {lengths[row]} where info.json says {size}",
                where=f"{where}, episode {episode[row]}, frame {frame[row]}",
            )
            return
        array = array.flatten()
    if pa.types.is_floating(array.type):
        bad = ~np.isfinite(to_numpy(array))
        if bad.any():
            row = int(np.flatnonzero(bad)[0]) // size
            yield VineError(
                f"{name} holds NaN or infinity in {len(np.unique(np.flatnonzero(bad) // size))} frames",
                where=f"{where}, episode {episode[row]}, frame {frame[row]}",
                hint="leave the episode out or record it again",
            )


def _video_errors(files: LeRobotFiles) -> Iterable[VineError]:
    """Files that are missing, cannot be read, are too short, off the time grid or of another size."""
    needed: dict[tuple[str, Path], float] = {}
    for episode in files.episodes:
        for key, (path, start) in episode.videos.items():
            end = start + episode.length / files.fps
            needed[key, path] = max(needed.get((key, path), 0.0), end)
    for (key, path), end in sorted(needed.items()):
        try:
            check_present(path, key)
            times, size = frame_times(path)
        except VineError as error:
            yield error
            continue
        wanted = round(end * files.fps)
        if len(times) < wanted:
            yield VineError(
                f"video has {len(times)} frames, its episodes need {wanted}",
                where=f"{path}, feature {key}",
                hint="copy it again",
            )
        elif np.abs(times[:wanted] - np.arange(wanted) / files.fps).max() > 0.25 / files.fps:
            yield VineError(
                f"frames are not {files.fps:g} a second",
                where=f"{path}, feature {key}",
                hint="encode it again at the dataset's fps",
            )
        shape = tuple(files.features[key]["shape"])
        if size != shape[:2] and size != shape[1:]:
            yield VineError(
                f"video is {size[0]} x {size[1]}, info.json says {list(shape)}",
                where=f"{path}, feature {key}",
            )


def _labels_alone(files: LeRobotFiles, report: Inspection) -> list[Demonstration]:
    """Outcomes from the data when the dataset cannot be opened as a whole."""
    try:
        return foreign_demonstrations(files)
    except VineError:
        report.outcomes[EpisodeOutcome.UNKNOWN.value] = len(files.episodes)
        return []


def _count(demonstrations: Sequence[Demonstration], report: Inspection) -> None:
    for d in demonstrations:
        report.outcomes[d.outcome.value] += 1
        report.splits[d.split.value] = report.splits.get(d.split.value, 0) + 1
        report.collectors[d.collector.value] = report.collectors.get(d.collector.value, 0) + 1
        report.graphs += len(d.graphs)
        if d.outcome is EpisodeOutcome.UNKNOWN:
            report.missing_labels.append(d.episode_id)
        for s in d.segments:
            counts = report.segments.setdefault(s.subgoal.verb, {o.value: 0 for o in Outcome})
            counts[s.outcome.value] += 1


def _count_boxes(dataset: DemoDataset, report: Inspection) -> None:
    try:
        report.boxes = sum(len(dataset.box_table(d.episode_index).frame) for d in dataset.demonstrations)
    except VineError as error:
        report.problems.append(Problem.of(error))


def _decoding_errors(dataset: DemoDataset) -> Iterable[Problem]:
    for d in dataset.demonstrations:
        parts = [(s.start, s.end) for s in d.segments] or [(0, d.length)]
        frames = sorted({t for start, end in parts for t in range(start, end)})
        for role in dataset.cameras:
            for begin in range(0, len(frames), 200):  # keeps memory small
                try:
                    dataset.images(d.episode_index, frames[begin : begin + 200], role)
                except VineError as error:
                    yield Problem.of(error)
                    break
