"""The relation rules of layer 1 on packed graphs, all at once.

`relations.derive_relations` judges one scene in Python; imagined graphs come by the hundred. The
thresholds are layer 1's own, and a test holds the two to the same answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vine_vla.core import relations as layer1
from vine_vla.core.graph import Schema
from vine_vla.core.packing import PackedGraphs, attribute_slots


def derive_packed(graphs: PackedGraphs, schema: Schema) -> NDArray[np.bool_]:
    """Relations between the objects of every graph, as seen by the schema's first camera.

    Args:
        graphs: any batch shape; categories may be probabilities, a category counts from 0.5.

    Returns:
        As `PackedGraphs.relations`, a view of an array in which the graphs come last. bool [..., P, O, O]
    """
    batch = graphs.batch_shape
    graphs = graphs.reshape(-1)
    # Graphs come last: NumPy is slow along a short last axis. float64 as layer 1 computes.
    box = np.ascontiguousarray(graphs.boxes[:, :, 0].transpose(2, 1, 0), np.float64)  # [4, O, N]
    cls = graphs.cls.T
    seen = graphs.visible[..., 0].T & (cls >= 0)
    gripper_class = schema.classes.index(layer1.GRIPPER) if layer1.GRIPPER in schema.classes else -2
    hand = seen & (cls == gripper_class)
    thing = seen & ~hand
    low, high = box[:2], box[2:]
    center = (low + high) / 2
    span, area = np.maximum(*(high - low)), np.prod(np.maximum(high - low, 0.0), 0)
    count, n = seen.shape
    gap, shared = np.zeros((count, count, n)), np.ones((count, count, n))
    overlap, spare = np.empty((2, count, count, n)), np.empty((count, count, n))
    for a in range(2):
        inner = np.minimum(_row(high[a]), _column(high[a]), out=overlap[a])
        inner -= np.maximum(_row(low[a]), _column(low[a]), out=spare)
        shared *= np.maximum(inner, 0.0, out=spare)
        apart = np.maximum(-inner, 0.0, out=spare)
        apart *= apart
        gap += apart
    np.sqrt(gap, out=gap)
    shorter = np.minimum(_row(span), _column(span))
    pairs = _row(thing) & _column(thing) & ~np.eye(count, dtype=bool)[..., None]
    found = np.zeros((len(schema.predicates), count, count, n), bool)
    for p, name in enumerate(schema.predicates):
        if name == "left_of":
            found[p] = (_row(center[0]) < _column(low[0])) & (_column(center[0]) > _row(high[0]))
        elif name == "above":
            found[p] = (_row(center[1]) < _column(low[1])) & (overlap[0] > 0)
        elif name == "inside":
            within = shared >= layer1.INSIDE_SHARE * _row(area)
            found[p] = (_row(area) > 0) & (_row(area) < _column(area)) & within
        elif name == "near":
            found[p] = gap <= layer1.NEAR_GAP * shorter
        elif name == "touching":
            found[p] = gap <= layer1.TOUCH_GAP * shorter
        elif name == "held":
            touching = gap <= layer1.TOUCH_GAP * shorter
            found[p] = _held(graphs, schema, thing, hand, touching, center, high[1])
            continue  # the gripper takes part in this one only
        found[p] &= pairs
    return np.moveaxis(found, -1, 0).reshape(*batch, *found.shape[:3])


def _held(
    graphs: PackedGraphs,
    schema: Schema,
    thing: NDArray[np.bool_],
    hand: NDArray[np.bool_],
    touching: NDArray[np.bool_],
    center: NDArray[np.float64],
    bottom: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """held(x, gripper): the touching thing nearest to the middle of a holding gripper's lower edge."""
    slot = attribute_slots(schema).get(layer1.GRIP)
    if slot is None or layer1.HOLDING not in schema.attributes[layer1.GRIP]:
        return np.zeros(touching.shape, bool)
    categories = graphs.attributes[..., slot]
    place = schema.attributes[layer1.GRIP].index(layer1.HOLDING)
    likeliest = categories.argmax(-1).T
    holding = hand & (categories[..., place].T >= 0.5) & (likeliest == place)
    able = _row(thing) & _column(holding) & touching
    if not able.any():
        return able
    across, down = _row(center[0]) - _column(center[0]), _row(center[1]) - _column(bottom)
    reach = np.where(able, np.sqrt(across**2 + down**2), np.inf)  # [thing, hand, N]
    # Ties as in layer 1.
    by_name = np.argsort(np.argsort(schema.classes))[graphs.cls.T] * 2.0**16 + graphs.number.T
    nearest = np.where(reach == reach.min(0), _row(by_name), np.inf).argmin(0)
    return able & (np.arange(len(reach))[:, None, None] == nearest)


def _row(values: NDArray[Any]) -> NDArray[Any]:
    """Of the first object of each pair. [O, N] -> [O, 1, N]"""
    return values[:, None]


def _column(values: NDArray[Any]) -> NDArray[Any]:
    """Of the second. [O, N] -> [1, O, N]"""
    return values[None]
