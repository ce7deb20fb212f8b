"""Recording for an experiment: demonstrations, drills and rounds of correction, staged and assembled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vine_vla.compute.executor import LocalExecutor, Worker
from vine_vla.compute.progress import track
from vine_vla.compute.stages import StageLog
from vine_vla.evaluation.experiments.registry import Experiment

if TYPE_CHECKING:
    from vine_vla.tasks.collect import CollectConfig
    from vine_vla.tasks.plug.interventions import Hands

DRILLS = 50
"""What the drills' seed is away from the experiment's; rounds of correction take the next ones to it."""


def record_demonstrations(e: Experiment, root: Path, log: StageLog) -> None:
    """Operators' episodes, and those in which an expert takes over from a novice."""
    from vine_vla.tasks.collect import collect, missing

    total = max(e.demonstrations, e.pool)
    job = _job(e, root, total, e.seed)
    with log.stage("collect", {"split": e.demos, "episodes": total, "seed": e.seed}) as needed:
        if needed:
            there = total - len(missing(job))
            for _ in track(collect(job, e.workers), name="collecting", total=total, done=there):
                pass
    for name, count in (("demos", e.demonstrations), ("pool", e.pool)):
        if not count:
            continue
        with log.stage(name, {"episodes": count}, after=["collect"]) as needed:
            if needed:
                _assemble(root / name, [job.episode_id(number) for number in range(count)])
    if e.drills:
        with log.stage("drills", {"episodes": e.drills, "seed": e.seed}, after=["demos"]) as needed:
            if needed:
                _intervene(e, root, 0, _Novice)
                _assemble(root / "drilled", _episodes(e, root, 0))


def _assemble(out: Path, ids: list[str]) -> None:
    """The dataset `out` of staged episodes."""
    from vine_vla.data import assemble
    from vine_vla.tasks.collect import ACTION_NAMES, ROBOT_TYPE, STATE_NAMES

    names = {"state_names": STATE_NAMES, "action_names": ACTION_NAMES}
    assemble(out.with_name("demos.staging"), out, robot_type=ROBOT_TYPE, ids=ids, **names)


def _job(e: Experiment, root: Path, episodes: int, seed: int) -> CollectConfig:
    from vine_vla.tasks.collect import CollectConfig

    return CollectConfig(root / "demos.staging", episodes, split=e.demos, seed=seed)


def _interventions(e: Experiment, root: Path, number: int) -> CollectConfig:
    """The interventions of round `number`, 0 for the drills: a seed, and so scenes, of their own."""
    if number:
        return _job(e, root, e.corrections, e.seed + number)
    return _job(e, root, e.drills, e.seed + DRILLS)


def _episodes(e: Experiment, root: Path, number: int) -> list[str]:
    """Episodes that System 1 learns from after round `number`."""
    operators = _job(e, root, e.demonstrations, e.seed)
    found = [operators.episode_id(n) for n in range(e.demonstrations)]
    for earlier in range(0 if e.drills else 1, number + 1):
        job = _interventions(e, root, earlier)
        found += [job.intervention_id(n) for n in range(job.episodes)]
    return found


def _intervene(
    e: Experiment, root: Path, number: int, worker: Callable[..., Worker[int, int]], *more: Path
) -> None:
    """Record what is missing of round `number`."""
    from vine_vla.data import staged_ids

    job = _interventions(e, root, number)
    there = staged_ids(job.staging)
    todo = [n for n in range(job.episodes) if job.intervention_id(n) not in there]
    answers = LocalExecutor(e.workers).map(partial(worker, job, *more), todo)
    name, done = "corrections" if number else "drills", job.episodes - len(todo)
    for _ in track(answers, name=name, total=job.episodes, done=done):
        pass


class _Novice:
    """A worker that records an expert's help for a novice."""

    def __init__(self, job: CollectConfig) -> None:
        from vine_vla.tasks import PlugInsertion
        from vine_vla.tasks.plug.interventions import NoviceHands

        self.job, self.task = job, PlugInsertion(job.split)
        self.hands: Hands = NoviceHands(self.task)

    def __call__(self, number: int) -> int:
        from vine_vla.tasks.plug.interventions import record_intervention

        record_intervention(self.task, self.hands, self.job, number)
        return number


class _Pupil(_Novice):
    """A worker that records an expert's help for a trained System 1 behind System 2's eyes."""

    def __init__(self, job: CollectConfig, skill: Path, eyes: Path) -> None:
        from vine_vla.system1 import FlowSkill
        from vine_vla.system2.compact.system2 import load_system2
        from vine_vla.tasks.plug.interventions import PolicyHands

        super().__init__(job)
        policy = FlowSkill.load(skill, self.task.SCHEMA)
        self.hands = PolicyHands(self.task, policy, load_system2(eyes))


def record_corrections(
    e: Experiment, root: Path, log: StageLog, number: int, skill: Path, eyes: Path
) -> None:
    """A round in which an expert takes over from System 1, behind the eyes that it will act with."""
    before = f"system1 {number - 1}" if number > 1 else "system1"
    with log.stage(f"corrections {number}", {"episodes": e.corrections}, [before, "system2 all"]) as needed:
        if needed:
            _intervene(e, root, number, _Pupil, skill, eyes)
            _assemble(root / f"corrected-{number}", _episodes(e, root, number))
