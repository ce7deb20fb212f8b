"""See that everything works, in a quarter of an hour: collect, train, compare, report (`TASK-quick`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vine_vla.cli import experiment
from vine_vla.evaluation.experiments.registry import find_experiment
from vine_vla.tasks.registry import DEFAULT_TASK


@dataclass(frozen=True)
class Config:
    """Where to work. Started again after an interruption, the demo resumes where it stopped."""

    task: str = DEFAULT_TASK
    """Simulated task."""
    work: Path | None = None
    """Work folder for datasets and trained parts; default: runs/TASK-quick."""
    results: Path | None = None
    """Results folder; the report is report.html in it; default: results in the work folder."""
    workers: int = 2
    """Processes for simulation, one thread each."""
    threads: int = 2
    """Threads of torch in training."""


def run(config: Config) -> int:
    """Run the quick experiment of the task; 0 when done."""
    quick = find_experiment(f"{config.task}-quick")
    settings = replace(quick.settings, workers=config.workers, threads=config.threads)
    work = config.work or Path("runs") / quick.name
    code = experiment.run(
        experiment.Config(settings, quick, work=work, results=config.results or work / "results")
    )
    print(
        "The demo shows that everything works; what VINE is worth is for a full experiment to say, "
        f"`vine experiment {config.task}-full`."
    )
    return code
