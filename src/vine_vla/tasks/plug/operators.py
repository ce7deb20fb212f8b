"""Scripted teleoperators: which subgoal comes next. Habits decide, blind to what makes insertions fail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vine_vla.core.options import Outcome
from vine_vla.tasks.plug.scenes import GRASPS, PlugScene
from vine_vla.tasks.plug.sim import PlugSim

MAX_SUBGOALS = 4  # an operator gives up after these: twice what a smooth episode takes


@dataclass(frozen=True)
class Habits:
    """How an operator chooses.

    Args:
        grasp: the habitual grasp, `long` or `short`.
        grasp_rate: how often it is taken.
        other_socket: how often a fitting socket other than the nearest is taken.
        colour_blind: how often the operator overlooks that a socket is of the wrong kind.
        second_thoughts: how often the plug is put back and grasped the other way.
        awareness: how often a plan is chosen that no neighbour spoils; 0 = blind to the failure causes.
    """

    grasp: str = "long"
    grasp_rate: float = 0.85
    other_socket: float = 0.15
    colour_blind: float = 0.20
    second_thoughts: float = 0.05
    awareness: float = 0.0


Choice = tuple[str, int | None]
"""Verb and, for `insert`, the index of the socket."""


class Operator:
    """Chooses subgoals of one episode. It sees where things stand, not why insertions fail."""

    def __init__(self, habits: Habits, rng: np.random.Generator) -> None:
        self.habits, self.rng = habits, rng
        self._plan: tuple[str, int] | None = None
        self._wavers = self._aware = False

    def begin(self, scene: PlugScene) -> None:
        """Settle on a plan for the scene."""
        h, rng = self.habits, self.rng
        other = GRASPS[1 - GRASPS.index(h.grasp)]
        grasp = h.grasp if rng.random() < h.grasp_rate else other
        socket = scene.nearest(compatible_only=rng.random() >= h.colour_blind)
        if rng.random() < h.other_socket:
            fitting = [i for i, s in enumerate(scene.sockets) if s.kind == "two_pin" and i != socket]
            socket = int(rng.choice(fitting)) if fitting else socket
        self._aware = bool(rng.random() < h.awareness)
        if self._aware:
            grasp, socket = scene.good_plans()[int(rng.integers(len(scene.good_plans())))]
        self._plan = grasp, socket
        self._wavers = bool(rng.random() < h.second_thoughts)

    def next(self, sim: PlugSim, history: list[tuple[Choice, Outcome]]) -> Choice | None:
        """The next subgoal; None to stop: solved, hopeless, or given up."""
        assert self._plan is not None and sim.scene is not None
        if sim.success() or sim.dead() or len(history) >= MAX_SUBGOALS:
            return None
        held = sim.held()
        if held is None:
            if self._wavers and self._aware and not history:
                # Who knows what works puts back the wrong grasp, not the right one.
                return f"grasp_{GRASPS[1 - GRASPS.index(self._plan[0])]}", None
            if history and history[-1][0][0] == "insert" and self.rng.random() < 0.3:
                self._plan = GRASPS[1 - GRASPS.index(self._plan[0])], self._plan[1]
            return f"grasp_{self._plan[0]}", None
        if self._wavers and len(history) == 1:
            self._wavers = False
            if not self._aware:
                self._plan = GRASPS[1 - GRASPS.index(held)], self._plan[1]
            return "put_back", None
        return "insert", self._plan[1]
