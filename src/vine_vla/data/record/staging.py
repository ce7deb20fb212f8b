"""Staging: each finished episode is one file, so that a kill loses at most the episode that was running.

A staged episode is an `.npz` archive without pickled parts::

    header           JSON as uint8: see `StagedEpisode`
    action           float32 [L, A]
    proprioception   float32 [L, P]
    video_ROLE       an MP4 as uint8, one a camera role
    box_frame, box_camera, box_object   int32 [N], indices into frames, schema cameras and `header.objects`
    box              float32 [N, 4]: x_min, y_min, x_max, y_max, normalised
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema
from vine_vla.core.options import (
    Collector,
    Demonstration,
    EpisodeOutcome,
    Outcome,
    OutcomeSource,
    Segment,
    Split,
    parse_subgoal,
)
from vine_vla.core.text import format_graph, parse_graph

SUFFIX = ".episode.npz"
FORMAT = 1
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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
    def empty(cls) -> BoxTable:
        none = np.zeros(0, np.int32)
        return cls(none, none, none, np.zeros((0, 4), np.float32), ())


@dataclass(frozen=True)
class StagedEpisode:
    """A finished episode before it is part of a dataset.

    Args:
        demonstration: its labels, segments and graphs; `episode_index` is -1, `split` may be undecided.
        schema: vocabulary. fps: frames a second.
        action: float32 [L, A]. proprioception: float32 [L, P].
        videos: camera role -> MP4 file.
        boxes: boxes per frame and camera.
        image_stats: camera role -> LeRobot statistics of sampled frames, as lists.
        split_given: False when `assemble` is to choose the split.
    """

    demonstration: Demonstration
    schema: Schema
    fps: float
    action: NDArray[np.float32]
    proprioception: NDArray[np.float32]
    videos: Mapping[str, bytes]
    boxes: BoxTable
    image_stats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    split_given: bool = True


def staged_path(staging: Path, episode_id: str) -> Path:
    """Where the episode is staged; raises VineError when the id cannot be a file name."""
    if not _ID.fullmatch(episode_id):
        raise VineError(f"episode id {episode_id!r} is no file name", hint="use letters, digits, . _ and -")
    return staging / f"{episode_id}{SUFFIX}"


def staged_ids(staging: Path) -> set[str]:
    """Ids of the finished episodes, for resuming; half-written ones do not count."""
    if not staging.is_dir():
        return set()
    return {
        file.name.removesuffix(SUFFIX) for file in staging.glob(f"*{SUFFIX}") if not file.name.startswith(".")
    }


def write_staged(staging: Path, episode: StagedEpisode) -> Path:
    """Write one episode under a temporary name, then rename it."""
    path = staged_path(staging, episode.demonstration.episode_id)
    staging.mkdir(parents=True, exist_ok=True)
    header = {
        "format": FORMAT,
        "demonstration": demonstration_to_json(episode.demonstration),
        "split_given": episode.split_given,
        "schema": episode.schema.to_json(),
        "fps": episode.fps,
        "objects": list(episode.boxes.objects),
        "image_stats": episode.image_stats,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            np.savez(
                stream,
                header=np.frombuffer(json.dumps(header).encode(), np.uint8),
                action=episode.action,
                proprioception=episode.proprioception,
                box_frame=episode.boxes.frame,
                box_camera=episode.boxes.camera,
                box_object=episode.boxes.object,
                box=episode.boxes.box,
                **{f"video_{role}": np.frombuffer(video, np.uint8) for role, video in episode.videos.items()},  # type: ignore[arg-type]
            )
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_staged(path: Path) -> StagedEpisode:
    """Inverse of `write_staged`; raises VineError that names the file when it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(bytes(archive["header"]))
            boxes = BoxTable(
                archive["box_frame"],
                archive["box_camera"],
                archive["box_object"],
                archive["box"],
                tuple(header["objects"]),
            )
            schema = Schema.from_json(header["schema"], where=str(path))
            return StagedEpisode(
                demonstration=demonstration_from_json(header["demonstration"]),
                schema=schema,
                fps=header["fps"],
                action=archive["action"],
                proprioception=archive["proprioception"],
                videos={role: archive[f"video_{role}"].tobytes() for role in schema.cameras},
                boxes=boxes,
                image_stats=header["image_stats"],
                split_given=header["split_given"],
            )
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise VineError(
            f"damaged staged episode: {error}",
            where=str(path),
            hint="delete the file and collect the episode again",
        ) from error


def demonstration_to_json(demonstration: Demonstration) -> dict[str, Any]:
    """A demonstration as JSON-ready values."""
    d = demonstration
    return {
        "episode_id": d.episode_id,
        "instruction": d.instruction,
        "length": d.length,
        "outcome": d.outcome.value,
        "outcome_source": d.outcome_source and d.outcome_source.value,
        "segments": [
            [s.start, s.end, str(s.subgoal), s.text, s.outcome.value, s.outcome_source.value]
            for s in d.segments
        ],
        "graphs": {str(frame): format_graph(graph) for frame, graph in d.graphs.items()},
        "onset_frame": d.onset_frame,
        "failure_kind": d.failure_kind,
        "scene": d.scene,
        "seed": d.seed,
        "collector": d.collector.value,
        "split": d.split.value,
    }


def demonstration_from_json(data: Mapping[str, Any], episode_index: int = -1) -> Demonstration:
    """Inverse of `demonstration_to_json`."""
    source = data["outcome_source"]
    return Demonstration(
        episode_id=data["episode_id"],
        episode_index=episode_index,
        instruction=data["instruction"],
        length=data["length"],
        outcome=EpisodeOutcome(data["outcome"]),
        outcome_source=OutcomeSource(source) if source else None,
        segments=tuple(_segments(data["segments"])),
        graphs={int(frame): parse_graph(text) for frame, text in data["graphs"].items()},
        onset_frame=data["onset_frame"],
        failure_kind=data["failure_kind"],
        scene=data["scene"],
        seed=data["seed"],
        collector=Collector(data["collector"]),
        split=Split(data["split"]),
    )


def _segments(rows: Iterable[list[Any]]) -> Iterable[Segment]:
    for start, end, subgoal, text, outcome, source in rows:
        yield Segment(start, end, parse_subgoal(subgoal), text, Outcome(outcome), OutcomeSource(source))
