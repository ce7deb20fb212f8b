"""The stages of an experiment: recorded once, trained and evaluated for every training seed.

demos.staging/, demos/, drilled/, skills/   what all training seeds learn from
seed_N/                                     what training seed N records and exports on its own
run/seed_N/                                 its trained parts, a run directory of `vine eval`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from vine_vla.compute.stages import Stage
from vine_vla.evaluation.arms import find_arm
from vine_vla.evaluation.experiments import comparison, recording, training
from vine_vla.evaluation.experiments.registry import Experiment
from vine_vla.system2 import EXECUTED

LEARNS_FROM = {
    "all": "all episodes",
    "withhold": "successful episodes alone",
    "withhold-slips": "successful episodes without slips",
    "withhold-matched": "as many successful episodes as the others have episodes",
}
"""Variants of System 2, for people."""

FLAT = {"flat": True, "flat-all": False}
"""Flat arms, and whether they learn from successful episodes alone."""


def experiment_stages(e: Experiment, root: Path, results: Path) -> list[Stage]:
    """All stages of `e` in the order of preference; see `vine_vla.compute.stages`.

    Args:
        root: work folder. results: absolute path of the results folder.
    """
    stages = recording_stages(e, root)
    for seed in e.training_seeds:
        stages += training_stages(e, root, seed)
    return stages + evaluation_stages(e, root, results)


def recording_stages(e: Experiment, root: Path) -> list[Stage]:
    """What every training seed learns from."""
    total = max(e.demonstrations, e.pool)
    stages = [
        Stage(
            "collect",
            partial(recording.collect_demonstrations, e, root),
            outputs=(recording.STAGING,),
            settings={"task": e.task, "split": e.demonstration_split, "episodes": total, "seed": e.seed},
            grows=True,
            about=f"{total} demonstrations of operators, failures kept",
        )
    ]
    if not e.needs_dataset:
        return stages
    for name, count in (("demos", e.demonstrations), ("pool", e.pool)):
        if count:
            run = partial(recording.assemble_demonstrations, e, root, name, count)
            stages.append(Stage(name, run, (recording.STAGING,), (name,), {"episodes": count}))
    if e.recovery_episodes:
        run = partial(recording.record_recovery, e, root, "drilled")
        stages.append(
            Stage("recovery data", run, ("demos",), ("drilled",), {"episodes": e.recovery_episodes})
        )
    if e.skill == "scripted":
        return stages
    source = base_data(e)
    export = partial(training.export_for_skills, root, source, "skills", None)
    stages.append(Stage("skills", export, (source,), ("skills",)))
    return stages if e.dagger_rounds else stages + flat_data_stages(e, root, source, "")


def base_data(e: Experiment) -> str:
    """The dataset that the first System 1 learns from."""
    return "drilled" if e.recovery_episodes else "demos"


def flat_data_stages(e: Experiment, root: Path, source: str, folder: str) -> list[Stage]:
    """Exports for the flat policies, under `folder` (empty or with a slash at the end)."""
    stages = []
    for name in (name for name in FLAT if name in e.arms):
        out = f"{folder}{name}-data"
        run = partial(training.export_for_flat, root, source, out, FLAT[name])
        stages.append(Stage(out, run, (source,), (out,)))
    return stages


def run_folder(seed: int) -> str:
    """Run directory of a training seed, relative to the work folder."""
    return f"run/seed_{seed}"


def skill_folder(e: Experiment, seed: int, number: int) -> str:
    """Where System 1 after DAgger round `number` is."""
    return f"{run_folder(seed)}/system1" if number == e.dagger_rounds else f"seed_{seed}/system1-{number}"


def training_stages(e: Experiment, root: Path, seed: int) -> list[Stage]:
    """Everything that training seed `seed` trains: System 1 by rounds, System 2, flat policies."""
    own, run = f"seed_{seed}", run_folder(seed)

    def policy(name: str, data: str, out: str, steps: int, after: tuple[str, ...], **more: Any) -> Stage:
        train = partial(training.train_policy, root, data, out, steps, seed, more)
        settings = {"steps": steps, "seed": seed, **more}
        about = f"{name} learns to act, {steps} steps"
        return Stage(f"{own}/{name}", train, (data, *after), (out,), settings, about=about)

    skills, skill, stages = "skills", skill_folder(e, seed, 0), []
    if e.skill == "learned":
        stages.append(policy("system1", skills, skill, e.system1_steps, ()))
    before: tuple[str, ...] = ()
    for name in training.variants(e.arms):
        config, out = training.system2_config(e, seed, name), f"{run}/system2/{name}"
        train = partial(training.train_variant, e, root, run, name, config)
        inputs = (training.source_of(e, name), *before)
        # What the variants share is made by the first of them, in the folder of all.
        made = (out,) if before else (f"{run}/system2", out)
        about = f"System 2 learns from {LEARNS_FROM[name]}"
        stages.append(Stage(f"{own}/system2 {name}", train, inputs, made, asdict(config), about=about))
        before = (out,)
    for number in range(1, e.dagger_rounds + 1):
        data, system2 = f"{own}/corrected-{number}", f"{run}/system2"
        record = partial(recording.record_dagger_round, e, root, seed, number, skill, system2, data)
        inputs, settings = (skill, f"{system2}/all"), {"episodes": e.dagger_episodes}
        stages.append(Stage(f"{own}/DAgger round {number}", record, inputs, (data,), settings))
        earlier, skills = skills, f"{data}-skills"
        export = partial(training.export_for_skills, root, data, skills, earlier)
        stages.append(Stage(f"{own}/skills {number}", export, (data, earlier), (skills,)))
        start, skill = skill, skill_folder(e, seed, number)
        more = {"start": start, "learning_rate": training.DAGGER_RATE}
        stages.append(policy(f"system1 {number}", skills, skill, e.dagger_steps, (start,), **more))
    if e.dagger_rounds:
        stages += flat_data_stages(e, root, f"{own}/corrected-{e.dagger_rounds}", f"{own}/")
    for name in (name for name in FLAT if name in e.arms):
        # They begin with the encoders of the newest System 1 that is there while its last round runs.
        start = skill_folder(e, seed, max(0, e.dagger_rounds - 1))
        more = {"imitate_all": not FLAT[name], "encoders": start}
        data = f"{own}/{name}-data" if e.dagger_rounds else f"{name}-data"
        stages.append(policy(name, data, f"{run}/{name}", e.flat_steps, (start,), **more))
    if names := training.executed(e.arms):
        used = (skill,) if e.skill == "learned" else ()
        stages.append(
            Stage(
                f"{own}/execution calibration",
                partial(training.calibrate_by_execution, e, root, run, names),
                (*used, *(f"{run}/system2/{name}" for name in training.variants(e.arms))),
                tuple(f"{run}/system2/{name}{EXECUTED}" for name in names),
                {"probes": e.execution_probes, "variants": names, "seed": e.seed},
            )
        )
    return stages


def evaluation_stages(e: Experiment, root: Path, results: Path) -> list[Stage]:
    """The comparison: a part for each training seed as soon as its arms are trained, then all, then probes.

    The parts come one after the other, since they fill the same tables; flat policies come last.
    """
    stages: list[Stage] = []
    before: tuple[str, ...] = ()

    def add(name: str, arms: Sequence[str], seeds: tuple[int, ...], *outputs: Path) -> None:
        nonlocal before
        needed = tuple(part for seed in seeds for part in trained_parts(e, arms, seed))
        run = partial(comparison.evaluate_arms, e, root, results, tuple(arms), seeds)
        settings = {"task": e.task, "split": e.split, "scenes": e.scenes, "arms": arms, "seeds": seeds}
        settings |= {"slow_scenes": e.slow_scenes, "keep": e.keep}
        made = tuple(str(path) for path in outputs)
        about = f"{', '.join(arms)} in scenes {e.scenes}"
        stages.append(Stage(name, run, (*needed, *before), made, settings, grows=True, about=about))
        before = (name,)

    planned = [name for name in e.arms if not find_arm(name).is_flat]
    for seed in e.training_seeds:
        if planned and (len(planned) < len(e.arms) or len(e.training_seeds) > 1):
            add(f"seed_{seed}/evaluation", planned, (seed,))
    add("evaluation", e.arms, e.training_seeds, results / "summary.json")
    for name, count, repeats in (("probes", e.probes, 1), ("repeated probes", e.repeated, e.repeats)):
        if count:
            run = partial(comparison.probe, e, root, results, count, repeats)
            out = comparison.probe_folder(results, repeats) / "calibration.json"
            settings = {"probes": count, "repeats": repeats}
            stages.append(Stage(name, run, before, (str(out),), settings, grows=True))
            before = (name,)
    return stages


def trained_parts(e: Experiment, arms: Sequence[str], seed: int) -> list[str]:
    """Outputs of training that the arms read."""
    run = run_folder(seed)
    found = [skill_folder(e, seed, e.dagger_rounds)] if e.skill == "learned" else []
    found += [f"{run}/{name}" for name in FLAT if name in arms]
    found += [f"{run}/system2/{name}" for name in training.variants(arms)]
    return found + [f"{run}/system2/{name}{EXECUTED}" for name in training.executed(arms)]
