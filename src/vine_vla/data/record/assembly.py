"""Assembling: staged episodes become one LeRobot v3 dataset with sidecars, repeatably and all at once.

Nothing is encoded again: the episodes' videos are joined packet by packet with LeRobot's own
`concatenate_video_files`, their statistics were computed while recording.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from lerobot.datasets.compute_stats import compute_episode_stats
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.io_utils import write_info as write_lerobot_info
from lerobot.datasets.video_utils import concatenate_video_files
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration, EpisodeOutcome
from vine_vla.data.lerobot.dataset import open_dataset
from vine_vla.data.lerobot.video import frame_times, silence_codec_logs
from vine_vla.data.lerobot.writing import FrameWriter
from vine_vla.data.record.carrying import CarriedLabels, labels_to_carry
from vine_vla.data.record.merging import union
from vine_vla.data.record.staging import StagedEpisode, read_staged, staged_ids, staged_path
from vine_vla.data.sidecars.boxes import BoxTable, write_boxes
from vine_vla.data.sidecars.files import (
    SidecarInfo,
    has_sidecars,
    labels_hash,
    read_info,
    write_demonstrations,
    write_info,
)
from vine_vla.data.sidecars.splits import CALIBRATION_SHARE, calibration_split, check_share
from vine_vla.storage.files import folder_in_the_making, restore_folder

VIDEO_FILE_BYTES = 100_000_000


def assemble(
    staging: Path,
    out: Path,
    *,
    robot_type: str,
    ids: Sequence[str] | None = None,
    calibration_share: float = CALIBRATION_SHARE,
    state_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make the LeRobot v3 dataset `out` from the episodes in `staging`, in order of their ids.

    Args:
        staging: folder that `EpisodeRecorder` filled.
        out: dataset folder. It may exist if VINE assembled it before, and is then replaced; labels that
            people gave its episodes since are carried over.
        robot_type: name of the robot for LeRobot's `info.json`.
        ids: episodes to take; default all.
        calibration_share: share in [0, 1] of the episodes recorded without a split that go to `calibration`;
            by a hash of the id, so that an episode keeps its split in every assembly.
        state_names, action_names: names of the dimensions.
        progress: called with (episodes done, episodes).

    Returns:
        `out`.

    Raises:
        VineError: nothing staged, an id that is not there, episodes that do not fit each other or have no
            images, or `out` holds something that VINE did not assemble, or labels that would be lost.
    """
    silence_codec_logs()
    found = staged_ids(staging)
    chosen = sorted(found if ids is None else set(ids))
    if not chosen:
        raise VineError("no finished episode", where=str(staging), hint="collect episodes first")
    if absent := sorted(set(chosen) - found):
        raise VineError(f"episode {absent[0]} is not staged", where=str(staging))
    check_share(calibration_share)
    restore_folder(out)
    kept: CarriedLabels | None = None
    if out.exists():
        if not out.is_dir() or not (has_sidecars(out) and read_info(out).assembled) and any(out.iterdir()):
            raise VineError(
                "exists and was not assembled by VINE", where=str(out), hint="choose another folder"
            )
        if has_sidecars(out):
            kept = labels_to_carry(out, staging, chosen, calibration_share)
    with folder_in_the_making(out) as root:
        writer: _DatasetWriter | None = None
        for number, name in enumerate(chosen):
            episode = read_staged(staged_path(staging, name))
            if not episode.videos and episode.schema.cameras:
                raise VineError(f"episode {name} was recorded without images", where=str(staging))
            if writer is None:
                writer = _DatasetWriter(root, episode, robot_type, state_names, action_names, kept)
            writer.add(_with_split(episode, calibration_share))
            if progress is not None:
                progress(number + 1, len(chosen))
        assert writer is not None
        writer.close()
        open_dataset(root, check=False)  # what could not be read must not replace what can
    return out


def _with_split(episode: StagedEpisode, share: float) -> StagedEpisode:
    if episode.split_given:
        return episode
    d = episode.demonstration
    return replace(episode, demonstration=replace(d, split=calibration_split(d.episode_id, share)))


class _DatasetWriter:
    """Writes one dataset, episode by episode, in LeRobot's layout."""

    def __init__(
        self,
        root: Path,
        first: StagedEpisode,
        robot_type: str,
        state_names: Sequence[str] | None,
        action_names: Sequence[str] | None,
        kept: CarriedLabels | None,
    ) -> None:
        if first.fps != int(first.fps):
            raise VineError(f"{first.fps} frames a second", hint="LeRobot datasets need a whole number")
        self.root, self.schema, self.fps, self.kept = root, first.schema, int(first.fps), kept
        self.cameras = {role: f"observation.images.{role}" for role in first.schema.cameras}
        self.features = _features(first, self.cameras, state_names, action_names)
        self.meta = LeRobotDatasetMetadata.create(
            f"vine/{root.name}",
            self.fps,
            self.features,
            robot_type,
            root,
            use_videos=True,
            metadata_buffer_size=100,
        )
        self.table = FrameWriter(self.meta, "snappy")
        self.demonstrations: list[Demonstration] = []
        self.boxes: list[tuple[str, BoxTable]] = []
        self.videos = {key: _VideoFiles(root, key, self.fps) for key in self.cameras.values()}

    def add(self, episode: StagedEpisode) -> None:
        self._check(episode)
        index, length = len(self.demonstrations), episode.demonstration.length
        instruction = episode.demonstration.instruction
        self.meta.save_episode_tasks([instruction])
        frames = _frame_columns(episode) | self.table.index_columns(index, length, instruction)
        stats = compute_episode_stats(
            {k: v for k, v in frames.items() if k in self.meta.features}, self.meta.features
        )
        for role, key in self.cameras.items():
            stats[key] = {name: np.asarray(value) for name, value in episode.image_stats[role].items()}
        where: dict[str, Any] = dict(self.table.write(frames))
        for role, key in self.cameras.items():
            where |= self.videos[key].add(episode.videos[role], length)
        self.meta.save_episode(index, length, [instruction], stats, where)
        # The frames say how the episode was recorded; labels that people added since stand in the sidecars.
        labelled = self.kept.episode(episode) if self.kept else episode
        self.demonstrations.append(replace(labelled.demonstration, episode_index=index))
        self.boxes.append((labelled.demonstration.episode_id, labelled.boxes))

    def close(self) -> None:
        self.table.close()
        for videos in self.videos.values():
            videos.close()
        shutil.rmtree(self.root / "parts")
        self.meta.update_video_info()
        silence_codec_logs()
        write_lerobot_info(self.meta.info, self.root)
        self.meta.finalize()
        write_demonstrations(self.root, self.demonstrations)
        write_boxes(self.root, self.boxes, self.schema.cameras)
        schema, hashed = self.schema, labels_hash(self.root, self.schema)
        if self.kept and self.kept.count:
            schema, hashed = union(self.kept.dataset.schema, schema, str(self.root)), None
        write_info(self.root, SidecarInfo(schema, self.cameras, assembled=True, labels_hash=hashed))

    def _check(self, episode: StagedEpisode) -> None:
        where = f"episode {episode.demonstration.episode_id}"
        if episode.schema != self.schema:
            raise VineError(
                "schema differs from the first episode's", where=where, hint="assemble them apart"
            )
        if episode.fps != self.fps:
            raise VineError(f"{episode.fps} frames a second, the first episode has {self.fps}", where=where)
        for name, array in (("action", episode.action), ("observation.state", episode.proprioception)):
            expected = self.features[name]["shape"]
            if array.shape[1:] != expected or array.dtype != np.float32:
                raise VineError(
                    f"{name} is {array.dtype} {array.shape[1:]}, not float32 {expected}", where=where
                )
            if not np.isfinite(array).all():
                raise VineError(f"{name} holds NaN or infinity", where=where)


class _VideoFiles:
    """The video files of one camera: collects episodes, joins them when a file is full."""

    def __init__(self, root: Path, key: str, fps: int) -> None:
        self.root, self.key, self.fps = root, key, fps
        self._file, self._frames, self._bytes = 0, 0, 0
        self._parts: list[Path] = []
        self._folder = root / "parts" / key
        self._folder.mkdir(parents=True)

    def add(self, video: bytes, length: int) -> dict[str, Any]:
        """Take one episode; returns where it will be, in LeRobot's columns."""
        if self._parts and self._bytes + len(video) > VIDEO_FILE_BYTES:
            self._join()
        part = self._folder / f"{len(self._parts):06d}.mp4"
        part.write_bytes(video)
        begin = self._frames
        self._parts.append(part)
        self._frames, self._bytes = begin + length, self._bytes + len(video)
        return {
            f"videos/{self.key}/chunk_index": 0,
            f"videos/{self.key}/file_index": self._file,
            f"videos/{self.key}/from_timestamp": begin / self.fps,
            f"videos/{self.key}/to_timestamp": self._frames / self.fps,
        }

    def close(self) -> None:
        if self._parts:
            self._join()

    def _join(self) -> None:
        path = self.root / f"videos/{self.key}/chunk-000/file-{self._file:03d}.mp4"
        concatenate_video_files(self._parts, path)
        _check_time_grid(path, self.fps, self._frames)
        for part in self._parts:
            part.unlink()
        self._parts, self._frames, self._bytes, self._file = [], 0, 0, self._file + 1


def _check_time_grid(path: Path, fps: float, frames: int) -> None:
    """Raises VineError unless the video has exactly `frames` frames at k / fps seconds."""
    times, _ = frame_times(path)
    if len(times) != frames or not np.allclose(times, np.arange(frames) / fps, rtol=0, atol=1e-5):
        raise VineError(
            f"video has {len(times)} frames off the grid of {fps} a second, expected {frames}",
            where=str(path),
        )


def _frame_columns(episode: StagedEpisode) -> dict[str, NDArray[Any]]:
    """The frames of one episode as columns of LeRobot's table, without those that number them."""
    length, outcome = episode.demonstration.length, episode.demonstration.outcome
    last = np.arange(length) == length - 1
    success = last & (outcome is EpisodeOutcome.SUCCESS)
    return {
        "action": episode.action,
        "observation.state": episode.proprioception,
        "next.reward": success.astype(np.float32),
        "next.done": last & (outcome in (EpisodeOutcome.SUCCESS, EpisodeOutcome.FAILURE)),
        "next.success": success,
    }


def _features(
    first: StagedEpisode,
    cameras: Mapping[str, str],
    state_names: Sequence[str] | None,
    action_names: Sequence[str] | None,
) -> dict[str, dict[str, Any]]:
    def vector(size: int, names: Sequence[str] | None, default: str) -> dict[str, Any]:
        if names is not None and len(names) != size:
            raise VineError(f"{len(names)} names for {size} dimensions of {default}")
        return {
            "dtype": "float32",
            "shape": (size,),
            "names": list(names or (f"{default}_{i}" for i in range(size))),
        }

    features = {
        "action": vector(first.action.shape[1], action_names, "action"),
        "observation.state": vector(first.proprioception.shape[1], state_names, "state"),
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }
    for role, key in cameras.items():
        with av.open(io.BytesIO(first.videos[role])) as container:
            video = container.streams.video[0]
            shape = (video.height, video.width, 3)
        features[key] = {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"]}
    return features
