"""Pictures of the line in two cameras, and the visible boxes in them.

Both come from one map that says which body each pixel shows, so a box is what the picture shows. `front`
shows the whole line; `wrist` is carried along by the hand and shows what is around it twice as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import Box
from vine_vla.tasks.line.scenes import FINGER, HAND_HEIGHT, HIGH, RGB, STAND, Scene

SIZE = 64
CAMERAS = ("front", "wrist")
OUT_OF_SIGHT = -20.0
"""Height of what no camera shows."""

_DEPTH = ("post", "bolt", "cup", "gripper", "ball")  # from the back to the front
_WALL, _TABLE, _STEEL, _FIRST = range(4)  # what a pixel shows: the scenery, and from `_FIRST` on bodies
_STEEL_RGB = (0.3, 0.3, 0.33)
PALM = 2.5
_RAIL = HIGH + HAND_HEIGHT + 8


@dataclass(frozen=True)
class Body:
    """A thing on the line: a ball is a disc, the gripper has fingers, the others are rectangles.

    Args:
        kind: class of the object. x: of its middle. low: height of its lower end.
        width, height: of what is seen. rgb: colour.
    """

    kind: str
    x: float
    low: float
    width: float
    height: float
    rgb: RGB


def draw(scene: Scene, bodies: Sequence[Body], camera: str, hand: float) -> NDArray[np.uint8]:
    """The image of a camera, uint8 [SIZE, SIZE, 3]. `hand`: x of the hand, which carries `wrist`."""
    palette = np.array([scene.wall, scene.table, _STEEL_RGB, *(body.rgb for body in bodies)])
    return (255 * palette).round().astype(np.uint8)[_map(bodies, camera, hand, scene.balls)]


def visible_boxes(bodies: Sequence[Body], hand: float) -> list[dict[str, Box]]:
    """Camera role -> box of each body; a camera that shows nothing of it has no entry."""
    found: list[dict[str, Box]] = [{} for _ in bodies]
    for camera in CAMERAS:
        shown = _map(bodies, camera, hand)
        for index, boxes in enumerate(found, _FIRST):
            mine = shown == index
            columns, rows = np.flatnonzero(mine.any(0)), np.flatnonzero(mine.any(1))
            if len(columns):
                edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
                boxes[camera] = Box(*(float(edge) / SIZE for edge in edges))
    return found


def _map(bodies: Sequence[Body], camera: str, hand: float, stands: Sequence[float] = ()) -> NDArray[np.int64]:
    """What each pixel shows. Stands hide nothing. [SIZE, SIZE]"""
    middle = np.arange(SIZE) + 0.5
    if camera == "front":
        x, height = middle, 54.0 - middle
    else:
        x, height = middle / 2 + hand - SIZE / 4, 28.0 - middle / 2
    shown = np.repeat(np.where(height > 0, _WALL, _TABLE)[:, None], SIZE, 1)

    def fill(index: int, middle: float, width: float, low: float, high: float) -> None:
        columns = slice(*np.searchsorted(x, (middle - width / 2, middle + width / 2)))
        shown[(height > low) & (height < high), columns] = index

    fill(_STEEL, 0.0, 1000.0, _RAIL, _RAIL + 2)
    for place in stands:
        fill(_STEEL, place, 2.0, 0.0, STAND)
    for index, body in sorted(enumerate(bodies, _FIRST), key=lambda pair: _DEPTH.index(pair[1].kind)):
        top = body.low + body.height
        if body.kind == "ball":
            away = np.hypot(x[None] - body.x, height[:, None] - (body.low + top) / 2)
            shown[away <= body.width / 2] = index
        elif body.kind == "gripper":
            palm = top - PALM
            for side in (-1, 1):
                fill(index, body.x + side * (body.width - FINGER) / 2, FINGER, body.low, palm)
            fill(index, body.x, body.width, palm, top)
            fill(index, body.x, 2.0, body.low, palm)  # the magnet, behind a ball between the fingers
            fill(_STEEL, body.x, 1.5, top, _RAIL)
        else:
            fill(index, body.x, body.width, body.low, top)
    return shown
