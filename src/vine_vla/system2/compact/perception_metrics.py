"""How well perception sees: box error, class accuracy, attribute accuracy, relation F1 on held-out frames."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from vine_vla.core.graph import Box, SceneGraph, SceneObject
from vine_vla.core.identity import linear_assignment
from vine_vla.core.packing import attribute_slots
from vine_vla.core.protocols import Observation
from vine_vla.core.relations import derive_relations
from vine_vla.system2.compact.frames import Frames
from vine_vla.system2.compact.perception import Perception

NEAR = 0.1
"""Image shares: a perceived object farther from a true one is not that object."""


def annotated_graph(frames: Frames, i: int, perception: Perception) -> SceneGraph:
    """The annotated graph of frame `i`; attributes that are not known there are missing."""
    schema = perception.schema
    items = []
    for j, name in enumerate(frames.ids[i]):
        boxes = {
            camera: Box(*frames.boxes[i, j, c].tolist())
            for c, camera in enumerate(schema.cameras)
            if frames.seen[i, j, c]
        }
        values: dict[str, str | float] = {}
        for attribute, slot in attribute_slots(schema).items():
            part = frames.attributes[i, j, slot]
            categories = schema.attributes[attribute]
            if frames.known[i, j, slot].all() and part.any():
                values[attribute] = categories[int(part.argmax())] if categories else float(part[0])
        items.append(SceneObject(name, schema.classes[frames.cls[i, j]], boxes, values))
    camera = schema.cameras[0]
    return SceneGraph(tuple(items), derive_relations(items, camera, schema.predicates))


def observation(frames: Frames, i: int, perception: Perception) -> Observation:
    """What the robot saw in frame `i`."""
    images = {role: frames.images[i, c] for c, role in enumerate(perception.schema.cameras)}
    return Observation(images, frames.state[i])


def measure(perception: Perception, frames: Frames, *, most: int = 400) -> dict[str, object]:
    """Figures over frames of held-out episodes.

    Box error is the mean distance of box corners in pixels of the reference camera's own size (per axis,
    averaged); class accuracy is the share of annotated objects that were found under their class; relation F1
    compares relations over matched objects, gripper attributes included; `exact_count` is the share of
    frames with the right number of objects of every class.
    """
    schema = perception.schema
    index = np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int)
    error: dict[str, list[float]] = defaultdict(list)
    overlap: dict[str, list[float]] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    off: dict[str, list[float]] = defaultdict(list)
    found_class: dict[str, list[bool]] = defaultdict(list)
    counts: list[bool] = []
    spurious = hits = predicted = real = 0
    scale = np.array([frames.size[0], frames.size[1]] * 2)
    for i in index:
        truth = annotated_graph(frames, i, perception)
        seen = perception.perceive_one(observation(frames, i, perception))
        pairs = match(truth, seen, schema.cameras[0])
        counts.append(all(len(truth.of_class(c)) == len(seen.of_class(c)) for c in schema.classes))
        spurious += len(seen.objects) - len(pairs)
        for o in truth.objects:
            found_class[o.cls].append(o.id in pairs)
            if o.id not in pairs:
                continue
            other = seen[pairs[o.id]]
            for camera in schema.cameras:
                if camera in o.boxes and camera in other.boxes:
                    a, b = np.array(o.boxes[camera]), np.array(other.boxes[camera])
                    error[camera].append(float((np.abs(a - b) * scale).mean()))
                    overlap[camera].append(o.boxes[camera].iou(other.boxes[camera]))
            for name, value in o.attributes.items():
                guess = other.attributes.get(name)
                if isinstance(value, str):
                    right[f"{o.cls}.{name}"].append(guess == value)
                else:
                    off[f"{o.cls}.{name}"].append(abs(float(guess) - value) if guess is not None else np.nan)
        known = _grips(truth)
        renamed = {
            (r.predicate, _name(pairs, r.subject), _name(pairs, r.object))
            for r in truth.relations
            if known or r.predicate != "held"
        }
        got = {(r.predicate, r.subject, r.object) for r in seen.relations if known or r.predicate != "held"}
        hits += len(renamed & got)
        predicted += len(got)
        real += len(renamed)
    every = [ok for values in found_class.values() for ok in values]
    all_right = [ok for values in right.values() for ok in values]
    return {
        "frames": len(index),
        "image_size": list(frames.size),
        "box_error_px": {camera: float(np.mean(v)) for camera, v in error.items()},
        "box_iou": {camera: float(np.mean(v)) for camera, v in overlap.items()},
        "class_accuracy": float(np.mean(every)) if every else float("nan"),
        "class_accuracy_by_class": {c: float(np.mean(v)) for c, v in found_class.items()},
        "spurious_per_frame": spurious / max(1, len(index)),
        "exact_count": float(np.mean(counts)),
        "attribute_accuracy": float(np.mean(all_right)) if all_right else float("nan"),
        "attribute_accuracy_by_name": {n: float(np.mean(v)) for n, v in right.items()},
        "attribute_error_by_name": {n: float(np.nanmean(v)) for n, v in off.items()},
        "relation_f1": 2 * hits / max(1, predicted + real),
    }


def match(truth: SceneGraph, seen: SceneGraph, camera: str) -> dict[str, str]:
    """True id -> perceived id, by least distance of centres within a class."""
    pairs = {}
    for cls in dict.fromkeys(o.cls for o in truth.objects):
        a, b = truth.of_class(cls), seen.of_class(cls)
        cost = np.array([[_gap(x, y, camera) for y in b] for x in a]).reshape(len(a), len(b))
        for row, column in linear_assignment(np.minimum(cost, 10.0)) if cost.size else []:
            if cost[row, column] <= NEAR:
                pairs[a[row].id] = b[column].id
    return pairs


def _gap(a: SceneObject, b: SceneObject, camera: str) -> float:
    shared = [c for c in ([camera] if camera in a.boxes and camera in b.boxes else a.boxes) if c in b.boxes]
    if not shared:
        return 10.0
    p, q = a.boxes[shared[0]].center, b.boxes[shared[0]].center
    return float(np.hypot(p[0] - q[0], p[1] - q[1]))


def _grips(graph: SceneGraph) -> bool:
    """Whether the frame says what the gripper holds; else `held` cannot be judged."""
    from vine_vla.core.relations import GRIP, GRIPPER

    return all(GRIP in o.attributes for o in graph.of_class(GRIPPER))


def _name(pairs: dict[str, str], name: str) -> str:
    return pairs.get(name, f"lost {name}")
