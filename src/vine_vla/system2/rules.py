"""The relation rules of layer 1 on packed graphs, all at once.

`relations.derive_relations` judges one scene in Python; imagined graphs come by the hundred. The
thresholds are layer 1's own, and a test holds the two to the same answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vine_vla import relations as layer1
from vine_vla.graph import Schema
from vine_vla.packing import PackedGraphs, attribute_slots


def derive_packed(graphs: PackedGraphs, schema: Schema) -> NDArray[np.bool_]:
    """Relations between the objects of every graph, as seen by the schema's first camera.

    Args:
        graphs: any batch shape; categories may be probabilities, a category counts from 0.5.

    Returns:
        As `PackedGraphs.relations`. bool [..., P, O, O]
    """
    box = graphs.boxes[..., 0, :].astype(np.float64)  # [..., O, 4]; float64 as layer 1 computes
    seen = graphs.visible[..., 0] & (graphs.cls >= 0)
    gripper_class = schema.classes.index(layer1.GRIPPER) if layer1.GRIPPER in schema.classes else -2
    hand = seen & (graphs.cls == gripper_class)
    thing = seen & ~hand
    # Each coordinate is an array of its own: NumPy is slow along a last axis of two.
    low, high = ([np.ascontiguousarray(box[..., at + a]) for a in range(2)] for at in (0, 2))
    center = [(low[a] + high[a]) / 2 for a in range(2)]
    span, area = np.maximum(high[0] - low[0], high[1] - low[1]), np.ones(seen.shape)
    gap, shared = np.zeros((*seen.shape, seen.shape[-1])), np.ones((*seen.shape, seen.shape[-1]))
    overlap = []
    for a_low, a_high in zip(low, high, strict=True):
        area = area * np.maximum(a_high - a_low, 0.0)
        inner = np.minimum(_row(a_high), _column(a_high)) - np.maximum(_row(a_low), _column(a_low))
        overlap.append(inner)
        shared *= np.maximum(inner, 0.0)
        apart = np.maximum(np.maximum(_row(a_low) - _column(a_high), _column(a_low) - _row(a_high)), 0.0)
        gap += apart**2
    gap = np.sqrt(gap)
    shorter = np.minimum(_row(span), _column(span))
    count = graphs.cls.shape[-1]
    pairs = thing[..., :, None] & thing[..., None, :] & ~np.eye(count, dtype=bool)
    found = np.zeros((*graphs.batch_shape, len(schema.predicates), count, count), bool)
    for p, name in enumerate(schema.predicates):
        if name == "left_of":
            found[..., p, :, :] = (_row(center[0]) < _column(low[0])) & (_column(center[0]) > _row(high[0]))
        elif name == "above":
            found[..., p, :, :] = (_row(center[1]) < _column(low[1])) & (overlap[0] > 0)
        elif name == "inside":
            within = shared >= layer1.INSIDE_SHARE * _row(area)
            found[..., p, :, :] = (_row(area) > 0) & (_row(area) < _column(area)) & within
        elif name == "near":
            found[..., p, :, :] = gap <= layer1.NEAR_GAP * shorter
        elif name == "touching":
            found[..., p, :, :] = gap <= layer1.TOUCH_GAP * shorter
        elif name == "held":
            touching = gap <= layer1.TOUCH_GAP * shorter
            found[..., p, :, :] = _held(graphs, schema, thing, hand, touching, center, high[1])
            continue  # the gripper takes part in this one only
        found[..., p, :, :] &= pairs
    return found


def _held(
    graphs: PackedGraphs,
    schema: Schema,
    thing: NDArray[np.bool_],
    hand: NDArray[np.bool_],
    touching: NDArray[np.bool_],
    center: list[NDArray[np.float64]],
    bottom: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """held(x, gripper): the touching thing nearest to the middle of a holding gripper's lower edge."""
    slot = attribute_slots(schema).get(layer1.GRIP)
    if slot is None or layer1.HOLDING not in schema.attributes[layer1.GRIP]:
        return np.zeros(touching.shape, bool)
    categories = graphs.attributes[..., slot]
    place = schema.attributes[layer1.GRIP].index(layer1.HOLDING)
    holding = hand & (categories[..., place] >= 0.5) & (categories.argmax(-1) == place)
    across, down = _row(center[0]) - _column(center[0]), _row(center[1]) - _column(bottom)
    reach = np.sqrt(across**2 + down**2)  # [..., thing, hand]
    able = thing[..., :, None] & holding[..., None, :] & touching
    reach = np.where(able, reach, np.inf)
    by_name = (
        np.argsort(np.argsort(schema.classes))[graphs.cls] * 2.0**16 + graphs.number
    )  # ties as in layer 1
    nearest = np.where(reach == reach.min(-2, keepdims=True), by_name[..., :, None], np.inf).argmin(-2)
    return able & (np.arange(reach.shape[-1])[:, None] == nearest[..., None, :])


def _row(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the first object of each pair. [..., O, 1]"""
    return values[..., :, None]


def _column(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the second. [..., 1, O]"""
    return values[..., None, :]
