"""The rules: what a move does, with which chances, and what the best plan is worth.

One rule is behind every failure: the hand comes down beside the ball, on the side by which it holds it, and
whatever stands there is in its way. Nothing that is learned may import this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from vine_vla.tasks.line.scenes import BALL, HAND_WIDTH, HOLD, LOW, POST_WIDTH, SIDES, STAND, Scene

ON_STAND, IN_HAND, LOST = -1, -2, -3
"""Where a ball may be that is in no cup."""


STYLES = ("toward", "away")
"""Ways to take a ball: by the side that faces the cup it is meant for, or by the other one."""


class Move(NamedTuple):
    """A subgoal by indices: `take` ball by a side, or `put` ball into a cup."""

    verb: str
    ball: int
    side: str = ""
    cup: int = -1


class Situation(NamedTuple):
    """Where each ball is (a cup's index, or a constant above), and by which side one is held."""

    balls: tuple[int, ...]
    side: str = ""


class Chances(NamedTuple):
    """Probabilities of a move's outcomes; they sum to 1."""

    reached: float
    slipped: float
    dead: float


CLEAR = {"take": Chances(0.95, 0.05, 0.0), "put": Chances(0.96, 0.04, 0.0)}
MET = {"take": Chances(0.3, 0.5, 0.2), "put": Chances(0.15, 0.1, 0.75)}
"""Chances when nothing is in the hand's way, and when something is."""


def start(scene: Scene) -> Situation:
    """The situation at the start."""
    return Situation((ON_STAND,) * len(scene.balls))


def hand_place(x: float, side: str) -> float:
    """Where the hand is when it holds a ball at `x` by its `side`."""
    return x - HOLD if side == "left" else x + HOLD


def meets_something(scene: Scene, now: Situation, move: Move) -> bool:
    """Whether the hand meets a tall post or another ball when it comes down for `move`."""
    taking = move.verb == "take"
    x = scene.balls[move.ball] if taking else scene.cups[move.cup].x
    hand = hand_place(x, move.side if taking else now.side)
    standing = [(p.x, POST_WIDTH / 2, p.height) for p in scene.posts]
    standing += [
        (place, BALL, STAND + 2 * BALL)
        for ball, place in enumerate(scene.balls)
        if now.balls[ball] == ON_STAND and ball != move.ball
    ]
    return any(abs(hand - x) < HAND_WIDTH / 2 + half and top > LOW for x, half, top in standing)


def chances(scene: Scene, now: Situation, move: Move) -> Chances:
    """What may become of a possible move."""
    return (MET if meets_something(scene, now, move) else CLEAR)[move.verb]


def possible(scene: Scene, now: Situation) -> Iterator[Move]:
    """Moves that can be tried: take a ball from its stand, or put the held one into an empty cup."""
    if IN_HAND in now.balls:
        ball = now.balls.index(IN_HAND)
        yield from (Move("put", ball, cup=i) for i in range(len(scene.cups)) if i not in now.balls)
    else:
        for ball, place in enumerate(now.balls):
            if place == ON_STAND:
                yield from (Move("take", ball, side) for side in SIDES)


def after(now: Situation, move: Move) -> Situation:
    """The situation once `move` is reached."""
    place = IN_HAND if move.verb == "take" else move.cup
    return Situation((*now.balls[: move.ball], place, *now.balls[move.ball + 1 :]), move.side)


def is_goal(scene: Scene, now: Situation) -> bool:
    """Every ball is in a cup, and the named cup, if there is one, is filled."""
    return all(place >= 0 for place in now.balls) and (scene.target is None or scene.target in now.balls)


def is_dead(scene: Scene, now: Situation) -> bool:
    """A ball is lost, or all are in cups and the named one is empty."""
    return LOST in now.balls or (all(place >= 0 for place in now.balls) and not is_goal(scene, now))


@lru_cache(maxsize=1 << 16)
def value(scene: Scene, now: Situation, budget: int) -> float:
    """P(goal before failure) under the best moves, with `budget` moves left."""
    if is_goal(scene, now):
        return 1.0
    if is_dead(scene, now) or budget <= 0:
        return 0.0
    best = 0.0
    for move in possible(scene, now):
        p = chances(scene, now, move)
        reached = value(scene, after(now, move), budget - 1)
        best = max(best, p.reached * reached + p.slipped * value(scene, now, budget - 1))
    return best


def clean_plans(scene: Scene, now: Situation | None = None) -> list[list[Move]]:
    """Plans from `now` (default: the start) on which the hand meets nothing."""
    now = start(scene) if now is None else now
    if is_goal(scene, now):
        return [[]]
    if is_dead(scene, now):
        return []
    return [
        [move, *rest]
        for move in possible(scene, now)
        if not meets_something(scene, now, move)
        for rest in clean_plans(scene, after(now, move))
    ]


def is_clean(scene: Scene, moves: Sequence[Move]) -> bool:
    """Whether the hand meets nothing on the way."""
    now = start(scene)
    for move in moves:
        if meets_something(scene, now, move):
            return False
        now = after(now, move)
    return True


def fixed_moves(scene: Scene, style: str) -> list[Move]:
    """The fixed choice of a style in a whole scene: a take and a put for each ball."""
    cups = dict(enumerate(cup.x for cup in scene.cups))
    found = []
    for ball, side, cup in fixed_route(dict(enumerate(scene.balls)), cups, scene.target, style):
        found += [Move("take", ball, side), Move("put", ball, cup=cup)]
    return found


def fixed_route[B, C](
    balls: Mapping[B, float], cups: Mapping[C, float], target: C | None, style: str, farthest: bool = False
) -> list[tuple[B, str, C]]:
    """Which ball is taken by which side and put into which cup, if what stands beside them does not matter.

    Args:
        balls, cups: name -> place, of the balls still to be put away and of the empty cups.
        target: the cup that must be filled, if it is still empty; it comes first.
        style: a side, or `toward` or `away`: the side that faces the cup, or the other one. Of several balls
            the outermost on that side is taken.
        farthest: take the cup farthest away instead of the nearest.
    """
    balls, cups = dict(balls), dict(cups)
    found = []
    while balls and cups:
        middle = sum(balls.values()) / len(balls)
        order = sorted(cups, key=lambda name: abs(cups[name] - middle), reverse=farthest)
        cup = target if target is not None and target in cups else order[0]
        side = style
        if style in STYLES:
            side = SIDES[(cups[cup] > middle) == (style == "toward")]
        ball = (max if side == "right" else min)(balls, key=balls.__getitem__)
        found.append((ball, side, cup))
        del balls[ball], cups[cup]
    return found
