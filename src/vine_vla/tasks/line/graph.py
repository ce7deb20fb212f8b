"""The true scene graph, and the vocabulary: classes, colours and states; nothing of neighbours or causes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vine_vla.core.graph import Box, SceneGraph, SceneObject, Schema, Verb
from vine_vla.core.identity import assign_ids
from vine_vla.core.relations import derive_relations
from vine_vla.tasks.line.drawing import CAMERAS
from vine_vla.tasks.line.rules import IN_HAND, LOST, ON_STAND, Situation
from vine_vla.tasks.line.scenes import COLOURS, HOLDS, Scene

SCHEMA = Schema(
    classes=("ball", "gripper", "cup", "post", "bolt"),
    attributes={
        "colour": COLOURS,  # of a cup
        "hold": ("none", *HOLDS),  # of a ball
        "grip": ("open", "holding", "empty"),  # of the gripper
    },
    predicates=("left_of", "near", "inside", "held"),
    verbs=(
        Verb("grasp_sides", ("ball",), "grasp {0} by its sides"),
        Verb("grasp_top", ("ball",), "grasp {0} from above"),
        Verb("put", ("ball", "cup"), "put {0} into {1}"),
    ),
    cameras=CAMERAS,
    describing=("colour",),
)

Boxes = Sequence[Mapping[str, Box]]
"""Camera role -> box, for each object of a scene."""


def name_objects(scene: Scene, boxes: Boxes) -> tuple[str, ...]:
    """Ids at an episode's first moment, in the order of the bodies: gripper, cups, posts, bolts, balls."""
    classes = [
        *("gripper",),
        *("cup",) * len(scene.cups),
        *("post",) * len(scene.posts),
        *("bolt",) * len(scene.bolts),
    ]
    classes += ["ball"] * len(scene.balls)
    objects = [SceneObject(f"new_{i}", c, b) for i, (c, b) in enumerate(zip(classes, boxes, strict=True))]
    return tuple(o.id for o in assign_ids(objects, CAMERAS[0]))


def scene_graph(scene: Scene, now: Situation, closed: bool, names: Sequence[str], boxes: Boxes) -> SceneGraph:
    """The scene graph of one moment."""
    holding = IN_HAND in now.balls
    objects: list[tuple[str, dict[str, str]]] = [
        ("gripper", {"grip": "holding" if holding else "empty" if closed else "open"}),
        *(("cup", {"colour": cup.colour}) for cup in scene.cups),
        *(("post", {}) for _ in scene.posts),
        *(("bolt", {}) for _ in scene.bolts),
        *(("ball", {"hold": now.hold if place == IN_HAND else "none"}) for place in now.balls),
    ]
    found = tuple(
        SceneObject(name, cls, box, attributes)
        for name, (cls, attributes), box in zip(names, objects, boxes, strict=True)
    )
    return SceneGraph(found, derive_relations(found, CAMERAS[0], SCHEMA.predicates))


def situation_of(graph: SceneGraph) -> Situation:
    """Where each ball is as a true graph of the present scene shows it."""
    balls = graph.of_class("ball")
    cups = {cup.id: index for index, cup in enumerate(graph.of_class("cup"))}
    places, held = [], ""
    for ball in balls:
        inside = [cups[r.object] for r in graph.relations if r.predicate == "inside" and r.subject == ball.id]
        hold = str(ball.attributes["hold"])
        if hold != "none":
            held = hold
        places.append(
            IN_HAND if hold != "none" else inside[0] if inside else ON_STAND if ball.boxes else LOST
        )
    return Situation(tuple(places), held)
