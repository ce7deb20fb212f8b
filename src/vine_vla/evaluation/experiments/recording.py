"""Recording for an experiment: demonstrations, recovery data and DAgger rounds, staged and assembled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from vine_vla.compute.executor import LocalExecutor
from vine_vla.compute.progress import track
from vine_vla.compute.stages import StageLog
from vine_vla.evaluation.experiments.registry import Experiment
from vine_vla.tasks.collect import CollectConfig, assemble_episodes, collect, missing
from vine_vla.tasks.interventions import Actor, NoviceWorker, PolicyActor, missing_interventions

RECOVERY_SEED = 50
"""What the recovery data's seed is away from the experiment's; DAgger rounds take the next ones to it."""


def record_demonstrations(e: Experiment, root: Path, log: StageLog) -> None:
    """Operators' episodes, and those in which an expert takes over from a novice."""
    total = max(e.demonstrations, e.pool)
    job = _job(e, root, total, e.seed)
    with log.stage("collect", {"split": e.demos, "episodes": total, "seed": e.seed}) as needed:
        if needed:
            there = total - len(missing(job))
            answers = collect(job, LocalExecutor(e.workers))
            for _ in track(answers, name="collecting", total=total, done=there):
                pass
    for name, count in (("demos", e.demonstrations), ("pool", e.pool)):
        if not count:
            continue
        with log.stage(name, {"episodes": count}, after=["collect"]) as needed:
            if needed:
                assemble_episodes(job, root / name, [job.episode_id(number) for number in range(count)])
    if e.drills:
        with log.stage("drills", {"episodes": e.drills, "seed": e.seed}, after=["demos"]) as needed:
            if needed:
                _intervene(e, root, 0, NoviceWorker)
                assemble_episodes(job, root / "drilled", _episodes(e, root, 0))


def _job(e: Experiment, root: Path, episodes: int, seed: int) -> CollectConfig:
    return CollectConfig(root / "demos.staging", e.task, episodes, split=e.demos, seed=seed)


def _interventions(e: Experiment, root: Path, number: int) -> CollectConfig:
    """The interventions of round `number`, 0 for the recovery data: a seed, and so scenes, of their own."""
    if number:
        return _job(e, root, e.corrections, e.seed + number)
    return _job(e, root, e.drills, e.seed + RECOVERY_SEED)


def _episodes(e: Experiment, root: Path, number: int) -> list[str]:
    """Episodes that System 1 learns from after round `number`."""
    operators = _job(e, root, e.demonstrations, e.seed)
    found = [operators.episode_id(n) for n in range(e.demonstrations)]
    for earlier in range(0 if e.drills else 1, number + 1):
        job = _interventions(e, root, earlier)
        found += [job.intervention_id(n) for n in range(job.episodes)]
    return found


def _intervene(
    e: Experiment, root: Path, number: int, worker: Callable[..., NoviceWorker], *more: Path
) -> None:
    """Record what is missing of round `number`."""
    job = _interventions(e, root, number)
    todo = missing_interventions(job)
    answers = LocalExecutor(e.workers).map(partial(worker, job, *more), todo)
    name, done = "DAgger round" if number else "recovery data", job.episodes - len(todo)
    for _ in track(answers, name=name, total=job.episodes, done=done):
        pass


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


def record_corrections(
    e: Experiment, root: Path, log: StageLog, number: int, skill: Path, system2: Path
) -> None:
    """A round in which an expert takes over from System 1, behind the perception that it will act with."""
    before = f"system1 {number - 1}" if number > 1 else "system1"
    with log.stage(f"corrections {number}", {"episodes": e.corrections}, [before, "system2 all"]) as needed:
        if needed:
            _intervene(e, root, number, PolicyWorker, skill, system2)
            job = _interventions(e, root, number)
            assemble_episodes(job, root / f"corrected-{number}", _episodes(e, root, number))
