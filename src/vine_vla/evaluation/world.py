"""Simulations as the evaluation sees them: a robot plus the truth that only the evaluation may read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vine_vla.core.graph import SceneGraph
from vine_vla.core.identity import match_names
from vine_vla.core.options import Outcome, Subgoal
from vine_vla.core.protocols import Float, Observation, Skill, SkillSignals, skill_signals
from vine_vla.tasks.base import Simulation

SUCCESS, DEAD, STOPPED, FINISHED, LIMIT = "success", "dead", "stopped", "finished", "limit"
"""How an episode can end in `episodes.csv`: the task fulfilled; failed for good; the agent stopped
(`infeasible`, `unsupported`); the agent took the task for finished, wrongly; steps or budget used up."""


class Judge:
    """The robot as the agent sees it, with a judge beside it.

    The episode ends as soon as the task is fulfilled or cannot be any more: the same for every arm, and
    nothing that an arm did afterwards could be told apart from chance. The verdict is the simulator's.
    """

    def __init__(self, task: Simulation) -> None:
        self.task = task
        self.success = False
        self.dead = False

    @property
    def instruction(self) -> str:
        return self.task.instruction

    def observe(self) -> Observation:
        return self.task.observe()

    def step(self, action: Float) -> bool:
        over = self.task.step(action)
        self.success = self.success or self.task.is_success()
        self.dead = self.dead or (not self.success and self.task.is_dead())
        return over or self.success or self.dead


WHOLE_TASK = Subgoal("do_task", ())
"""What a flat policy receives: no verb of the task's, and reached when the task is."""


class TruePerceiver:
    """Oracle perception: the simulator's own graph."""

    def __init__(self, task: Simulation) -> None:
        self.task = task

    def perceive(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        earlier: Sequence[SceneGraph | None] | None = None,
    ) -> list[SceneGraph]:
        return [self.task.true_graph(before) for before in earlier or [None] * len(observations)]


class WatchedSkill:
    """A skill whose subgoals' true outcomes are taken from the simulator when the next one starts.

    `outcomes` holds one entry a started subgoal; call `close` at the end of the episode for the last. A
    subgoal names what perception shows; the simulator, and a skill that is `privileged`, get its own ids.
    """

    def __init__(self, skill: Skill, task: Simulation) -> None:
        self.skill, self.task = skill, task
        self.outcomes: list[Outcome] = []
        self._waiting: tuple[Subgoal, str, int] | None = None
        self._running: Subgoal | None = None

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None:
        self.close()
        self._waiting = subgoal, text, seed

    def act(self, observation: Observation, graph: SceneGraph) -> Any:
        if self._waiting is not None:
            subgoal, text, seed = self._waiting
            self._waiting, self._running = None, true_subgoal(self.task, subgoal, graph)
            privileged = getattr(self.skill, "privileged", False)
            self.skill.start(self._running if privileged else subgoal, text, seed)
        return self.skill.act(observation, graph)

    def signals(self) -> SkillSignals:
        return skill_signals(self.skill)

    def close(self) -> None:
        if self._running is not None:
            self.outcomes.append(true_outcome(self.task, self._running))
            self._running = None


def true_subgoal(task: Simulation, subgoal: Subgoal, graph: SceneGraph) -> Subgoal:
    """`subgoal` on what `graph` shows now, in the ids of the simulator's graph."""
    names = match_names(graph, task.true_graph(None))
    return subgoal._replace(args=tuple(names.get(name, name) for name in subgoal.args))


def true_outcome(task: Simulation, subgoal: Subgoal) -> Outcome:
    """What became of `subgoal`, whose execution has just ended: reached, dead, else slipped."""
    if subgoal == WHOLE_TASK:
        status = Outcome.REACHED if task.is_success() else None
    else:
        status = task.subgoal_status(subgoal)
    if status is not None:
        return status
    return Outcome.DEAD if task.is_dead() else Outcome.SLIPPED
