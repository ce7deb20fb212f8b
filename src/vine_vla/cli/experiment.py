"""Run a named experiment from demonstrations to a compared, reported result; resumes where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vine_vla.core.errors import VineError
from vine_vla.evaluation.experiments.registry import (
    Experiment,
    ExperimentSettings,
    experiments,
    find_experiment,
)


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the experiment's own."""

    settings: Annotated[ExperimentSettings, tyro.conf.OmitArgPrefixes]
    experiment: tyro.conf.Suppress[Experiment]
    """The experiment that was named."""
    work: Path | None = None
    """Work folder for datasets and trained parts; default: runs/NAME."""
    results: Path | None = None
    """Results folder; default: results/NAME."""
    parallel: int = 2
    """Stages that run beside each other and share workers and threads; 0: one after the other, in this
    process."""
    final: bool = False
    """Needed by an experiment on test scenes; the run is then put on record in final_runs.csv."""


def config_type(arguments: Sequence[str]) -> Any:
    """A sub-command for every experiment, with its numbers as defaults."""
    known = experiments()
    if arguments and not arguments[0].startswith("-"):
        find_experiment(arguments[0])  # one line for an unknown name
    return tyro.extras.subcommand_type_from_defaults(
        {name: Config(e.settings, e) for name, e in known.items()},
        {name: f"{e.about[:1].upper()}{e.about[1:]}." for name, e in known.items()},
        prefix_names=False,
    )


def run(config: Config) -> int:
    """Run and report; 0 when done."""
    experiment = config.experiment.with_settings(config.settings)
    if experiment.final and not config.final:
        raise VineError(f"{experiment.name} runs test scenes", hint="add --final, or --scenes 0:60 for dev")
    from vine_vla.evaluation.experiments.run import run_experiment
    from vine_vla.evaluation.verdicts import print_summary
    from vine_vla.report.page import write_report

    work = config.work or Path("runs") / experiment.name
    results = config.results or Path("results") / experiment.name
    found = run_experiment(experiment, work, results, parallel=config.parallel)
    page = write_report(results)
    print_summary(found, title=f"{experiment.name}: {experiment.split}, scenes {experiment.scenes}")
    print(page)
    return 0
