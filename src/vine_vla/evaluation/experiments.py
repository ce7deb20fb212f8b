"""Named experiments: the whole way from demonstrations to a compared result, in stages that resume.

A stage is done when `stages/` holds its key, a hash of its settings and of the stages it builds on; what is
inside a stage goes on where it stopped as well. Trainings that do not need each other run side by side, one
thread each: two such do more in an hour than one after the other with two threads. The same function runs
`plug-quick` (`make demo`) and `plug-full`: they differ in numbers alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vine_vla.errors import VineError
from vine_vla.evaluation.arms import find_arm
from vine_vla.evaluation.build import RunBuilder
from vine_vla.evaluation.files import environment, parse_scenes, write_json
from vine_vla.evaluation.final import TEST, check_scenes, record_final
from vine_vla.evaluation.probes import ProbeConfig, evaluate_probes
from vine_vla.evaluation.runner import Schedule, evaluate
from vine_vla.evaluation.stages import Say, StageLog
from vine_vla.evaluation.verdicts import write_summary
from vine_vla.evaluation.workers import Worker, map_jobs, run_beside, show_progress, stage_progress

if TYPE_CHECKING:
    from vine_vla.tasks.collect import CollectConfig
    from vine_vla.tasks.interventions import Hands

VARIANTS = ("all", "withhold", "withhold-slips", "withhold-matched")
"""Variants of System 2 that are trained nets of their own; `imitate-all` only uses another prior."""


@dataclass(frozen=True)
class Experiment:
    """Everything that an experiment depends on.

    Args:
        name: in the registry. about: one line.
        task: name of the simulated task. split: look of the scenes.
        scenes: `400:700`; test scenes make the run a final one.
        demonstrations: operators' episodes that every arm learns from.
        pool: operators' episodes in all; the surplus serves only the arm that is given as many successful
            episodes as the others have episodes.
        seed: of demonstrations, weights and orders.
        drills: episodes in which an expert takes over from a novice; for System 1 and the flat policies.
        system1_steps: gradient steps of the skill policy; a budget by the clock would depend on what else the
            machine does.
        rounds: of correction: an expert takes over from System 1, which is trained on with these episodes.
        corrections: episodes a round; the flat policies get those of all rounds from the start.
        correction_steps: gradient steps a round.
        flat_steps: of the flat policies; fair: as many as System 1 takes in all its rounds.
        detector_steps: of perception.
        arms: as `vine eval` has them.
        probes: single subgoals executed for the calibration figures; 0: none.
        repeated: probes that are executed `repeats` times each, for the figures that are attainable.
        keep: scenes of each kind whose traces are kept. workers, threads: for this machine.
    """

    name: str
    about: str
    task: str = "plug"
    split: str = "unseen"
    scenes: str = "0:30"
    demonstrations: int = 120
    pool: int = 0
    seed: int = 0
    drills: int = 0
    system1_steps: int = 4500
    rounds: int = 0
    corrections: int = 0
    correction_steps: int = 0
    flat_steps: int = 0
    detector_steps: int = 900
    arms: tuple[str, ...] = ("imitate", "success-only", "vine")
    probes: int = 0
    repeated: int = 0
    repeats: int = 8
    keep: int = 3
    workers: int = field(default=2, compare=False)
    threads: int = field(default=2, compare=False)

    @property
    def final(self) -> bool:
        """Whether test scenes are run."""
        return any(scene in TEST for scene in parse_scenes(self.scenes))


Part = Callable[[Experiment, Path, StageLog], None]
"""Some stages of an experiment."""

DRILLS = 50
"""What the drills' seed is away from the experiment's; rounds of correction take the next ones to it."""


REGISTRY: dict[str, Experiment] = {
    e.name: e
    for e in (
        Experiment(
            "plug-quick",
            "a quarter of an hour: 150 demonstrations, 120 corrections, three arms, 30 dev scenes",
            demonstrations=150,
            system1_steps=1000,
            rounds=1,
            corrections=120,
            correction_steps=5000,
            detector_steps=600,
        ),
        Experiment(
            "plug-full",
            "hours: 600 demonstrations, corrections, all arms, 300 test scenes",
            scenes="400:700",
            demonstrations=600,
            pool=1200,
            drills=600,
            system1_steps=10000,
            rounds=1,
            corrections=400,
            correction_steps=10000,
            flat_steps=20000,  # as many as System 1 takes in all its rounds
            detector_steps=3000,
            arms=(
                "flat",
                "imitate",
                "imitate-all",
                "success-only",
                "success-only:slips-removed",
                "success-only:matched-count",
                "vine",
                "oracle-skill",
                "oracle-perception",
                "oracle-value",
            ),
            probes=1000,
            repeated=100,
        ),
    )
}


def find_experiment(name: str) -> Experiment:
    """The experiment called `name`; raises VineError that lists the known ones."""
    if name not in REGISTRY:
        raise VineError(f"unknown experiment {name!r}", mend=f"known: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def run_experiment(experiment: Experiment, root: Path, results: Path, say: Say = print) -> dict[str, Any]:
    """Run what is missing of `experiment`.

    Args:
        root: work folder: staged episodes, datasets, `run/` with the trained parts. Large.
        results: results folder: tables, kept traces, resolved configuration. Small, to be committed.
        say: told what is being done.

    Returns:
        The summary (arms and comparisons), with the calibration figures if there are probes.
    """
    root.mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    scenes = parse_scenes(experiment.scenes)
    check_scenes(scenes, final=experiment.final)
    log = StageLog(root, say)
    write_json(root / "experiment.json", asdict(experiment))
    _demonstrations(experiment, root, log)
    _side_by_side(experiment, root, log, {"system1": _first_training, "system2": _system2})
    for number in range(1, experiment.rounds + 1):
        _corrections(experiment, root, log, number)
        if number < experiment.rounds:
            _round(experiment, root, log, number)
    flat: dict[str, Part] = {"flat": _flat} if {"flat", "flat-all"} & set(experiment.arms) else {}
    _side_by_side(experiment, root, log, {"system1": _last_round} | flat)
    found = _evaluation(experiment, root, results, scenes, log)
    record = {
        "experiment": asdict(experiment),
        "operators_success": _operators_success(root / "demos"),
        "environment": environment(),
        "seconds": log.seconds(),
    }
    write_json(results / "experiment.json", record)
    return found


def _operators_success(demos: Path) -> list[float]:
    """Rate, low and high of the operators' own success: what a `flat` policy is measured against."""
    from vine_vla.demos import open_dataset
    from vine_vla.evaluation.statistics import wilson
    from vine_vla.options import EpisodeOutcome

    outcomes = [d.outcome for d in open_dataset(demos).demonstrations]
    won = sum(outcome is EpisodeOutcome.SUCCESS for outcome in outcomes)
    return list(wilson(won, len(outcomes))[:3])


def _side_by_side(e: Experiment, root: Path, log: StageLog, parts: dict[str, Part]) -> None:
    """Run `parts`, each in a process of its own with its share of the threads.

    The first one's bars are shown, the others' go to `NAME.log`.
    """
    shared = replace(e, threads=max(1, e.threads // len(parts)))
    logs = {name: root / f"{name}.log" for name in list(parts)[1:]}
    for name, file in logs.items():
        log.say(f"{name} goes on beside it: {file}")
    run_beside({name: partial(_run_part, part, shared, root) for name, part in parts.items()}, logs)


def _run_part(part: Part, e: Experiment, root: Path) -> None:
    part(e, root, StageLog(root, partial(print, file=sys.stderr, flush=True)))


def _demonstrations(e: Experiment, root: Path, log: StageLog) -> None:
    """Operators' episodes, and those in which an expert takes over from a novice."""
    from vine_vla.tasks.collect import CollectConfig, collect, missing

    total = max(e.demonstrations, e.pool)
    job = CollectConfig(root / "demos.staging", total, seed=e.seed)
    with log.stage("collect", {"episodes": total, "seed": e.seed}) as needed:
        if needed:
            there = total - len(missing(job))
            entries = ({"number": number} for number in collect(job, e.workers))
            for _ in show_progress(entries, name="collecting", total=total, done=there, show=True):
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
    from vine_vla.demos import assemble
    from vine_vla.tasks.collect import ACTION_NAMES, ROBOT_TYPE, STATE_NAMES

    names = {"state_names": STATE_NAMES, "action_names": ACTION_NAMES}
    assemble(out.with_name("demos.staging"), out, robot_type=ROBOT_TYPE, ids=ids, **names)


def _interventions(e: Experiment, root: Path, number: int) -> CollectConfig:
    """The interventions of round `number`, 0 for the drills: a seed, and so scenes, of their own."""
    from vine_vla.tasks.collect import CollectConfig

    count, seed = (e.corrections, e.seed + number) if number else (e.drills, e.seed + DRILLS)
    return CollectConfig(root / "demos.staging", count, seed=seed)


def _episodes(e: Experiment, root: Path, number: int) -> list[str]:
    """Episodes that System 1 learns from after round `number`."""
    from vine_vla.tasks.collect import CollectConfig

    operators = CollectConfig(root / "demos.staging", e.demonstrations, seed=e.seed)
    found = [operators.episode_id(n) for n in range(e.demonstrations)]
    for earlier in range(0 if e.drills else 1, number + 1):
        job = _interventions(e, root, earlier)
        found += [job.intervention_id(n) for n in range(job.episodes)]
    return found


def _intervene(e: Experiment, root: Path, number: int, worker: Callable[..., Worker], *more: Path) -> None:
    """Record what is missing of round `number`."""
    from vine_vla.demos import staged_ids

    job = _interventions(e, root, number)
    there = staged_ids(job.staging)
    todo = [n for n in range(job.episodes) if job.intervention_id(n) not in there]
    answers = map_jobs(partial(worker, job, *more), todo, e.workers)
    name, done = "corrections" if number else "drills", job.episodes - len(todo)
    for _ in show_progress(answers, name=name, total=job.episodes, done=done, show=True):
        pass


class _Novice:
    """A worker that records an expert's help for a novice."""

    def __init__(self, job: CollectConfig) -> None:
        from vine_vla.tasks import PlugInsertion
        from vine_vla.tasks.interventions import NoviceHands

        self.job, self.task = job, PlugInsertion("demo")
        self.hands: Hands = NoviceHands(self.task)

    def __call__(self, number: int) -> dict[str, Any]:
        from vine_vla.tasks.interventions import record_intervention

        record_intervention(self.task, self.hands, self.job, number)
        return {"number": number}


class _Pupil(_Novice):
    """A worker that records an expert's help for a trained System 1 behind System 2's eyes."""

    def __init__(self, job: CollectConfig, skill: Path, eyes: Path) -> None:
        from vine_vla.system1 import FlowSkill
        from vine_vla.system2.backend import load_system2
        from vine_vla.tasks.interventions import PolicyHands

        super().__init__(job)
        policy = FlowSkill.load(skill, self.task.SCHEMA)
        self.hands = PolicyHands(self.task, policy, load_system2(eyes))


def _export(
    kind: str, source: Path, out: Path, *, earlier: Path | None = None, successful_only: bool = True
) -> None:
    from vine_vla.demos import open_dataset
    from vine_vla.demos.skills import export_flat, export_skills

    dataset = open_dataset(source)
    if kind == "skills":
        export_skills(dataset, out, earlier=earlier)
    else:
        export_flat(dataset, out, earlier=earlier, successful_only=successful_only)


def _train(e: Experiment, data: Path, out: Path, steps: int, **more: Any) -> None:
    from vine_vla.system1 import System1Training, train_system1

    config = System1Training(minutes=0, steps=steps, seed=e.seed, threads=e.threads, **more)
    train_system1(data, out, config)


def _first_training(e: Experiment, root: Path, log: StageLog) -> None:
    """System 1 on demonstrations and drills."""
    source = "drilled" if e.drills else "demos"
    with log.stage("skills", {}, after=["drills" if e.drills else "demos"]) as needed:
        if needed:
            _export("skills", root / source, root / "skills")
    with log.stage("system1", {"steps": e.system1_steps, "seed": e.seed}, after=["skills"]) as needed:
        if needed:
            _train(e, root / "skills", _skill(e, root, 0), e.system1_steps)


def _corrections(e: Experiment, root: Path, log: StageLog, number: int) -> None:
    """A round in which an expert takes over from System 1, behind the eyes that it will act with."""
    before = f"system1 {number - 1}" if number > 1 else "system1"
    with log.stage(f"corrections {number}", {"episodes": e.corrections}, [before, "system2 all"]) as needed:
        if needed:
            _intervene(e, root, number, _Pupil, _skill(e, root, number - 1), root / "run/system2")
            _assemble(root / f"corrected-{number}", _episodes(e, root, number))


def _round(e: Experiment, root: Path, log: StageLog, number: int) -> None:
    """Train System 1 on with the corrections of round `number`."""
    data = root / f"corrected-{number}-skills"
    with log.stage(f"skills {number}", {}, after=[f"corrections {number}"]) as needed:
        if needed:
            earlier = root / (f"corrected-{number - 1}-skills" if number > 1 else "skills")
            _export("skills", root / f"corrected-{number}", data, earlier=earlier)
    settings = {"steps": e.correction_steps, "seed": e.seed}
    with log.stage(f"system1 {number}", settings, after=[f"skills {number}"]) as needed:
        if needed:
            more = {"start": _skill(e, root, number - 1), "learning_rate": 6e-4}
            _train(e, data, _skill(e, root, number), e.correction_steps, **more)


def _last_round(e: Experiment, root: Path, log: StageLog) -> None:
    if e.rounds:
        _round(e, root, log, e.rounds)


def _skill(e: Experiment, root: Path, number: int) -> Path:
    """Where System 1 after round `number` is."""
    return root / "run/system1" if number == e.rounds else root / f"system1-{number}"


def _flat(e: Experiment, root: Path, log: StageLog) -> None:
    """Flat policies: the same episodes as System 1, corrections included, whole."""
    source = before = "demos"
    if e.drills:
        source, before = "drilled", "drills"
    if e.rounds:
        source, before = f"corrected-{e.rounds}", f"corrections {e.rounds}"
    for name, successful_only in (("flat", True), ("flat-all", False)):
        if name not in e.arms:
            continue
        with log.stage(f"{name} data", {}, after=[before]) as needed:
            if needed:
                _export("flat", root / source, root / f"{name}-data", successful_only=successful_only)
        with log.stage(name, {"steps": e.flat_steps, "seed": e.seed}, after=[f"{name} data"]) as needed:
            if needed:
                _train(
                    e,
                    root / f"{name}-data",
                    root / "run" / name,
                    e.flat_steps,
                    imitate_all=not successful_only,
                )


def variants(arms: Sequence[str]) -> list[str]:
    """Folders of System 2's variants that the arms need, in the order of training."""
    wanted = {model for name in arms if (model := find_arm(name).model)}
    return [name for name in VARIANTS if name == "all" or name in wanted]


def _system2(e: Experiment, root: Path, log: StageLog) -> None:
    from vine_vla.demos import open_dataset
    from vine_vla.system2 import Failures, OutcomeConfig, PerceptionConfig, System2Config, train_system2

    for name in variants(e.arms):
        matched = name == Failures.WITHHOLD_MATCHED
        source = "pool" if matched else "demos"
        config = System2Config(
            outcomes=OutcomeConfig(
                failures=Failures(name), seed=e.seed, episodes=e.demonstrations if matched else None
            ),
            perception=PerceptionConfig(steps=e.detector_steps, seed=e.seed),
        )
        with log.stage(f"system2 {name}", {"config": asdict(config)}, after=[source]) as needed:
            if needed:
                with _threads(e.threads), stage_progress() as report:
                    train_system2(open_dataset(root / source), root / "run/system2", config, report)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch's threads while the block runs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _evaluation(
    e: Experiment, root: Path, results: Path, scenes: tuple[int, ...], log: StageLog
) -> dict[str, Any]:
    labels = tuple(find_arm(name).label for name in e.arms)
    builder = RunBuilder(task=e.task, split=e.split, runs=(str(root / "run"),))
    builder.check(labels)
    if e.final and not (results / "run.json").is_file():
        record_final(
            results.parent / "final_runs.csv",
            task=e.task,
            split=e.split,
            scenes=scenes,
            arms=labels,
            out=results,
        )
    log.say("evaluation")
    rows = evaluate(builder, Schedule(scenes=scenes, arms=labels, keep=e.keep), results, workers=e.workers)
    found = write_summary(results, rows, attempted=scenes)
    models = tuple(label for label in labels if (arm := find_arm(label)).model and arm.planner == "tree")
    for count, repeats in ((e.probes, 1), (e.repeated, e.repeats)):
        if count:
            log.say(f"{count} probes" + (f", {repeats} times each" if repeats > 1 else ""))
            each = max(1, -(-count // len(scenes)))
            probing = ProbeConfig(scenes=scenes[: -(-count // each)], each=each, repeats=repeats)
            out = results if repeats == 1 else results / "repeated"
            found[f"calibration_x{repeats}"] = evaluate_probes(
                builder, probing, models, out, workers=e.workers
            )
    return found


def with_changes(experiment: Experiment, **changes: Any) -> Experiment:
    """`experiment` with the given fields replaced, None left out."""
    return replace(experiment, **{name: value for name, value in changes.items() if value is not None})
