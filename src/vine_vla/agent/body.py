"""Seeing and acting: one subgoal executed chunk by chunk, by whoever drives it.

What acts here are generators that hand out actions and are sent what is seen after them. A simulator's loop,
a policy server that waits for its client, and LeRobot's `select_action` drive the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from vine_vla.agent.records import AgentConfig, Frame, Verdict
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import (
    DONE,
    FAILED,
    Float,
    Observation,
    Perceiver,
    Robot,
    Skill,
    SkillSignals,
    perceive_one,
    skill_signals,
)


class Feedback(NamedTuple):
    """What came of the actions handed out last.

    Args:
        observation: what is seen now.
        executed: how many of the actions were executed.
        over: whether the robot says that the episode is over.
    """

    observation: Observation
    executed: int = 0
    over: bool = False


type Acting[T] = Generator[Float, Feedback, T]
"""Hands out actions [n, A], is sent the `Feedback` after them, and ends with a T; n = 0 is to hold still."""

HOLD = np.zeros((0, 0), np.float32)
"""No actions."""


class Body:
    """Perceiver and skill in one episode: the present observation and graph, steps, time and kept frames.

    Args:
        sight: what is seen before the first action.
        instruction: the task.
        graph: the graph of an earlier moment whose ids are kept; None at an episode's start.
    """

    def __init__(
        self,
        perceiver: Perceiver,
        skill: Skill,
        config: AgentConfig,
        sight: Feedback,
        instruction: str,
        graph: SceneGraph | None = None,
    ) -> None:
        self.perceiver, self.skill, self.config = perceiver, skill, config
        self.instruction = instruction
        self.steps = 0
        self.over = False
        self.frames: list[Frame] = []
        self.seconds = {"perceive": 0.0, "plan": 0.0, "act": 0.0, "robot": 0.0}
        self.done = np.array([1, 0, 0], np.float32)
        self.signals: list[SkillSignals] | None = [] if config.signals else None
        self.see(sight, graph)

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Add the time of a block to `seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def keep(self) -> None:
        """Keep the present frame, if frames of subgoals' ends are wanted."""
        if self.config.frames == "subgoals":
            self._keep()

    def _keep(self) -> None:
        if not (self.frames and self.frames[-1].step == self.steps):
            images = {camera: np.array(image) for camera, image in self.observation.images.items()}
            self.frames.append(Frame(self.steps, images, self.graph))

    def see(self, sight: Feedback, earlier: SceneGraph | None) -> None:
        """Take in what is seen now; ids of `earlier` are kept."""
        self.observation = sight.observation
        self.steps += sight.executed
        self.over = sight.over or self.steps >= self.config.max_steps
        with self.clock("perceive"):
            self.graph = perceive_one(self.perceiver, self.observation, self.instruction, earlier)
        if self.config.frames == "chunks":
            self._keep()

    def execute(
        self, subgoal: Subgoal, text: str, seed: int, doubt: Callable[[], bool] | None = None
    ) -> Acting[tuple[Verdict, Float]]:
        """Run one subgoal until it is done, failed, timed out, doubted or interrupted.

        Args:
            doubt: asked after every chunk whether the plan has become doubtful.

        Returns:
            The done head's verdict and its probabilities, float32 [chunks, 3].
        """
        config, start, done = self.config, self.steps, []
        self.signals = [] if config.signals else None
        streak = {DONE: 0, FAILED: 0}
        self.skill.start(subgoal, text, seed)
        while True:
            with self.clock("act"):
                output = self.skill.act(self.observation, self.graph)
                if self.signals is not None:
                    self.signals.append(skill_signals(self.skill))
            self.done = np.asarray(output.done, np.float32)
            done.append(self.done)
            for which, limit in ((DONE, config.done_threshold), (FAILED, config.failed_threshold)):
                streak[which] = streak[which] + 1 if output.done[which] >= limit else 0
            if streak[DONE] >= config.hysteresis:
                verdict = Verdict.DONE
                break
            if streak[FAILED] >= config.hysteresis:
                verdict = Verdict.FAILED
                break
            room = min(start + config.subgoal_steps, config.max_steps) - self.steps
            if room <= 0:
                verdict = Verdict.TIMEOUT
                break
            with self.clock("robot"):
                sight = yield np.asarray(output.actions[: min(output.execute, room)], np.float32)
            self.see(sight, self.graph)
            if self.over:
                verdict = Verdict.INTERRUPTED
                break
            if doubt is not None and doubt():
                verdict = Verdict.UNCERTAIN
                break
        self.keep()
        return verdict, np.stack(done)


def execute_actions(robot: Robot, actions: Float) -> Feedback:
    """Execute actions [n, A] until the robot says that the episode is over, and look."""
    executed, over = 0, False
    for action in actions:
        over = bool(robot.step(action))
        executed += 1
        if over:
            break
    return Feedback(robot.observe(), executed, over)


def drive[T](robot: Robot, acting: Acting[T]) -> T:
    """Let `acting` move the robot to its end."""
    try:
        actions = next(acting)
        while True:
            actions = acting.send(execute_actions(robot, actions))
    except StopIteration as end:
        result: T = end.value
        return result


def run_subgoal(
    robot: Robot,
    perceiver: Perceiver,
    skill: Skill,
    config: AgentConfig,
    subgoal: Subgoal,
    text: str,
    seed: int,
    graph: SceneGraph | None = None,
) -> tuple[Verdict, SceneGraph, Float]:
    """One subgoal from the robot's present state, for probes and oracles.

    Args:
        graph: the graph that `subgoal` names its objects by.

    Returns:
        The done head's verdict, the graph at the end, the done head's probabilities [chunks, 3].
    """
    body = Body(perceiver, skill, config, Feedback(robot.observe()), robot.instruction, graph)
    verdict, done = drive(robot, body.execute(subgoal, text, seed))
    return verdict, body.graph, done
