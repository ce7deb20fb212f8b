"""Which peaks of the reference camera are the objects: by score, by the other cameras, by what was before.

A covered object has a weak peak, and a look-alike elsewhere a strong one. Two things tell them apart.
Other cameras see the object from elsewhere and say where it must stand (`Detector.link`); and things stay
or ride on the hand, but do not jump.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.relations import GRIPPER
from vine_vla.system2.compact.detector import Detections

Float = NDArray[np.float32]

STEP = 0.08
"""Image widths that a thing may well move between two looks, beside what the hand moves."""

JUMP = 0.1
"""Weight of a peak where nothing of its class can be expected."""

AGREE = 0.06
"""Image widths by which cameras that speak of the same object may well differ."""


def weigh(
    front: Detections,
    others: Mapping[int, tuple[Detections, Float]],
    earlier: SceneGraph | None,
    schema: Schema,
) -> Detections:
    """Peaks of the reference camera, best first, by all evidence.

    Args:
        front: its peaks. others: of each further camera the peaks, and where they say that their object
            stands in the reference camera. [D, 2]
        earlier: graph of an earlier moment, None at first.

    Returns:
        The peaks with new scores: their own, plus at most 1 for each camera that agrees, times how well
        they fit what was before.
    """
    scores = front.scores + sum(_support(front, view, places) for view, places in others.values())
    if earlier is not None:
        scores = scores * _expected(front, earlier, schema)
    order = np.argsort(-scores, kind="stable")
    fields = {name: getattr(front, name)[order] for name in ("classes", "boxes", "features")}
    return Detections(**fields, scores=scores[order].astype(np.float32))


def centers(boxes: Float) -> Float:
    """Centres of boxes. [D, 4] -> [D, 2]"""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _support(front: Detections, view: Detections, places: Float) -> Float:
    """Best score in another camera of the same class and about the same place. [D]"""
    away = np.linalg.norm(centers(front.boxes)[:, None] - places[None], axis=-1)
    same = front.classes[:, None] == view.classes[None]
    return (same * view.scores[None] * np.exp(-((away / AGREE) ** 2))).max(1, initial=0.0)


def _expected(front: Detections, earlier: SceneGraph, schema: Schema) -> Float:
    """How well each peak fits a place where an object of its class was, or is if the hand carries it. [D]"""
    camera = schema.cameras[0]
    moved = _hand_motion(front, earlier, schema)
    weight = np.ones(len(front.scores), np.float32)
    for cls, name in enumerate(schema.classes):
        mine = np.flatnonzero(front.classes == cls)
        before = [o.boxes[camera].center for o in earlier.of_class(name) if camera in o.boxes]
        if not before or not len(mine):
            continue
        places = np.concatenate([np.array(before), np.array(before) + moved])
        away = np.linalg.norm(centers(front.boxes[mine])[:, None] - places[None], axis=-1).min(1)
        weight[mine] = np.maximum(np.exp(-((away / STEP) ** 2)), JUMP)
    return weight


def _hand_motion(front: Detections, earlier: SceneGraph, schema: Schema) -> Float:
    """Motion of the hand in the reference camera since `earlier`, (0, 0) if it is not seen. [2]"""
    hands = [o.boxes[schema.cameras[0]] for o in earlier.of_class(GRIPPER) if schema.cameras[0] in o.boxes]
    now = np.flatnonzero(front.classes == schema.classes.index(GRIPPER)) if GRIPPER in schema.classes else []
    if len(hands) != 1 or not len(now):
        return np.zeros(2, np.float32)
    best = now[front.scores[now].argmax()]
    return (centers(front.boxes[best : best + 1])[0] - np.array(hands[0].center)).astype(np.float32)
