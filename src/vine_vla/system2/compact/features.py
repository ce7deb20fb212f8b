"""Packed graphs and subgoals as the features that the nets read.

Geometry is made easy here, since what stands beside an argument decides: every object's token holds
the offset from each argument of the subgoal, in units of that argument's size, and the ratio of
sizes, in each camera; its role; the relations it has with the arguments; and whether the instruction
names its class or its categories. Everything follows from the schema.

Features come first and graphs last in every array: NumPy and torch are slow along a short last axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Subgoal, candidate_subgoals
from vine_vla.core.packing import PackedGraphs, attribute_slots, attribute_width, unpack
from vine_vla.core.protocols import Float, Int
from vine_vla.system2.compact.words import Texts, Vocabulary

LEAST_SIZE = 0.02
"""Shares of the image; smaller boxes count as this large when offsets are put in units of size."""


class SubgoalInputs(NamedTuple):
    """N pairs (graph, subgoal) for a net.

    Args:
        tokens: per object. float32 [D, O, N]
        present: whether there is an object. bool [O, N]
        args: object slot of each argument, -1 for none. int64 [N, A]
        context: verb one-hot, bag of words, attributes of the arguments. float32 [G, N]
    """

    tokens: Float
    present: NDArray[np.bool_]
    args: Int
    context: Float


class GraphInputs(NamedTuple):
    """N graphs for a net.

    Args:
        tokens: per object. float32 [D0, O, N]
        pairs: of each object j (second axis) as seen from object i (third). float32 [P2, O, O, N]
        present: bool [O, N]
        context: bag of words. float32 [W, N]
    """

    tokens: Float
    pairs: Float
    present: NDArray[np.bool_]
    context: Float


class Candidates(NamedTuple):
    """All subgoals that fit the classes of a graph, in the schema's order.

    Args:
        subgoals: Q of them. verbs: index of each verb. int64 [Q]
        args: object slots. int64 [Q, A]
    """

    subgoals: list[Subgoal]
    verbs: Int
    args: Int


@dataclass(frozen=True)
class Encoder:
    """From graphs to features, for one schema and vocabulary.

    Args:
        schema, vocabulary: of the data set.
        scales: mean and standard deviation of each numeric attribute, `number_scales`.
    """

    schema: Schema
    vocabulary: Vocabulary
    scales: tuple[tuple[str, float, float], ...] = ()

    @cached_property
    def arity(self) -> int:
        return max([1, *(len(v.arguments) for v in self.schema.verbs)])

    @cached_property
    def base_width(self) -> int:
        s = self.schema
        mentions = 1 + len(s.attributes)
        return len(s.classes) + attribute_width(s) + 5 * len(s.cameras) + 2 * len(s.predicates) + mentions

    @cached_property
    def token_width(self) -> int:
        return self.base_width + self.arity * self.argument_width

    @cached_property
    def argument_width(self) -> int:
        """Features of one object with regard to one argument."""
        return 1 + 10 * len(self.schema.cameras) + 2 * len(self.schema.predicates)

    @cached_property
    def pair_width(self) -> int:
        return 8 * len(self.schema.cameras) + 2 * len(self.schema.predicates)

    @cached_property
    def context_width(self) -> int:
        return len(self.schema.verbs) + self.vocabulary.width + self.arity * attribute_width(self.schema)

    def scaled(self, attributes: Float) -> Float:
        """Attributes with known numbers in units of their spread. [F, ...]"""
        if not self.scales:
            return attributes
        found = attributes.copy()
        slots = attribute_slots(self.schema)
        for name, mean, spread in self.scales:
            start = slots[name].start
            found[start] = (attributes[start] - mean * attributes[start + 1]) / spread
        return found

    def texts(self, instructions: list[str] | tuple[str, ...]) -> Texts:
        return self.vocabulary.encode(instructions, self.schema)

    def base(self, graphs: PackedGraphs, texts: Texts) -> Float:
        """Features of the objects themselves. float32 [D0, O, N]"""
        s = self.schema
        n, count = graphs.cls.shape
        present = graphs.cls.T >= 0
        boxes = graphs.boxes.transpose(2, 3, 1, 0)  # [C, 4, O, N]
        seen = (graphs.visible.transpose(2, 1, 0) & present).astype(np.float32)
        relations = np.moveaxis(graphs.relations, 0, -1)  # [P, O, O, N]
        attributes = np.ascontiguousarray(graphs.attributes.transpose(2, 1, 0))
        found = np.empty((self.base_width, count, n), np.float32)
        blocks = iter(np.split(found, np.cumsum(self._base_blocks)[:-1]))
        np.equal(graphs.cls.T, np.arange(len(s.classes))[:, None, None], out=next(blocks))
        next(blocks)[:] = self.scaled(attributes)
        next(blocks)[:] = seen
        place = next(blocks).reshape(len(s.cameras), 4, count, n)
        place[:, :2] = (boxes[:, :2] + boxes[:, 2:] - 1.0) * seen[:, None]
        place[:, 2:] = 4 * (boxes[:, 2:] - boxes[:, :2]) * seen[:, None]
        next(blocks)[:] = relations.any(2)
        next(blocks)[:] = relations.any(1)
        next(blocks)[0] = np.take_along_axis(texts.classes, np.maximum(graphs.cls, 0).astype(np.int64), 1).T
        named = attributes * texts.categories.T[:, None]
        for row, slot in zip(next(blocks), attribute_slots(s).values(), strict=True):
            named[slot].sum(0, out=row)
        if not present.all():
            found *= present
        return found

    @cached_property
    def _base_blocks(self) -> list[int]:
        """Widths of the parts of `base`: class, attributes, seen, place, relations from and to, named."""
        s = self.schema
        cameras, names = len(s.cameras), len(s.predicates)
        own = [len(s.classes), attribute_width(s), cameras, 4 * cameras]
        return [*own, names, names, 1, len(s.attributes)]

    def subgoal_inputs(
        self,
        graphs: PackedGraphs,
        rows: Int,
        verbs: Int,
        args: Int,
        texts: Texts,
        base: Float | None = None,
    ) -> SubgoalInputs:
        """Features of N subgoals, each in one of B graphs.

        Args:
            graphs: [B]. rows: which graph each subgoal belongs to. [N]
            verbs: [N]. args: object slots, -1 for none. [N, A]
            texts: of the B graphs. base: `base(graphs, texts)` if already known.
        """
        base = self.base(graphs, texts) if base is None else base
        count, n = graphs.cls.shape[1], len(rows)
        there = args >= 0
        tokens = np.empty((self.token_width, count, n), np.float32)
        tokens[: self.base_width] = base[:, :, rows]
        # Many subgoals share an argument: how things stand to it is worked out once. Last column: none.
        keys, place = np.unique(rows[:, None] * count + np.maximum(args, 0), return_inverse=True)
        place = place.reshape(args.shape)
        regarded = self._regarding(graphs, *np.divmod(keys, count))
        for a in range(self.arity):
            start = self.base_width + a * self.argument_width
            column = np.where(there[:, a], place[:, a], len(keys))
            np.take(regarded, column, 2, out=tokens[start : start + self.argument_width], mode="clip")
        verb = verbs == np.arange(len(self.schema.verbs))[:, None]
        attributes = self.scaled(graphs.attributes.transpose(2, 1, 0))
        own = [attributes[:, np.maximum(args[:, a], 0), rows] * there[:, a] for a in range(self.arity)]
        context = np.concatenate([verb, texts.bag[rows].T, *own]).astype(np.float32)
        return SubgoalInputs(tokens, graphs.cls[rows].T >= 0, args, context)

    def _regarding(self, graphs: PackedGraphs, rows: Int, slots: Int) -> Float:
        """Features of every object with regard to U objects, and a column of zeros. float32 [D1, O, U + 1]

        Args:
            rows: graph of each of the U objects. [U]. slots: its place there. [U]
        """
        count, cameras, names = graphs.cls.shape[1], len(self.schema.cameras), len(self.schema.predicates)
        found = np.zeros((self.argument_width, count, len(rows) + 1), np.float32)
        body = found[..., :-1]
        body[0] = np.arange(count)[:, None] == slots
        places = _places(graphs)
        mine, theirs = places.at(rows), places.at(rows, slots)
        geometry = np.empty((10, cameras, count, len(rows)), np.float32)
        np.multiply(mine.seen, theirs.seen, out=geometry[0])
        _geometry(mine, theirs, geometry)
        body[1 : 1 + 10 * cameras].reshape(cameras, 10, count, len(rows))[:] = geometry.swapaxes(0, 1)
        start = 1 + 10 * cameras
        body[start : start + names] = graphs.relations[rows, :, :, slots].transpose(1, 2, 0)
        body[start + names :] = graphs.relations[rows, :, slots, :].transpose(1, 2, 0)
        body *= graphs.cls[rows].T >= 0
        return found

    def graph_inputs(self, graphs: PackedGraphs, texts: Texts, base: Float | None = None) -> GraphInputs:
        """Features of N graphs with every ordered pair of objects."""
        base = self.base(graphs, texts) if base is None else base
        n, count = graphs.cls.shape
        cameras, names = len(self.schema.cameras), len(self.schema.predicates)
        pairs = np.empty((self.pair_width, count, count, n), np.float32)
        places = _places(graphs)
        # Features are written camera by camera, as the nets know them.
        geometry = pairs[: 8 * cameras].reshape(cameras, 8, count, count, n).swapaxes(0, 1)
        itself = np.arange(count)
        mine, theirs = places.spread(2), places.spread(1)
        np.multiply(mine.seen, theirs.seen, out=geometry[0])
        geometry[0][:, itself, itself] = 0
        _geometry(mine, theirs, geometry)
        there = np.moveaxis(graphs.relations, 0, -1)  # [P, O, O, N]
        pairs[8 * cameras : 8 * cameras + names] = there.swapaxes(1, 2)
        pairs[8 * cameras + names :] = there
        pairs[8 * cameras :, itself, itself] = 0
        present = graphs.cls.T >= 0
        if not present.all():
            pairs[8 * cameras :] *= present & present[:, None]
        return GraphInputs(base, pairs, present, texts.bag.T)

    def candidates(self, graphs: PackedGraphs, cache: dict[bytes, Candidates]) -> list[Candidates]:
        """Every subgoal that fits the classes, for each of B graphs; one layout is worked out once."""
        found = []
        for b in range(len(graphs.budget)):
            key = graphs.cls[b].tobytes() + graphs.number[b].tobytes()
            if key not in cache:
                cache[key] = self._enumerate(
                    unpack(graphs.select(slice(b, b + 1)), self.schema)[0], graphs.cls[b]
                )
            found.append(cache[key])
        return found

    def _enumerate(self, graph: SceneGraph, cls: NDArray[np.int16]) -> Candidates:
        slots = dict(zip([o.id for o in graph.objects], np.flatnonzero(cls >= 0).tolist(), strict=True))
        subgoals = candidate_subgoals(graph, self.schema)
        names = [v.name for v in self.schema.verbs]
        args = np.full((len(subgoals), self.arity), -1, np.int64)
        for row, subgoal in enumerate(subgoals):
            args[row, : len(subgoal.args)] = [slots[a] for a in subgoal.args]
        return Candidates(subgoals, np.array([names.index(s.verb) for s in subgoals], np.int64), args)


def number_scales(graphs: PackedGraphs, schema: Schema) -> tuple[tuple[str, float, float], ...]:
    """(name, mean, standard deviation) of each numeric attribute over the objects that have it."""
    found = []
    for name, slot in attribute_slots(schema).items():
        if not schema.attributes[name]:
            known = graphs.attributes[..., slot.start + 1] >= 0.5
            values = graphs.attributes[..., slot.start][known & (graphs.cls >= 0)]
            if len(values):
                found.append((name, float(values.mean()), float(max(values.std(), 1e-3))))
    return tuple(found)


class _Places(NamedTuple):
    """Where objects lie in each camera, what a geometry of pairs is made of.

    Args:
        centre: across and down. [2, C, ...]. size: log of width and height. [2, C, ...]
        unit: 1 / the longer side. [C, ...]. seen: 0 or 1. [C, ...]
    """

    centre: Float
    size: Float
    unit: Float
    seen: Float

    def at(self, rows: Int, slots: Int | None = None) -> _Places:
        """Of the graphs `rows` [U], all objects [..., O, U] or those in `slots` [U], [..., 1, U]."""
        if slots is None:
            return _Places(*(array[..., rows] for array in self))
        return _Places(*(array[..., slots, rows][..., None, :] for array in self))

    def spread(self, axis: int) -> _Places:
        """With another axis of objects, of length one: the first (1) or the second (2) of two."""
        first = axis == 1
        return _Places(*(a[..., None, :, :] if first else a[..., :, None, :] for a in self))


def _places(graphs: PackedGraphs) -> _Places:
    """Of all objects of N graphs; the last axes are O, N."""
    boxes = np.ascontiguousarray(graphs.boxes.transpose(3, 2, 1, 0))  # [4, C, O, N]
    sides = np.maximum(boxes[2:] - boxes[:2], LEAST_SIZE)
    seen = graphs.visible.transpose(2, 1, 0) & (graphs.cls.T >= 0)
    return _Places(
        (boxes[:2] + boxes[2:]) / 2, np.log(sides), 1 / np.maximum(*sides), seen.astype(np.float32)
    )


def _geometry(mine: _Places, theirs: _Places, found: Float) -> None:
    """Where objects lie as seen from others, per camera; zeros unless both are seen.

    Args:
        mine, theirs: broadcast against each other.
        found: float32 [8 or 10, C, ...], filled in but for the first feature, which is read: 1 where both are
            seen. Then: offset of centres in units of the other's longer side, squeezed by asinh (2); log
            ratio of sizes (2); with 10 features plain offset (2); closeness in (0, 1], which falls with the
            square of the distance in the other's sizes; closeness times offset (2): what stands beside
            decides, what stands far does not.
    """
    both, close, away = found[0], found[-3], found[-2:]
    squares = []
    for axis in range(2):
        np.subtract(mine.centre[axis], theirs.centre[axis], out=away[axis])
        away[axis] *= both
        if len(found) == 10:
            found[5 + axis] = away[axis]
        away[axis] *= theirs.unit
        squares.append(np.square(away[axis]))
        _arcsinh(away[axis], squares[axis], out=found[1 + axis])
        np.subtract(mine.size[axis], theirs.size[axis], out=found[3 + axis])
        found[3 + axis] *= both
    square = np.add(*squares, out=squares[0])
    square *= -0.5
    np.exp(square, out=close)
    close *= both
    away *= close


def _arcsinh(x: Float, square: Float, out: Float) -> None:
    """asinh of x, whose square is known, to 1e-7, by functions that NumPy has vectorised."""
    root = np.sqrt(square + 1)
    root += np.abs(x)
    np.log(root, out=root)
    np.copysign(root, x, out=out)


def jitter(graphs: PackedGraphs, sigma: float, rng: np.random.Generator) -> PackedGraphs:
    """`graphs` with every visible box corner moved by N(0, sigma) image shares, as a detector would."""
    if sigma <= 0:
        return graphs
    noise = rng.normal(0.0, sigma, graphs.boxes.shape).astype(np.float32)
    return graphs._replace(boxes=graphs.boxes + noise * graphs.visible[..., None])


def move_cameras(graphs: PackedGraphs, shift: float, zoom: float, rng: np.random.Generator) -> PackedGraphs:
    """`graphs` [N] as if each camera had been moved and zoomed a little.

    What happens depends on how things stand to each other more than on where they stand in the image.

    Args:
        shift: standard deviation in image shares. zoom: of the logarithm of the scale.
    """
    if shift <= 0 and zoom <= 0:
        return graphs
    n, _, cameras, _ = graphs.boxes.shape
    scale = np.exp(rng.normal(0.0, zoom, (n, 1, cameras, 1)))
    offset = np.tile(rng.normal(0.0, shift, (n, 1, cameras, 2)), 2)
    boxes = (graphs.boxes - 0.5) * scale + 0.5 + offset
    return graphs._replace(boxes=(boxes * graphs.visible[..., None]).astype(np.float32))
