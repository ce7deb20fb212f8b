"""Recording for an experiment: demonstrations, recovery data and DAgger rounds, staged and assembled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vine_vla.compute.executor import LocalExecutor
from vine_vla.compute.progress import track
from vine_vla.compute.stages import Share
from vine_vla.evaluation.experiments.registry import Experiment
from vine_vla.tasks.collect import CollectConfig, assemble_episodes, collect, missing
from vine_vla.tasks.interventions import Actor, NoviceWorker, PolicyActor, missing_interventions

if TYPE_CHECKING:
    from vine_vla.data import DemoDataset
    from vine_vla.data.record.staged_graphs import StagedGraphs

DEMOS = "demos"
"""Dataset of the operators' episodes."""
STAGING = f"{DEMOS}.staging"
"""Folder of all staged episodes; each dataset is assembled from some of them."""
RECOVERY_SEED = 50
"""What the recovery data's seed is away from the experiment's; DAgger rounds take the next ones to it."""
DAGGER_SEEDS = 100
"""What the seeds of the DAgger rounds of two training seeds are apart."""


def collect_demonstrations(e: Experiment, root: Path, share: Share) -> None:
    """Stage what is missing of the operators' episodes."""
    total = max(e.demonstrations, e.pool)
    config = _config(e, root, total, e.seed)
    there = total - len(missing(config))
    answers = collect(config, LocalExecutor(share.workers))
    for _ in track(answers, name="episodes", total=total, done=there):
        pass


def assemble_demonstrations(e: Experiment, root: Path, out: str, count: int, share: Share) -> None:
    """The dataset of the first `count` operators' episodes."""
    config = _config(e, root, count, e.seed)
    assemble_episodes(config, root / out, [config.episode_id(number) for number in range(count)])


def open_demonstrations(e: Experiment, root: Path, *, pool: bool = False) -> DemoDataset | StagedGraphs:
    """The operators' episodes that the arms learn from, or all of them.

    Args:
        pool: all, as the arm has them that is given as many successful episodes as the others have episodes.
    """
    from vine_vla.data import open_dataset
    from vine_vla.data.record.staged_graphs import open_staged

    if e.needs_dataset:
        return open_dataset(root / ("pool" if pool else "demos"))
    count = e.pool if pool else e.demonstrations
    config = _config(e, root, count, e.seed)
    return open_staged(config.staging, [config.episode_id(number) for number in range(count)])


def record_recovery(e: Experiment, root: Path, out: str, share: Share) -> None:
    """The demonstrations, and episodes in which an expert takes over from a novice."""
    config = _interventions(e, root, 0, e.seed)
    _intervene(config, partial(NoviceWorker, config), share)
    assemble_episodes(config, root / out, _episodes(e, root, 0, e.seed))


def record_dagger_round(
    e: Experiment, root: Path, seed: int, number: int, skill: str, system2: str, out: str, share: Share
) -> None:
    """What `record_recovery` has, and the rounds up to `number`, in which an expert takes over from System 1.

    Args:
        seed: training seed of the System 1. skill, system2: its folder, and whose perception it acts behind.
    """
    config = _interventions(e, root, number, seed)
    _intervene(config, partial(PolicyWorker, config, root / skill, root / system2), share)
    assemble_episodes(config, root / out, _episodes(e, root, number, seed))


class PolicyWorker(NoviceWorker):
    """Records a DAgger round: an expert takes over from a trained System 1 behind System 2's perception."""

    def __init__(self, config: CollectConfig, skill: Path, system2: Path) -> None:
        self.paths = skill, system2
        super().__init__(config)

    def make_actor(self) -> Actor:
        """The policy, from its folder."""
        from vine_vla.system1 import FlowSkill
        from vine_vla.system2.load import load_system2

        skill, system2 = self.paths
        schema = self.task.schema
        return PolicyActor(self.simulation, schema, FlowSkill.load(skill, schema), load_system2(system2))


def _config(e: Experiment, root: Path, episodes: int, seed: int) -> CollectConfig:
    watched = e.needs_dataset  # else segments with a graph at either end are all that is learned from
    return CollectConfig(
        root / DEMOS,
        e.task,
        episodes,
        split=e.demonstration_split,
        seed=seed,
        images=watched,
        graph_every=CollectConfig.graph_every if watched else 0,
    )


def _interventions(e: Experiment, root: Path, number: int, seed: int) -> CollectConfig:
    """The interventions of round `number`, 0 for the recovery data: a seed, and so scenes, of their own."""
    if number:
        return _config(e, root, e.dagger_episodes, e.seed + number + DAGGER_SEEDS * seed)
    return _config(e, root, e.recovery_episodes, e.seed + RECOVERY_SEED)


def _episodes(e: Experiment, root: Path, number: int, seed: int) -> list[str]:
    """Episodes that System 1 learns from after round `number`."""
    operators = _config(e, root, e.demonstrations, e.seed)
    found = [operators.episode_id(n) for n in range(e.demonstrations)]
    for earlier in range(0 if e.recovery_episodes else 1, number + 1):
        config = _interventions(e, root, earlier, seed)
        found += [config.intervention_id(n) for n in range(config.episodes)]
    return found


def _intervene(config: CollectConfig, factory: Callable[[], NoviceWorker], share: Share) -> None:
    """Record what is missing."""
    todo = missing_interventions(config)
    answers = LocalExecutor(share.workers).map(factory, todo)
    for _ in track(answers, name="episodes", total=config.episodes, done=config.episodes - len(todo)):
        pass
