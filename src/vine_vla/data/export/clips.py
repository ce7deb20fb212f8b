"""Clips: parts of source episodes that become episodes of an export, and what is read for them.

An image column is PNG inside parquet: the windows are small, and a loader that keeps frames in memory
(System 1's) decodes each once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Demonstration, Outcome, OutcomeSource, Subgoal
from vine_vla.core.protocols import Observation, Perceiver, perceive_one
from vine_vla.data.export.crops import Boxes, CropLayout, graph_boxes, skill_inputs, slot_ids
from vine_vla.data.lerobot.dataset import DemoDataset, open_dataset
from vine_vla.data.lerobot.tables import image_size
from vine_vla.storage.parquet import to_matrix

STATS_EVERY = 8
"""Every 8th frame enters the image statistics."""


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


def read_clips(
    reader: ClipReader, clips: Sequence[Clip], threads: int
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


class BoxPerceiver(Perceiver, Protocol):
    """Perception that gives boxes where none are annotated; `weights` tells one training from another."""

    @property
    def weights(self) -> str: ...


class ClipReader:
    """Columns of clips: encoded images, vectors and the statistics' sample of frames.

    Args:
        layout: of verb and boxes in the environment vector; None: the verb alone.
        whole_pixels: shorter side of whole frames; 0: no images; None: the layout's windows.
    """

    def __init__(
        self,
        dataset: DemoDataset,
        layout: CropLayout | None,
        whole_pixels: int | None,
        earlier: EarlierExport | None = None,
        perception: BoxPerceiver | None = None,
    ) -> None:
        self.dataset, self.layout, self.whole_pixels, self.earlier = dataset, layout, whole_pixels, earlier
        self.perception = perception
        dataset.actions(0)  # fills the caches before threads ask for them
        if layout is not None and not any(
            len(dataset.box_table(d.episode_index).frame) for d in dataset.demonstrations
        ):
            raise VineError(
                "no boxes to cut crops at",
                where=str(dataset.root / "meta/vine_boxes.parquet"),
                hint="annotate boxes (`vine annotate --boxes`) or export with `--images whole`",
            )

    def read(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """One dictionary a clip of the same episode; keys are feature names, images under their role."""
        actions = self.dataset.actions(clips[0].demonstration.episode_index)
        taken = {
            c.name: columns
            for c in clips
            if self.earlier is not None
            and (columns := self.earlier.columns(c, actions[c.start : c.end])) is not None
        }
        missing = [c for c in clips if c.name not in taken]
        read = dict(zip([c.name for c in missing], self._decode(missing), strict=True)) if missing else {}
        return [(taken | read)[c.name] for c in clips]

    def _decode(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """`read` from the source's videos."""
        episode = clips[0].demonstration.episode_index
        first, last = min(c.start for c in clips), max(c.end for c in clips)
        frames = {role: self._frames(episode, first, last, role) for role in self.dataset.cameras}
        boxes = self.dataset.boxes(episode) if self.layout is not None else {}
        states, actions = self.dataset.proprioception(episode), self.dataset.actions(episode)
        return [
            self._columns(
                c,
                {r: f[c.start - first : c.end - first] for r, f in frames.items()},
                states[c.start : c.end],
                boxes,
            )
            | {"observation.state": states[c.start : c.end], "action": actions[c.start : c.end]}
            for c in clips
        ]

    def _frames(self, episode: int, first: int, last: int, role: str) -> NDArray[np.uint8]:
        """Frames of a camera; where nothing needs them, black ones that take no memory."""
        if self.whole_pixels == 0 and self.perception is None:
            size = image_size(self.dataset.files.features[self.dataset.cameras[role]])
            return np.broadcast_to(np.uint8(0), (last - first, *size, 3))
        return self.dataset.images(episode, range(first, last), role)

    def _perceived(
        self,
        perception: BoxPerceiver,
        clip: Clip,
        frames: Mapping[str, NDArray[np.uint8]],
        states: NDArray[np.float32],
        annotated: Mapping[int, Boxes],
    ) -> dict[int, Boxes]:
        """Boxes of every frame of the clip: annotated ones, else perceived ones, tracked as at run time."""
        graph, boxes = clip.graph, {}
        for i in range(clip.end - clip.start):
            observation = Observation({role: f[i] for role, f in frames.items()}, states[i])
            graph = perceive_one(perception, observation, clip.demonstration.instruction, graph)
            perceived, known = graph_boxes(graph), annotated.get(clip.start + i, {})
            boxes[clip.start + i] = {
                role: {**perceived.get(role, {}), **known.get(role, {})} for role in frames
            }
        return boxes

    def _columns(
        self,
        clip: Clip,
        frames: dict[str, NDArray[np.uint8]],
        states: NDArray[np.float32],
        boxes: Mapping[int, Boxes],
    ) -> dict[str, Any]:
        pictures: dict[str, list[NDArray[np.uint8]]] = {role: [] for role in frames}
        environment = []
        layout = self.layout
        if layout is not None:
            graph = clip.graph
            classes = {o.id: o.cls for o in graph.objects} if graph is not None else {}
            ids = slot_ids(layout, clip.subgoal, classes)
            if self.perception is not None:
                boxes = self._perceived(self.perception, clip, frames, states, boxes)
            for i in range(clip.end - clip.start):
                now = {role: f[i] for role, f in frames.items()}
                here = boxes.get(clip.start + i, {})
                inputs = skill_inputs(now, here, layout, clip.subgoal, ids)
                environment.append(inputs.environment_state)
                for role, picture in inputs.crops.items():
                    pictures[role].append(picture)
        else:
            verbs = [v.name for v in self.dataset.schema.verbs]
            verb = np.zeros(max(len(verbs), 1), np.float32)
            if clip.subgoal is not None:
                verb[verbs.index(clip.subgoal.verb)] = 1.0
            environment = [verb] * (clip.end - clip.start)
        if self.whole_pixels == 0:
            pictures = {}
        elif self.whole_pixels is not None:
            for role, images in frames.items():
                pictures[role] = [_shrink(image, self.whole_pixels) for image in images]
        return {
            "images": {role: [_png(p) for p in found] for role, found in pictures.items()},
            "samples": {role: np.stack(found[::STATS_EVERY]) for role, found in pictures.items()},
            "observation.environment_state": np.stack(environment),
        }


class EarlierExport:
    """An earlier export, from which clips are taken over: decoding frames is most of an export's time.

    Args:
        root: its folder; an export of the same kind, with the same layout.
        cameras: role -> image feature.

    Raises:
        VineError: somebody has rewritten its files.
    """

    def __init__(self, root: Path, cameras: Mapping[str, str]) -> None:
        self.root, self.cameras = root, cameras
        self._places: dict[str, tuple[Path, int]] = {}
        self._subgoals: dict[str, Subgoal] = {}
        files = sorted((root / "data").glob("*/*.parquet"))
        places = [(file, group) for file in files for group in range(pq.read_metadata(file).num_row_groups)]
        clips = open_dataset(root).demonstrations
        if len(places) != len(clips):
            raise VineError(
                f"{len(places)} row groups for {len(clips)} episodes",
                where=str(root),
                hint="leave --earlier out",
            )
        for clip, place in zip(clips, places, strict=True):
            self._places[clip.episode_id] = place
            self._subgoals[clip.episode_id] = clip.segments[0].subgoal

    def columns(self, clip: Clip, actions: NDArray[np.float32]) -> dict[str, Any] | None:
        """What `ClipReader.read` gives for `clip`; None if it is not here, or not with these actions."""
        if clip.name not in self._places:
            return None
        if clip.subgoal is not None and clip.subgoal != self._subgoals[clip.name]:
            return None
        file, group = self._places[clip.name]
        table = pq.ParquetFile(file).read_row_group(group)
        if len(table) != len(actions) or not np.array_equal(to_matrix(table["action"]), actions):
            return None
        images = {
            role: [f.as_py() for part in table[key].chunks for f in part.field("bytes")]
            for role, key in self.cameras.items()
        }
        names = ("observation.state", "observation.environment_state", "action")
        return {name: to_matrix(table[name]) for name in names} | {
            "images": images,
            "samples": {
                role: np.stack([_pixels(f) for f in fs[::STATS_EVERY]]) for role, fs in images.items()
            },
        }


def _pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], np.uint8)


def _shrink(image: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = pixels / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _png(image: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return data.tobytes()
