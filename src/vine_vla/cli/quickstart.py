"""See failures pay, in minutes: collect, train with and without failures, compare, report."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vine_vla.compute.progress import FEW, clock, too_few
from vine_vla.core.errors import VineError


@dataclass(frozen=True)
class Config:
    """Demonstrations of a small task without physics, System 2 trained on them with the failed episodes and
    without, three training seeds each, and both on the same scenes. About a minute on two idle CPU cores."""

    out: Path = Path("runs/quickstart")
    """Folder for episodes, trained parts and results; started again, the quickstart resumes there."""
    scenes: str | None = None
    """Scenes to compare in, e.g. 0:30; default: the experiment's."""
    demonstrations: int | None = None
    """Operators' episodes; default: the experiment's."""
    training_seeds: tuple[int, ...] | None = None
    """Training seeds; a difference is claimed from three on. Default: the experiment's."""


def run(config: Config) -> int:
    """Run, and end with the answer and the path of the report; 0 when done."""
    from vine_vla.evaluation.arms import replaced_parts
    from vine_vla.evaluation.experiments.registry import find_experiment
    from vine_vla.evaluation.experiments.run import run_experiment
    from vine_vla.report.page import write_report
    from vine_vla.tasks.registry import QUICK_TASK, find_task

    started = time.monotonic()
    given = {
        name: value
        for name in ("scenes", "demonstrations", "training_seeds")
        if (value := getattr(config, name)) is not None
    }
    experiment = replace(find_experiment(f"{QUICK_TASK}-quick"), **given)
    if experiment.final:
        raise VineError(f"scenes {experiment.scenes} are test scenes", hint="give dev scenes, e.g. 0:60")
    lines = [
        f"Task {experiment.task}: {find_task(experiment.task).about}.",
        f"{experiment.demonstrations} demonstrations of scripted operators, failures kept; then System 2 "
        f"learns with and without them, training seeds {' '.join(map(str, experiment.training_seeds))}.",
        *replaced_parts(experiment.perception, experiment.skill),
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)
    results = config.out / "results"
    found = run_experiment(experiment, config.out, results)
    page = write_report(results)
    print(f"took {clock(time.monotonic() - started)}", file=sys.stderr, flush=True)
    print("\n".join(answer(found)))
    print(page)
    return 0


def answer(found: dict[str, Any]) -> list[str]:
    """The result of `summary.json` in a few plain lines, as strong as it is and no stronger."""
    from vine_vla.evaluation.verdicts import comparison_line

    rates = {
        arm["arm"]: f"{arm['success']:.0%} of {arm['scenes']} scenes"
        if arm["scenes"] >= FEW
        else too_few(arm["scenes"])
        for arm in found["arms"]
    }
    lines = [f"{name}: {text}" for name, text in rates.items()]
    return lines + [comparison_line(c) for c in found["comparisons"]]
