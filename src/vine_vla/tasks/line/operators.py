"""Who chooses: scripted teleoperators with strong habits, blind to what fails, and the constant policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Outcome, Subgoal
from vine_vla.tasks.base import History, OperatorDials
from vine_vla.tasks.line import rules
from vine_vla.tasks.line.rules import IN_HAND, ON_STAND, Move, fixed_route
from vine_vla.tasks.line.scenes import SIDES
from vine_vla.tasks.line.world import LineWorld

HABIT = "left"
"""The side by which operators take a ball, unless they do not."""
MISHEARD = 0.06
"""How often an operator fills another cup than the named one."""


class LineOperator:
    """Takes balls from the left, by the left side, into the nearest cup; now and then something else."""

    def __init__(self, world: LineWorld, dials: OperatorDials, rng: np.random.Generator) -> None:
        self.world, self.rng, self.habit = world, rng, 0.5 if dials.explore else dials.habit
        self._mishears = bool(rng.random() < MISHEARD)
        self._from = self._usually(HABIT)
        self._aware = bool(rng.random() < dials.awareness)

    def next(self, history: History) -> Subgoal | None:
        """The next subgoal; None to stop: solved, hopeless, or given up after twice what is needed."""
        world = self.world
        if world.is_success() or world.is_dead() or len(history) >= 4 * len(world.scene.balls):
            return None
        if self._aware:
            plans = rules.clean_plans(world.scene, world.now)
            if plans:
                return world.subgoal_of(plans[int(self.rng.integers(len(plans)))][0])
        again = history and history[-1][1] is Outcome.SLIPPED
        if again and self.rng.random() < 0.7:
            return history[-1][0]
        return world.subgoal_of(self._choose())

    def _choose(self) -> Move:
        scene, now = self.world.scene, self.world.now
        held = now.balls.index(IN_HAND) if IN_HAND in now.balls else None
        if held is None:
            waiting = [ball for ball, place in enumerate(now.balls) if place == ON_STAND]
            return Move("take", waiting[0 if self._from == "left" else -1], self._usually(HABIT))
        empty = {i: cup.x for i, cup in enumerate(scene.cups) if i not in now.balls}
        target = None if self._mishears else scene.target
        far = self._usually(HABIT) != HABIT
        ((_, cup),) = fixed_route({held: scene.balls[held]}, empty, target, HABIT, farthest=far)
        return Move("put", held, cup=cup)

    def _usually(self, side: str) -> str:
        return side if self.rng.random() < self.habit else SIDES[1 - SIDES.index(side)]


@dataclass(frozen=True)
class FixedChoice:
    """Always the same side, and always the nearest cup, or always the farthest."""

    side: str
    farthest: bool = False

    def __call__(self, graph: SceneGraph, instruction: str) -> Sequence[Subgoal]:
        """The subgoals left to do in `graph`."""
        seen = {o.id: o.boxes["front"].center[0] for o in graph.objects if "front" in o.boxes}
        filled = {r.subject: r.object for r in graph.relations if r.predicate == "inside"}
        holds = [b.id for b in graph.of_class("ball") if b.attributes.get("hold", "none") != "none"]
        balls = {b.id: seen[b.id] for b in graph.of_class("ball") if b.id in seen and b.id not in filled}
        cups = {c.id: seen[c.id] for c in graph.of_class("cup") if c.id in seen}
        target = named_cup(graph, instruction)
        empty = {name: x for name, x in cups.items() if name not in filled.values()}
        first = {b: balls[b] for b in holds if b in balls}
        route = fixed_route(first, empty, target, self.side, self.farthest)
        rest = {b: x for b, x in balls.items() if b not in first}
        left = {name: x for name, x in empty.items() if name not in {cup for _, cup in route}}
        route += fixed_route(rest, left, target, self.side, self.farthest)
        found: list[Subgoal] = []
        for ball, cup in route:
            found += [] if ball in first else [Subgoal(f"take_{self.side}", (ball,))]
            found.append(Subgoal("put", (ball, cup)))
        return found


def named_cup(graph: SceneGraph, instruction: str) -> str | None:
    """The cup that an instruction names by colour, or as the left or right one."""
    words = instruction.split()
    cups = sorted(
        (cup for cup in graph.of_class("cup") if "front" in cup.boxes),
        key=lambda cup: cup.boxes["front"].x_min,
    )
    for place, name in ((0, "left"), (-1, "right")):
        if name in words and cups:
            return cups[place].id
    return next((cup.id for cup in cups if cup.attributes.get("colour") in words), None)
