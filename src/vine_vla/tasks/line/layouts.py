"""Where scenes come from: a scene is a pure function of (split, number).

`demo` is the stream that demonstrations come from; `seen` looks like it; `unseen` has other shades, other
arrangements and other words.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.tasks.line.rules import fixed_moves, is_trap, start, value
from vine_vla.tasks.line.scenes import (
    BALL,
    COLOURS,
    CUP_WIDTH,
    HOLDS,
    POST_GAP,
    POST_WIDTH,
    RGB,
    WIDTH,
    Cup,
    Post,
    Scene,
)

STREAMS = {"demo": 1, "seen": 2, "unseen": 3}
CUP_CELL, BALL_CELL = 20.0, 14.0  # room on the line, with a hand or a post on either side
PITCH = 9.0  # between the centres of two balls
BESIDE = {"cup": (0.35, 0.2), "ball": (0.15, 0.3)}
"""How often a post, and a bolt, stands at a side of a cup, and of the balls."""


@dataclass(frozen=True)
class Appearance:
    """How the scenes of a split look and speak.

    Args:
        orders: how the balls' cell `b` and the cups `c` may be arranged, from left to right.
        value, saturation: ranges of the cups' colours (HSV). walls, tables, balls: colours to draw from.
        phrases: (number of balls, whether a cup is named) -> instructions.
    """

    orders: tuple[str, ...]
    value: tuple[float, float]
    saturation: tuple[float, float]
    walls: tuple[RGB, ...]
    tables: tuple[RGB, ...]
    balls: tuple[RGB, ...]
    phrases: Mapping[tuple[int, bool], tuple[str, ...]]


SEEN = Appearance(
    orders=("bcc", "ccb"),
    value=(0.75, 0.9),
    saturation=(0.75, 0.95),
    walls=((0.85, 0.88, 0.9), (0.93, 0.9, 0.84)),
    tables=((0.55, 0.42, 0.3), (0.45, 0.47, 0.5)),
    balls=((0.25, 0.27, 0.3), (0.4, 0.42, 0.45)),
    phrases={
        (1, False): ("put the ball into a cup", "drop the ball in any cup", "the ball belongs in a cup"),
        (1, True): (
            "put the ball into the {} cup",
            "drop the ball in the {} cup",
            "the ball belongs in the {} cup",
        ),
        (2, False): ("put both balls into cups", "drop the balls in any cups", "the balls belong in cups"),
        (2, True): (
            "put both balls into cups, one into the {} cup",
            "drop the balls in cups, one in the {} cup",
            "the balls belong in cups, one in the {} cup",
        ),
    },
)
UNSEEN = Appearance(
    orders=("cbc",),
    value=(0.5, 0.65),
    saturation=(0.8, 1.0),
    walls=((0.7, 0.78, 0.72), (0.8, 0.74, 0.8)),
    tables=((0.3, 0.32, 0.3), (0.65, 0.6, 0.5)),
    balls=((0.15, 0.2, 0.3), (0.35, 0.25, 0.25)),
    phrases={
        (1, False): ("let the ball rest in some cup", "tidy the ball away into a cup"),
        (1, True): ("let the ball rest in the {} cup", "tidy the ball away into the {} cup"),
        (2, False): ("let both balls rest in cups", "tidy the balls away into cups"),
        (2, True): (
            "let both balls rest in cups, the {} cup being one of them",
            "tidy the balls away into cups and fill the {} cup",
        ),
    },
)
_HUES = {"red": 0.0, "yellow": 0.15, "green": 0.36, "blue": 0.6, "purple": 0.8}

TRAPS = {True: (0.05, 0.45, 0.5, 0.0), False: (0.05, 0.4, 0.4, 0.15)}
"""How often the nearest cup is no trap in either hold, by the sides alone, from above alone, or in none.
Key: whether one ball goes into a named cup, so that one of the holds must do."""
WORTH = 0.8
"""The best plan of a scene succeeds at least this often."""


@lru_cache(maxsize=4096)
def line_scene(split: str, number: int) -> Scene:
    """Scene `number` of `split`.

    Raises:
        VineError: unknown split, or a number outside the frozen lists (0-999) of `seen` and `unseen`.
    """
    if split not in STREAMS:
        raise VineError(f"unknown split {split!r}", hint=f"known splits: {', '.join(STREAMS)}")
    if number < 0 or (split != "demo" and number > 999):
        raise VineError(
            f"no scene {number} in split {split!r}", hint="scenes 0 to 999 are dev, calibration and test"
        )
    rng = np.random.default_rng([STREAMS[split], number, 20261201])
    look = UNSEEN if split == "unseen" else SEEN
    count, named = (2 if rng.random() < 0.6 else 1), bool(rng.random() < 0.5)
    # Which holds are traps is drawn first, and layouts until they are: the same shares in every split.
    wanted = divmod(int(rng.choice(4, p=TRAPS[count == 1 and named])), 2)
    while True:
        scene = _draw(look, count, named, rng)
        traps = tuple(is_trap(scene, fixed_moves(scene, hold)) for hold in HOLDS)
        if traps == wanted and value(scene, start(scene), 4 * count) > WORTH:
            return scene


def _draw(look: Appearance, count: int, named: bool, rng: np.random.Generator) -> Scene:
    """A layout with `count` balls; whether it can be solved is not checked."""
    order = str(rng.choice(look.orders))
    widths = [BALL_CELL + (count - 1) * PITCH if kind == "b" else CUP_CELL for kind in order]
    slack = WIDTH - sum(widths)
    spaces = slack * np.diff(np.sort(rng.uniform(0, 1, len(order))), prepend=0.0)
    middles = np.cumsum(spaces) + np.cumsum(widths) - np.array(widths) / 2
    balls: tuple[float, ...] = ()
    places, colours = [], [str(c) for c in rng.choice(COLOURS, order.count("c"), replace=False)]
    for kind, x in zip(order, middles, strict=True):
        if kind == "b":
            balls = tuple(float(x + (i - (count - 1) / 2) * PITCH) for i in range(count))
        else:
            places.append(float(x))
    cups = tuple(Cup(x, colour, _shade(colour, look, rng)) for x, colour in zip(places, colours, strict=True))
    target = int(rng.integers(len(cups))) if named else None
    phrase = str(rng.choice(look.phrases[count, named]))
    if target is not None:
        phrase = phrase.format(("left", "right")[target] if rng.random() < 0.3 else cups[target].colour)
    grey = float(rng.uniform(0.45, 0.6))
    return Scene(
        phrase,
        balls,
        cups,
        *_posts(balls, [cup.x for cup in cups], rng),
        target,
        *(
            _jitter(options[rng.integers(len(options))], rng)
            for options in (look.walls, look.tables, look.balls)
        ),
        _jitter((grey + 0.15, grey, grey - 0.2), rng),
    )


def _posts(
    balls: Sequence[float], cups: Sequence[float], rng: np.random.Generator
) -> tuple[tuple[Post, ...], tuple[Post, ...]]:
    """Posts and bolts beside the cups and beside the outermost balls, drawn for each side alone."""
    things = [(x, x, CUP_WIDTH / 2, BESIDE["cup"]) for x in cups]
    things.append((min(balls), max(balls), BALL, BESIDE["ball"]))
    posts, bolts = [], []
    for left, right, half, (post, bolt) in things:
        away = half + POST_GAP + POST_WIDTH / 2
        for x in (left - away, right + away):
            draw, size = rng.random(), rng.random()
            if draw < post:
                posts.append(Post(float(x), 11 + 3 * size))
            elif draw < post + bolt:
                bolts.append(Post(float(x), 3 + 2 * size))
    return tuple(sorted(posts, key=lambda p: p.x)), tuple(sorted(bolts, key=lambda b: b.x))


def _shade(colour: str, look: Appearance, rng: np.random.Generator) -> RGB:
    hue = (_HUES[colour] + rng.uniform(-0.015, 0.015)) % 1.0
    return colorsys.hsv_to_rgb(hue, rng.uniform(*look.saturation), rng.uniform(*look.value))


def _jitter(rgb: RGB, rng: np.random.Generator) -> RGB:
    r, g, b = np.clip(np.asarray(rgb) + rng.uniform(-0.03, 0.03, 3), 0, 1)
    return float(r), float(g), float(b)
