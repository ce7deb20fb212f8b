"""Interventions: somebody acts, and before the subgoal's end an expert takes over and finishes it.

Recovery data for System 1. Corrections of a policy are a round of DAgger (Ross et al. 2011, arXiv 1011.0686);
a novice's need no policy yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import SceneGraph
from vine_vla.core.identity import match_names
from vine_vla.core.options import Collector, Outcome, Subgoal
from vine_vla.core.protocols import RUNNING, Observation, Perceiver, Skill, perceive_one
from vine_vla.core.text import describe
from vine_vla.tasks.collect import SCENES_PER_SEED, CollectConfig, Pushes, Tape, new_recorder
from vine_vla.tasks.plug.expert import Expert, SkillDial
from vine_vla.tasks.plug.operators import Choice, Habits, Operator
from vine_vla.tasks.plug.rollout import choice_status
from vine_vla.tasks.plug.task import PlugInsertion

ANY_PLAN = Habits(grasp_rate=0.5, other_socket=0.5, colour_blind=0.0, second_thoughts=0.1)
"""Plans of interventions: hands are to be shown everything, by somebody as blind to what spoils a plan as the
operators are. Who knew it would teach the flat policies what to choose."""


def record_intervention(task: PlugInsertion, hands: Hands, config: CollectConfig, number: int) -> Path:
    """Record an episode in which `hands` act and an expert takes over before each subgoal's end.

    The hands act for a random time (0.4 to 6 s for a grasp, 1.2 to 11 s for an insertion), until they stop
    by themselves, or until they are about to drop the plug, which a watchful expert sees coming; then the
    expert lifts clear, lines up again and finishes. The hands' part is a segment of its own: `reached` or
    `dead` when it came to that, `slipped` when the plug was dropped, else `censored`, since nobody knows how
    it would have ended.

    Args:
        task: of split `demo`, or any other.
        hands: a policy's (`PolicyHands`) or a novice's (`NoviceHands`).
        config: where to stage; `config.skill` is the expert's noise.
        number: of the episode, which also chooses the scene.
    """
    scene = config.seed * SCENES_PER_SEED + number
    task.reset(scene, scene)
    rng = np.random.default_rng([scene, 6])
    expert = Expert(SkillDial(scale=float(rng.uniform(*config.skill))), np.random.default_rng([scene, 1]))
    operator = Operator(ANY_PLAN, np.random.default_rng([scene, 2]))
    watchful = bool(rng.random() < config.watchful)
    pushes = Pushes(config, rng)
    tape = Tape(task, new_recorder(task, config, config.intervention_id(number)), config.graph_every)
    operator.begin(task.scene)
    history: list[tuple[Choice, Outcome]] = []
    choice = operator.next(task.sim, history)
    while choice is not None:
        subgoal = task.subgoal(choice)
        limit = int(rng.uniform(4, 60) if choice[0].startswith("grasp") else rng.uniform(12, 110))
        tape.begin(subgoal)
        for n, action in enumerate(hands.actions(subgoal, choice[1], limit, int(rng.integers(2**31)))):
            # A segment has at least one frame.
            if watchful and n > 0 and _would_drop(task, choice, action):
                break
            tape.step(action)
            if task.is_dead():
                break
        status = choice_status(task.sim, choice)
        if status is None and _dropped(task, choice):
            status = Outcome.SLIPPED
        if status is None:
            tape.end(Outcome.CENSORED)
            tape.begin(subgoal)
            for action in expert.run(task.sim, subgoal, choice[1]):
                tape.step(action, pushes.next(expert.moving, expert.aiming))
            status = choice_status(task.sim, choice)
        history.append((choice, status or Outcome.SLIPPED))
        choice = operator.next(task.sim, history)
        tape.end(history[-1][1], last=choice is None)
    return tape.finish(scene, scene, Collector.INTERVENTION)


def _would_drop(task: PlugInsertion, choice: Choice, action: NDArray[np.float64]) -> bool:
    """Whether `action` opens the hand although the plug is not where the subgoal wants it."""
    if action[4] >= 0 or task.sim.held() is None:
        return False
    return not (task.sim.on_rack() if choice[1] is None else task.sim.seated(choice[1]))


def _dropped(task: PlugInsertion, choice: Choice) -> bool:
    """Whether the plug that the subgoal carries has been let go, and is not where it should be."""
    if choice[0].startswith("grasp") or task.sim.held() is not None:
        return False
    return not (task.sim.on_rack() if choice[1] is None else task.sim.seated(choice[1]))


class Hands(Protocol):
    """Whoever acts until an expert takes over."""

    def actions(
        self, subgoal: Subgoal, socket: int | None, limit: int, seed: int
    ) -> Iterator[NDArray[np.float64]]:
        """Actions (5,) until the hands stop or `limit` of them have been given; at least one.

        `subgoal` is in the simulator's ids, `socket` the index of its socket.
        """
        ...


class NoviceHands:
    """An operator who aims badly: what experts show after it is how to come back from anywhere near.

    Noise while the operator demonstrates, as in DART (Laskey et al. 2017, arXiv 1703.09327), but large, and
    never imitated: the novice's part is `censored`.

    Args:
        task: whose simulator the novice acts in.
        scale: of the hand's noise (`SkillDial`); a fifth to all of it, drawn anew for every subgoal:
            5 is a standard deviation of 7.5 mm at the socket.
        drift: standard deviation (m) of a constant drift per step, drawn anew for every subgoal.
    """

    def __init__(self, task: PlugInsertion, scale: float = 5.0, drift: float = 0.002) -> None:
        self.task, self.scale, self.drift = task, scale, drift

    def actions(
        self, subgoal: Subgoal, socket: int | None, limit: int, seed: int
    ) -> Iterator[NDArray[np.float64]]:
        rng = np.random.default_rng(seed)
        dial = SkillDial(scale=float(rng.uniform(0.2, 1.0)) * self.scale)
        drift = np.array([*rng.normal(0, self.drift, 2), rng.normal(0, self.drift / 2), 0.0, 0.0])
        yield from (a + drift for a in islice(Expert(dial, rng).run(self.task.sim, subgoal, socket), limit))


class PolicyHands:
    """A policy under correction, with its eyes.

    Args:
        task: whose observations it is given.
        skill: the policy.
        perceiver: whose graphs it is given, so that it meets the boxes it will have to live with; None: true
            ones. What is recorded is true in any case.
    """

    def __init__(self, task: PlugInsertion, skill: Skill, perceiver: Perceiver | None = None) -> None:
        self.task, self.skill, self.perceiver = task, skill, perceiver
        self.graph: SceneGraph | None = None

    def actions(
        self, subgoal: Subgoal, socket: int | None, limit: int, seed: int
    ) -> Iterator[NDArray[np.float64]]:
        truth = self.task.true_graph()
        # The policy is told the subgoal in the ids of its own graph.
        names = match_names(truth, self._look(self.task.observe()))
        known = subgoal._replace(args=tuple(names.get(name, name) for name in subgoal.args))
        self.skill.start(known, describe(subgoal, truth, self.task.SCHEMA), seed)
        steps = 0
        while steps < limit:
            observation = self.task.observe()
            graph = self._look(observation)
            out = self.skill.act(observation, graph)
            if steps > 0 and int(np.argmax(out.done)) != RUNNING:
                return
            for action in out.actions[: out.execute]:
                yield np.asarray(action, np.float64)
                steps += 1
                if steps >= limit:
                    return

    def _look(self, observation: Observation) -> SceneGraph:
        if self.perceiver is None:
            return self.task.true_graph()
        self.graph = perceive_one(self.perceiver, observation, self.task.instruction, self.graph)
        return self.graph
