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
from vine_vla.tasks.line.scenes import HOLDS
from vine_vla.tasks.line.world import LineWorld

MISHEARD = 0.2
"""How often an operator fills another cup than the named one."""


OTHER_HOLD = 1.6
"""The other hold is taken that much more often than the other cup."""


class LineOperator:
    """Grasps balls by their sides and puts them into the nearest cup; now and then something else."""

    def __init__(self, world: LineWorld, dials: OperatorDials, rng: np.random.Generator) -> None:
        self.world, self.rng, self.habit = world, rng, 0.5 if dials.explore else dials.habit
        self._target = None if rng.random() < MISHEARD else world.scene.target
        self._aware = bool(rng.random() < dials.awareness)
        self._cup = -1

    def next(self, history: History) -> Subgoal | None:
        """The next subgoal; None to stop: solved, hopeless, or given up after twice what is needed."""
        world = self.world
        if world.is_success() or world.is_dead() or len(history) >= 4 * len(world.scene.balls):
            return None
        if self._aware:
            left = 4 * len(world.scene.balls) - len(history)
            return world.subgoal_of(rules.best_plan(world.scene, world.now, left)[0])
        if history and history[-1][1] is Outcome.SLIPPED and self.rng.random() < 0.7:
            return history[-1][0]
        return world.subgoal_of(self._choose())

    def _choose(self) -> Move:
        scene, now = self.world.scene, self.world.now
        if IN_HAND in now.balls and self._cup not in now.balls:
            return Move("put", now.balls.index(IN_HAND), cup=self._cup)
        balls = {i: x for i, x in enumerate(scene.balls) if now.balls[i] in (ON_STAND, IN_HAND)}
        cups = {i: cup.x for i, cup in enumerate(scene.cups) if i not in now.balls}
        ball, self._cup = fixed_route(balls, cups, self._target, farthest=not self._is_habitual())[0]
        other = self.rng.random() < min(OTHER_HOLD * (1 - self.habit), 0.5)
        return Move("grasp", ball, HOLDS[other])

    def _is_habitual(self) -> bool:
        return bool(self.rng.random() < self.habit)


@dataclass(frozen=True)
class FixedChoice:
    """Always the same hold, and always the nearest cup, or always the farthest."""

    hold: str
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
        found: list[Subgoal] = []
        if holds and holds[0] in balls:
            first = {holds[0]: balls.pop(holds[0])}
            ((ball, cup),) = fixed_route(first, empty, target, self.farthest)
            found.append(Subgoal("put", (ball, cup)))
            del empty[cup]
        for ball, cup in fixed_route(balls, empty, target, self.farthest):
            found += [Subgoal(f"grasp_{self.hold}", (ball,)), Subgoal("put", (ball, cup))]
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
