"""Named experiments: everything that one depends on, as numbers. Each belongs to a task, which lists it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal

from vine_vla.core.errors import VineError
from vine_vla.search.config import SearchConfig
from vine_vla.tasks.registry import find_task, installed_tasks
from vine_vla.tasks.scenes import parse_scenes


@dataclass(frozen=True)
class ExperimentSettings:
    """The numbers of an experiment.

    Raises:
        VineError: training seeds that are missing, negative or given twice.
    """

    split: str = ""
    """Appearance of the scenes; default: the task's own choice."""
    scenes: str = "0:30"
    """Scene numbers, `0:60` (end exclusive) or `1,7,9`; test scenes make the run a final one."""
    demonstration_split: str = ""
    """Stream of the demonstrations' scenes; default: the task's first."""
    demonstrations: int = 120
    """Operators' episodes that every arm learns from."""
    pool: int = 0
    """Operators' episodes in all; the surplus serves only the arm that has as many successful episodes as the
    others have episodes."""
    seed: int = 0
    """Of demonstrations."""
    training_seeds: tuple[int, ...] = (0,)
    """Of weights and orders: everything is trained and evaluated once for each."""
    recovery_episodes: int = 0
    """Episodes in which an expert takes over from a novice, for System 1 and the flat policies; 0: none."""
    system1_steps: int = 4500
    """Gradient steps of the skill policy; a budget by the clock would depend on what else runs."""
    dagger_rounds: int = 0
    """Rounds in which an expert takes over from System 1, which is then trained on with these episodes."""
    dagger_episodes: int = 0
    """Episodes of such a round; the flat policies get those of all rounds from the start."""
    dagger_steps: int = 0
    """Gradient steps of System 1 after each round."""
    flat_steps: int = 0
    """Gradient steps of the flat policies; fair: as many as System 1 takes in all its rounds."""
    perception_steps: int = 900
    """Gradient steps of perception."""
    perception_frames: int = 10_000
    """Frames that perception learns from, at most; they are held in memory."""
    execution_probes: int = 0
    """Single subgoals executed on calibration scenes for the arms with execution calibration."""
    arms: tuple[str, ...] = ("imitate", "success-only", "vine")
    """Arms to compare, `name` or `name:variant`."""
    slow_scenes: int = 0
    """The first scenes alone for `oracle-value`, which takes a third of a minute a scene; 0: all."""
    probes: int = 0
    """Single subgoals executed on the evaluated scenes for the calibration figures; 0: none."""
    repeated: int = 0
    """Probes that are executed --repeats times each, for the figures that are attainable."""
    repeats: int = 8
    """Executions of a repeated probe."""
    perception: Literal["learned", "true"] = "learned"
    """From images; or true: System 2 learns from annotated scene graphs and plans on the simulator's own."""
    skill: Literal["learned", "scripted"] = "learned"
    """System 1, or the task's scripted expert in its place."""
    members: int = 6
    """Members of System 2's ensembles."""
    effort: float = 1.0
    """Share of the usual work of System 2's learning, perception apart."""
    expansions: int = SearchConfig().expansions
    """Expansions of a search."""
    keep: int = 3
    """Scenes whose traces are kept, of each kind (won, lost, both failed, both succeeded)."""
    workers: int = field(default=2, compare=False)
    """Processes for simulation, one thread each."""
    threads: int = field(default=2, compare=False)
    """Threads of torch in training."""

    def __post_init__(self) -> None:
        seeds = tuple(sorted(self.training_seeds))
        if not seeds or seeds[0] < 0 or len(set(seeds)) < len(seeds):
            raise VineError(
                f"training seeds {' '.join(map(str, seeds)) or 'are missing'}",
                where="--training-seeds",
                hint="give each once, 0 or more, e.g. --training-seeds 0 1 2",
            )
        object.__setattr__(self, "training_seeds", seeds)
        expert = self.skill == "scripted"
        if expert and (self.dagger_rounds or self.recovery_episodes or {"flat", "flat-all"} & {*self.arms}):
            raise VineError(
                "with the scripted expert nothing trains System 1",
                hint="leave recovery data, DAgger rounds and flat arms out",
            )

    @property
    def needs_dataset(self) -> bool:
        """Whether anything learns from more than scene graphs, so that episodes are made a dataset."""
        return self.perception == "learned" or self.skill == "learned"


@dataclass(frozen=True, kw_only=True)
class Experiment(ExperimentSettings):
    """Everything that an experiment depends on.

    Args:
        name: in the registry. about: one line. task: name in the registry.
    """

    name: str
    about: str
    task: str

    def __post_init__(self) -> None:
        super().__post_init__()
        task = find_task(self.task)
        object.__setattr__(self, "split", self.split or task.default_split)
        object.__setattr__(
            self, "demonstration_split", self.demonstration_split or task.demonstration_splits[0]
        )

    @property
    def settings(self) -> ExperimentSettings:
        """The numbers alone."""
        return ExperimentSettings(**{f.name: getattr(self, f.name) for f in fields(ExperimentSettings)})

    def with_settings(self, settings: ExperimentSettings) -> Experiment:
        """This experiment with other numbers."""
        return replace(self, **vars(settings))

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


def overrides(e: ExperimentSettings) -> dict[str, Any]:
    """What `RunBuilder` has other than usual: what stands in for learned parts, and the search."""
    found = {name: value for name in ("perception", "skill") if (value := getattr(e, name)) != "learned"}
    return found | {"search": SearchConfig(expansions=e.expansions)}
