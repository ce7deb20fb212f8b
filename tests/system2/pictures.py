"""Coloured rectangles on a table, seen by a fixed camera and by one that moves with the state."""

import numpy as np

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
from vine_vla.core.relations import PREDICATES, derive_relations

PICTURES = Schema(
    classes=("plate", "brick", "gripper"),
    attributes={
        "colour": ("red", "green", "blue"),
        "size": (),
        "grip": ("open", "holding", "empty"),
        "mark": ("plain", "barred"),  # of a brick
    },
    predicates=PREDICATES,
    verbs=(Verb("put", ("brick", "plate"), "put {0} on {1}"),),
    cameras=("front", "wrist"),
    describing=("colour",),
)
PAINT = {"red": (220, 50, 40), "green": (50, 190, 70), "blue": (60, 80, 220)}
WIDTH, HEIGHT = 128, 96


def _draw(image, box, paint, frame, barred=False):
    h, w = image.shape[:2]
    x0, y0, x1, y1 = (int(round(v)) for v in (box.x_min * w, box.y_min * h, box.x_max * w, box.y_max * h))
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, w), min(y1, h)
    if x1 > x0 and y1 > y0:
        image[y0:y1, x0:x1] = paint
        if frame:  # plates have a white inside, bricks are solid
            image[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] = 240
        if barred:  # a dark bar across the middle
            image[y0:y1, (x0 + x1) // 2 - 1 : (x0 + x1) // 2 + 1] = 15


def _wrist(box, state):
    """The wrist camera shows 0.6 of the table around the hand at (state[0], state[1])."""
    x, y = state[0] - 0.3, state[1] - 0.3
    moved = Box((box.x_min - x) / 0.6, (box.y_min - y) / 0.6, (box.x_max - x) / 0.6, (box.y_max - y) / 0.6)
    cx, cy = moved.center
    return moved if 0 < cx < 1 and 0 < cy < 1 else None


def scene(rng):
    """Objects without the gripper, as (class, box, attributes); no two overlap."""
    items, boxes = [], []
    for cls, count in (("plate", 2), ("brick", int(rng.integers(1, 4)))):
        for _ in range(count):
            for _ in range(50):
                w = rng.uniform(0.14, 0.2) if cls == "plate" else rng.uniform(0.08, 0.12)
                x, y = rng.uniform(0.12, 0.88), rng.uniform(0.3, 0.88)
                box = Box(x - w / 2, y - w / 2, x + w / 2, y + w / 2)
                if all(box.gap(b) > 0.02 for b in boxes):
                    boxes.append(box)
                    own = {"colour": str(rng.choice(list(PAINT))), "size": float(w)}
                    if cls == "brick":
                        own["mark"] = str(rng.choice(PICTURES.attributes["mark"]))
                    items.append((cls, box, own))
                    break
    return items


def view(items, rng, grip=None):
    """Images, state and graph of one moment with a random hand."""
    state = np.array([rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75), rng.uniform()], np.float32)
    grip = grip or ("open" if state[2] > 0.5 else "holding")
    hand = Box(state[0] - 0.06, 0.02, state[0] + 0.06, 0.14)
    front = np.full((HEIGHT, WIDTH, 3), 130, np.uint8) + rng.integers(
        0, 12, (HEIGHT, WIDTH, 3), dtype=np.uint8
    )
    wrist = np.full((96, 96, 3), 130, np.uint8) + rng.integers(0, 12, (96, 96, 3), dtype=np.uint8)
    objects = []
    for cls, box, attributes in items:
        paint = PAINT[attributes["colour"]]
        barred = attributes.get("mark") == "barred"
        _draw(front, box, paint, cls == "plate", barred)
        boxes = {"front": box}
        near = _wrist(box, state)
        if near:
            boxes["wrist"] = near
            _draw(wrist, near, paint, cls == "plate", barred)
        objects.append(SceneObject(f"x{len(objects)}", cls, boxes, attributes))
    _draw(front, hand, (20, 20, 20), False)
    objects.append(SceneObject("x9", "gripper", {"front": hand}, {"grip": grip}))
    objects = assign_ids(objects, "front")
    graph = SceneGraph(objects, derive_relations(objects, "front", PICTURES.predicates))
    return {"front": front, "wrist": wrist}, state, graph


class PictureSource:
    """A data set in memory: `FrameSource` with episodes of `length` frames."""

    def __init__(self, episodes, length=8, seed=0):
        self.schema, self.cameras = PICTURES, {"front": "front", "wrist": "wrist"}
        self.views, found = [], []
        for e in range(episodes):
            rng = np.random.default_rng([seed, e])
            items = scene(rng)
            views = [view(items, rng) for _ in range(length)]
            self.views.append(views)
            graphs = {f: views[f][2] for f in (0, length // 2)} | {length: views[-1][2]}
            brick = views[0][2].of_class("brick")[0].id
            reached = Outcome.REACHED if e % 2 else Outcome.DEAD
            segments = (
                Segment(
                    0,
                    length // 2,
                    Subgoal("put", (brick, "plate_1")),
                    "x",
                    Outcome.SLIPPED,
                    OutcomeSource.SIMULATOR,
                ),
                Segment(
                    length // 2,
                    length,
                    Subgoal("put", (brick, "plate_2")),
                    "x",
                    reached,
                    OutcomeSource.SIMULATOR,
                ),
            )
            found.append(
                Demonstration(
                    f"picture_{e}",
                    e,
                    "put the brick on a plate",
                    length,
                    EpisodeOutcome.SUCCESS if e % 2 else EpisodeOutcome.FAILURE,
                    OutcomeSource.SIMULATOR,
                    segments,
                    graphs,
                    split=Split.CALIBRATION if e % 5 == 0 else Split.TRAIN,
                )
            )
        self.demonstrations = tuple(found)

    def images(self, episode_index, frames, camera_role):
        return np.stack([self.views[episode_index][f][0][camera_role] for f in frames])

    def proprioception(self, episode_index):
        return np.stack([v[1] for v in self.views[episode_index]])

    def boxes(self, episode_index):
        found = {}
        for f, (_, _, graph) in enumerate(self.views[episode_index]):
            found[f] = {
                c: {o.id: o.boxes[c] for o in graph.objects if c in o.boxes} for c in self.schema.cameras
            }
        return found
