"""Staging: each finished episode is one file, so that a kill loses at most the episode that was running.

A staged episode is an `.npz` archive without pickled parts::

    header           JSON as uint8: see `StagedEpisode`
    action           float32 [L, A]
    proprioception   float32 [L, P]
    video_ROLE       an MP4 as uint8, one a camera role; none in an episode without images
    box_frame, box_camera, box_object   int32 [N], indices into frames, schema cameras and `header.objects`
    box              float32 [N, 4]: x_min, y_min, x_max, y_max, normalised
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
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
from vine_vla.data.sidecars.boxes import BoxTable
from vine_vla.data.sidecars.splits import calibration_split
from vine_vla.storage.files import write_atomically
from vine_vla.storage.json import decode

SUFFIX = ".episode.npz"
FORMAT = 1
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class _Labels(msgspec.Struct):
    """A demonstration as it stands in the header; subgoals and graphs are text."""

    episode_id: str
    instruction: str
    length: int
    outcome: EpisodeOutcome
    outcome_source: OutcomeSource | None
    segments: list[tuple[int, int, str, str, Outcome, OutcomeSource]]
    graphs: dict[int, str]
    onset_frame: int | None
    failure_kind: str | None
    scene: int | None
    seed: int | None
    collector: Collector
    split: Split


class _Header(msgspec.Struct):
    format: int
    demonstration: _Labels
    split_given: bool
    schema: Schema
    fps: float
    objects: tuple[str, ...]
    image_stats: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class StagedEpisode:
    """A finished episode before it is part of a dataset.

    Args:
        demonstration: its labels, segments and graphs; `episode_index` is -1, `split` may be undecided.
        schema: vocabulary. fps: frames a second.
        action: float32 [L, A]. proprioception: float32 [L, P].
        videos: camera role -> MP4 file; empty without images.
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
    header = _Header(
        FORMAT,
        _labels(episode.demonstration),
        episode.split_given,
        episode.schema,
        episode.fps,
        episode.boxes.objects,
        dict(episode.image_stats),
    )
    arrays: dict[str, Any] = {
        "header": np.frombuffer(msgspec.json.encode(header, enc_hook=dict), np.uint8),
        "action": episode.action,
        "proprioception": episode.proprioception,
        "box_frame": episode.boxes.frame,
        "box_camera": episode.boxes.camera,
        "box_object": episode.boxes.object,
        "box": episode.boxes.box,
        **{f"video_{role}": np.frombuffer(video, np.uint8) for role, video in episode.videos.items()},
    }

    write_atomically(path, lambda file: np.savez(file, **arrays))
    return path


def read_staged(path: Path) -> StagedEpisode:
    """Inverse of `write_staged`; raises VineError that names the file when it is damaged."""
    with _opened(path) as (archive, header):
        roles = header.schema.cameras if any(name.startswith("video_") for name in archive) else ()
        columns = (archive[name] for name in ("box_frame", "box_camera", "box_object", "box"))
        return StagedEpisode(
            demonstration=_demonstration(header.demonstration),
            schema=header.schema,
            fps=header.fps,
            action=archive["action"],
            proprioception=archive["proprioception"],
            videos={role: archive[f"video_{role}"].tobytes() for role in roles},
            boxes=BoxTable(*columns, header.objects),
            image_stats=header.image_stats,
            split_given=header.split_given,
        )


def read_staged_labels(path: Path) -> tuple[Demonstration, Schema]:
    """Labels and vocabulary of a staged episode; its split is the one that `assemble` would choose."""
    with _opened(path) as (_, header):
        found = _demonstration(header.demonstration)
        split = found.split if header.split_given else calibration_split(found.episode_id)
        return replace(found, split=split), header.schema


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Mapping[str, NDArray[Any]], _Header]]:
    """The archive and its header; arrays are read when they are asked for."""
    hint = "delete the file and collect the episode again"
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = decode(archive["header"].tobytes(), _Header, f"{path}, header", hint)
            if header.format != FORMAT:
                raise VineError(
                    f"format {header.format}, this VINE reads {FORMAT}", where=str(path), hint=hint
                )
            yield archive, header
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise VineError(f"damaged staged episode: {error}", where=str(path), hint=hint) from error


def _labels(d: Demonstration) -> _Labels:
    fields = {name: getattr(d, name) for name in _Labels.__struct_fields__}
    fields["segments"] = [
        (s.start, s.end, str(s.subgoal), s.text, s.outcome, s.outcome_source) for s in d.segments
    ]
    fields["graphs"] = {frame: format_graph(graph) for frame, graph in d.graphs.items()}
    return _Labels(**fields)


def _demonstration(labels: _Labels) -> Demonstration:
    """Inverse of `_labels`; its place in a dataset is not known yet."""
    fields = msgspec.structs.asdict(labels)
    fields["segments"] = tuple(
        Segment(start, end, parse_subgoal(subgoal), text, outcome, source)
        for start, end, subgoal, text, outcome, source in labels.segments
    )
    fields["graphs"] = {frame: parse_graph(text) for frame, text in labels.graphs.items()}
    return Demonstration(**fields, episode_index=-1)
