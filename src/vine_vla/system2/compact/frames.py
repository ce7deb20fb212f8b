"""Frames with annotations, held in memory: what perception learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Attribute, Box, SceneGraph, Schema
from vine_vla.core.options import Demonstration
from vine_vla.core.packing import attribute_slots, attribute_width
from vine_vla.core.relations import GRIPPER
from vine_vla.system2.backend import TrainingData
from vine_vla.system2.compact.attribute_classifier import (
    SIDE,
    SPARE,
    Examples,
    empty_examples,
    painted,
    readable,
    windows,
)
from vine_vla.system2.compact.detector import SIZE, shrink

Float = NDArray[np.float32]

WINDOW = (SIDE + SPARE, SIDE + SPARE, 3)


@dataclass(frozen=True)
class Frames:
    """N annotated frames, objects padded to O.

    Args:
        images: uint8 [N, C, SIZE, SIZE, 3]. state: proprioception. float32 [N, P]
        cls: class of each object, -1 where there is none. int64 [N, O]
        boxes: corners in shares. float32 [N, O, C, 4]. seen: whether annotated there. bool [N, O, C]
        attributes: as in `PackedGraphs`. float32 [N, O, F]. known: whether annotated here. bool [N, O, F]
        ids: object ids of each frame. episode: id of each frame's episode. frame: its number.
        size: (width, height) of the reference camera's images in pixels.
        examples: some of the objects in windows of the images' own resolution, for the reader.
    """

    images: NDArray[np.uint8]
    state: Float
    cls: NDArray[np.int64]
    boxes: Float
    seen: NDArray[np.bool_]
    attributes: Float
    known: NDArray[np.bool_]
    ids: tuple[tuple[str, ...], ...]
    episode: tuple[str, ...]
    frame: tuple[int, ...]
    size: tuple[int, int]
    examples: Examples

    def __len__(self) -> int:
        return len(self.state)

    def where(self, keep: NDArray[np.bool_]) -> Frames:
        """The frames at `keep` [N]."""
        index = np.flatnonzero(keep)
        arrays = (self.images, self.state, self.cls, self.boxes, self.seen, self.attributes, self.known)
        lists = (self.ids, self.episode, self.frame)
        parts = (*(a[index] for a in arrays), *(tuple(s[i] for i in index) for s in lists))
        return Frames(*parts, self.size, self.examples)

    def with_graph(self) -> NDArray[np.bool_]:
        """Which frames have a whole scene graph, as at the subgoals' starts, where plans are made. [N]"""
        return (self.known | (self.cls < 0)[..., None]).all((1, 2))


def constant_attributes(demonstrations: Sequence[Demonstration]) -> frozenset[str]:
    """Attributes that never change for an object within an episode; they hold in every frame of it."""
    seen: set[str] = set()
    changed: set[str] = set()
    for demonstration in demonstrations:
        first: dict[tuple[str, str], Attribute | None] = {}
        for graph in demonstration.graphs.values():
            for item in graph.objects:
                for name, value in item.attributes.items():
                    seen.add(name)
                    if first.setdefault((item.id, name), value) != value:
                        changed.add(name)
    return frozenset(seen - changed)


def choose_frames(
    source: TrainingData, chosen: Sequence[Demonstration], most: int, seed: int
) -> dict[int, list[int]]:
    """episode_index -> frames to read, `most` in all: first those with a graph, then any with boxes.

    Frames with graphs take at most half, since they alone show attributes that change.
    """
    order = sorted(chosen, key=lambda d: hashlib.blake2b(f"{seed} {d.episode_id}".encode()).digest())
    rng = np.random.default_rng(seed)
    share = most / max(len(order), 1)
    found: dict[int, list[int]] = {}
    left = most
    for demonstration in order:
        boxed = sorted(f for f in source.boxes(demonstration.episode_index) if f < demonstration.length)
        annotated = [f for f in demonstration.graphs if f < demonstration.length]
        quota = min(left, max(2, int(np.ceil(share))))
        if len(annotated) > max(1, quota // 2) and boxed:
            annotated = sorted(rng.choice(annotated, max(1, quota // 2), replace=False).tolist())
        others = [f for f in boxed if f not in set(annotated)]
        extra = min(len(others), max(0, quota - len(annotated)))
        frames = sorted(
            {*annotated, *rng.choice(others, extra, replace=False).tolist()} if extra else annotated
        )
        frames = frames[:left]
        if frames:
            found[demonstration.episode_index] = [int(f) for f in frames]
            left -= len(frames)
        if left <= 0:
            break
    return found


def load_frames(
    source: TrainingData,
    chosen: Sequence[Demonstration],
    *,
    most: int,
    seed: int,
    objects: int = 0,
    report: Callable[[float], None] | None = None,
) -> Frames:
    """Decode and shrink annotated frames of `chosen` episodes.

    Args:
        most: frames. objects: of them in windows for the reader, at most.

    Raises:
        VineError: no frame has boxes.
    """
    schema = source.schema
    constant = constant_attributes(chosen)
    plan = choose_frames(source, chosen, most, seed)
    if not plan:
        raise VineError(
            "no frame has boxes, so perception cannot be trained",
            hint="record boxes, or add them with `vine annotate --boxes`",
        )
    by_index = {d.episode_index: d for d in chosen}
    # Filled in place: what is read piece by piece and then joined is there twice.
    count = sum(map(len, plan.values()))
    images = np.empty((count, len(schema.cameras), SIZE, SIZE, 3), np.uint8)
    rng = np.random.default_rng(seed)
    parts: list[_Annotated] = []
    examples = [empty_examples(schema)]
    states, episodes, numbers = [], [], []
    ids: list[tuple[str, ...]] = []
    size = (SIZE, SIZE)
    for done, (index, frames) in enumerate(sorted(plan.items())):
        demonstration = by_index[index]
        boxes, fixed = source.boxes(index), _fixed(demonstration, constant)
        rows = [_objects(demonstration, f, boxes.get(f), fixed, schema) for f in frames]
        annotated = _annotations(rows, schema)
        chosen_objects = _for_reader(annotated, objects // len(plan), schema, rng)
        views = np.zeros((len(chosen_objects), len(schema.cameras), *WINDOW), np.uint8)
        for c, role in enumerate(schema.cameras):
            found = source.images(index, frames, role)
            if c == 0:
                size = (found.shape[2], found.shape[1])
            images[len(numbers) : len(numbers) + len(frames), c] = shrink(found)
            _cut(views[:, c], found, annotated, chosen_objects, c, rng)
        at = tuple(chosen_objects.T)
        examples.append(
            Examples(
                views, annotated.seen[at], annotated.cls[at], annotated.attributes[at], annotated.known[at]
            )
        )
        parts.append(annotated)
        states.append(source.proprioception(index)[frames])
        ids += [tuple(row) for row in rows]
        episodes += [demonstration.episode_id] * len(frames)
        numbers += frames
        if report:
            report((done + 1) / len(plan))
    return Frames(
        images,
        np.concatenate(states),
        *_joined(parts),
        tuple(ids),
        tuple(episodes),
        tuple(numbers),
        size,
        Examples(*(np.concatenate(a) for a in zip(*map(_fields, examples), strict=True))),
    )


def _cut(
    views: NDArray[np.uint8],
    images: NDArray[np.uint8],
    annotated: _Annotated,
    chosen: NDArray[np.int64],
    camera: int,
    rng: np.random.Generator,
) -> None:
    """Windows of the chosen (frame, object) pairs [K, 2] of repainted images into `views` [K, S, S, 3]."""
    for i in np.unique(chosen[:, 0]):
        mine = np.flatnonzero((chosen[:, 0] == i) & annotated.seen[*chosen.T, camera])
        if len(mine):
            at = slice(i, i + 1)
            image = painted(images[at], annotated.boxes[at, :, camera], annotated.seen[at, :, camera], rng)[0]
            views[mine] = windows(image, annotated.boxes[i, chosen[mine, 1], camera], spare=SPARE)


def _fields(examples: Examples) -> tuple[NDArray[Any], ...]:
    return (examples.views, examples.seen, examples.cls, examples.attributes, examples.known)


def _for_reader(
    annotated: _Annotated, most: int, schema: Schema, rng: np.random.Generator
) -> NDArray[np.int64]:
    """(frame, object) of at most `most` objects that teach a reader; the first frame's come first. [K, 2]"""
    slots = readable(schema)
    teaches = (annotated.cls >= 0) & annotated.seen.any(-1)
    if GRIPPER in schema.classes:
        teaches &= annotated.cls != schema.classes.index(GRIPPER)
    told = [annotated.known[..., s.start] & (annotated.attributes[..., s].sum(-1) > 0.5) for s in slots]
    lessons = np.sum(told, 0) * teaches if told else np.zeros(annotated.cls.shape)
    found = np.argwhere(lessons > 0)
    # Who has more to tell is drawn more often: exponential waiting times, the shortest first.
    waiting = rng.exponential(size=len(found)) / lessons[tuple(found.T)] ** 2
    order = np.lexsort((waiting, found[:, 0] > 0))
    return found[np.sort(order[:most])]


@dataclass
class _Object:
    cls: str
    boxes: Mapping[str, Box]
    attributes: Mapping[str, Attribute]
    complete: bool  # whether an attribute that is not listed is known to be absent


def _fixed(demonstration: Demonstration, constant: frozenset[str]) -> dict[str, _Object]:
    """Class and constant attributes of every object of the episode."""
    found: dict[str, _Object] = {}
    for graph in demonstration.graphs.values():
        for item in graph.objects:
            values = {n: v for n, v in item.attributes.items() if n in constant}
            found.setdefault(item.id, _Object(item.cls, {}, values, False))
    return found


def _objects(
    demonstration: Demonstration,
    frame: int,
    boxes: Mapping[str, Mapping[str, Box]] | None,
    fixed: Mapping[str, _Object],
    schema: Schema,
) -> dict[str, _Object]:
    graph: SceneGraph | None = demonstration.graphs.get(frame)
    if graph is not None:
        return {o.id: _Object(o.cls, o.boxes, o.attributes, True) for o in graph.objects}
    by_object: dict[str, dict[str, Box]] = {}
    for camera, items in (boxes or {}).items():
        for name, box in items.items():
            by_object.setdefault(name, {})[camera] = box
    found = {}
    for name, views in by_object.items():
        known = fixed.get(name)
        cls = known.cls if known else name.rstrip("0123456789").rstrip("_")
        if cls in schema.classes:
            found[name] = _Object(cls, views, known.attributes if known else {}, False)
    return found


class _Annotated(NamedTuple):
    """Objects of n frames, padded to o: as in `Frames`."""

    cls: NDArray[np.int64]
    boxes: Float
    seen: NDArray[np.bool_]
    attributes: Float
    known: NDArray[np.bool_]


def _annotations(rows: Sequence[Mapping[str, _Object]], schema: Schema) -> _Annotated:
    n, o, c = len(rows), max([1, *(len(r) for r in rows)]), len(schema.cameras)
    f = attribute_width(schema)
    cls = np.full((n, o), -1, np.int64)
    boxes, seen = np.zeros((n, o, c, 4), np.float32), np.zeros((n, o, c), bool)
    attributes, known = np.zeros((n, o, f), np.float32), np.zeros((n, o, f), bool)
    slots = attribute_slots(schema)
    for i, row in enumerate(rows):
        for j, item in enumerate(row.values()):
            cls[i, j] = schema.classes.index(item.cls)
            known[i, j] = item.complete
            for k, camera in enumerate(schema.cameras):
                if camera in item.boxes:
                    boxes[i, j, k], seen[i, j, k] = item.boxes[camera], True
            for name, value in item.attributes.items():
                slot = slots[name]
                known[i, j, slot] = True
                if schema.attributes[name]:
                    attributes[i, j, slot.start + schema.attributes[name].index(str(value))] = 1.0
                else:
                    attributes[i, j, slot] = (float(value), 1.0)
    return _Annotated(cls, boxes, seen, attributes, known)


def _joined(parts: Sequence[_Annotated]) -> _Annotated:
    """All frames, padded to the most objects of any."""
    most = max(part.cls.shape[1] for part in parts)
    found = []
    for name, filler in zip(_Annotated._fields, (-1, 0, 0, 0, 0), strict=True):
        arrays = [getattr(part, name) for part in parts]
        width = [[(0, 0), (0, most - a.shape[1]), *[(0, 0)] * (a.ndim - 2)] for a in arrays]
        found.append(
            np.concatenate([np.pad(a, w, constant_values=filler) for a, w in zip(arrays, width, strict=True)])
        )
    return _Annotated(*found)
