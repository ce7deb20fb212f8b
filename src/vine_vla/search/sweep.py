"""Quality against time: the same scenes planned with more and more of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.protocols import Plan, PlanningModel, PlanStatus
from vine_vla.search.config import SearchConfig
from vine_vla.search.planners import ExhaustivePlanner, TreePlanner

BUDGETS = (0.005, 0.02, 0.05, 0.2, 1.0)
"""Seconds a plan."""

REFERENCE = 4096
"""Nodes of the search that the others are measured against."""


class SweepRow(NamedTuple):
    """What one time budget bought, over N scenes.

    Args:
        limit: seconds a plan was given. seconds: what it took, median; the first model call is always made.
        expansions: nodes expanded, mean.
        planned: scenes with a plan.
        feasibility: of the plans, mean; of no plan it is 0.
        regret: feasibility of the reference's choice minus that of the chosen first subgoal, both as the
            reference sees them, mean. Below 0 where the reference preferred the surer or shorter plan.
        agreed: share of scenes in which the answer is the reference's.
    """

    limit: float
    seconds: float
    expansions: float
    planned: int
    feasibility: float
    regret: float
    agreed: float


def sweep_time(
    model: PlanningModel,
    scenes: Sequence[tuple[SceneGraph, str]],
    budget: int,
    config: SearchConfig,
    *,
    limits: Sequence[float] = BUDGETS,
    reference: int = REFERENCE,
) -> list[SweepRow]:
    """Plan every scene once for each limit, and once with up to `reference` nodes, level by level.

    Args:
        scenes: graph and instruction. budget: subgoals that may be executed.
        config: of the search; its time and its number of expansions do not count.

    Raises:
        VineError: no scenes.
    """
    if not scenes:
        raise VineError("no scene to plan from")
    wide = replace(config, expansions=10**6, seconds=None, trace=1)
    judge = ExhaustivePlanner(model, wide, limit=reference)
    judged = [judge.plan(graph, instruction, budget) for graph, instruction in scenes]
    rows = []
    for limit in limits:
        planner = TreePlanner(model, replace(wide, seconds=limit))
        plans = [planner.plan(graph, instruction, budget) for graph, instruction in scenes]
        rows.append(
            SweepRow(
                limit=limit,
                seconds=float(np.median([p.seconds for p in plans])),
                expansions=float(np.mean([p.expansions for p in plans])),
                planned=sum(p.status is PlanStatus.PLANNED for p in plans),
                feasibility=float(np.mean([p.feasibility for p in plans])),
                regret=float(np.mean([_regret(p, best) for p, best in zip(plans, judged, strict=True)])),
                agreed=float(np.mean([_same(p, best) for p, best in zip(plans, judged, strict=True)])),
            )
        )
    return rows


def _regret(plan: Plan, best: Plan) -> float:
    worth = {o.subgoal: o.feasibility for o in best.options if o.pruned is None}
    chosen = worth.get(plan.subgoals[0], 0.0) if plan.subgoals else 0.0
    return (worth.get(best.subgoals[0], 0.0) if best.subgoals else 0.0) - chosen


def _same(plan: Plan, best: Plan) -> bool:
    return plan.status is best.status and plan.subgoals[:1] == best.subgoals[:1]
