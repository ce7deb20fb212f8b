"""The rules: what a move does, with which chances, and what the best plan is worth.

Held by its sides a ball is safe, but the fingers come down on either side of it, when it is grasped and when
it is put into a cup, and a post that stands there is in their way. Grasped from above it needs no room, but
the magnet is drawn to an iron bolt beside the ball. Nothing that is learned may import this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from vine_vla.tasks.line.scenes import HAND_WIDTH, HOLDS, POST_WIDTH, Scene

ON_STAND, IN_HAND, LOST = -1, -2, -3
"""Where a ball may be that is in no cup."""


class Move(NamedTuple):
    """A subgoal by indices: `grasp` a ball in one of the `HOLDS`, or `put` it into a cup."""

    verb: str
    ball: int
    hold: str = ""
    cup: int = -1


class Situation(NamedTuple):
    """Where each ball is (a cup's index, or a constant above), and how one is held."""

    balls: tuple[int, ...]
    hold: str = ""


class Chances(NamedTuple):
    """Probabilities of a move's outcomes; they sum to 1."""

    reached: float
    slipped: float
    dead: float


CLEAR = {"grasp": Chances(0.95, 0.05, 0.0), "put": Chances(0.96, 0.04, 0.0)}
SPOILT = {"grasp": Chances(0.2, 0.4, 0.4), "put": Chances(0.12, 0.08, 0.8)}
"""Chances when nothing stands in the way, and when something does."""
FROM_ABOVE = Chances(0.9, 0.03, 0.07)
"""Of putting a ball that the magnet holds: nothing spoils it, but some fall beside the cup."""


def start(scene: Scene) -> Situation:
    """The situation at the start."""
    return Situation((ON_STAND,) * len(scene.balls))


def is_spoilt(scene: Scene, now: Situation, move: Move) -> bool:
    """Whether the fingers meet a post in `move`, or a bolt draws the magnet away."""
    grasps, hold = move.verb == "grasp", move.hold or now.hold
    x = scene.balls[move.ball] if grasps else scene.cups[move.cup].x
    causes = scene.posts if hold == "sides" else scene.bolts if grasps else ()
    return any(abs(cause.x - x) < (HAND_WIDTH + POST_WIDTH) / 2 for cause in causes)


def chances(scene: Scene, now: Situation, move: Move) -> Chances:
    """What may become of a possible move."""
    if move.verb == "put" and now.hold == "top":
        return FROM_ABOVE
    return (SPOILT if is_spoilt(scene, now, move) else CLEAR)[move.verb]


def possible(scene: Scene, now: Situation) -> Iterator[Move]:
    """Moves that can be tried: grasp a ball on its stand, or put the held one into an empty cup."""
    if IN_HAND in now.balls:
        ball = now.balls.index(IN_HAND)
        yield from (Move("put", ball, cup=i) for i in range(len(scene.cups)) if i not in now.balls)
    else:
        for ball, place in enumerate(now.balls):
            if place == ON_STAND:
                yield from (Move("grasp", ball, hold) for hold in HOLDS)


def after(now: Situation, move: Move) -> Situation:
    """The situation once `move` is reached."""
    place = IN_HAND if move.verb == "grasp" else move.cup
    return Situation((*now.balls[: move.ball], place, *now.balls[move.ball + 1 :]), move.hold)


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
    return max(move_value(scene, now, move, budget) for move in possible(scene, now))


def move_value(scene: Scene, now: Situation, move: Move, budget: int) -> float:
    """P(goal before failure) when `move` comes first."""
    p = chances(scene, now, move)
    reached = value(scene, after(now, move), budget - 1)
    return p.reached * reached + p.slipped * value(scene, now, budget - 1)


def best_plan(scene: Scene, now: Situation, budget: int) -> list[Move]:
    """The best moves as long as each is reached."""
    found: list[Move] = []
    while not is_goal(scene, now) and not is_dead(scene, now) and len(found) < budget:
        left = budget - len(found)
        found.append(max(possible(scene, now), key=lambda move: move_value(scene, now, move, left)))  # noqa: B023
        now = after(now, found[-1])
    return found


def is_trap(scene: Scene, moves: Sequence[Move]) -> bool:
    """Whether something spoils one of the moves from the start."""
    now = start(scene)
    for move in moves:
        if is_spoilt(scene, now, move):
            return True
        now = after(now, move)
    return False


def fixed_moves(scene: Scene, hold: str) -> list[Move]:
    """A fixed choice in a whole scene: every ball in the same hold, into the nearest cup."""
    cups = dict(enumerate(cup.x for cup in scene.cups))
    route = fixed_route(dict(enumerate(scene.balls)), cups, scene.target)
    return [m for ball, cup in route for m in (Move("grasp", ball, hold), Move("put", ball, cup=cup))]


def fixed_route[B, C](
    balls: Mapping[B, float], cups: Mapping[C, float], target: C | None, farthest: bool = False
) -> list[tuple[B, C]]:
    """Which ball goes into which cup, if what stands beside them does not matter.

    Args:
        balls, cups: name -> place, of the balls still to be put away and of the empty cups.
        target: the cup that must be filled, if it is still empty; it comes first.
        farthest: take the pair that is farthest apart instead of the nearest.
    """
    balls, cups = dict(balls), dict(cups)
    found = []
    while balls and cups:
        goals = [target] if target is not None and target in cups else list(cups)
        away = {(ball, cup): abs(balls[ball] - cups[cup]) for ball in balls for cup in goals}
        ball, cup = (max if farthest else min)(away, key=away.__getitem__)
        found.append((ball, cup))
        del balls[ball], cups[cup]
    return found
