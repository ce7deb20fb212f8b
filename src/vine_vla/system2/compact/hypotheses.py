"""Readings: what a doubtful scene may be, and how likely each is.

Where perception is not sure of a category the graph holds probabilities (`graph.Belief`). The nets learned
from graphs without doubt and hardly mind half a category. So they are asked about the likeliest scene, and a
subgoal is judged in each scene that this may be: its outcome probabilities are their mean, and a shelf that
is closed with .4 is reached with .6 if closed ones never are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import Schema
from vine_vla.core.packing import PackedGraphs, attribute_slots
from vine_vla.system2.compact.features import Float, Int

LEAST = 0.02
"""Probability under which a category is left out."""
MOST = 8
"""Readings of a subgoal in a graph, the likeliest ones."""


class Readings(NamedTuple):
    """R readings of some of N (graph, subgoal) pairs.

    Args:
        pair: which pair each reads. int64 [R]
        weight: its probability; those of a pair sum to 1. float32 [R]
        attributes: of the graph so read, as in `PackedGraphs`. float32 [R, O, F]
    """

    pair: Int
    weight: Float
    attributes: Float


def readings(graphs: PackedGraphs, rows: Int, args: Int, slots: Sequence[slice]) -> Readings:
    """Readings of the pairs in which an argument's category is doubtful.

    Args:
        graphs: [B]. rows: graph of each pair. [N]. args: object slots, -1 for none. [N, A]
        slots: categorical attributes that are read, see `attribute_slots`; what subgoals alter, the model
            itself predicts in probabilities.
    """
    pairs: list[int] = []
    weights: list[float] = []
    attributes: list[Float] = []
    for n in np.flatnonzero(_doubtful(graphs, rows, args, slots)).tolist():
        own = graphs.attributes[rows[n]]
        doubts = [
            (int(a), slot, np.flatnonzero(own[a, slot] >= LEAST).tolist())
            for a in args[n]
            for slot in slots
            if a >= 0 and _doubt(own[a, slot])
        ]
        found: list[tuple[float, Float]] = []
        for categories in itertools.product(*(names for _, _, names in doubts)):
            weight, read = 1.0, own.copy()
            for (a, slot, _), category in zip(doubts, categories, strict=True):
                weight *= float(own[a, slot][category])
                read[a, slot] = 0.0
                read[a, slot.start + category] = 1.0
            found.append((weight, read))
        found = sorted(found, key=lambda reading: -reading[0])[:MOST]
        total = sum(weight for weight, _ in found)
        pairs += [n] * len(found)
        weights += [weight / total for weight, _ in found]
        attributes += [read for _, read in found]
    shape = graphs.attributes.shape[1:]
    return Readings(
        np.array(pairs, np.int64),
        np.array(weights, np.float32),
        np.array(attributes, np.float32).reshape(len(pairs), *shape),
    )


def categorical(schema: Schema) -> list[slice]:
    """The slots of all categories."""
    return [slot for name, slot in attribute_slots(schema).items() if schema.attributes[name]]


def likeliest(graphs: PackedGraphs, slots: Sequence[slice]) -> PackedGraphs:
    """`graphs` [B] in which the likeliest category of each doubtful attribute holds.

    Args:
        slots: as for `readings`.
    """
    attributes = graphs.attributes
    for slot in slots:
        chances = graphs.attributes[..., slot]
        soft = (chances.max(-1) < 1) & (chances.sum(-1) >= 0.5)
        if soft.any():
            attributes = attributes.copy() if attributes is graphs.attributes else attributes
            best = chances[soft].argmax(-1)
            attributes[..., slot][soft] = np.eye(chances.shape[-1], dtype=np.float32)[best]
    return graphs._replace(attributes=attributes)


def _doubt(chances: Float) -> NDArray[np.bool_]:
    """Whether several categories are possible. [..., categories] -> [...]"""
    doubt: NDArray[np.bool_] = (chances.sum(-1) >= 0.5) & ((chances >= LEAST).sum(-1) > 1)
    return doubt


def _doubtful(graphs: PackedGraphs, rows: Int, args: Int, slots: Sequence[slice]) -> NDArray[np.bool_]:
    """Whether a slot of an argument is in doubt. [N]"""
    found = np.zeros(len(rows), bool)
    for slot in slots:
        unsure = _doubt(graphs.attributes[:, :, slot])  # [B, O]
        if unsure.any():
            found |= (unsure[rows[:, None], np.maximum(args, 0)] & (args >= 0)).any(1)
    return found
