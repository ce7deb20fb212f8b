"""Does the world look as the plan said? Read from perceived graphs and the plan's own tree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vine_vla.core.graph import SceneGraph, SceneObject
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Plan
from vine_vla.core.relations import GRIPPER

MOVED = 0.04
"""A box has moved when its centre moved by more, in image widths."""


def expects_goal(plan: Plan, place: int, share: float) -> bool:
    """Whether the plan expects the goal to be fulfilled once its subgoal at `place` is reached.

    Read from the plan's outcome probabilities; a plan without them expects it of its last subgoal.
    """
    p = outcome_probabilities(plan, place)
    if p is None:
        return place + 1 == len(plan.subgoals)
    goal, reached = p[0], p[1]
    return goal > 0 and goal >= share * (goal + reached)


def outcome_probabilities(plan: Plan, place: int) -> tuple[float, float, float, float] | None:
    """Goal, reached, slipped, dead of the plan's subgoal at `place`, from its tree; None if not there."""
    tree: Any = plan.tree
    nodes, variation = tree.get("nodes"), tree.get("variation", ())
    if not nodes or place >= len(plan.subgoals):
        return None
    wanted = str(plan.subgoals[place])
    node, _ = variation[place] if place < len(variation) else (0, 0)
    for option in nodes[node]["options"] if place < len(variation) or place == 0 else ():
        if option["subgoal"] == wanted:
            p = option["p"]
            return p["goal"], p["reached"], p["slipped"], p["dead"]
    return None


def agreement(
    before: SceneGraph, predicted: SceneGraph, after: SceneGraph, subgoal: Subgoal, camera: str
) -> float | None:
    """Share in [0, 1] of the changes predicted for a subgoal that `after` shows; None if none was predicted.

    Changes are new categories of the subgoal's arguments and of the gripper, `held` relations that
    begin or end, and argument boxes that move by more than `MOVED` in `camera`, which must not ride on
    the hand. A moved box counts as seen when its centre is now nearer to the predicted place than to the
    old one. Other relations follow from the boxes and would count them twice.
    """
    seen: list[bool] = []
    for name in [o.id for o in before.objects if o.id in subgoal.args or o.cls == GRIPPER]:
        if name not in predicted or name not in after:
            continue
        old, new, now = before[name], predicted[name], after[name]
        for attribute, value in new.attributes.items():
            if isinstance(value, str) and old.attributes.get(attribute) != value:
                seen.append(now.attributes.get(attribute) == value)
        if name in subgoal.args and all(camera in item.boxes for item in (old, new, now)):
            there, here, origin = (item.boxes[camera].center for item in (new, now, old))
            if _distance(origin, there) > MOVED:
                seen.append(_distance(here, there) < _distance(here, origin))
    held_before, held_after = _held(before), _held(after)
    for relation in _held(predicted) ^ held_before:
        seen.append((relation in held_after) != (relation in held_before))
    return float(np.mean(seen)) if seen else None


def surprise(expected: SceneGraph, now: SceneGraph, subgoal: Subgoal, camera: str) -> int:
    """How many objects changed that the subgoal does not touch: moved in `camera`, or of another category.

    The gripper and what it holds may change, and the subgoal's arguments. An object that is not seen any
    more does not count: something may stand before it.
    """
    busy = {GRIPPER, *subgoal.args}
    held = {name for graph in (expected, now) for pair in _held(graph) for name in pair}
    changed = 0
    for item in expected.objects:
        if item.cls in busy or item.id in busy | held or item.id not in now:
            continue
        other = now[item.id]
        categories = {name: v for name, v in item.attributes.items() if isinstance(v, str)}
        differs = any(other.attributes.get(name, value) != value for name, value in categories.items())
        if not differs and camera in item.boxes and camera in other.boxes:
            differs = _distance(item.boxes[camera].center, other.boxes[camera].center) > MOVED
        changed += differs
    return changed


def as_begun(
    before: SceneGraph, predicted: SceneGraph | None, now: SceneGraph, subgoal: Subgoal, camera: str
) -> SceneGraph:
    """The scene in which a subgoal that is under way would begin now: what a model of options can judge.

    An option is learned from graphs in which it begins; half-way through (the cup in the hand, `pick` not
    yet done) it has never begun. So what the subgoal itself changes is taken from its start: attributes that
    the plan predicted to change, and boxes and relations of what moves. The rest is as it is now; boxes in
    cameras that ride on the hand stay those of the start.

    Args:
        before: at the subgoal's start. predicted: what the plan expects after it, None if it does not say.
        now: the present one.
    """
    held = {name for graph in (before, now, predicted) if graph for pair in _held(graph) for name in pair}
    moving = {o.id for o in before.objects if o.cls == GRIPPER or o.id in held}
    moving |= {a for a in subgoal.args if a in before and _moves(before[a], predicted, camera)}
    objects = []
    for old in before.objects:
        if old.id not in now:
            objects.append(old)
            continue
        new, boxes, values = now[old.id], dict(old.boxes), dict(now[old.id].attributes)
        if old.id in moving or old.id in subgoal.args:
            goal = predicted[old.id].attributes if predicted and old.id in predicted else {}
            unsure = predicted is None
            values |= {n: v for n, v in old.attributes.items() if unsure or goal.get(n, v) != v}
        if old.id not in moving and camera in new.boxes:
            boxes[camera] = new.boxes[camera]
        objects.append(replace(old, boxes=boxes, attributes=values))
    objects += [item for item in now.objects if item.id not in before]
    kept = [r for r in before.relations if moving & {r.subject, r.object}]
    fresh = [r for r in now.relations if not moving & {r.subject, r.object}]
    return SceneGraph(tuple(objects), (*kept, *fresh))


def _moves(item: SceneObject, predicted: SceneGraph | None, camera: str) -> bool:
    """Whether the plan expects an object to move in `camera`, or does not say."""
    if predicted is None or item.id not in predicted:
        return True
    new = predicted[item.id]
    if camera not in item.boxes or camera not in new.boxes:
        return True
    return _distance(item.boxes[camera].center, new.boxes[camera].center) > MOVED


def _held(graph: SceneGraph) -> set[tuple[str, str]]:
    return {(r.subject, r.object) for r in graph.relations if r.predicate == "held"}


def _distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))
