"""See that everything works, in a quarter of an hour: collect, train, compare, report (`plug-quick`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vine_vla.cli.experiment import Config as ExperimentConfig
from vine_vla.cli.experiment import run_named


@dataclass(frozen=True)
class Config:
    """Where to work. Started again after an interruption, the demo goes on where it stopped."""

    work: Path = Path("runs/plug-quick")
    """Work folder for datasets and trained parts."""
    results: Path = Path("runs/plug-quick/results")
    """Results folder; the report is report.html in it."""
    workers: int = 2
    """Processes for simulation, one thread each."""
    threads: int = 2
    """Threads of torch in training."""


def run(config: Config) -> int:
    """Run `plug-quick`; 0 when done."""
    code = run_named(
        ExperimentConfig(
            name="plug-quick",
            work=config.work,
            results=config.results,
            workers=config.workers,
            threads=config.threads,
        )
    )
    print(
        "The demo shows that everything works; what VINE is worth is for `vine experiment plug-full` to say."
    )
    return code
