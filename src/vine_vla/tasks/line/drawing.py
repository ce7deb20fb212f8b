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
from vine_vla.tasks.line.scenes import (
    BALL,
    CUP_HEIGHT,
    CUP_WIDTH,
    HAND_HEIGHT,
    HAND_WIDTH,
    HIGH,
    POST_WIDTH,
    RGB,
    STAND,
    Scene,
)

SIZE = 64
CAMERAS = ("front", "wrist")
RAIL = HIGH + HAND_HEIGHT + 8  # height of the rail
TABLE_ROW = 54  # row of the front image where the table begins
SCENERY = ("wall", "table", "steel")
_STEEL, _HAND = (0.3, 0.3, 0.33), (0.95, 0.55, 0.1)

Map = NDArray[np.int64]


@dataclass(frozen=True)
class Body:
    """One thing on the line.

    Args:
        kind: class of the object. x: of its middle. height: of its lower end.
        size: how high it is, of a post. rgb: colour, of a cup. hidden: whether it is out of sight.
    """

    kind: str
    x: float
    height: float
    size: float = 0.0
    rgb: RGB = (0.0, 0.0, 0.0)
    hidden: bool = False


def draw(scene: Scene, bodies: Sequence[Body], camera: str, hand: float) -> NDArray[np.uint8]:
    """The image of a camera, uint8 [SIZE, SIZE, 3]. `hand`: x of the hand, which carries `wrist`."""
    colours = {"gripper": _HAND, "post": scene.post, "ball": scene.ball}
    palette = [scene.wall, scene.table, _STEEL, *(colours.get(b.kind, b.rgb) for b in bodies)]
    shown = _map(bodies, camera, hand, scene.balls)
    return (255 * np.array(palette)).round().astype(np.uint8)[shown]


def body_boxes(bodies: Sequence[Body], hand: float) -> list[dict[str, Box]]:
    """Camera role -> visible box, for each body; a camera that shows nothing of it has no entry."""
    found: list[dict[str, Box]] = [{} for _ in bodies]
    for camera in CAMERAS:
        shown = _map(bodies, camera, hand)
        for index, boxes in enumerate(found):
            mine = shown == len(SCENERY) + index
            columns, rows = np.flatnonzero(mine.any(0)), np.flatnonzero(mine.any(1))
            if len(columns):
                edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
                boxes[camera] = Box(*(float(edge) / SIZE for edge in edges))
    return found


def _map(bodies: Sequence[Body], camera: str, hand: float, stands: Sequence[float] = ()) -> Map:
    """Index into `SCENERY` and bodies of what each pixel shows. [SIZE, SIZE]"""
    middle = (np.arange(SIZE) + 0.5) if camera == "front" else (np.arange(SIZE) + 0.5) / 2
    x = middle if camera == "front" else middle + hand - SIZE / 4
    height = TABLE_ROW - middle if camera == "front" else 28.0 - middle
    shown = np.repeat(np.where(height > 0, 0, 1)[:, None], SIZE, 1)

    def fill(index: int, left: float, right: float, low: float, high: float) -> None:
        columns = slice(*np.searchsorted(x, (left, right)))
        shown[(height > low) & (height < high), columns] = index

    fill(2, 0, 10 * SIZE, RAIL, RAIL + 2)
    for place in stands:
        fill(2, place - 1, place + 1, 0, STAND)
    # From the back to the front; the hand hangs before everything but the ball it holds.
    for index, body in sorted(enumerate(bodies, len(SCENERY)), key=lambda pair: _DEPTH[pair[1].kind]):
        if body.hidden:
            continue
        if body.kind == "ball":
            away = (x[None] - body.x) ** 2 + (height[:, None] - body.height - BALL) ** 2
            shown[away <= BALL**2] = index
            continue
        half, size = _SIZES[body.kind]
        fill(index, body.x - half, body.x + half, body.height, body.height + (size or body.size))
        if body.kind == "gripper":
            fill(2, body.x - 0.75, body.x + 0.75, body.height + HAND_HEIGHT, RAIL)
    return shown


_DEPTH = {"post": 0, "cup": 1, "gripper": 2, "ball": 3}
_SIZES = {
    "post": (POST_WIDTH / 2, 0.0),
    "cup": (CUP_WIDTH / 2, CUP_HEIGHT),
    "gripper": (HAND_WIDTH / 2, HAND_HEIGHT),
}
