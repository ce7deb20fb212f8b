"""The recorder: collects one episode frame by frame and stages it as one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Box, SceneGraph, Schema
from vine_vla.core.options import (
    Collector,
    Demonstration,
    EpisodeOutcome,
    Outcome,
    OutcomeSource,
    Segment,
    Split,
    Subgoal,
    check_subgoal,
)
from vine_vla.core.protocols import Observation
from vine_vla.data.lerobot.video import EpisodeEncoder, VideoSettings, silence_codec_logs
from vine_vla.data.record.staging import StagedEpisode, staged_path, write_staged
from vine_vla.data.sidecars.boxes import BoxTable

STATS_EVERY = 8
"""Every 8th frame, every second pixel, enters the image statistics."""

Boxes = Mapping[str, Mapping[str, Box]]
"""Camera role -> object id -> box."""


class EpisodeRecorder:
    """Records one episode; nothing is on disk before `finish`.

    A frame is an observation and the action taken on it. Segments and graphs refer to the frame that comes
    next: `start_segment` before the first frame of the segment, `end_segment` after its last one.

    Args:
        staging: folder of staged episodes.
        schema: vocabulary of the dataset.
        instruction: the task text.
        fps: frames a second.
        episode_id: stable and unique; letters, digits, `.`, `_` and `-`.
        video: how frames are encoded.
        images: without them no frame has an image, and `assemble` refuses the episode: labels and graphs
            alone.
    """

    def __init__(
        self,
        staging: Path,
        *,
        schema: Schema,
        instruction: str,
        fps: float,
        episode_id: str,
        video: VideoSettings | None = None,
        images: bool = True,
    ) -> None:
        silence_codec_logs()
        staged_path(staging, episode_id)  # refuses a malformed id before any frame is recorded
        self.staging, self.schema, self.episode_id = staging, schema, episode_id
        self._instruction, self._fps = instruction, fps
        self._cameras = schema.cameras if images else ()
        self._encoders = {role: EpisodeEncoder(fps, video) for role in self._cameras}
        self._statistics = {role: ImageStatistics() for role in self._cameras}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._actions: list[NDArray[np.float32]] = []
        self._states: list[NDArray[np.float32]] = []
        self._boxes: list[tuple[int, int, str, Box]] = []
        self._segments: list[Segment] = []
        self._graphs: dict[int, SceneGraph] = {}
        self._open: tuple[int, Subgoal, str] | None = None
        self._closed = False

    @property
    def frames(self) -> int:
        """Frames recorded so far; the number of the next one."""
        return len(self._actions)

    def start_segment(self, subgoal: Subgoal, text: str, graph: SceneGraph) -> None:
        """Begin `subgoal` (`text` is its sentence) in `graph`; the previous segment must have ended."""
        self._check_running()
        if self._open is not None:
            raise VineError(f"segment {self._open[1]} has not ended", where=f"episode {self.episode_id}")
        check_subgoal(subgoal, graph, self.schema, where=f"episode {self.episode_id}, frame {self.frames}")
        self._graphs[self.frames] = graph
        self._open = self.frames, subgoal, text

    def add_graph(self, graph: SceneGraph) -> None:
        """A further scene graph at the next frame, for perception."""
        self._graphs[self.frames] = graph

    def add_frame(
        self, observation: Observation, action: NDArray[np.float32], boxes: Boxes | None = None
    ) -> None:
        """One frame.

        Args:
            observation: an image for every camera role of the schema (none without `images`), and
                proprioception [P].
            action: the action taken on it, float32 [A].
            boxes: camera role -> object id -> box, or None where not annotated.

        Raises:
            VineError: wrong cameras, dtype, shape, or a value that is not finite.
        """
        self._check_running()
        where = f"episode {self.episode_id}, frame {self.frames}"
        state = _vector(observation.proprioception, "observation.state", self._states, where)
        taken = _vector(action, "action", self._actions, where)
        if set(observation.images) != set(self._cameras):
            raise VineError(
                f"images of {sorted(observation.images)}, expected {list(self._cameras)}", where=where
            )
        for role, image in observation.images.items():
            self._check_image(role, image, where)
        for role, image in observation.images.items():
            if self.frames % STATS_EVERY == 0:
                self._statistics[role].add(image[::2, ::2])
            self._encoders[role].add(np.ascontiguousarray(image))
        for role, found in (boxes or {}).items():
            camera = _camera_index(self.schema.cameras, role, where)
            self._boxes += [(self.frames, camera, object_id, box) for object_id, box in found.items()]
        self._states.append(state)
        self._actions.append(taken)

    def end_segment(self, outcome: Outcome, source: OutcomeSource, graph: SceneGraph | None = None) -> None:
        """End the running segment after the last added frame.

        `graph` is the scene it left; needed only if neither another segment nor the episode's end follows
        directly.
        """
        if self._open is None:
            raise VineError("no segment has been started", where=f"episode {self.episode_id}")
        start, subgoal, text = self._open
        self._segments.append(Segment(start, self.frames, subgoal, text, outcome, source))
        self._open = None
        if graph is not None:
            self._graphs[self.frames] = graph

    def finish(
        self,
        outcome: EpisodeOutcome,
        source: OutcomeSource | None,
        *,
        final_graph: SceneGraph | None = None,
        onset_frame: int | None = None,
        failure_kind: str | None = None,
        scene: int | None = None,
        seed: int | None = None,
        collector: Collector = Collector.OPERATOR,
        split: Split | None = None,
    ) -> Path:
        """Stage the episode and return its file.

        Args:
            outcome, source: how it ended and who says so (None only with `unknown`).
            final_graph: the scene after the last action; stored at frame `length`, which has no image.
            onset_frame: first frame of the event that ended the chances, if known.
            failure_kind, scene, seed, collector: see `Demonstration`.
            split: None lets `assemble` choose between train and calibration by the id.
        """
        self._check_running()
        where = f"episode {self.episode_id}"
        if self._open is not None:
            raise VineError(f"segment {self._open[1]} has not ended", where=where)
        if not self.frames:
            raise VineError("no frames were recorded", where=where)
        if (source is None) != (outcome is EpisodeOutcome.UNKNOWN):
            raise VineError(
                f"outcome {outcome} with source {source}", where=where, hint="unknown has no source"
            )
        if final_graph is not None:
            self._graphs[self.frames] = final_graph
        demonstration = Demonstration(
            episode_id=self.episode_id,
            episode_index=-1,
            instruction=self._instruction,
            length=self.frames,
            outcome=outcome,
            outcome_source=source,
            segments=tuple(self._segments),
            graphs=dict(sorted(self._graphs.items())),
            onset_frame=onset_frame,
            failure_kind=failure_kind,
            scene=scene,
            seed=seed,
            collector=collector,
            split=split or Split.TRAIN,
        )
        episode = StagedEpisode(
            demonstration=demonstration,
            schema=self.schema,
            fps=self._fps,
            action=np.stack(self._actions),
            proprioception=np.stack(self._states),
            videos={role: encoder.close() for role, encoder in self._encoders.items()},
            boxes=BoxTable.of(self._boxes),
            image_stats={role: found.as_lerobot() for role, found in self._statistics.items()},
            split_given=split is not None,
        )
        self._closed = True
        return write_staged(self.staging, episode)

    def abort(self) -> None:
        """Drop the episode; nothing of it is written."""
        self._closed = True
        self._encoders.clear()

    def _check_running(self) -> None:
        if self._closed:
            raise VineError("the episode has been finished or aborted", where=f"episode {self.episode_id}")

    def _check_image(self, role: str, image: NDArray[Any], where: str) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise VineError(
                f"image {role} is {image.dtype} {image.shape}, not uint8 [height, width, 3]", where=where
            )
        if self._shapes.setdefault(role, image.shape) != image.shape:
            raise VineError(f"image {role} changed from {self._shapes[role]} to {image.shape}", where=where)


class ImageStatistics:
    """LeRobot's statistics of a camera from a histogram a channel, exact for 8-bit images.

    LeRobot's own function gives the same (a test compares them) but brings torch into every process that
    records.
    """

    QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._images = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        """Take in pixels, uint8 RGB [height, width, 3]."""
        for channel in range(3):
            self._counts[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
        self._images += 1

    def as_lerobot(self) -> dict[str, Any]:
        """`min, max, mean, std, q01 ... q99` in [0, 1], each [3, 1, 1] as lists, and `count` [1]."""
        levels, shares = np.arange(256) / 255, self._counts / self._counts.sum(-1, keepdims=True)
        mean = shares @ levels
        found = {
            "min": levels[np.argmax(self._counts > 0, -1)],
            "max": levels[255 - np.argmax(self._counts[:, ::-1] > 0, -1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0)),
        }
        cumulated = np.cumsum(shares, -1)
        for q in self.QUANTILES:
            found[f"q{round(100 * q):02d}"] = levels[np.argmax(cumulated >= q - 1e-12, -1)]
        lists = {name: value[:, None, None].tolist() for name, value in found.items()}
        return {**lists, "count": [self._images]}


def _vector(
    value: NDArray[Any], name: str, earlier: list[NDArray[np.float32]], where: str
) -> NDArray[np.float32]:
    array = np.asarray(value)
    if array.dtype != np.float32 or array.ndim != 1:
        raise VineError(f"{name} is {array.dtype} {array.shape}, not float32 [n]", where=where)
    if earlier and earlier[0].shape != array.shape:
        raise VineError(f"{name} changed from {earlier[0].shape} to {array.shape}", where=where)
    if not np.isfinite(array).all():
        raise VineError(f"{name} holds NaN or infinity", where=where)
    return array.copy()


def _camera_index(names: tuple[str, ...], name: str, where: str) -> int:
    if name not in names:
        raise VineError(f"boxes of unknown camera {name!r}", where=where, hint=f"cameras: {', '.join(names)}")
    return names.index(name)
