"""Drawn scenes of the size that packing a drawer will have, for `planning_step.py`: N objects, two cameras.

Items lie on a table beside compartments; the subgoals are `put(item, compartment)` and `close(drawer)`, their
outcomes are random. Drawn rectangles serve here because only the number of objects and options matters to
what a planning step costs; perception has to find them all the same.
"""

import numpy as np
from numpy.typing import NDArray

from vine_vla import Box, SceneGraph, SceneObject, Schema, Verb
from vine_vla.core.identity import assign_ids
from vine_vla.core.options import (
    Demonstration,
    EpisodeOutcome,
    Outcome,
    OutcomeSource,
    Segment,
    Split,
    Subgoal,
)
from vine_vla.core.protocols import Observation
from vine_vla.core.relations import PREDICATES, derive_relations

SCHEMA = Schema(
    classes=("item", "compartment", "drawer", "block", "gripper"),
    attributes={"colour": ("red", "green", "blue", "yellow"), "grip": ("open", "holding", "empty")},
    predicates=PREDICATES,
    verbs=(
        Verb("put", ("item", "compartment"), "put {0} into {1}"),
        Verb("close", ("drawer",), "close {0}"),
    ),
    cameras=("front", "wrist"),
    describing=("colour",),
)
PAINT = {"red": (220, 50, 40), "green": (50, 190, 70), "blue": (60, 80, 220), "yellow": (230, 200, 60)}
SIZE, INSTRUCTION = 192, "put the items into the drawer"
CELLS = 5
Image = NDArray[np.uint8]


def shares(objects: int) -> tuple[int, int, int]:
    """Items, compartments and blocks among so many objects; a drawer and a gripper are there as well."""
    items = max(1, round(0.42 * objects))
    compartments = max(1, round(0.25 * objects))
    return items, compartments, max(0, objects - items - compartments - 2)


def layout(rng: np.random.Generator, objects: int) -> list[tuple[str, Box, str]]:
    """Class, box and colour of everything but the gripper; no two overlap."""
    items, compartments, blocks = shares(objects)
    classes = ["item"] * items + ["compartment"] * compartments + ["drawer"] + ["block"] * blocks
    found = []
    for cls, cell in zip(classes, rng.permutation(CELLS * (CELLS - 1)), strict=False):
        row, column = divmod(int(cell), CELLS)
        width = {"item": 0.07, "compartment": 0.13, "drawer": 0.16, "block": 0.1}[cls] * rng.uniform(0.9, 1.1)
        height = width * (0.5 if cls == "block" else 1)
        x = (column + 0.5 + rng.uniform(-0.05, 0.05)) / CELLS
        y = 0.18 + (row + 0.5 + rng.uniform(-0.05, 0.05)) / CELLS * 0.98
        box = Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        found.append((cls, box, str(rng.choice(list(PAINT)))))
    return found


def draw(image: Image, box: Box, cls: str, paint: tuple[int, int, int]) -> None:
    """One object as a rectangle: compartments hollow, drawers with a bar, the others solid."""
    x0, y0, x1, y1 = (int(np.clip(round(v * SIZE), 0, SIZE)) for v in box)
    image[y0:y1, x0:x1] = paint
    if cls == "compartment":
        image[y0 + 3 : max(y0 + 3, y1 - 3), x0 + 3 : max(x0 + 3, x1 - 3)] = 240
    if cls == "drawer":
        image[y0 + (y1 - y0) // 3 : y0 + 2 * (y1 - y0) // 3, x0:x1] = 20


def look(rng: np.random.Generator, things: list[tuple[str, Box, str]]) -> tuple[Observation, SceneGraph]:
    """What both cameras show, and the annotated graph; the wrist camera shows 0.6 of the table."""
    state = np.array([rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform()], np.float32)
    images = [130 + rng.integers(0, 12, (SIZE, SIZE, 3), dtype=np.uint8) for _ in SCHEMA.cameras]
    objects = []
    for cls, box, colour in things:
        boxes = {"front": box}
        draw(images[0], box, cls, PAINT[colour])
        x, y = state[0] - 0.3, state[1] - 0.3
        near = Box(*((v - o) / 0.6 for v, o in zip(box, (x, y, x, y), strict=True)))
        if all(0 < v < 1 for v in near.center):
            boxes["wrist"] = near
            draw(images[1], near, cls, PAINT[colour])
        objects.append(SceneObject(f"x{len(objects)}", cls, boxes, {"colour": colour}))
    hand = Box(state[0] - 0.06, 0.01, state[0] + 0.06, 0.12)
    draw(images[0], hand, "gripper", (20, 20, 20))
    grip = "open" if state[2] > 0.5 else "empty"
    objects.append(SceneObject("x99", "gripper", {"front": hand}, {"grip": grip}))
    named = assign_ids(objects, "front")
    graph = SceneGraph(named, derive_relations(named, "front", SCHEMA.predicates))
    return Observation(dict(zip(SCHEMA.cameras, images, strict=True)), state), graph


class PackingPictures:
    """A `FrameSource` in memory: episodes of two puts, of 6 to 16 objects."""

    schema = SCHEMA
    cameras = dict(zip(SCHEMA.cameras, SCHEMA.cameras, strict=True))

    def __init__(self, episodes: int, seed: int = 0) -> None:
        self.looks, found = [], []
        for number in range(episodes):
            rng = np.random.default_rng([seed, number])
            things = layout(rng, int(rng.integers(6, 17)))
            looks = [look(rng, things) for _ in range(3)]
            self.looks.append(looks)
            found.append(_demonstration(number, rng, [graph for _, graph in looks]))
        self.demonstrations = tuple(found)

    def images(self, episode_index: int, frames: list[int] | None, camera_role: str) -> Image:
        """uint8 [F, SIZE, SIZE, 3]"""
        chosen = range(2) if frames is None else frames
        return np.stack([self.looks[episode_index][f][0].images[camera_role] for f in chosen])

    def proprioception(self, episode_index: int) -> NDArray[np.float32]:
        """float32 [F, 3]"""
        return np.stack([seen.proprioception for seen, _ in self.looks[episode_index]])

    def boxes(self, episode_index: int) -> dict[int, dict[str, dict[str, Box]]]:
        """By frame, camera and object."""
        return {
            frame: {c: {o.id: o.boxes[c] for o in graph.objects if c in o.boxes} for c in SCHEMA.cameras}
            for frame, (_, graph) in enumerate(self.looks[episode_index])
        }


def _demonstration(number: int, rng: np.random.Generator, graphs: list[SceneGraph]) -> Demonstration:
    """Two subgoals; the first is reached or slips, the second is reached or dead, at random."""
    segments = []
    for start in range(2):
        item, into = (str(rng.choice([o.id for o in graphs[start].of_class(c)])) for c in SCHEMA.classes[:2])
        worse = Outcome.DEAD if start else Outcome.SLIPPED
        outcome = Outcome.REACHED if rng.random() < 0.6 else worse
        subgoal = Subgoal("put", (item, into))
        segments.append(Segment(start, start + 1, subgoal, "put", outcome, OutcomeSource.SIMULATOR))
    won = segments[-1].outcome is Outcome.REACHED
    return Demonstration(
        f"picture_{number}",
        number,
        INSTRUCTION,
        2,
        EpisodeOutcome.SUCCESS if won else EpisodeOutcome.FAILURE,
        OutcomeSource.SIMULATOR,
        tuple(segments),
        dict(enumerate(graphs)),
        split=Split.CALIBRATION if number % 5 == 0 else Split.TRAIN,
    )
