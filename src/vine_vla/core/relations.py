"""Relations from boxes: the same rules for a simulator's projected boxes and a detector's.

All rules look at one camera (the schema's first). Thresholds are relative to the sizes of the two
boxes, so they do not depend on resolution or on how far away the camera stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from vine_vla.core.graph import Box, Relation, SceneGraph, SceneObject

GRIPPER = "gripper"
"""Class of the gripper; the only object that can hold another."""

GRIP = "grip"
"""Attribute of the gripper, from proprioception: `open`, `holding` or `empty` (closed on nothing)."""

HOLDING = "holding"

NEAR_GAP = 0.5
"""`near` when the gap is at most this share of the smaller box's longer side."""

TOUCH_GAP = 0.06
"""`touching` when the gap is at most this share of the smaller box's longer side."""

INSIDE_SHARE = 0.8
"""`inside` when this share of the box's area lies in the other, larger box."""


def left_of(a: Box, b: Box) -> bool:
    """The centre of `a` lies left of `b`'s left edge, and `b`'s centre right of `a`'s right edge."""
    return a.center[0] < b.x_min and b.center[0] > a.x_max


def above(a: Box, b: Box) -> bool:
    """`a` lies higher in the image: its centre above `b`'s top edge, overlapping sideways."""
    overlap = min(a.x_max, b.x_max) - max(a.x_min, b.x_min)
    return a.center[1] < b.y_min and overlap > 0


def inside(a: Box, b: Box) -> bool:
    """Most of `a` lies within the larger `b`."""
    return a.area > 0 and a.area < b.area and a.intersection(b) >= INSIDE_SHARE * a.area


def near(a: Box, b: Box) -> bool:
    """The gap is small against the smaller of the two boxes."""
    return a.gap(b) <= NEAR_GAP * _length(a, b)


def touching(a: Box, b: Box) -> bool:
    """The boxes meet, up to the few pixels that detectors are off."""
    return a.gap(b) <= TOUCH_GAP * _length(a, b)


def _length(a: Box, b: Box) -> float:
    return min(max(a.width, a.height), max(b.width, b.height))


RULES: Mapping[str, Callable[[Box, Box], bool]] = MappingProxyType(
    {"left_of": left_of, "above": above, "inside": inside, "near": near, "touching": touching}
)
"""Predicates that boxes alone decide."""

PREDICATES = (*RULES, "held")
"""All predicates that VINE can derive; a schema names the ones it uses."""


def derive_relations(
    objects: Sequence[SceneObject], camera: str, predicates: Sequence[str]
) -> tuple[Relation, ...]:
    """Relations that hold between `objects` as seen by `camera`, sorted.

    `held(x, gripper)` holds when the gripper's proprioception says `holding` and `x` is the nearest
    graspable (non-gripper) object whose box touches the gripper's. Objects that the camera does not see take
    part in no relation.
    """
    seen = [o for o in objects if camera in o.boxes]
    found = [
        Relation(name, a.id, b.id)
        for name in predicates
        if name in RULES
        for a in seen
        for b in seen
        if a.id != b.id
        and a.cls != GRIPPER
        and b.cls != GRIPPER
        and RULES[name](a.boxes[camera], b.boxes[camera])
    ]
    if "held" in predicates:
        for gripper in seen:
            if gripper.cls == GRIPPER and gripper.attributes.get(GRIP) == HOLDING:
                held = _nearest_touching(gripper, seen, camera)
                if held is not None:
                    found.append(Relation("held", held.id, gripper.id))
    return tuple(sorted(found))


def _nearest_touching(
    gripper: SceneObject, objects: Sequence[SceneObject], camera: str
) -> SceneObject | None:
    """The touching object nearest to the gripper's lower edge; ties go by class and number."""
    hand = gripper.boxes[camera]
    fingers = (hand.center[0], hand.y_max)

    def distance(other: SceneObject) -> float:
        x, y = other.boxes[camera].center
        return float(((x - fingers[0]) ** 2 + (y - fingers[1]) ** 2) ** 0.5)

    touched = [o for o in objects if o.cls != GRIPPER and touching(o.boxes[camera], hand)]
    return min(touched, key=lambda o: (distance(o), o.cls, len(o.id), o.id), default=None)


def with_relations(graph: SceneGraph, camera: str, predicates: Sequence[str]) -> SceneGraph:
    """`graph` with its relations derived anew from the boxes."""
    return replace(graph, relations=derive_relations(graph.objects, camera, predicates))
