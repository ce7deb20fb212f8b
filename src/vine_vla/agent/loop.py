"""The loop: perceive, plan, execute, verify, replan.

What the agent may know is what its perceiver, planner and skill tell it; whether the task has really
succeeded is for the evaluation to say. It takes the task as finished when a subgoal is done that the
plan expects to fulfil the goal: p(goal) is at least `goal_share` of p(goal) + p(reached). A plan that
ends without such a subgoal is followed by another plan, as long as the budget lasts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vine_vla.agent.body import HOLD, Acting, Body, Feedback, execute_actions
from vine_vla.agent.records import (
    AgentConfig,
    Cause,
    Decision,
    EpisodeRecord,
    Execution,
    Replanning,
    StopReason,
    Streams,
    Verdict,
)
from vine_vla.agent.verify import agreement, as_begun, expects_goal, surprise
from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Float, Forecast, Perceiver, Plan, Planner, PlanStatus, Robot, Skill

Wording = Callable[[Subgoal, SceneGraph], str]
"""Text form of a subgoal in a scene, e.g. `graph_text.describe` with the schema bound."""


class Agent:
    """One episode of an agent, a step of the loop at a time.

    `act` is given what is seen and answers with the next actions, or None when the agent has stopped; then
    `reason` says why. While a planner is late the plan it has goes on; without one there are no actions.

    Args:
        config: limits, thresholds and the replanning rule.
        streams: random streams of policy and planner.
        wording: text form of a subgoal, given to the skill.
        instruction: the task.

    Attributes:
        decisions, executions: so far. plan: the present one. place: of the present subgoal in it.
        subgoal, text: the present ones; None and "" between subgoals.
        body: what is seen; None before the first `act`. late: whether the planner was, when last asked.

    Raises:
        VineError: `uncertainty` with a planner that cannot judge the rest of a plan.
    """

    def __init__(
        self,
        perceiver: Perceiver,
        planner: Planner,
        skill: Skill,
        config: AgentConfig,
        streams: Streams,
        *,
        wording: Wording,
        instruction: str,
    ) -> None:
        self.watching = config.replanning is Replanning.UNCERTAINTY
        if self.watching and not hasattr(planner, "forecast"):
            raise VineError(
                "replanning `uncertainty` needs a planner that judges the rest of a plan",
                hint="use tree, greedy or exhaustive, or replan on-failure",
            )
        self.perceiver, self.planner, self.skill, self.config = perceiver, planner, skill, config
        self.wording, self.instruction = wording, instruction
        self.decisions: list[Decision] = []
        self.executions: list[Execution] = []
        self.plan: Plan | None = None
        self.place = 0
        self.subgoal: Subgoal | None = None
        self.text = ""
        self.body: Body | None = None
        self.reason: StopReason | None = None
        self.watch_calls = 0
        self.late = False
        self._policy, self._search = (np.random.default_rng(s) for s in (streams.policy, streams.planner))
        self._previous: Plan | None = None
        self._watched: _Watch | None = None
        self._before: SceneGraph | None = None  # at the start of the subgoal under way
        self._judged: tuple[SceneGraph, tuple[Subgoal, ...], int, Forecast] | None = None  # the last look
        self._acting: Acting[StopReason] | None = None

    def act(self, sight: Feedback) -> Float | None:
        """The next actions [n, A], none to hold still, or None when the agent has stopped."""
        try:
            if self._acting is not None:
                return self._acting.send(sight)
            self.body = Body(self.perceiver, self.skill, self.config, sight, self.instruction)
            self.body.keep()
            self._acting = self._run(self.body)
            return next(self._acting)
        except StopIteration as end:
            if self.reason is None:
                self.reason = end.value
            return None

    @property
    def record(self) -> EpisodeRecord:
        """Everything so far; raises VineError before the agent has stopped."""
        if self.body is None or self.reason is None:
            raise VineError("the agent has not stopped yet", hint="call `act` until it answers None")
        return EpisodeRecord(
            instruction=self.instruction,
            reason=self.reason,
            steps=self.body.steps,
            decisions=tuple(self.decisions),
            executions=tuple(self.executions),
            frames=tuple(self.body.frames),
            seconds=dict(self.body.seconds),
            watch_calls=self.watch_calls,
        )

    def _run(self, body: Body) -> Acting[StopReason]:
        config, budget = self.config, self.config.budget
        cause: Cause = "start"
        while budget > 0:
            if self.plan is None:
                plan = yield from self._ask(body, cause, budget)
                if plan.status is not PlanStatus.PLANNED or not plan.subgoals:
                    unsupported = plan.status is PlanStatus.UNSUPPORTED
                    return StopReason.UNSUPPORTED if unsupported else StopReason.INFEASIBLE
                if plan is not self._previous:
                    self.place = 0
                self.plan = plan
                self._doubts(body, budget)  # the first look, with which later ones are compared
            elif self._doubts(body, budget):
                self._drop_plan()
                cause = "uncertainty"
                continue
            verdict = yield from self._execute(body, self.plan, budget)
            # A subgoal that was broken off in doubt did not run to an end; the step limit bounds those.
            budget -= verdict is not Verdict.UNCERTAIN
            if body.over:
                return StopReason.STEP_LIMIT if body.steps >= config.max_steps else StopReason.ROBOT
            if verdict is Verdict.DONE:
                if expects_goal(self.plan, self.place, config.goal_share):
                    return StopReason.FINISHED
                self.place += 1
                last = self.place == len(self.plan.subgoals)
                if last and config.replanning is Replanning.NEVER:
                    return StopReason.FINISHED
                if last:
                    self._drop_plan()
                    cause = "plan ended"
                elif config.replanning is Replanning.FIXED:
                    self._drop_plan()
                    cause = "fixed"
            elif config.replanning is not Replanning.NEVER:
                self._drop_plan()
                cause = "uncertainty" if verdict is Verdict.UNCERTAIN else "failure"
        return StopReason.BUDGET

    def _drop_plan(self) -> None:
        """Ask for a new plan; the rest of this one goes on if the planner is late."""
        rest = self.plan is not None and self.place < len(self.plan.subgoals)
        self._previous, self.plan = (self.plan if rest else None), None

    def _ask(self, body: Body, cause: Cause, budget: int) -> Acting[Plan]:
        """A new plan; while the planner is late the previous one, or nothing is done until it answers."""
        while True:
            with body.clock("plan"):
                plan = self.planner.plan(
                    body.graph, self.instruction, budget, _seed(self._search), body.observation
                )
            self.late = plan.status is PlanStatus.LATE
            self._watched = None
            if not self.late:
                self._previous = None
                self.decisions.append(Decision(body.steps, cause, body.graph, budget, plan))
                return plan
            if self._previous is not None:
                return self._previous
            body.see((yield HOLD), body.graph)

    def _execute(self, body: Body, plan: Plan, budget: int) -> Acting[Verdict]:
        """Execute the plan's subgoal at `place` and put it on record."""
        subgoal, before, start = plan.subgoals[self.place], body.graph, body.steps
        self.subgoal, self.text = subgoal, self.wording(subgoal, before)
        watches = self.watching and self.config.watch > 0
        next_look = start + self.config.watch

        def doubt() -> bool:
            nonlocal next_look
            if body.steps < next_look:
                return False
            next_look = body.steps + self.config.watch
            return self._doubts(body, budget)

        self._before = before
        verdict, done = yield from body.execute(
            subgoal, self.text, _seed(self._policy), doubt if watches else None
        )
        self._before = None
        share = None
        if self.place < len(plan.predicted):
            expected = plan.predicted[self.place]
            share = agreement(before, expected, body.graph, subgoal, self.config.camera)
        if verdict is Verdict.DONE and share is not None and share < self.config.agreement:
            verdict = Verdict.CONTRADICTED
        self.executions.append(
            Execution(
                decision=len(self.decisions) - 1,
                place=self.place,
                subgoal=subgoal,
                text=self.text,
                start=start,
                end=body.steps,
                verdict=verdict,
                done=done,
                agreement=share,
                before=before,
                after=body.graph,
                signals=None if body.signals is None else np.array(body.signals, np.float32),
            )
        )
        self.subgoal, self.text = None, ""
        return verdict

    def _doubts(self, body: Body, budget: int) -> bool:
        """Whether the rest of the plan has become doubtful since the plan was made.

        Its feasibility must have fallen by `fall`, and its spread have risen by `rise` or something in the
        scene have changed that no subgoal was to change: two signs that must agree before an alarm.
        """
        if not self.watching or self.plan is None:
            return False
        rest, graph, camera = self.plan.subgoals[self.place :], body.graph, self.config.camera
        if self._before is not None:
            ahead = self.plan.predicted[self.place] if self.place < len(self.plan.predicted) else None
            graph = as_begun(self._before, ahead, graph, rest[0], camera)
        found = self._forecast(body, graph, rest, budget)
        if self._watched is None:
            self._watched = _Watch(found, graph)
            return False
        then = self._watched
        fell = then.forecast.feasibility - found.feasibility > self.config.fall
        rose = found.spread - then.forecast.spread > self.config.rise
        changed = surprise(then.graph, graph, rest[0], camera) > 0
        if found.feasibility >= then.forecast.feasibility:
            self._watched = _Watch(found, then.graph)
        return fell and (rose or changed)

    def _forecast(self, body: Body, graph: SceneGraph, rest: tuple[Subgoal, ...], budget: int) -> Forecast:
        """What `rest` is worth from `graph`; not asked again where nothing has changed since."""
        if self._judged is not None and self._judged[:3] == (graph, rest, budget):
            return self._judged[3]
        with body.clock("plan"):
            found: Forecast = self.planner.forecast(  # type: ignore[attr-defined]
                graph, self.instruction, rest, budget, body.observation
            )
        self.watch_calls += found.model_calls
        self._judged = (graph, rest, budget, found)
        return found


class _Watch:
    """The best that the rest of the plan has looked, and the graph the plan was made for."""

    def __init__(self, forecast: Forecast, graph: SceneGraph) -> None:
        self.forecast, self.graph = forecast, graph


def run_episode(
    robot: Robot,
    perceiver: Perceiver,
    planner: Planner,
    skill: Skill,
    config: AgentConfig,
    streams: Streams,
    *,
    wording: Wording,
) -> EpisodeRecord:
    """One episode from the robot's present state until the agent or the robot stops.

    Args:
        robot: already reset; its `instruction` is the task.
        streams: random streams; the robot's own must have been used for its reset.
    """
    agent = Agent(perceiver, planner, skill, config, streams, wording=wording, instruction=robot.instruction)
    actions = agent.act(Feedback(robot.observe()))
    while actions is not None:
        actions = agent.act(execute_actions(robot, actions))
    return agent.record


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
