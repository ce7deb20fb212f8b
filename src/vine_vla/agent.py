"""The agent: perceive, plan, execute, verify, replan.

What the agent may know is what its perceiver, planner and skill tell it; whether the task has really
succeeded is for the evaluation to say. It takes the task as finished when a subgoal is done that the
plan expects to fulfil the goal: p(goal) is at least `goal_share` of p(goal) + p(reached). A plan that
ends without such a subgoal is followed by another plan, as long as the budget lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vine_vla.errors import VineError
from vine_vla.graph import SceneGraph
from vine_vla.options import Subgoal
from vine_vla.protocols import DONE, FAILED, Observation, Perceiver, Plan, Planner, PlanStatus, Robot, Skill
from vine_vla.relations import GRIPPER

MOVED = 0.04
"""A predicted box has moved when its centre moved by more, in image widths."""


class Replanning(StrEnum):
    """When the agent plans again."""

    NEVER = "never"  # plan once, retry a failed subgoal
    ON_FAILURE = "on-failure"  # when the done head or the graph says: not reached
    FIXED = "fixed"  # after every subgoal
    UNCERTAINTY = "uncertainty"  # not available yet


class Verdict(StrEnum):
    """What the agent believes of a subgoal it executed."""

    DONE = "done"
    FAILED = "failed"  # the done head says so
    CONTRADICTED = "contradicted"  # the done head says done, the graph does not show it
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"  # the robot stopped or the episode's steps ran out


class StopReason(StrEnum):
    """Why an episode ended, as far as the agent knows."""

    FINISHED = "finished plan"  # whether the task succeeded is unknown to the agent
    INFEASIBLE = "infeasible"
    UNSUPPORTED = "unsupported"
    BUDGET = "budget"
    STEP_LIMIT = "step limit"
    ROBOT = "robot stopped"


@dataclass(frozen=True)
class AgentConfig:
    """How the agent acts.

    Args:
        replanning: when to plan again.
        budget: subgoals that may be executed in an episode, at least 1.
        max_steps: robot actions in an episode.
        subgoal_steps: robot actions for one subgoal; more is a time-out.
        done_threshold, failed_threshold: probability in (0, 1] of the done head from which `done` or
            `failed` counts; above 1 it never counts.
        hysteresis: decisions in a row that must say so.
        agreement: share in [0, 1] of the changes that the plan predicted which the graph must show; 0 = off.
        goal_share: p(goal) / (p(goal) + p(reached)) from which a done subgoal finishes the task.
        camera: role of the fixed camera in which boxes are compared with the prediction.
        frames: which images the record keeps: none, those at plans and subgoals' ends, or every chunk's.

    Raises:
        VineError: a limit is below 1, or `uncertainty` is asked for.
    """

    replanning: Replanning = Replanning.ON_FAILURE
    budget: int = 6
    max_steps: int = 600
    subgoal_steps: int = 150
    done_threshold: float = 0.5
    failed_threshold: float = 0.6
    hysteresis: int = 2
    agreement: float = 0.5
    goal_share: float = 0.5
    camera: str = "front"
    frames: Literal["none", "subgoals", "chunks"] = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "replanning", Replanning(self.replanning))
        if self.replanning is Replanning.UNCERTAINTY:
            raise VineError(
                "replanning `uncertainty` is not available yet", mend="use never, on-failure or fixed"
            )
        for name in ("budget", "max_steps", "subgoal_steps", "hysteresis"):
            if getattr(self, name) < 1:
                raise VineError(f"{name} is {getattr(self, name)}", mend="it must be at least 1")


@dataclass(frozen=True)
class Streams:
    """Independent random streams of one episode, so that arms share scenes and noise but not luck.

    Args:
        scene: seed of the reset (jitter of pose and home). policy: of System 1. planner: of search.
    """

    scene: int
    policy: np.random.SeedSequence
    planner: np.random.SeedSequence

    @classmethod
    def spawn(cls, scene: int, policy_seed: int = 0) -> Streams:
        """The streams of scene number `scene` under `policy_seed`; the same for every arm."""
        root = np.random.SeedSequence([int(scene), int(policy_seed)])
        reset, policy, planner = root.spawn(3)
        return cls(int(reset.generate_state(1)[0]), policy, planner)


@dataclass(frozen=True)
class Decision:
    """One call of the planner: at which step, for what cause, on which graph, with what answer."""

    step: int
    cause: Literal["start", "failure", "fixed", "plan ended"]
    graph: SceneGraph
    budget: int
    plan: Plan


@dataclass(frozen=True)
class Execution:
    """One subgoal carried out, robot steps `start` to `end` (exclusive).

    Args:
        decision: index of the decision it came from; place: of the subgoal in that plan.
        done: probabilities of running, done, failed at every chunk. float32 [chunks, 3]
        agreement: share of the predicted changes that the graph shows; None without prediction.
        before, after: graphs at its start and end.
    """

    decision: int
    place: int
    subgoal: Subgoal
    text: str
    start: int
    end: int
    verdict: Verdict
    done: NDArray[np.float32]
    agreement: float | None
    before: SceneGraph
    after: SceneGraph


@dataclass(frozen=True)
class Frame:
    """What the cameras showed at a step, and the graph perceived from it."""

    step: int
    images: Mapping[str, NDArray[np.uint8]]
    graph: SceneGraph


@dataclass(frozen=True)
class EpisodeRecord:
    """Everything decided and done in one episode.

    Args:
        seconds: wall clock spent in `perceive`, `plan`, `act` and `robot`.
    """

    instruction: str
    reason: StopReason
    steps: int
    decisions: tuple[Decision, ...]
    executions: tuple[Execution, ...]
    frames: tuple[Frame, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def replans(self) -> int:
        """Calls of the planner after the first."""
        return max(len(self.decisions) - 1, 0)


Wording = Callable[[Subgoal, SceneGraph], str]
"""Text form of a subgoal in a scene, e.g. `graph_text.describe` with the schema bound."""


class Body:
    """The robot with its perceiver and skill: counts steps and time, keeps frames.

    Used by `run_episode`, and alone by whoever wants single subgoals executed (probes, oracles).
    """

    def __init__(self, robot: Robot, perceiver: Perceiver, skill: Skill, config: AgentConfig) -> None:
        self.robot, self.perceiver, self.skill, self.config = robot, perceiver, skill, config
        self.steps = 0
        self.over = False
        self.frames: list[Frame] = []
        self.seconds = {"perceive": 0.0, "plan": 0.0, "act": 0.0, "robot": 0.0}

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def look(self, earlier: SceneGraph | None, *, keep: bool) -> tuple[Observation, SceneGraph]:
        """Observe and perceive; ids of `earlier` are kept."""
        with self.clock("robot"):
            observation = self.robot.observe()
        with self.clock("perceive"):
            graph = self.perceiver.perceive(observation, self.robot.instruction, earlier)
        wanted = self.config.frames == "chunks" or (keep and self.config.frames == "subgoals")
        if wanted and not (self.frames and self.frames[-1].step == self.steps):
            images = {camera: np.array(image) for camera, image in observation.images.items()}
            self.frames.append(Frame(self.steps, images, graph))
        return observation, graph

    def execute(
        self, subgoal: Subgoal, text: str, graph: SceneGraph, seed: int
    ) -> tuple[Verdict, SceneGraph, NDArray[np.float32]]:
        """Run one subgoal until it is done, failed, timed out or interrupted.

        Returns:
            The done head's verdict, the graph at the end, the done head's probabilities [chunks, 3].
        """
        config, start, done = self.config, self.steps, []
        streak = {DONE: 0, FAILED: 0}
        self.skill.start(subgoal, text, seed)
        verdict = Verdict.INTERRUPTED
        while True:
            observation, graph = self.look(graph, keep=False)
            with self.clock("act"):
                output = self.skill.act(observation, graph)
            done.append(np.asarray(output.done, np.float32))
            for which, limit in ((DONE, config.done_threshold), (FAILED, config.failed_threshold)):
                streak[which] = streak[which] + 1 if output.done[which] >= limit else 0
            if streak[DONE] >= config.hysteresis:
                verdict = Verdict.DONE
                break
            if streak[FAILED] >= config.hysteresis:
                verdict = Verdict.FAILED
                break
            if self.steps - start >= config.subgoal_steps:
                verdict = Verdict.TIMEOUT
                break
            self._run(output.actions[: output.execute], start + config.subgoal_steps)
            if self.over:
                break
        _, graph = self.look(graph, keep=True)
        return verdict, graph, np.stack(done)

    def _run(self, actions: NDArray[np.float32], limit: int) -> None:
        for action in actions:
            if self.over or self.steps >= limit:
                return
            with self.clock("robot"):
                self.over = bool(self.robot.step(action))
            self.steps += 1
            self.over = self.over or self.steps >= self.config.max_steps


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
        config: limits, thresholds and the replanning rule.
        streams: random streams; the robot's own must have been used for its reset.
        wording: text form of a subgoal, given to the skill.
    """
    body = Body(robot, perceiver, skill, config)
    policy, search = np.random.default_rng(streams.policy), np.random.default_rng(streams.planner)
    decisions: list[Decision] = []
    executions: list[Execution] = []
    budget, place = config.budget, 0
    plan: Plan | None = None
    cause: Literal["start", "failure", "fixed", "plan ended"] = "start"

    def record(reason: StopReason) -> EpisodeRecord:
        return EpisodeRecord(
            instruction=robot.instruction,
            reason=reason,
            steps=body.steps,
            decisions=tuple(decisions),
            executions=tuple(executions),
            frames=tuple(body.frames),
            seconds=dict(body.seconds),
        )

    _, graph = body.look(None, keep=True)
    while budget > 0:
        if plan is None:
            with body.clock("plan"):
                plan = planner.plan(graph, robot.instruction, budget, _seed(search))
            decisions.append(Decision(body.steps, cause, graph, budget, plan))
            place = 0
            if plan.status is not PlanStatus.PLANNED or not plan.subgoals:
                unsupported = plan.status is PlanStatus.UNSUPPORTED
                return record(StopReason.UNSUPPORTED if unsupported else StopReason.INFEASIBLE)
        subgoal, before, start = plan.subgoals[place], graph, body.steps
        text = wording(subgoal, graph)
        verdict, graph, done = body.execute(subgoal, text, graph, _seed(policy))
        budget -= 1
        share = None
        if place < len(plan.predicted):
            share = agreement(before, plan.predicted[place], graph, subgoal, config.camera)
        if verdict is Verdict.DONE and share is not None and share < config.agreement:
            verdict = Verdict.CONTRADICTED
        executions.append(
            Execution(
                decision=len(decisions) - 1,
                place=place,
                subgoal=subgoal,
                text=text,
                start=start,
                end=body.steps,
                verdict=verdict,
                done=done,
                agreement=share,
                before=before,
                after=graph,
            )
        )
        if body.over:
            return record(StopReason.STEP_LIMIT if body.steps >= config.max_steps else StopReason.ROBOT)
        last = place + 1 == len(plan.subgoals)
        if verdict is Verdict.DONE:
            if expects_goal(plan, place, config.goal_share):
                return record(StopReason.FINISHED)
            place += 1
            if last and config.replanning is Replanning.NEVER:
                return record(StopReason.FINISHED)
            if last:
                plan, cause = None, "plan ended"
            elif config.replanning is Replanning.FIXED:
                plan, cause = None, "fixed"
        elif config.replanning is not Replanning.NEVER:
            plan, cause = None, "failure"
    return record(StopReason.BUDGET)


def expects_goal(plan: Plan, place: int, share: float) -> bool:
    """Whether the plan expects the goal to be fulfilled once its subgoal at `place` is reached.

    Read from the plan's outcome probabilities; a plan without them expects it of its last subgoal.
    """
    p = outcome_probabilities(plan, place)
    if p is None:
        return place + 1 == len(plan.subgoals)
    goal, reached = p[0], p[1]
    return goal > 0 and goal >= share * (goal + reached)


def outcome_probabilities(plan: Plan, place: int) -> tuple[float, float, float, float] | None:
    """Goal, reached, slipped, dead of the plan's subgoal at `place`, from its tree; None if not there."""
    tree: Any = plan.tree
    nodes, variation = tree.get("nodes"), tree.get("variation", ())
    if not nodes or place >= len(plan.subgoals):
        return None
    wanted = str(plan.subgoals[place])
    node, _ = variation[place] if place < len(variation) else (0, 0)
    for option in nodes[node]["options"] if place < len(variation) or place == 0 else ():
        if option["subgoal"] == wanted:
            p = option["p"]
            return p["goal"], p["reached"], p["slipped"], p["dead"]
    return None


def agreement(
    before: SceneGraph, predicted: SceneGraph, after: SceneGraph, subgoal: Subgoal, camera: str
) -> float | None:
    """Share in [0, 1] of the changes predicted for a subgoal that `after` shows; None if none was predicted.

    Changes are new categories of the subgoal's arguments and of the gripper, `held` relations that
    begin or end, and argument boxes that move by more than `MOVED` in `camera`, which must not ride on
    the hand. A moved box counts as seen when its centre is now nearer to the predicted place than to the
    old one. Other relations follow from the boxes and would count them twice.
    """
    seen: list[bool] = []
    for name in [o.id for o in before.objects if o.id in subgoal.args or o.cls == GRIPPER]:
        if name not in predicted or name not in after:
            continue
        old, new, now = before[name], predicted[name], after[name]
        for attribute, value in new.attributes.items():
            if isinstance(value, str) and old.attributes.get(attribute) != value:
                seen.append(now.attributes.get(attribute) == value)
        if name in subgoal.args and all(camera in item.boxes for item in (old, new, now)):
            there, here, origin = (item.boxes[camera].center for item in (new, now, old))
            if _distance(origin, there) > MOVED:
                seen.append(_distance(here, there) < _distance(here, origin))
    held_before, held_after = _held(before), _held(after)
    for relation in _held(predicted) ^ held_before:
        seen.append((relation in held_after) != (relation in held_before))
    return float(np.mean(seen)) if seen else None


def _held(graph: SceneGraph) -> set[tuple[str, str]]:
    return {(r.subject, r.object) for r in graph.relations if r.predicate == "held"}


def _distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
