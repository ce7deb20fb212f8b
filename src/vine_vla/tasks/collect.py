"""Collecting demonstrations: scripted operators act, every finished episode is staged as one file.

Workers take episodes by number; an episode depends on (seed, number) alone, so a run that was killed goes on
where it was, with the same episodes. Episodes in which an expert takes over:
`vine_vla.tasks.plug.interventions`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vine_vla.compute.executor import LocalExecutor
from vine_vla.core.errors import VineError
from vine_vla.core.options import Collector, EpisodeOutcome, Outcome, OutcomeSource, Subgoal
from vine_vla.core.text import describe
from vine_vla.data import EpisodeRecorder, staged_ids
from vine_vla.storage.settings import keep_settings
from vine_vla.tasks.plug.expert import Expert, SkillDial
from vine_vla.tasks.plug.operators import Choice, Habits, Operator
from vine_vla.tasks.plug.rollout import choice_status
from vine_vla.tasks.plug.scenes import DEMONSTRATIONS
from vine_vla.tasks.plug.task import PlugInsertion

STATE_NAMES = ("x", "y", "z", "cos_yaw", "sin_yaw", "width", "lag_x", "lag_y", "lag_z", "gripper")
ACTION_NAMES = ("dx", "dy", "dz", "dyaw", "gripper")
ROBOT_TYPE = "panda_primitive"
SCENES_PER_SEED = 1_000_000
_SERIES = re.compile(r"(plug(?:-pushed)?)-s(\d+)-\d{5}")

SPLITS = {"plug": "demo", "plug-pushed": "pushed-demo"}
"""First part of an episode's id -> split of its scene."""
HINT = "give the same settings again, or choose another folder"


@dataclass(frozen=True)
class CollectConfig:
    """One collection.

    Args:
        staging: folder for the staged episodes.
        episodes: how many there shall be in the end.
        split: of the scenes, `demo` or `pushed-demo`.
        seed: of the collection; other seeds give other scenes and episodes.
        skill: least and greatest noise scale of the operators' hands; each episode draws its own.
        habits: how operators choose.
        push: standard deviation (m) of pushes on the hand while it moves freely. The recorded action is the
            operator's, so that the data show how to recover.
        push_rate: pushes per free step, in [0, 1].
        push_rate_aiming: the same close above plug and socket.
        graph_every: frames between the scene graphs recorded inside segments; 0 for none.
        watchful: share of the interventions in which the expert steps in before the policy drops the plug;
            in the others it does so afterwards, so that the data show what a drop looks like.
    """

    staging: Path
    episodes: int
    split: str = "demo"
    seed: int = 0
    skill: tuple[float, float] = (0.5, 1.0)
    habits: Habits = field(default_factory=Habits)
    push: float = 0.006
    push_rate: float = 0.06
    push_rate_aiming: float = 0.2
    graph_every: int = 8
    watchful: float = 0.7

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.episodes > SCENES_PER_SEED:
            raise VineError(f"{self.episodes} episodes", hint=f"give 1 to {SCENES_PER_SEED}")
        if not 0 <= self.skill[0] <= self.skill[1] <= 5:
            raise VineError(
                f"skill {self.skill[0]}:{self.skill[1]}", hint="give LEAST:GREATEST within 0 and 5, e.g. .5:1"
            )
        if self.split not in DEMONSTRATIONS:
            raise VineError(
                f"no demonstrations on split {self.split!r}", hint=f"use {' or '.join(DEMONSTRATIONS)}"
            )
        if self.seed < 0:
            raise VineError(f"seed {self.seed} is negative")

    def episode_id(self, number: int) -> str:
        """The stable name of episode `number`."""
        return f"{self._name}-s{self.seed}-{number:05d}"

    def intervention_id(self, number: int) -> str:
        """The stable name of intervention `number`."""
        return f"{self._name}-i{self.seed}-{number:05d}"

    @property
    def settings_path(self) -> Path:
        """Where the settings of this seed and split are kept."""
        return self.staging / f"{self._name}-s{self.seed}.settings.json"

    def settings(self) -> dict[str, Any]:
        """What makes two collections the same one."""
        return {k: v for k, v in asdict(self).items() if k not in ("staging", "episodes")}

    @property
    def _name(self) -> str:
        return next(name for name, split in SPLITS.items() if split == self.split)


class Tape:
    """Recorder and task side by side: executes actions and records them, with boxes and graphs."""

    def __init__(self, task: PlugInsertion, recorder: EpisodeRecorder, graph_every: int) -> None:
        self.task, self.recorder, self.graph_every = task, recorder, graph_every

    def begin(self, subgoal: Subgoal) -> None:
        graph = self.task.true_graph()
        self.recorder.start_segment(subgoal, describe(subgoal, graph, self.task.SCHEMA), graph)

    def step(self, action: NDArray[np.float64], push: NDArray[np.float64] | None = None) -> None:
        """Record `action`; execute it with `push` (5,) added."""
        if self.graph_every and self.recorder.frames % self.graph_every == 0:
            self.recorder.add_graph(self.task.true_graph())
        taken = np.asarray(action, np.float32)
        self.recorder.add_frame(self.task.observe(), taken, self.task.true_boxes())
        self.task.step(taken if push is None else taken + push.astype(np.float32))

    def end(self, outcome: Outcome, last: bool = False) -> None:
        """End the segment. A slip that ends the episode is `dead`: the operator's subgoals are used up."""
        if last and outcome is Outcome.SLIPPED:
            outcome = Outcome.DEAD
        source = OutcomeSource.OPERATOR if outcome is Outcome.CENSORED else OutcomeSource.SIMULATOR
        self.recorder.end_segment(outcome, source)

    def finish(self, scene: int, seed: int, collector: Collector) -> Path:
        """Stage the episode with the simulator's verdict."""
        success = self.task.is_success()
        return self.recorder.finish(
            EpisodeOutcome.SUCCESS if success else EpisodeOutcome.FAILURE,
            OutcomeSource.SIMULATOR,
            final_graph=self.task.true_graph(),
            onset_frame=None if self.task.onset is None else min(self.task.onset, self.recorder.frames - 1),
            failure_kind=None if success else self.task.failure_kind() or "given_up",
            scene=scene,
            seed=seed,
            collector=collector,
        )


class Pushes:
    """Random pushes on the hand: each lasts two steps, sideways more than down."""

    def __init__(self, config: CollectConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self._left, self._now = 0, np.zeros(5)

    def next(self, moving: bool, aiming: bool) -> NDArray[np.float64] | None:
        rate = self.config.push_rate_aiming if aiming else self.config.push_rate
        if self._left == 0 and moving and self.config.push > 0 and self.rng.random() < rate:
            self._left = 2
            self._now = np.array(
                [*self.rng.normal(0, self.config.push / 2, 3) * (1, 1, 0.5), self.rng.normal(0, 0.05), 0]
            )
        if self._left == 0 or not moving:
            self._left = 0
            return None
        self._left -= 1
        return self._now


def new_recorder(task: PlugInsertion, config: CollectConfig, episode_id: str) -> EpisodeRecorder:
    return EpisodeRecorder(
        config.staging, schema=task.SCHEMA, instruction=task.instruction, fps=task.FPS, episode_id=episode_id
    )


def record_operator(task: PlugInsertion, config: CollectConfig, number: int) -> Path:
    """Record episode `number` of a blind operator on scene (seed, number) of the demonstration stream."""
    scene = config.seed * SCENES_PER_SEED + number
    task.reset(scene, scene)
    rng = np.random.default_rng([scene, 4])
    expert = Expert(SkillDial(scale=float(rng.uniform(*config.skill))), np.random.default_rng([scene, 1]))
    operator = Operator(config.habits, np.random.default_rng([scene, 2]))
    pushes = Pushes(config, rng)
    tape = Tape(task, new_recorder(task, config, config.episode_id(number)), config.graph_every)
    operator.begin(task.scene)
    history: list[tuple[Choice, Outcome]] = []
    choice = operator.next(task.sim, history)
    while choice is not None:
        subgoal = task.subgoal(choice)
        tape.begin(subgoal)
        for action in expert.run(task.sim, subgoal, choice[1]):
            tape.step(action, pushes.next(expert.moving, expert.aiming))
        outcome = choice_status(task.sim, choice) or Outcome.SLIPPED
        history.append((choice, outcome))
        choice = operator.next(task.sim, history)
        tape.end(outcome, last=choice is None)
    return tape.finish(scene, scene, Collector.OPERATOR)


class OperatorWorker:
    """Stages one episode a job, as a file of its own; keeps its task."""

    def __init__(self, config: CollectConfig) -> None:
        self.config, self.task = config, PlugInsertion(config.split)

    def __call__(self, number: int) -> int:
        record_operator(self.task, self.config, number)
        return number


def missing(config: CollectConfig) -> list[int]:
    """Numbers of the episodes that are not staged yet."""
    done = staged_ids(config.staging)
    return [n for n in range(config.episodes) if config.episode_id(n) not in done]


def check_alone(config: CollectConfig) -> None:
    """Raises VineError when operators' episodes of another seed or split are staged in the same folder."""
    for name in sorted(staged_ids(config.staging)):
        found = _SERIES.fullmatch(name)
        for field_name, was, now in (
            ("seed", found and found[2], str(config.seed)),
            ("split", found and SPLITS[found[1]], config.split),
        ):
            if was is not None and was != now:
                raise VineError(
                    f"begun with other settings: {field_name} was {was}, now {now}",
                    where=str(config.staging),
                    hint=HINT,
                )


def collect(config: CollectConfig, workers: int = 2) -> Iterator[int]:
    """Record what is missing; yields an episode's number when it is staged.

    `workers` processes, or this one with 0. A stopped run is continued by calling it again with the same
    settings, which are kept beside the episodes; only `episodes` may change.

    Raises:
        VineError: the episodes were begun with other settings.
    """
    keep_settings(config.settings_path, config.settings(), hint=HINT)
    yield from LocalExecutor(workers).map(partial(OperatorWorker, config), missing(config))
