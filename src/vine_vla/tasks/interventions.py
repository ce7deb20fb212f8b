"""Episodes in which an expert takes over before a subgoal's end: DAgger rounds and recovery data.

In a DAgger round (Ross et al. 2011, arXiv 1011.0686) the expert takes over from System 1; recovery data, from
a novice, need no policy yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.identity import match_names
from vine_vla.core.options import Collector, Outcome, Subgoal
from vine_vla.core.protocols import RUNNING, Float, Observation, Perceiver, Skill, perceive_one
from vine_vla.core.text import describe
from vine_vla.data import staged_ids
from vine_vla.tasks.base import Expert, Simulation, Takeover, Task
from vine_vla.tasks.collect import CollectConfig, EpisodeWriter
from vine_vla.tasks.registry import find_task

NOVICE_SCALE = 5.0
"""Noise of the worst novices of tasks that bring none of their own."""
WATCHFUL = 0.7
"""Share of the interventions in which the expert steps in before the actor spoils its subgoal; in the others
it does so afterwards, so that the data show what that looks like."""


@dataclass(frozen=True)
class AnyTime:
    """Takes over at any moment of a subgoal's time limit, and knows no slip but the simulator's.

    Args:
        steps: the limit, in actions.
    """

    steps: int

    def limit(self, subgoal: Subgoal, rng: np.random.Generator) -> int:
        """1 to `steps`, evenly."""
        return int(rng.integers(1, self.steps + 1))

    def about_to_slip(self, simulation: Any, subgoal: Subgoal, action: Float) -> bool:
        """Never."""
        return False

    def has_slipped(self, simulation: Any, subgoal: Subgoal) -> bool:
        """Never."""
        return False


class Actor(Protocol):
    """Whoever acts until an expert takes over."""

    def actions(self, subgoal: Subgoal, limit: int, seed: int) -> Iterator[Float]:
        """Actions [A] until the actor stops or `limit` of them have been given; at least one.

        `subgoal` is in the simulator's ids.
        """
        ...


class NoviceActor:
    """The task's novice: what experts show after it is how to come back from anywhere near."""

    def __init__(self, task: Task, simulation: Simulation) -> None:
        self.task, self.simulation = task, simulation

    def actions(self, subgoal: Subgoal, limit: int, seed: int) -> Iterator[Float]:
        """The novice's actions [A]."""
        yield from islice(self._novice(np.random.default_rng(seed)).run(subgoal), limit)

    def _novice(self, rng: np.random.Generator) -> Expert:
        if self.task.novice is not None:
            return self.task.novice(self.simulation, rng)
        return self.task.expert(self.simulation, float(rng.uniform(0.2, 1.0)) * NOVICE_SCALE, 0.0, rng)


class PolicyActor:
    """A policy in a DAgger round, with the perception that it will act with.

    Args:
        simulation: whose observations it receives.
        schema: vocabulary.
        skill: the policy.
        perceiver: whose graphs it receives, so that it meets the boxes it will have to live with; None: true
            ones. What is recorded is true in any case.
    """

    def __init__(
        self, simulation: Simulation, schema: Schema, skill: Skill, perceiver: Perceiver | None = None
    ) -> None:
        self.simulation, self.schema, self.skill, self.perceiver = simulation, schema, skill, perceiver
        self.graph: SceneGraph | None = None

    def actions(self, subgoal: Subgoal, limit: int, seed: int) -> Iterator[Float]:
        """The policy's actions [A], until its done head says that it has stopped."""
        truth = self.simulation.true_graph()
        # The policy is conditioned on the subgoal in the ids of its own graph.
        names = match_names(truth, self._perceive(self.simulation.observe()))
        known = subgoal._replace(args=tuple(names.get(name, name) for name in subgoal.args))
        self.skill.start(known, describe(subgoal, truth, self.schema), seed)
        steps = 0
        while steps < limit:
            observation = self.simulation.observe()
            graph = self._perceive(observation)
            out = self.skill.act(observation, graph)
            if steps > 0 and int(np.argmax(out.done)) != RUNNING:
                return
            for action in out.actions[: out.execute]:
                yield action
                steps += 1
                if steps >= limit:
                    return

    def _perceive(self, observation: Observation) -> SceneGraph:
        if self.perceiver is None:
            return self.simulation.true_graph()
        self.graph = perceive_one(self.perceiver, observation, self.simulation.instruction, self.graph)
        return self.graph


def record_intervention(
    simulation: Simulation, actor: Actor, config: CollectConfig, number: int, watchful: float = WATCHFUL
) -> Path:
    """Record an episode in which `actor` acts and an expert takes over before each subgoal's end.

    The actor acts for a random time, until it stops by itself, or until it is about to spoil the subgoal,
    which a watchful expert sees coming; then the expert finishes. The actor's part is a segment of its own:
    `reached` or `dead` when it came to that, `slipped` when it spoilt the subgoal, else `censored`, since
    nobody knows how it would have ended.

    Plans vary (`OperatorDials.explore`): low-level policies are to be shown everything, by somebody as blind
    to what spoils a plan as the operators are. Who knew it would teach the flat policies what to choose.

    Args:
        simulation: of `config.split`.
        actor: a policy's (`PolicyActor`) or a novice's (`NoviceActor`).
        config: where to stage; `config.operators` has the expert's noise.
        number: of the episode, which also chooses the scene.
        watchful: how often the expert steps in before the actor spoils its subgoal, in [0, 1].
    """
    task, dials, scene = find_task(config.task), config.operators, config.scene(number)
    simulation.reset(scene, scene)
    rng = np.random.default_rng([scene, 6])
    noise = float(rng.uniform(*dials.skill))
    expert = task.expert(simulation, noise, dials.disturbance, np.random.default_rng([scene, 1]))
    explorer = replace(dials, explore=True)
    operator = task.operator(simulation, explorer, np.random.default_rng([scene, 2]))
    takeover: Takeover = task.takeover or AnyTime(task.subgoal_steps)
    foresees = bool(rng.random() < watchful)
    writer = EpisodeWriter(simulation, config, config.intervention_id(number))
    history: list[tuple[Subgoal, Outcome]] = []
    subgoal = operator.next(history)
    while subgoal is not None:
        limit = takeover.limit(subgoal, rng)
        writer.begin(subgoal)
        for n, action in enumerate(actor.actions(subgoal, limit, int(rng.integers(2**31)))):
            # A segment has at least one frame.
            if foresees and n > 0 and takeover.about_to_slip(simulation, subgoal, action):
                break
            writer.step(action)
            if simulation.is_dead():
                break
        status = simulation.subgoal_status(subgoal)
        if status is None and takeover.has_slipped(simulation, subgoal):
            status = Outcome.SLIPPED
        if status is None:
            writer.end(Outcome.CENSORED)
            writer.begin(subgoal)
            for action in expert.run(subgoal):
                writer.step(action, expert.disturbance(rng))
            status = simulation.subgoal_status(subgoal)
        history.append((subgoal, status or Outcome.SLIPPED))
        subgoal = operator.next(history)
        writer.end(history[-1][1], last=subgoal is None)
    return writer.finish(scene, Collector.INTERVENTION)


class NoviceWorker:
    """Records recovery data by number."""

    def __init__(self, config: CollectConfig) -> None:
        self.config, self.task = config, find_task(config.task)
        self.simulation = self.task.simulation(config.split)
        self.actor = self.make_actor()

    def make_actor(self) -> Actor:
        """Who acts until the expert takes over."""
        return NoviceActor(self.task, self.simulation)

    def __call__(self, number: int) -> int:
        """Record intervention `number`; returns it."""
        record_intervention(self.simulation, self.actor, self.config, number)
        return number


def missing_interventions(config: CollectConfig) -> list[int]:
    """Numbers of the interventions that are not staged yet."""
    done = staged_ids(config.staging)
    return [n for n in range(config.episodes) if config.intervention_id(n) not in done]
