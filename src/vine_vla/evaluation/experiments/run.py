"""Named experiments: the whole way from demonstrations to a compared result, in stages that resume.

A stage is done when `stages/` holds its key, a hash of its settings and of the stages it builds on; what is
inside a stage goes on where it stopped as well. Trainings that do not need each other run side by side, one
thread each: two such do more in an hour than one after the other with two threads. The same function runs
all of them: they differ in numbers alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from vine_vla.compute.progress import progress_bars
from vine_vla.compute.stages import Say, StageLog
from vine_vla.compute.workers import run_beside
from vine_vla.core.errors import VineError
from vine_vla.evaluation.arms import find_arm
from vine_vla.evaluation.build import RunBuilder
from vine_vla.evaluation.experiments.recording import record_corrections, record_demonstrations
from vine_vla.evaluation.experiments.registry import Experiment
from vine_vla.evaluation.final import check_scenes, record_final
from vine_vla.evaluation.probes.execution import calibrate_run, calibration_probes
from vine_vla.evaluation.probes.run import ProbeConfig, evaluate_probes
from vine_vla.evaluation.runner import Schedule, evaluate
from vine_vla.evaluation.verdicts import write_summary
from vine_vla.storage.json import write_json
from vine_vla.storage.provenance import environment
from vine_vla.system2 import EXECUTED
from vine_vla.tasks.registry import find_task
from vine_vla.tasks.scenes import parse_scenes

VARIANTS = ("all", "withhold", "withhold-slips", "withhold-matched")
"""Variants of System 2 that are trained nets of their own; `imitate-all` only uses another prior."""


Part = Callable[[Experiment, Path, StageLog], None]
"""Some stages of an experiment."""


def run_experiment(experiment: Experiment, root: Path, results: Path, say: Say = print) -> dict[str, Any]:
    """Run what is missing of `experiment`.

    Args:
        root: work folder: staged episodes, datasets, `run/` with the trained parts. Large.
        results: results folder: tables, kept traces, resolved configuration. Small, to be committed.
        say: told what is being done.

    Returns:
        The summary (arms and comparisons), with the calibration figures if there are probes.
    """
    if executed(experiment.arms) and experiment.calibrating < 1:
        raise VineError("arms with execution calibration need probes", hint="give --calibrating 100 or more")
    root.mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    lists = find_task(experiment.task).lists(experiment.split)
    check_scenes(parse_scenes(experiment.scenes), lists, final=experiment.final)
    log = StageLog(root, say)
    write_json(root / "experiment.json", asdict(experiment))
    record_demonstrations(experiment, root, log)
    _side_by_side(experiment, root, log, {"system1": _first_training, "system2": _system2})
    for number in range(1, experiment.rounds + 1):
        skill = _skill(experiment, root, number - 1)
        record_corrections(experiment, root, log, number, skill, root / "run/system2")
        if number < experiment.rounds:
            _round(experiment, root, log, number)
    if experiment.final and not (results / "run.json").is_file():
        labels = [find_arm(name).label for name in experiment.arms]
        record_final(
            results.parent / "final_runs.csv",
            task=experiment.task,
            split=experiment.split,
            scenes=parse_scenes(experiment.scenes),
            arms=labels,
            out=results,
        )
    flat = [name for name in experiment.arms if find_arm(name).is_flat]
    if flat:
        others = partial(_round_and_others, results=results)
        _side_by_side(experiment, root, log, {"others": others, "flat": _flat})
    else:
        _last_round(experiment, root, log)
        _execution(experiment, root, log)
    found = _evaluation(experiment, root, log, results)
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
    from vine_vla.core.options import EpisodeOutcome
    from vine_vla.data import open_dataset
    from vine_vla.evaluation.statistics import wilson

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


def _export(
    kind: str, source: Path, out: Path, *, earlier: Path | None = None, successful_only: bool = True
) -> None:
    from vine_vla.data import open_dataset
    from vine_vla.data.export.skills import export_flat, export_skills

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
        # They begin with the eyes of the newest System 1 that is there while its last round goes on.
        number = max(0, e.rounds - 1)
        after = [f"{name} data", f"system1 {number}" if number else "system1"]
        with log.stage(name, {"steps": e.flat_steps, "seed": e.seed}, after=after) as needed:
            if needed:
                more = {"imitate_all": not successful_only, "encoders": _skill(e, root, number)}
                _train(e, root / f"{name}-data", root / "run" / name, e.flat_steps, **more)


def variants(arms: Sequence[str]) -> list[str]:
    """Folders of System 2's variants that the arms need, in the order of training."""
    wanted = {model.removesuffix(EXECUTED) for name in arms if (model := find_arm(name).model)}
    return [name for name in VARIANTS if name == "all" or name in wanted]


def executed(arms: Sequence[str]) -> list[str]:
    """The variants that the arms need with execution calibration."""
    models = {find_arm(name).model for name in arms}
    return [name for name in VARIANTS if name + EXECUTED in models]


def _system2(e: Experiment, root: Path, log: StageLog) -> None:
    from vine_vla.data import open_dataset
    from vine_vla.system2 import Failures, find_backend, train_backend

    kind = find_backend("compact")
    for name in variants(e.arms):
        matched, source = name == Failures.WITHHOLD_MATCHED, _source(name)
        config = kind.config(
            failures=Failures(name),
            episodes=e.demonstrations if matched else None,
            seed=e.seed,
            perception_steps=e.detector_steps,  # type: ignore[call-arg]
            frames=e.detector_frames,
        )
        with log.stage(f"system2 {name}", {"config": asdict(config)}, after=[source]) as needed:
            if needed:
                with _threads(e.threads), progress_bars() as report:
                    data = open_dataset(root / source)
                    train_backend(kind, data, root / "run/system2", config, report=report)


def _source(name: str) -> str:
    """The dataset that a variant of System 2 learns from."""
    return "pool" if name == "withhold-matched" else "demos"


def _execution(e: Experiment, root: Path, log: StageLog) -> None:
    """Execution calibration, for the arms that use it; on scenes that look like the demonstrations."""
    from vine_vla.data import open_dataset

    names = executed(e.arms)
    if not names:
        return
    before = [f"system2 {name}" for name in variants(e.arms)]
    before.append(f"system1 {e.rounds}" if e.rounds else "system1")
    settings = {"probes": e.calibrating, "variants": names, "seed": e.seed}
    with log.stage("execution", settings, after=before) as needed:
        if not needed:
            return
        task = find_task(e.task)
        split = task.evaluation_splits[0]
        builder = RunBuilder(task=e.task, split=split, runs=(str(root / "run"),))
        calibration = tuple(task.lists(split).calibration)
        each = max(1, -(-e.calibrating // len(calibration)))
        scenes = calibration[: -(-e.calibrating // each)]
        drawn = ProbeConfig(scenes=scenes, each=each, seed=e.seed)
        probes = calibration_probes(builder, root / "run", drawn, workers=e.workers)
        with _threads(e.threads):
            for name in names:
                calibrate_run(root / "run", [name], probes, open_dataset(root / _source(name)).demonstrations)


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


def _round_and_others(e: Experiment, root: Path, log: StageLog, results: Path) -> None:
    """What goes on while the flat policies learn: System 1's last round, and the arms that need it.

    Probes come after, when both processors are free again.
    """
    _last_round(e, root, log)
    beside = replace(e, workers=max(1, e.workers // 2), probes=0, repeated=0)
    _execution(beside, root, log)
    arms = tuple(name for name in e.arms if not find_arm(name).is_flat)
    _evaluation(replace(beside, arms=arms), root, log, results)


def _evaluation(e: Experiment, root: Path, log: StageLog, results: Path) -> dict[str, Any]:
    scenes = parse_scenes(e.scenes)
    labels = tuple(find_arm(name).label for name in e.arms)
    builder = RunBuilder(task=e.task, split=e.split, runs=(str(root / "run"),))
    builder.check(labels)
    log.say("evaluation")
    slow = tuple(label for label in labels if find_arm(label).planner == "oracle-value")
    quick = tuple(label for label in labels if label not in slow)
    parts = []
    # The slow ones first: what is run last is the schedule that the run is known by.
    for some, arms in ((scenes[: e.slow_scenes or None], slow), (scenes, quick)):
        if arms:
            schedule = Schedule(scenes=some, arms=arms, keep=e.keep)
            parts.append(evaluate(builder, schedule, results, workers=e.workers))
    found = write_summary(results, pd.concat(parts, ignore_index=True), attempted=scenes)
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
