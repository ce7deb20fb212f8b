"""Reading: a LeRobot v3 dataset as demonstrations with outcomes, segments, graphs, boxes and frames."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from vine_vla.core.errors import VineError
from vine_vla.core.graph import NAME, Box, Schema
from vine_vla.core.options import Demonstration, EpisodeOutcome, OutcomeSource
from vine_vla.data.annotate.segmentation import named_subtasks
from vine_vla.data.annotate.subtasks import INSTRUCTION, imported, vocabulary
from vine_vla.data.lerobot.tables import (
    FrameTable,
    LeRobotFiles,
    check_counts,
    check_types,
    off_grid,
    off_grid_error,
    read_files,
)
from vine_vla.data.lerobot.video import Image, check_present, decode_frames, silence_codec_logs
from vine_vla.data.sidecars import files as sidecars
from vine_vla.data.sidecars.boxes import BoxTable, read_boxes
from vine_vla.data.sidecars.outcomes import LABEL_COLUMNS, read_outcome
from vine_vla.storage.parquet import read_columns, to_numpy
from vine_vla.storage.transaction import read_steadily

ACTION, STATE = "action", "observation.state"


@dataclass(frozen=True)
class DemoDataset:
    """A dataset of demonstrations; frames are read when asked for.

    Args:
        root: its folder.
        schema: vocabulary; without sidecars only the cameras are known.
        fps: frames a second.
        cameras: camera role -> LeRobot feature key.
        demonstrations: by episode_index. `graphs[length]` is the scene after the last action, without image.
        files: LeRobot's own metadata.
    """

    root: Path
    schema: Schema
    fps: float
    cameras: Mapping[str, str]
    demonstrations: tuple[Demonstration, ...]
    files: LeRobotFiles

    def images(self, episode_index: int, frames: Sequence[int] | None, camera_role: str) -> Image:
        """Frames of one camera, uint8 RGB [N, height, width, 3]; `frames` None means the whole episode.

        Decodes in one forward pass, so ask for many frames at once.
        """
        episode = self.files.episodes[episode_index]
        key = self._key(camera_role)
        wanted = list(range(episode.length)) if frames is None else [int(f) for f in frames]
        if wanted and not 0 <= min(wanted) <= max(wanted) < episode.length:
            raise VineError(
                f"frame {max(wanted) if min(wanted) >= 0 else min(wanted)} of {episode.length}",
                where=f"{self.root}, episode {episode_index}",
            )
        if key in episode.videos:
            path, start = episode.videos[key]
            check_present(path)
            return decode_frames(path, start, self.fps, wanted)
        column = read_columns(episode.data_file, ["episode_index", key])
        column = column.filter(to_numpy(column["episode_index"]) == episode_index)[key].take(wanted)
        return np.stack([_decode_image(item, self.root) for item in column.to_pylist()])

    def proprioception(self, episode_index: int) -> NDArray[np.float32]:
        """The robot's own state, float32 [L, P]."""
        return self._vector(episode_index, STATE)

    def actions(self, episode_index: int) -> NDArray[np.float32]:
        """Actions taken, float32 [L, A]."""
        return self._vector(episode_index, ACTION)

    def boxes(self, episode_index: int) -> Mapping[int, Mapping[str, Mapping[str, Box]]]:
        """frame -> camera role -> object id -> box; frames without boxes are absent."""
        boxes: dict[int, dict[str, dict[str, Box]]] = defaultdict(lambda: defaultdict(dict))
        for frame, camera, object_id, box in self.box_table(episode_index).rows():
            boxes[frame][self.schema.cameras[camera]][object_id] = box
        return {frame: dict(cameras) for frame, cameras in boxes.items()}

    def check_boxes(self) -> None:
        """Raises VineError when the boxes cannot be read, which otherwise happens at their first use."""
        _ = self._boxes

    def box_table(self, episode_index: int) -> BoxTable:
        """The same as columns."""
        return self._boxes.get(self.demonstrations[episode_index].episode_id, BoxTable.of())

    @cached_property
    def _frame_table(self) -> FrameTable:
        return FrameTable(self.files, [c for c in (ACTION, STATE) if c in self.files.features])

    @cached_property
    def _boxes(self) -> dict[str, BoxTable]:
        return read_steadily(self.root, sidecars.FILES, lambda: read_boxes(self.root, self.schema.cameras))

    def _vector(self, episode_index: int, name: str) -> NDArray[np.float32]:
        where = f"{self.files.episodes[episode_index].data_file}, column {name}, episode {episode_index}"
        if name not in self.files.features:
            raise VineError(f"the dataset has no {name}", where=where)
        try:
            found = self._frame_table.vector(episode_index, name)
        except ValueError as error:
            raise VineError(str(error), where=where) from error
        if not np.isfinite(found).all():
            frame = int(np.argwhere(~np.isfinite(found))[0, 0])
            raise VineError(
                f"{name} holds NaN or infinity",
                where=f"{where}, frame {frame}",
                hint="leave the episode out or record it again",
            )
        return found

    def _key(self, camera_role: str) -> str:
        try:
            return self.cameras[camera_role]
        except KeyError:
            raise VineError(
                f"no camera {camera_role!r}", where=str(self.root), hint=f"roles: {', '.join(self.cameras)}"
            ) from None


def open_dataset(path: Path | str, *, check: bool = True) -> DemoDataset:
    """Open a LeRobot v3 dataset, with VINE's sidecars or without.

    Without sidecars episodes are called `episode_000000` and so on, outcomes and segments come from what
    other tools wrote (`labels`, `segmentation`); `vine annotate` adds more.

    Args:
        path: dataset folder.
        check: refuse a dataset whose counts, column types, timestamps or video files are wrong. Without it
            only what cannot be read at all is refused; for inspection.

    Raises:
        VineError: no dataset, another format, or files that are damaged or disagree.
    """
    silence_codec_logs()
    root = Path(path)
    files = read_files(root)
    if check:
        check_files(files)
    if not files.episodes:
        raise VineError("the dataset is empty", where=str(root), hint="collect or convert episodes first")
    if annotated := read_steadily(root, sidecars.FILES, lambda: read_annotated(root, files)):
        return annotated
    cameras = camera_roles(files.camera_keys, root)
    found = foreign_demonstrations(files)
    schema = Schema((), {}, (), (), tuple(cameras))
    if subtasks := named_subtasks(files):
        kind, cuts = subtasks
        outcomes = {d.episode_index: d.outcome for d in found}
        segments = imported(files, kind, cuts, outcomes, OutcomeSource.OPERATOR)
        found = [replace(d, segments=segments[d.episode_index]) for d in found]
        classes, verbs = vocabulary(segments.values(), schema)
        schema = replace(schema, classes=classes, verbs=verbs)
    return DemoDataset(root, schema, files.fps, cameras, tuple(found), files)


def read_annotated(root: Path, files: LeRobotFiles, check_verbs: bool = True) -> DemoDataset | None:
    """The dataset with the sidecars in `root`, None if there are none; what a writer checks its own by.

    Args:
        root: folder with the sidecars in its `meta/`.
        files: LeRobot's own files.
        check_verbs: refuse subgoals that do not fit the schema; without it for repairing them.

    Raises:
        VineError: sidecars that are damaged, or do not fit the dataset or each other.
    """
    if not sidecars.has_sidecars(root):
        return None
    info = sidecars.read_info(root)
    for role, key in info.cameras.items():
        if key not in files.camera_keys:
            raise VineError(
                f"camera {role} is feature {key}, which the dataset lacks",
                where=f"{root / sidecars.INFO}, field cameras",
            )
    lengths = {e.index: e.length for e in files.episodes}
    texts = instructions(files)
    found = sidecars.read_demonstrations(root, lengths, texts, info.schema, check_verbs)
    return DemoDataset(root, info.schema, files.fps, info.cameras, tuple(found), files)


def check_files(files: LeRobotFiles) -> None:
    """Raises VineError at the first wrong count, column type, timestamp or missing video."""
    check_counts(files)
    for path in sorted({e.data_file for e in files.episodes}):
        check_types(files, path)
        table = read_columns(path, ["timestamp", "frame_index", "episode_index"])
        time, frame, episode = map(to_numpy, table.columns)
        away = off_grid(time, frame, files.fps)
        if away.any():
            raise off_grid_error(away, episode, path)
    for path in sorted({video for e in files.episodes for video, _ in e.videos.values()}):
        check_present(path)


def camera_roles(keys: Sequence[str], root: Path) -> dict[str, str]:
    """Roles for the cameras of a dataset without sidecars: the last part of each feature key."""
    if not keys:
        raise VineError("the dataset has no camera", where=f"{root / 'meta/info.json'}, field features")
    roles: dict[str, str] = {}
    for key in keys:
        role = re.sub(r"[^a-z0-9_]", "_", key.rpartition(".")[2].lower())
        role = role if NAME.fullmatch(role) else f"camera_{role.strip('_')}".rstrip("_")
        roles[role if role not in roles else f"{role}_{len(roles) + 1}"] = key
    return roles


def foreign_demonstrations(files: LeRobotFiles) -> list[Demonstration]:
    """Demonstrations of a dataset without sidecars: outcomes from other tools' labels, no segments."""
    columns = [c for c in LABEL_COLUMNS if c in files.features]
    table = FrameTable(files, columns) if columns else None
    texts, found = instructions(files), []
    for episode in files.episodes:

        def read(name: str, index: int = episode.index) -> list[object]:
            return _scalars(table.column(index, name).to_pylist()) if table else []

        try:
            outcome = read_outcome(episode.extra, columns, read)
        except ValueError as error:
            raise VineError(str(error), where=f"{files.root}, episode {episode.index}, label") from error
        known = outcome is not EpisodeOutcome.UNKNOWN
        found.append(
            Demonstration(
                episode_id=default_id(episode.index),
                episode_index=episode.index,
                instruction=texts[episode.index],
                length=episode.length,
                outcome=outcome,
                outcome_source=OutcomeSource.OPERATOR if known else None,
            )
        )
    return found


def default_id(episode_index: int) -> str:
    """Id of an episode that came without one."""
    return f"episode_{episode_index:06d}"


def instructions(files: LeRobotFiles) -> dict[int, str]:
    """episode_index -> task text; of several texts the first frame's, unless an export kept the whole's."""
    several = [e for e in files.episodes if len(e.tasks) != 1 and e.extra.get(INSTRUCTION) is None]
    texts = {e.index: e.tasks[0] for e in files.episodes if len(e.tasks) == 1}
    texts |= {e.index: e.extra[INSTRUCTION] for e in files.episodes if e.extra.get(INSTRUCTION) is not None}
    if several:
        table = FrameTable(files, ["task_index"])
        for episode in several:
            texts[episode.index] = files.tasks.get(table.column(episode.index, "task_index")[0].as_py(), "")
    return texts


def _scalars(values: list[object]) -> list[object]:
    """Values of a per-frame column; features of shape (1,) may be stored as lists of one."""
    return [v[0] if isinstance(v, list) and len(v) == 1 else v for v in values]


def _decode_image(item: Mapping[str, object] | None, root: Path) -> Image:
    if not item or not (item.get("bytes") or item.get("path")):
        raise VineError("an image is missing", where=str(root / "data"))
    data = item["bytes"]
    source = io.BytesIO(data) if isinstance(data, bytes) else root / str(item["path"])
    try:
        with PillowImage.open(source) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise VineError(f"an image cannot be decoded: {error}", where=str(root / "data")) from error
