"""Collecting demonstrations: scripted operators act, every finished episode is staged as one file.

Workers take episodes by number; an episode depends on (seed, number) alone, so a run that was killed resumes
where it was, with the same episodes. Episodes in which an expert takes over: `vine_vla.tasks.interventions`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vine_vla.compute.executor import Executor
from vine_vla.core.errors import VineError
from vine_vla.core.options import Collector, EpisodeOutcome, Outcome, OutcomeSource, Subgoal
from vine_vla.core.protocols import Float
from vine_vla.core.text import describe
from vine_vla.data import EpisodeRecorder, staged_ids
from vine_vla.storage.settings import keep_settings
from vine_vla.tasks.base import OperatorDials, Simulation, Task
from vine_vla.tasks.registry import DEFAULT_TASK, find_task

SCENES_PER_SEED = 1_000_000
HINT = "give the same settings again, or choose another folder"
_EPISODE = re.compile(r"(.+)-s(\d+)-\d{5}")


@dataclass(frozen=True)
class CollectConfig:
    """One collection.

    Raises:
        VineError: there is no such task or split, or a number is out of its range.
    """

    out: Path
    """Dataset folder; episodes are staged beside it, in OUT.staging, until the dataset is assembled."""
    task: str = DEFAULT_TASK
    """Simulated task."""
    episodes: int = 600
    """Episodes in the dataset, at least 1."""
    split: str = ""
    """Stream of scenes for demonstrations; default: the task's first."""
    seed: int = 0
    """Of scenes and operators, at least 0; other seeds give other scenes and episodes."""
    operators: OperatorDials = field(default_factory=OperatorDials)
    """What the operators are like."""
    graph_every: int = 8
    """Frames between the scene graphs recorded inside segments; 0: none."""
    images: bool = True
    """Record images; without them labels and graphs alone are staged, in a fraction of the time."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.episodes > SCENES_PER_SEED:
            raise VineError(
                f"{self.episodes} episodes", where="--episodes", hint=f"give 1 to {SCENES_PER_SEED}"
            )
        if self.seed < 0:
            raise VineError(f"seed is {self.seed}", where="--seed", hint="give 0 or more")
        if self.graph_every < 0:
            raise VineError(
                f"graph_every is {self.graph_every}", where="--graph-every", hint="give 0 or more"
            )
        streams = find_task(self.task).demonstration_splits
        if not streams:
            raise VineError(f"task {self.task} has no scenes for demonstrations")
        if not self.split:
            object.__setattr__(self, "split", streams[0])
        if self.split not in streams:
            raise VineError(f"no demonstrations on split {self.split!r}", hint=f"use {' or '.join(streams)}")

    def scene(self, number: int) -> int:
        """The scene of episode `number`, which also seeds it."""
        return self.seed * SCENES_PER_SEED + number

    def episode_id(self, number: int) -> str:
        """The stable name of episode `number`."""
        return f"{self._name}-s{self.seed}-{number:05d}"

    def intervention_id(self, number: int) -> str:
        """The stable name of intervention `number`."""
        return f"{self._name}-i{self.seed}-{number:05d}"

    @property
    def staging(self) -> Path:
        """Folder of the staged episodes."""
        return self.out.with_name(f"{self.out.name}.staging")

    @property
    def settings_path(self) -> Path:
        """Where the settings of this seed and split are kept."""
        return self.staging / f"{self._name}-s{self.seed}.settings.json"

    def settings(self) -> dict[str, Any]:
        """What makes two collections the same one."""
        left_out = {"out", "episodes"} | ({"images"} if self.images else set())
        return {k: v for k, v in asdict(self).items() if k not in left_out}

    @property
    def _name(self) -> str:
        return series_name(find_task(self.task), self.split)


def series_name(task: Task, split: str) -> str:
    """How ids of a split's episodes begin: the task's name, with that of a split that is not the first."""
    if split == task.demonstration_splits[0]:
        return task.name
    return f"{task.name}-{split.removesuffix('-demo')}"


class EpisodeWriter:
    """Simulation and recorder side by side: executes actions and records them, with boxes and graphs."""

    def __init__(self, simulation: Simulation, config: CollectConfig, episode_id: str) -> None:
        self.simulation, self.config = simulation, config
        task = find_task(config.task)
        self.schema = task.schema
        self.recorder = EpisodeRecorder(
            config.staging,
            schema=task.schema,
            instruction=simulation.instruction,
            fps=task.fps,
            episode_id=episode_id,
            images=config.images,
        )

    def begin(self, subgoal: Subgoal) -> None:
        """Begin a segment."""
        graph = self.simulation.true_graph()
        self.recorder.start_segment(subgoal, describe(subgoal, graph, self.schema), graph)

    def step(self, action: Float, disturbance: Float | None = None) -> None:
        """Record `action` [A]; execute it with `disturbance` [A] added."""
        every = self.config.graph_every
        if every and self.recorder.frames % every == 0:
            self.recorder.add_graph(self.simulation.true_graph())
        taken = np.asarray(action, np.float32)
        self.recorder.add_frame(self.simulation.observe(), taken, self.simulation.true_boxes())
        self.simulation.step(taken if disturbance is None else taken + np.asarray(disturbance, np.float32))

    def end(self, outcome: Outcome, last: bool = False) -> None:
        """End the segment. A slip that ends the episode is `dead`: the operator's subgoals are used up."""
        if last and outcome is Outcome.SLIPPED:
            outcome = Outcome.DEAD
        source = OutcomeSource.OPERATOR if outcome is Outcome.CENSORED else OutcomeSource.SIMULATOR
        self.recorder.end_segment(outcome, source)

    def finish(self, scene: int, collector: Collector) -> Path:
        """Stage the episode with the simulator's verdict."""
        simulation = self.simulation
        success, onset = simulation.is_success(), simulation.onset
        return self.recorder.finish(
            EpisodeOutcome.SUCCESS if success else EpisodeOutcome.FAILURE,
            OutcomeSource.SIMULATOR,
            final_graph=simulation.true_graph(),
            onset_frame=None if onset is None else min(onset, self.recorder.frames - 1),
            failure_kind=None if success else simulation.failure_kind() or "given_up",
            scene=scene,
            seed=scene,
            collector=collector,
        )


def record_operator(simulation: Simulation, config: CollectConfig, number: int) -> Path:
    """Record episode `number` of an operator on scene (seed, number) of the demonstration stream."""
    task, dials, scene = find_task(config.task), config.operators, config.scene(number)
    simulation.reset(scene, scene)
    rng = np.random.default_rng([scene, 4])
    noise = float(rng.uniform(*dials.skill))
    expert = task.expert(simulation, noise, dials.disturbance, np.random.default_rng([scene, 1]))
    operator = task.operator(simulation, dials, np.random.default_rng([scene, 2]))
    writer = EpisodeWriter(simulation, config, config.episode_id(number))
    history: list[tuple[Subgoal, Outcome]] = []
    subgoal = operator.next(history)
    while subgoal is not None:
        writer.begin(subgoal)
        for action in expert.run(subgoal):
            writer.step(action, expert.disturbance(rng))
        outcome = simulation.subgoal_status(subgoal) or Outcome.SLIPPED
        history.append((subgoal, outcome))
        subgoal = operator.next(history)
        writer.end(outcome, last=subgoal is None)
    return writer.finish(scene, Collector.OPERATOR)


class OperatorWorker:
    """Records operators' episodes by number; keeps its simulation."""

    def __init__(self, config: CollectConfig) -> None:
        self.config = config
        self.simulation = find_task(config.task).simulation(config.split, render=config.images)

    def __call__(self, number: int) -> int:
        """Record episode `number`; returns it."""
        record_operator(self.simulation, self.config, number)
        return number


def missing(config: CollectConfig) -> list[int]:
    """Numbers of the episodes that are not staged yet."""
    done = staged_ids(config.staging)
    return [n for n in range(config.episodes) if config.episode_id(n) not in done]


def check_alone(config: CollectConfig) -> None:
    """Raises VineError when operators' episodes of another task, seed or split are staged in the folder."""
    task = find_task(config.task)
    series = {series_name(task, split): split for split in task.demonstration_splits}
    for name in sorted(staged_ids(config.staging)):
        found = _EPISODE.fullmatch(name)
        if found is None:
            continue
        begun = {"seed": found[2], "split": series[found[1]]} if found[1] in series else {"task": found[1]}
        for field_name, was in begun.items():
            now = getattr(config, field_name)
            if was != str(now):
                raise VineError(
                    f"begun with other settings: {field_name} was {was}, now {now}",
                    where=str(config.staging),
                    hint=HINT,
                )


def collect(config: CollectConfig, executor: Executor) -> Iterator[int]:
    """Record what is missing; yields an episode's number when it is staged.

    A stopped run is continued by calling it again with the same settings, which are kept beside the episodes;
    only `episodes` may change.

    Raises:
        VineError: the episodes were begun with other settings.
    """
    keep_settings(config.settings_path, config.settings(), hint=HINT)
    yield from executor.map(partial(OperatorWorker, config), missing(config))


def assemble_episodes(
    config: CollectConfig,
    out: Path,
    ids: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make the dataset `out` of the staged episodes `ids`.

    Args:
        progress: called with (episodes done, episodes).
    """
    from vine_vla.data import assemble  # brings LeRobot, and torch with it: recording stays light

    task = find_task(config.task)
    assemble(
        config.staging,
        out,
        robot_type=task.robot_type,
        ids=list(ids),
        state_names=task.state.names,
        action_names=task.action.names,
        progress=progress,
    )
