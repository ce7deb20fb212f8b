"""What a scene of the line is: balls on stands, cups, and posts beside either, with their sizes.

Lengths are pixels of the front camera: x runs from 0 to `WIDTH`, heights count from the table.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 64.0
BALL, STAND = 2.5, 5.0  # radius of a ball; height of its stand
CUP_WIDTH, CUP_HEIGHT = 8.0, 6.0
POST_WIDTH, POST_GAP = 2.0, 0.5  # a post stands this far from the side of what it stands beside
HAND_WIDTH, HAND_HEIGHT = 4.0, 8.0
HOLD = BALL + HAND_WIDTH / 2  # from the centre of the hand to that of the ball it holds
LOW, HIGH = 6.5, 22.0  # height of the hand's lower end when it takes or puts, and when it travels

COLOURS = ("red", "green", "blue", "yellow", "purple")
SIDES = ("left", "right")

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Cup:
    """A cup at `x`; no two cups of a scene share a colour."""

    x: float
    colour: str
    rgb: RGB


@dataclass(frozen=True)
class Post:
    """A post at `x`. The lowered hand passes over low ones and meets tall ones."""

    x: float
    height: float


@dataclass(frozen=True)
class Scene:
    """Everything on the line, each kind from left to right.

    Args:
        balls: places of the balls at the start.
        target: index of the cup that the instruction names, None for any.
        wall, table, ball, post: colours.
    """

    instruction: str
    balls: tuple[float, ...]
    cups: tuple[Cup, ...]
    posts: tuple[Post, ...]
    target: int | None
    wall: RGB
    table: RGB
    ball: RGB
    post: RGB
