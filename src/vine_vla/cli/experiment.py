"""Run a named experiment from demonstrations to a compared, reported result; resumes where it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Config:
    """What to run. Numbers that are not given are the experiment's own."""

    name: tyro.conf.Positional[str]
    """Name of the experiment, TASK-quick (a quarter of an hour at most) or TASK-full (hours)."""
    work: Path | None = None
    """Work folder for datasets and trained parts; default: runs/NAME."""
    results: Path | None = None
    """Results folder; default: results/NAME."""
    scenes: str | None = None
    """Scenes instead of the experiment's, e.g. 0:60."""
    demonstrations: int | None = None
    """Operators' episodes."""
    seed: int | None = None
    """Of demonstrations."""
    seeds: tuple[int, ...] | None = None
    """Training seeds: everything is trained and evaluated once for each; the experiment's own: 0."""
    system1_steps: int | None = None
    """Gradient steps of System 1's first training."""
    drills: int | None = None
    """Episodes in which an expert takes over from a novice; 0: none."""
    rounds: int | None = None
    """Rounds in which an expert takes over from System 1, which is then trained on; 0: none."""
    corrections: int | None = None
    """Episodes of such a round."""
    correction_steps: int | None = None
    """Gradient steps of System 1's training after each round of correction."""
    flat_steps: int | None = None
    """Gradient steps of the flat policies."""
    detector_steps: int | None = None
    """Gradient steps of perception's training."""
    calibrating: int | None = None
    """Single subgoals executed on calibration scenes for the arms with execution calibration."""
    arms: tuple[str, ...] | None = None
    """Arms to compare."""
    workers: int = 2
    """Processes for simulation, one thread each."""
    threads: int = 2
    """Threads of torch in training."""
    parallel: int = 2
    """Stages that run beside each other and share workers and threads; 0: one after the other, in this
    process."""
    final: bool = False
    """Needed by an experiment on test scenes; the run is then put on record in final_runs.csv."""


def run(config: Config) -> int:
    """Run and report; 0 when done."""
    return run_named(config)


def run_named(config: Config) -> int:
    """`vine experiment`, and `vine demo`, which is a task's quick one."""
    from vine_vla.core.errors import VineError
    from vine_vla.evaluation.experiments.registry import find_experiment, with_changes
    from vine_vla.evaluation.experiments.run import run_experiment
    from vine_vla.evaluation.verdicts import print_summary
    from vine_vla.report.page import write_report

    experiment = with_changes(
        find_experiment(config.name),
        scenes=config.scenes,
        demonstrations=config.demonstrations,
        seed=config.seed,
        training_seeds=config.seeds,
        system1_steps=config.system1_steps,
        drills=config.drills,
        rounds=config.rounds,
        corrections=config.corrections,
        correction_steps=config.correction_steps,
        flat_steps=config.flat_steps,
        detector_steps=config.detector_steps,
        calibrating=config.calibrating,
        arms=config.arms,
        workers=config.workers,
        threads=config.threads,
    )
    if experiment.final and not config.final:
        raise VineError(f"{experiment.name} runs test scenes", hint="add --final, or --scenes 0:60 for dev")
    work = config.work or Path("runs") / experiment.name
    results = config.results or Path("results") / experiment.name
    found = run_experiment(experiment, work, results, parallel=config.parallel)
    page = write_report(results)
    print_summary(found, title=f"{experiment.name}: {experiment.split}, scenes {experiment.scenes}")
    print(page)
    return 0
