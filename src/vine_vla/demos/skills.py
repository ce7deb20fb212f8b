"""Export: a plain LeRobot v3 dataset of skills, on which any LeRobot policy trains.

`export_skills` makes one episode per segment with a known outcome, its task the subgoal's sentence;
`export_flat` keeps whole episodes under their instruction. Images are crops at objects (`crops`) or whole
frames. The sidecars are the only truth about outcomes; a trainer that does not read them should be given
`outcomes=(REACHED,)`, for which every episode is worth imitating.

An image column is PNG inside parquet: the windows are small, and a loader that keeps frames in memory
(System 1's) decodes each once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats, get_feature_stats
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.datasets.io_utils import write_info as write_lerobot_info
from lerobot.datasets.io_utils import write_stats
from lerobot.utils.utils import flatten_dict
from numpy.typing import NDArray

from vine_vla.demos.crops import LAYOUT, CropLayout, scene_layout, skill_inputs, slot_ids, target_layout
from vine_vla.demos.dataset import DemoDataset
from vine_vla.demos.files import folder_in_the_making, write_json
from vine_vla.demos.sidecars import SidecarInfo, write_demonstrations, write_info
from vine_vla.errors import VineError
from vine_vla.graph import SceneGraph, Verb
from vine_vla.options import (
    Collector,
    Demonstration,
    EpisodeOutcome,
    Outcome,
    OutcomeSource,
    Segment,
    Split,
    Subgoal,
)

EXPORT = "meta/vine_export.json"
KNOWN = (Outcome.REACHED, Outcome.SLIPPED, Outcome.DEAD)
"""Outcomes of the segments that are exported; censored ones only of interventions, since who takes over
says that the policy's part was not over: near misses, from which the done head learns."""

DATA_FILE_BYTES = 100_000_000
STATS_EVERY = 8
"""Every 8th frame enters the image statistics."""

EPISODE = Verb("episode", (), "do the whole task")
"""What the one segment of a whole episode is called in the sidecars of a flat export."""

Images = Literal["crops", "whole"]


@dataclass(frozen=True)
class Clip:
    """Frames `start` to `end` of a source episode that become one episode of the export."""

    demonstration: Demonstration
    name: str
    start: int
    end: int
    subgoal: Subgoal | None
    text: str
    outcome: Outcome
    source: OutcomeSource

    @property
    def graph(self) -> SceneGraph | None:
        """The last scene graph at or before the clip's start, else the first of the episode."""
        graphs = self.demonstration.graphs
        before = [frame for frame in graphs if frame <= self.start]
        return graphs[max(before)] if before else next(iter(graphs.values()), None)


@dataclass(frozen=True)
class ExportSummary:
    """What an export holds.

    Args:
        out: its folder.
        episodes, frames: how much of it.
        outcomes: outcome -> episodes.
        fresh: False when `out` already held this very export.
    """

    out: Path
    episodes: int
    frames: int
    outcomes: dict[str, int]
    fresh: bool


Progress = Callable[[int, int], None]


def export_skills(
    dataset: DemoDataset,
    out: Path,
    *,
    splits: Sequence[Split] = (Split.TRAIN,),
    outcomes: Sequence[Outcome] = KNOWN,
    images: Images = "crops",
    whole_pixels: int = 96,
    threads: int = 2,
    progress: Progress | None = None,
) -> ExportSummary:
    """One episode per segment, crops at the subgoal's target.

    Args:
        dataset: demonstrations with segments, and with boxes for crops.
        out: folder to write; replaced only if it is an older export.
        splits, outcomes: which episodes and segments to take.
        images: `crops`, or `whole` frames shrunk to `whole_pixels` along the shorter side.
        threads: decode and encode in this many threads.
        progress: called with (clips done, clips).

    Raises:
        VineError: nothing to export, no boxes for crops, or `out` holds something else.
    """
    clips = [
        Clip(d, f"{d.episode_id}.{n:02d}", s.start, s.end, s.subgoal, s.text, s.outcome, s.outcome_source)
        for d in dataset.demonstrations
        if d.split in splits
        for n, s in enumerate(d.segments)
        if s.outcome in outcomes or (outcomes == KNOWN and _taken_over(d, s))
    ]
    layout = target_layout(dataset.schema, _image_sizes(dataset)) if images == "crops" else None
    settings = {"kind": "skills", "splits": sorted(splits), "outcomes": sorted(outcomes)}
    return _export(dataset, out, clips, layout, settings, images, whole_pixels, threads, progress)


def _taken_over(demonstration: Demonstration, segment: Segment) -> bool:
    return demonstration.collector is Collector.INTERVENTION and segment.outcome is Outcome.CENSORED


def export_flat(
    dataset: DemoDataset,
    out: Path,
    *,
    splits: Sequence[Split] = (Split.TRAIN,),
    successful_only: bool = True,
    images: Images = "crops",
    whole_pixels: int = 96,
    threads: int = 2,
    progress: Progress | None = None,
) -> ExportSummary:
    """Whole episodes under their instruction, crops at all objects that a subgoal can name.

    Arguments as `export_skills`.
    Successful episodes count as `reached`, failed ones as `dead`, all others as `censored`.
    """
    outcome = {EpisodeOutcome.SUCCESS: Outcome.REACHED, EpisodeOutcome.FAILURE: Outcome.DEAD}
    chosen = [
        d
        for d in dataset.demonstrations
        if d.split in splits and (d.outcome is EpisodeOutcome.SUCCESS or not successful_only)
    ]
    clips = [
        Clip(
            d,
            d.episode_id,
            0,
            d.length,
            None,
            d.instruction,
            outcome.get(d.outcome, Outcome.CENSORED),
            d.outcome_source or OutcomeSource.OPERATOR,
        )
        for d in chosen
    ]
    layout = None
    if images == "crops":
        # Slots are counted over all episodes, so that no split and no filter changes the layout.
        graphs = (g for d in dataset.demonstrations for g in d.graphs.values())
        layout = scene_layout(dataset.schema, _image_sizes(dataset), graphs)
    settings = {"kind": "flat", "splits": sorted(splits), "successful_only": successful_only}
    return _export(dataset, out, clips, layout, settings, images, whole_pixels, threads, progress)


def _image_sizes(dataset: DemoDataset) -> dict[str, tuple[int, int]]:
    shapes = {role: dataset.files.features[key]["shape"] for role, key in dataset.cameras.items()}
    return {role: (int(shape[0]), int(shape[1])) for role, shape in shapes.items()}


def _export(
    dataset: DemoDataset,
    out: Path,
    clips: Sequence[Clip],
    layout: CropLayout | None,
    settings: dict[str, Any],
    images: Images,
    whole_pixels: int,
    threads: int,
    progress: Progress | None,
) -> ExportSummary:
    if not clips:
        raise VineError(
            "no segment to export" if settings["kind"] == "skills" else "no episode to export",
            where=str(dataset.root),
            mend="collect more episodes, or choose other splits and outcomes; `vine inspect` counts them",
        )
    settings |= {"images": images, "layout": layout.to_json() if layout else whole_pixels}
    settings["source"] = _fingerprint(dataset.root)
    summary = ExportSummary(
        out, len(clips), sum(c.end - c.start for c in clips), _count(c.outcome for c in clips), True
    )
    if out.exists() and any(out.iterdir()):
        if not (out / EXPORT).is_file():
            raise VineError("exists and is no export of VINE", where=str(out), mend="choose another folder")
        if json.loads((out / EXPORT).read_text(encoding="utf-8")) == settings:
            return ExportSummary(out, summary.episodes, summary.frames, summary.outcomes, False)
    with folder_in_the_making(out) as root:
        reader = _ClipReader(dataset, layout, whole_pixels)
        writer: _ExportWriter | None = None
        for number, (clip, columns) in enumerate(_read_all(reader, clips, threads)):
            if writer is None:
                writer = _ExportWriter(root, dataset, columns)
            writer.add(clip, columns)
            if progress is not None:
                progress(number + 1, len(clips))
        assert writer is not None
        writer.close()
        if layout is not None:
            (root / LAYOUT).write_text(layout.to_json() + "\n", encoding="utf-8")
        write_json(root / EXPORT, settings)
    return summary


def _fingerprint(root: Path) -> str:
    """Digest of everything small about the source; frames are covered by their counts."""
    digest = hashlib.sha256()
    for path in sorted((root / "meta").rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _count(outcomes: Iterable[Outcome]) -> dict[str, int]:
    found: dict[str, int] = {}
    for outcome in outcomes:
        found[outcome.value] = found.get(outcome.value, 0) + 1
    return found


def _read_all(
    reader: _ClipReader, clips: Sequence[Clip], threads: int
) -> Iterator[tuple[Clip, dict[str, Any]]]:
    """Clips in order, a few read ahead in threads (decoding and encoding release the lock)."""
    groups: list[list[Clip]] = []
    for clip in clips:
        if groups and groups[-1][0].demonstration is clip.demonstration:
            groups[-1].append(clip)
        else:
            groups.append([clip])
    with ThreadPoolExecutor(max(1, threads)) as pool:
        waiting: list[Future[list[dict[str, Any]]]] = []
        for number, group in enumerate(groups):
            while len(waiting) < len(groups) and len(waiting) <= number + 2 * threads:
                waiting.append(pool.submit(reader.read, groups[len(waiting)]))
            try:
                done = waiting[number].result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            waiting[number] = Future()  # frees the frames
            yield from zip(group, done, strict=True)


class _ClipReader:
    """Columns of clips: encoded images, vectors and the statistics' sample of frames."""

    def __init__(self, dataset: DemoDataset, layout: CropLayout | None, whole_pixels: int) -> None:
        self.dataset, self.layout, self.whole_pixels = dataset, layout, whole_pixels
        dataset.actions(0)  # fills the caches before threads ask for them
        if layout is not None and not any(
            len(dataset.box_table(d.episode_index).frame) for d in dataset.demonstrations
        ):
            raise VineError(
                "no boxes to cut crops at",
                where=str(dataset.root / "meta/vine_boxes.parquet"),
                mend="annotate boxes (`vine annotate --boxes`) or export with `--images whole`",
            )

    def read(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """One dictionary a clip of the same episode; keys are feature names, images under their role."""
        episode = clips[0].demonstration.episode_index
        first, last = min(c.start for c in clips), max(c.end for c in clips)
        frames = {
            role: self.dataset.images(episode, range(first, last), role) for role in self.dataset.cameras
        }
        boxes = self.dataset.boxes(episode) if self.layout is not None else {}
        states, actions = self.dataset.proprioception(episode), self.dataset.actions(episode)
        return [
            self._columns(c, {r: f[c.start - first : c.end - first] for r, f in frames.items()}, boxes)
            | {"observation.state": states[c.start : c.end], "action": actions[c.start : c.end]}
            for c in clips
        ]

    def _columns(self, clip: Clip, frames: dict[str, NDArray[np.uint8]], boxes: Any) -> dict[str, Any]:
        pictures: dict[str, list[NDArray[np.uint8]]] = {role: [] for role in frames}
        environment = []
        layout = self.layout
        if layout is not None:
            graph = clip.graph
            classes = {o.id: o.cls for o in graph.objects} if graph is not None else {}
            ids = slot_ids(layout, clip.subgoal, classes)
            for i in range(clip.end - clip.start):
                now = {role: f[i] for role, f in frames.items()}
                inputs = skill_inputs(now, boxes.get(clip.start + i, {}), layout, clip.subgoal, ids)
                environment.append(inputs.environment_state)
                for role, picture in inputs.crops.items():
                    pictures[role].append(picture)
        else:
            verbs = [v.name for v in self.dataset.schema.verbs]
            verb = np.zeros(max(len(verbs), 1), np.float32)
            if clip.subgoal is not None:
                verb[verbs.index(clip.subgoal.verb)] = 1.0
            environment = [verb] * (clip.end - clip.start)
            for role, images in frames.items():
                pictures[role] = [_shrink(image, self.whole_pixels) for image in images]
        return {
            "images": {role: [_png(p) for p in found] for role, found in pictures.items()},
            "samples": {role: np.stack(found[::STATS_EVERY]) for role, found in pictures.items()},
            "observation.environment_state": np.stack(environment),
        }


def _shrink(image: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = pixels / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _png(image: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return data.tobytes()


class _ExportWriter:
    """Writes clips as episodes in LeRobot's layout, with sidecars."""

    def __init__(self, root: Path, dataset: DemoDataset, first: dict[str, Any]) -> None:
        self.root, self.dataset = root, dataset
        self.cameras = {role: f"observation.images.{role}" for role in dataset.cameras}
        features: dict[str, dict[str, Any]] = {
            self.cameras[role]: {
                "dtype": "image",
                "shape": sample.shape[1:],
                "names": ["height", "width", "channels"],
            }
            for role, sample in first["samples"].items()
        }
        for name in ("observation.state", "observation.environment_state", "action"):
            size = first[name].shape[1]
            names = dataset.files.features.get(name, {}).get("names") or [f"{name}_{i}" for i in range(size)]
            features[name] = {"dtype": "float32", "shape": (size,), "names": list(names)}
        self.meta = LeRobotDatasetMetadata.create(
            f"vine/{root.name}",
            int(dataset.fps),
            features,
            dataset.files.info.get("robot_type"),
            root,
            use_videos=False,
            metadata_buffer_size=200,
        )
        hf = get_hf_features_from_features(self.meta.features)
        self.arrow: pa.Schema = datasets.Dataset.from_dict({k: [] for k in hf}, features=hf).data.schema
        self._statistics: list[dict[str, Any]] = []
        self._rows: list[Demonstration] = []
        self._parquet: pq.ParquetWriter | None = None
        self._file, self._bytes, self._begin = 0, 0, 0

    def add(self, clip: Clip, columns: dict[str, Any]) -> None:
        index, length, begin = len(self._rows), clip.end - clip.start, self._begin
        self.meta.save_episode_tasks([clip.text])
        frames = {k: columns[k] for k in ("observation.state", "observation.environment_state", "action")} | {
            "timestamp": (np.arange(length) / self.meta.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": np.arange(begin, begin + length),
            "task_index": np.full(length, self.meta.get_task_index(clip.text)),
        }
        statistics = compute_episode_stats(frames, self.meta.features)
        for role, key in self.cameras.items():
            sample = columns["samples"][role].transpose(0, 3, 1, 2)
            found = get_feature_stats(sample, axis=(0, 2, 3), keepdims=True)
            statistics[key] = {
                name: value if name == "count" else np.squeeze(value / 255.0, axis=0)
                for name, value in found.items()
            }
        self._write(frames, columns["images"])
        # LeRobot's `save_episode` merges and rewrites all statistics for each of thousands of episodes.
        self.meta._save_episode_metadata(
            {"episode_index": index, "tasks": [clip.text], "length": length}
            | {"data/chunk_index": 0, "data/file_index": self._file}
            | {"dataset_from_index": begin, "dataset_to_index": begin + length}
            | flatten_dict({"stats": statistics})
        )
        self._statistics.append(statistics)
        self._begin = begin + length
        self._rows.append(_demonstration(clip, index))

    def _write(self, frames: dict[str, NDArray[Any]], images: dict[str, list[bytes]]) -> None:
        """One row group an episode; a new file when the present one is full."""
        size = sum(len(png) for found in images.values() for png in found)
        if self._parquet is not None and self._bytes + size > DATA_FILE_BYTES:
            self._parquet.close()
            self._parquet, self._bytes, self._file = None, 0, self._file + 1
        if self._parquet is None:
            path = self.root / self.meta.data_path.format(chunk_index=0, file_index=self._file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._parquet = pq.ParquetWriter(path, self.arrow, compression="none", use_dictionary=False)
        self._bytes += size
        roles = {key: role for role, key in self.cameras.items()}
        columns = {
            field.name: pa.array(
                [{"bytes": png, "path": None} for png in images[roles[field.name]]], field.type
            )
            if field.name in roles
            else pa.array(list(frames[field.name]) if frames[field.name].ndim > 1 else frames[field.name])
            for field in self.arrow
        }
        self._parquet.write_table(pa.table(columns).cast(self.arrow))

    def close(self) -> None:
        assert self._parquet is not None
        self._parquet.close()
        info = self.meta.info
        info.total_episodes, info.total_frames = len(self._rows), self._begin
        info.total_tasks = len(self.meta.tasks)
        info.splits = {"train": f"0:{len(self._rows)}"}
        self.meta.finalize()
        write_lerobot_info(info, self.root)
        write_stats(aggregate_stats(self._statistics), self.root)
        write_demonstrations(self.root, self._rows)
        schema = self.dataset.schema
        if any(d.segments[0].subgoal.verb == EPISODE.name for d in self._rows):
            schema = replace(schema, verbs=(*schema.verbs, EPISODE))
        write_info(self.root, SidecarInfo(schema, self.cameras))


def _turns(clip: Clip) -> list[tuple[int, int, Outcome]]:
    """Start, end, outcome: the clip, cut where policy and expert take turns in a whole episode.

    What a policy did before an expert took over is censored: it is nothing to imitate.
    """
    if clip.subgoal is not None or clip.demonstration.collector is not Collector.INTERVENTION:
        return [(0, clip.end - clip.start, clip.outcome)]
    turns: list[tuple[int, int, Outcome]] = []
    at = clip.start
    for s in clip.demonstration.segments:
        if s.outcome is Outcome.CENSORED and clip.start <= s.start and s.end <= clip.end:
            turns += [(at, s.start, clip.outcome)] if at < s.start else []
            turns.append((s.start, s.end, Outcome.CENSORED))
            at = s.end
    turns += [(at, clip.end, clip.outcome)] if at < clip.end else []
    return [(start - clip.start, end - clip.start, outcome) for start, end, outcome in turns]


def _demonstration(clip: Clip, index: int) -> Demonstration:
    """The clip as an episode of its own, for the sidecars."""
    outcome = {
        Outcome.REACHED: EpisodeOutcome.SUCCESS,
        Outcome.SLIPPED: EpisodeOutcome.FAILURE,
        Outcome.DEAD: EpisodeOutcome.FAILURE,
        Outcome.CENSORED: EpisodeOutcome.TRUNCATED,
    }[clip.outcome]
    length, graph, source = clip.end - clip.start, clip.graph, clip.demonstration
    subgoal = clip.subgoal or Subgoal(EPISODE.name, ())
    return Demonstration(
        episode_id=clip.name,
        episode_index=index,
        instruction=clip.text,
        length=length,
        outcome=outcome,
        outcome_source=clip.source,
        segments=tuple(
            Segment(start, end, subgoal, clip.text, outcome, clip.source)
            for start, end, outcome in _turns(clip)
        ),
        graphs={0: graph} if graph is not None else {},
        scene=source.scene,
        seed=source.seed,
        collector=source.collector,
        split=source.split,
    )
