"""Named experiments: everything that one depends on, as numbers. Each belongs to a task, which lists it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.tasks.registry import find_task, installed_tasks
from vine_vla.tasks.scenes import parse_scenes


@dataclass(frozen=True)
class Experiment:
    """Everything that an experiment depends on.

    Args:
        name: in the registry. about: one line.
        task: name in the registry. split: appearance of the scenes; empty: the task's default.
        demos: stream of the demonstrations' scenes; empty: the task's first.
        scenes: `400:700`; test scenes make the run a final one.
        demonstrations: operators' episodes that every arm learns from.
        pool: operators' episodes in all; the surplus serves only the arm that is given as many successful
            episodes as the others have episodes.
        seed: of demonstrations.
        training_seeds: of weights and orders; everything is trained, corrected and evaluated once for each.
        drills: episodes in which an expert takes over from a novice; for System 1 and the flat policies.
        system1_steps: gradient steps of the skill policy; a budget by the clock would depend on what else the
            machine does.
        rounds: of correction: an expert takes over from System 1, which is trained on with these episodes.
        corrections: episodes a round; the flat policies get those of all rounds from the start.
        correction_steps: gradient steps a round.
        flat_steps: of the flat policies; fair: as many as System 1 takes in all its rounds.
        detector_steps: of perception. detector_frames: that it learns from, at most; they are held in memory.
        calibrating: single subgoals executed on calibration scenes for the arms with execution calibration.
        arms: as `vine eval` has them.
        slow_scenes: the first scenes alone for `oracle-value`, which rolls System 1 out in every option and
            takes a third of a minute a scene; 0: all.
        probes: single subgoals executed for the calibration figures; 0: none.
        repeated: probes that are executed `repeats` times each, for the figures that are attainable.
        keep: scenes of each kind whose traces are kept. workers, threads: for this machine.
    """

    name: str
    about: str
    task: str
    split: str = ""
    demos: str = ""
    scenes: str = "0:30"
    demonstrations: int = 120
    pool: int = 0
    seed: int = 0
    training_seeds: tuple[int, ...] = (0,)
    drills: int = 0
    system1_steps: int = 4500
    rounds: int = 0
    corrections: int = 0
    correction_steps: int = 0
    flat_steps: int = 0
    detector_steps: int = 900
    detector_frames: int = 10_000
    calibrating: int = 0
    arms: tuple[str, ...] = ("imitate", "success-only", "vine")
    slow_scenes: int = 0
    probes: int = 0
    repeated: int = 0
    repeats: int = 8
    keep: int = 3
    workers: int = field(default=2, compare=False)
    threads: int = field(default=2, compare=False)

    def __post_init__(self) -> None:
        task = find_task(self.task)
        seeds = tuple(sorted(self.training_seeds))
        if not seeds or seeds[0] < 0 or len(set(seeds)) < len(seeds):
            raise VineError(
                f"training seeds {' '.join(map(str, seeds)) or 'are missing'}",
                hint="give each once, 0 or more, e.g. --seeds 0 1 2",
            )
        object.__setattr__(self, "training_seeds", seeds)
        object.__setattr__(self, "split", self.split or task.default_split)
        object.__setattr__(self, "demos", self.demos or task.demonstration_splits[0])

    @property
    def final(self) -> bool:
        """Whether test scenes are run."""
        test = find_task(self.task).lists(self.split).test
        return any(scene in test for scene in parse_scenes(self.scenes))


@cache
def experiments() -> dict[str, Experiment]:
    """Name -> experiment, of all tasks."""
    found = {}
    for task in installed_tasks():
        for name, values in task.experiments.items():
            found[name] = Experiment(name=name, task=task.name, **values)
    return found


def find_experiment(name: str) -> Experiment:
    """The experiment called `name`; raises VineError that lists the known ones."""
    known = experiments()
    if name not in known:
        raise VineError(f"unknown experiment {name!r}", hint=f"known: {', '.join(known)}")
    return known[name]


def with_changes(experiment: Experiment, **changes: Any) -> Experiment:
    """`experiment` with the given fields replaced, None left out."""
    return replace(experiment, **{name: value for name, value in changes.items() if value is not None})
