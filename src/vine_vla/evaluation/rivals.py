"""Rivals without a model of outcomes: the task's constant policies, and chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vine_vla.core.graph import SceneGraph
from vine_vla.core.packing import pack
from vine_vla.core.protocols import Observation, Plan, PlanningModel, PlanStatus, in_context
from vine_vla.tasks.base import ConstantPolicy


@dataclass(frozen=True)
class ConstantPlanner:
    """A fixed choice of the task's, on the graph that every arm gets; nothing is predicted."""

    policy: ConstantPolicy

    def plan(
        self,
        graph: SceneGraph,
        instruction: str,
        budget: int,
        seed: int,
        observation: Observation | None = None,
    ) -> Plan:
        """The choice in `graph`; infeasible when it has none."""
        subgoals = tuple(self.policy(graph, instruction))
        status = PlanStatus.PLANNED if subgoals else PlanStatus.INFEASIBLE
        reason = "always the same" if subgoals else "the fixed choice is not among what perception shows"
        return Plan(status, subgoals, 0.0, 0.0, 0.0, 0.0, reason=reason)


@dataclass(frozen=True)
class RandomPlanner:
    """Draws one of the proposals, all alike, and again after every subgoal.

    Args:
        model: for proposals alone. k: how many.
    """

    model: PlanningModel
    k: int

    def plan(
        self,
        graph: SceneGraph,
        instruction: str,
        budget: int,
        seed: int,
        observation: Observation | None = None,
    ) -> Plan:
        """One subgoal; infeasible when nothing is proposed."""
        packed = pack([graph], self.model.schema, budget=budget)
        model = in_context(self.model, observation, graph, instruction)
        options = model.expand(packed, [instruction], self.k).subgoals[0]
        if not options:
            return Plan(PlanStatus.INFEASIBLE, (), 0.0, 0.0, 0.0, 0.0, reason="nothing is proposed")
        drawn = options[int(np.random.default_rng(seed).integers(len(options)))]
        reason = f"drawn from {len(options)} proposals"
        return Plan(PlanStatus.PLANNED, (drawn,), 0.0, 0.0, 0.0, 0.0, reason=reason, model_calls=1)
