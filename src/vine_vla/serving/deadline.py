"""A planner that answers in time, if only with `late`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any

from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Forecast, Observation, Plan, Planner, PlanStatus

LATE = Plan(PlanStatus.LATE, (), 0.0, 0.0, 0.0, 0.0, reason="the planner is over its deadline")


class DeadlinePlanner:
    """Asks `planner` in another thread and waits no longer than `seconds`.

    A plan that comes too late is not lost: it is the answer when the planner is asked again for the same
    budget, which means that no subgoal has ended since. Otherwise it is dropped.

    Args:
        pool: where plans are made. seconds: what a call may take.
    """

    def __init__(self, planner: Planner, pool: Executor, seconds: float) -> None:
        self.planner, self.pool, self.seconds = planner, pool, seconds
        self._waiting: Future[Plan] | None = None
        self._budget = 0

    def plan(
        self,
        graph: SceneGraph,
        instruction: str,
        budget: int,
        seed: int,
        observation: Observation | None = None,
    ) -> Plan:
        """The plan, an earlier call's plan if that was late, or `LATE`."""
        if self._waiting is None or self._budget != budget:
            self.drop()
            self._budget = budget
            self._waiting = self.pool.submit(self.planner.plan, graph, instruction, budget, seed, observation)
        try:
            plan = self._waiting.result(self.seconds)
        except NotYet:
            return LATE
        except BaseException:
            self._waiting = None
            raise
        self._waiting = None
        return plan

    def drop(self) -> None:
        """Nobody asks for the late plan any more: it is not made, if it has not been begun."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def forecast(
        self,
        graph: SceneGraph,
        instruction: str,
        subgoals: Sequence[Subgoal],
        budget: int,
        observation: Observation | None = None,
    ) -> Forecast:
        """What the rest of a plan is worth; a few model calls, not under the deadline."""
        judge: Any = self.planner
        found: Forecast = judge.forecast(graph, instruction, subgoals, budget, observation)
        return found


def drop_plan(planner: Planner) -> None:
    """Let a planner under a deadline forget its late plan, so that none queue up that nobody waits for."""
    if isinstance(planner, DeadlinePlanner):
        planner.drop()
