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
    low, high = box[..., :2], box[..., 2:]
    size = np.maximum(high - low, 0.0)
    center = (low + high) / 2
    a_low, b_low = low[..., :, None, :], low[..., None, :, :]
    a_high, b_high = high[..., :, None, :], high[..., None, :, :]
    a_center, b_center = center[..., :, None, :], center[..., None, :, :]
    overlap = np.minimum(a_high, b_high) - np.maximum(a_low, b_low)  # [..., O, O, 2]
    apart = np.maximum(np.maximum(a_low - b_high, b_low - a_high), 0.0)
    gap = np.sqrt((apart**2).sum(-1))
    span = (high - low).max(-1)
    shorter = np.minimum(span[..., :, None], span[..., None, :])
    area = size.prod(-1)
    shared = np.maximum(overlap, 0.0).prod(-1)
    count = graphs.cls.shape[-1]
    pairs = thing[..., :, None] & thing[..., None, :] & ~np.eye(count, dtype=bool)
    found = np.zeros((*graphs.batch_shape, len(schema.predicates), count, count), bool)
    for p, name in enumerate(schema.predicates):
        if name == "left_of":
            found[..., p, :, :] = (a_center[..., 0] < b_low[..., 0]) & (b_center[..., 0] > a_high[..., 0])
        elif name == "above":
            found[..., p, :, :] = (a_center[..., 1] < b_low[..., 1]) & (overlap[..., 0] > 0)
        elif name == "inside":
            a_area = area[..., :, None]
            within = shared >= layer1.INSIDE_SHARE * a_area
            found[..., p, :, :] = (a_area > 0) & (a_area < area[..., None, :]) & within
        elif name == "near":
            found[..., p, :, :] = gap <= layer1.NEAR_GAP * shorter
        elif name == "touching":
            found[..., p, :, :] = gap <= layer1.TOUCH_GAP * shorter
        elif name == "held":
            touching = gap <= layer1.TOUCH_GAP * shorter
            found[..., p, :, :] = _held(graphs, schema, thing, hand, touching, center, high)
            continue  # the gripper takes part in this one only
        found[..., p, :, :] &= pairs
    return found


def _held(
    graphs: PackedGraphs,
    schema: Schema,
    thing: NDArray[np.bool_],
    hand: NDArray[np.bool_],
    touching: NDArray[np.bool_],
    center: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """held(x, gripper): the touching thing nearest to the middle of a holding gripper's lower edge."""
    slot = attribute_slots(schema).get(layer1.GRIP)
    if slot is None or layer1.HOLDING not in schema.attributes[layer1.GRIP]:
        return np.zeros(touching.shape, bool)
    categories = graphs.attributes[..., slot]
    place = schema.attributes[layer1.GRIP].index(layer1.HOLDING)
    holding = hand & (categories[..., place] >= 0.5) & (categories.argmax(-1) == place)
    fingers = np.stack([center[..., 0], high[..., 1]], -1)
    reach = np.sqrt(((center[..., :, None, :] - fingers[..., None, :, :]) ** 2).sum(-1))  # [..., thing, hand]
    able = thing[..., :, None] & holding[..., None, :] & touching
    reach = np.where(able, reach, np.inf)
    by_name = (
        np.argsort(np.argsort(schema.classes))[graphs.cls] * 2.0**16 + graphs.number
    )  # ties as in layer 1
    nearest = np.where(reach == reach.min(-2, keepdims=True), by_name[..., :, None], np.inf).argmin(-2)
    return able & (np.arange(reach.shape[-1])[:, None] == nearest[..., None, :])
