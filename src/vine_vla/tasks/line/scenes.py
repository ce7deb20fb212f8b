"""What a scene of the line is: balls on stands, cups, and posts and bolts beside either, with their sizes.

Lengths are pixels of the front camera: x runs from 0 to `WIDTH`, heights count from the table.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 64.0
BALL, STAND = 2.5, 5.0  # radius of a ball; height of its stand
CUP_WIDTH, CUP_HEIGHT = 8.0, 6.0
POST_WIDTH, POST_GAP = 2.0, 0.5  # a post stands this far from the side of what it stands beside
HAND_WIDTH, HAND_HEIGHT, FINGER = 10.0, 8.0, 2.5  # the hand over all, and the width of its two fingers
HIGH = 22.0  # height of the hand's lower end when it travels
LOW = {"sides": STAND + 1.5, "top": STAND + 2 * BALL}
"""Height of the hand's lower end when it takes and puts: its fingers beside the ball, or its magnet on it."""

COLOURS = ("red", "green", "blue", "yellow", "purple")
HOLDS = ("sides", "top")
"""How a ball may be held: between the fingers, or from above by a magnet."""

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Cup:
    """A cup at `x`; no two cups of a scene share a colour."""

    x: float
    colour: str
    rgb: RGB


@dataclass(frozen=True)
class Post:
    """A post of wood at `x`, or an iron bolt."""

    x: float
    height: float


@dataclass(frozen=True)
class Scene:
    """Everything on the line, each kind from left to right.

    Args:
        balls: places of the balls at the start.
        posts: tall ones, of wood. bolts: low ones, of iron.
        target: index of the cup that the instruction names, None for any.
        wall, table, ball, post: colours.
    """

    instruction: str
    balls: tuple[float, ...]
    cups: tuple[Cup, ...]
    posts: tuple[Post, ...]
    bolts: tuple[Post, ...]
    target: int | None
    wall: RGB
    table: RGB
    ball: RGB
    post: RGB
