"""Packed graphs and subgoals as the features that the nets read.

Geometry is made easy here, since what stands beside an argument decides: every object's token holds
the offset from each argument of the subgoal, in units of that argument's size, and the ratio of
sizes, in each camera; its role; the relations it has with the arguments; and whether the instruction
names its class or its categories. Everything follows from the schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.graph import SceneGraph, Schema
from vine_vla.options import Subgoal, candidate_subgoals
from vine_vla.packing import PackedGraphs, attribute_slots, attribute_width, unpack
from vine_vla.system2.words import Texts, Vocabulary, slot_of_attribute

Float = NDArray[np.float32]
Int = NDArray[np.int64]

LEAST_SIZE = 0.02
"""Shares of the image; smaller boxes count as this large when offsets are put in units of size."""


class SubgoalInputs(NamedTuple):
    """N pairs (graph, subgoal) for a net.

    Args:
        tokens: per object. float32 [N, O, D]
        present: whether there is an object. bool [N, O]
        args: object slot of each argument, -1 for none. int64 [N, A]
        context: verb one-hot, bag of words, attributes of the arguments. float32 [N, G]
    """

    tokens: Float
    present: NDArray[np.bool_]
    args: Int
    context: Float


class GraphInputs(NamedTuple):
    """N graphs for a net.

    Args:
        tokens: per object. float32 [N, O, D0]
        pairs: from object i (row) to object j. float32 [N, O, O, P2]
        present: bool [N, O]
        context: bag of words. float32 [N, W]
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
        """Attributes with known numbers in units of their spread. [..., F]"""
        if not self.scales:
            return attributes
        found = attributes.copy()
        slots = attribute_slots(self.schema)
        for name, mean, spread in self.scales:
            start = slots[name].start
            found[..., start] = (attributes[..., start] - mean * attributes[..., start + 1]) / spread
        return found

    def texts(self, instructions: list[str] | tuple[str, ...]) -> Texts:
        return self.vocabulary.encode(instructions, self.schema)

    def base(self, graphs: PackedGraphs, texts: Texts) -> Float:
        """Features of the objects themselves. float32 [N, O, D0]"""
        s, shape = self.schema, graphs.cls.shape
        present = graphs.cls >= 0
        one_hot = (graphs.cls[..., None] == np.arange(len(s.classes))).astype(np.float32)
        seen = graphs.visible & present[..., None]
        low, high = graphs.boxes[..., :2], graphs.boxes[..., 2:]
        place = np.concatenate([(low + high) - 1.0, 4 * (high - low)], -1) * seen[..., None]
        # Reductions along the last axis are slow while it is short: the other one is reduced instead.
        incoming = graphs.relations.any(-2).astype(np.float32)  # [N, P, O]
        outgoing = np.ascontiguousarray(np.swapaxes(graphs.relations, -1, -2)).any(-2).astype(np.float32)
        mentioned = one_hot @ texts.classes[:, :, None]
        owner = slot_of_attribute(s)[:, None] == np.arange(len(s.attributes))
        by_attribute = (graphs.attributes * texts.categories[:, None, :]) @ owner.astype(np.float32)
        parts = [
            one_hot,
            self.scaled(graphs.attributes),
            seen.astype(np.float32),
            place.reshape(*shape, 4 * len(s.cameras)),
            np.moveaxis(outgoing, 1, -1),
            np.moveaxis(incoming, 1, -1),
            mentioned,
            by_attribute,
        ]
        return np.concatenate(parts, -1).astype(np.float32) * present[..., None]

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
        count = graphs.cls.shape[1]
        parts = [base[rows]]
        boxes, seen = graphs.boxes[rows], graphs.visible[rows]
        relations = graphs.relations[rows]
        n = np.arange(len(rows))
        for a in range(self.arity):
            slot = args[:, a]
            there = slot >= 0
            safe = np.where(there, slot, 0)
            role = (np.arange(count) == slot[:, None]).astype(np.float32)[..., None]
            geometry = _geometry(
                *(boxes, seen, boxes[n, safe][:, None], (seen[n, safe] & there[:, None])[:, None]), plain=True
            )
            toward = np.moveaxis(relations[n, :, :, safe], 1, -1) & there[:, None, None]
            backward = np.moveaxis(relations[n, :, safe, :], 1, -1) & there[:, None, None]
            flat = geometry.reshape(len(rows), count, 10 * len(self.schema.cameras))
            parts += [role, flat, toward.astype(np.float32), backward.astype(np.float32)]
        present = graphs.cls[rows] >= 0
        verb = (verbs[:, None] == np.arange(len(self.schema.verbs))).astype(np.float32)
        tokens = np.concatenate(parts, -1).astype(np.float32) * present[..., None]
        attributes = self.scaled(graphs.attributes)
        own = [
            attributes[rows, np.maximum(args[:, a], 0)] * (args[:, a] >= 0)[:, None]
            for a in range(self.arity)
        ]
        context = np.concatenate([verb, texts.bag[rows], *own], -1).astype(np.float32)
        return SubgoalInputs(tokens, present, args, context)

    def graph_inputs(self, graphs: PackedGraphs, texts: Texts, base: Float | None = None) -> GraphInputs:
        """Features of B graphs with every ordered pair of objects."""
        base = self.base(graphs, texts) if base is None else base
        n, count = graphs.cls.shape
        geometry = _geometry(
            graphs.boxes[:, None],
            graphs.visible[:, None],
            graphs.boxes[:, :, None],
            graphs.visible[:, :, None],
            plain=False,
        )
        there = np.moveaxis(graphs.relations, 1, -1)
        width, names = 8 * len(self.schema.cameras), len(self.schema.predicates)
        pairs = np.empty((n, count, count, width + 2 * names), np.float32)
        pairs[..., :width] = geometry.reshape(n, count, count, width)
        pairs[..., width : width + names] = there
        pairs[..., width + names :] = np.swapaxes(there, 1, 2)
        present = graphs.cls >= 0
        pairs *= (present[:, :, None] & present[:, None, :] & ~np.eye(count, dtype=bool))[..., None]
        return GraphInputs(base, pairs, present, texts.bag)

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


def _geometry(
    boxes: Float, seen: NDArray[np.bool_], other: Float, other_seen: NDArray[np.bool_], *, plain: bool
) -> Float:
    """Where `boxes` lie as seen from `other`, per camera; zeros unless both are seen.

    Args:
        boxes, other: broadcast against each other. [..., C, 4]
        seen, other_seen: [..., C]
        plain: with the offset in image units.

    Returns:
        1 where both are seen; offset of centres in units of the other's longer side, squeezed by asinh (2);
        log ratio of sizes (2); plain offset (2, if wanted); closeness in (0, 1], which falls with the square
        of the distance in the other's sizes; closeness times offset (2): what stands beside decides, what
        stands far does not. float32 [..., C, 8 or 10]
    """
    mine, theirs = _centres_and_sizes(boxes), _centres_and_sizes(other)
    unit = np.maximum(np.maximum(other[..., 2] - other[..., 0], other[..., 3] - other[..., 1]), LEAST_SIZE)
    both = (seen & other_seen).astype(np.float32)
    found = np.empty((10 if plain else 8, *both.shape), np.float32)  # a feature at a time is written faster
    found[0] = both
    away = []
    for axis in range(2):
        raw = (mine[axis] - theirs[axis]) * both
        away.append(raw / unit)
        found[1 + axis] = _arcsinh(away[axis])
        found[3 + axis] = (mine[2 + axis] - theirs[2 + axis]) * both
        if plain:
            found[5 + axis] = raw
    close = np.exp(-0.5 * (away[0] * away[0] + away[1] * away[1])) * both
    found[-3], found[-2], found[-1] = close, close * away[0], close * away[1]
    return np.moveaxis(found, 0, -1)


def _centres_and_sizes(boxes: Float) -> list[Float]:
    """Centre across and down, log of width and height, as arrays of their own. [...] each"""
    sides = [boxes[..., 2 + a] - boxes[..., a] for a in range(2)]
    return [
        *((boxes[..., a] + boxes[..., 2 + a]) / 2 for a in range(2)),
        *(np.log(np.maximum(side, LEAST_SIZE)) for side in sides),
    ]


def _arcsinh(x: Float) -> Float:
    """asinh to 1e-7, by functions that NumPy has vectorised: a fifth of the time of its own."""
    size = np.abs(x)
    return np.copysign(np.log(size + np.sqrt(size * size + 1)), x)


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
