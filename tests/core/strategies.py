"""Random schemas' worth of scene graphs for property tests."""

import numpy as np
from hypothesis import strategies as st

from vine_vla import Belief, Box, SceneGraph, SceneObject, Schema, Verb
from vine_vla.core.relations import PREDICATES, derive_relations

SCHEMA = Schema(
    classes=("plug", "socket", "block", "gripper"),
    attributes={
        "colour": ("blue", "red", "green"),
        "kind": ("two_pin", "round"),
        "weight": (),
        "grip": ("open", "holding", "empty"),
    },
    predicates=PREDICATES,
    verbs=(
        Verb("grasp_long", ("plug",), "grasp {0} across its long side"),
        Verb("insert", ("plug", "socket"), "insert {0} into {1}"),
        Verb("stack", ("block", "block"), "put {0} on {1}"),
    ),
    cameras=("front", "wrist"),
    describing=("colour", "kind"),
)

unit = st.floats(0, 1, width=32)


@st.composite
def boxes(draw):
    xs, ys = sorted([draw(unit), draw(unit)]), sorted([draw(unit), draw(unit)])
    return Box(xs[0], ys[0], xs[1], ys[1])


@st.composite
def categories(draw, name):
    """A category of the attribute, known or believed, or None."""
    names = SCHEMA.attributes[name]
    believed = [
        Belief(best, [1 - rest if n == best else rest / (len(names) - 1) for n in names])
        for best in names
        for rest in (0.02, 0.48)
    ]
    return draw(st.sampled_from([None, *names, *believed]))


@st.composite
def objects(draw, cls, object_id):
    colour, kind = draw(categories("colour")), draw(categories("kind"))
    weight = draw(st.none() | st.floats(-1e3, 1e3, width=32))
    grip = draw(st.sampled_from(SCHEMA.attributes["grip"])) if cls == "gripper" else None
    values = {"colour": colour, "kind": kind, "weight": weight, "grip": grip}
    seen = {c: draw(boxes()) for c in SCHEMA.cameras if draw(st.booleans())}
    return SceneObject(object_id, cls, seen, {k: v for k, v in values.items() if v is not None})


@st.composite
def graphs(draw):
    counts = {"plug": 1, "socket": draw(st.integers(0, 4)), "block": draw(st.integers(0, 3)), "gripper": 1}
    items = []
    for cls, count in counts.items():
        for number in range(1, count + 1):
            items.append(draw(objects(cls, cls if count == 1 else f"{cls}_{number}")))
    order = draw(st.permutations(items))
    return SceneGraph(tuple(order), derive_relations(order, "front", SCHEMA.predicates))


def random_boxes(rng: np.random.Generator, count: int) -> list[Box]:
    low = rng.uniform(0, 0.8, (count, 2))
    return [
        Box(x, y, x + w, y + h)
        for (x, y), (w, h) in zip(low, rng.uniform(0.02, 0.2, (count, 2)), strict=True)
    ]
