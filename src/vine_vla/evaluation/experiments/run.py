"""Named experiments: the whole way from demonstrations to a compared result, in stages that resume.

The same graph of stages serves all of them: they differ in numbers alone.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from vine_vla.compute.stages import Say, Share, run_stages
from vine_vla.core.errors import VineError
from vine_vla.evaluation.experiments.graph import experiment_stages
from vine_vla.evaluation.experiments.recording import open_demonstrations
from vine_vla.evaluation.experiments.registry import Experiment
from vine_vla.evaluation.experiments.training import executed
from vine_vla.evaluation.final import check_scenes
from vine_vla.storage.json import read_json, write_json
from vine_vla.storage.provenance import environment
from vine_vla.tasks.registry import find_task
from vine_vla.tasks.scenes import parse_scenes


def run_experiment(
    experiment: Experiment, root: Path, results: Path, say: Say | None = None, *, parallel: int = 2
) -> dict[str, Any]:
    """Run what is missing of `experiment`.

    Args:
        root: work folder: staged episodes, datasets, `run/seed_N/` with the trained parts. Large.
        results: results folder: tables, kept traces, resolved configuration. Small, to be committed.
        say: told what is being done.
        parallel: stages at a time; two trainings with a thread each do more in an hour than one after the
            other with two. 0: in this process.

    Returns:
        The summary (arms and comparisons).

    Raises:
        VineError: the experiment cannot be run so, or a stage failed.
    """
    if executed(experiment.arms) and experiment.execution_probes < 1:
        raise VineError(
            "arms with execution calibration need probes", hint="give --execution-probes 100 or more"
        )
    lists = find_task(experiment.task).lists(experiment.split)
    check_scenes(parse_scenes(experiment.scenes), lists, final=experiment.final)
    root, results = root.resolve(), results.resolve()
    stages = experiment_stages(experiment, root, results)
    share = Share(experiment.threads, experiment.workers)
    root.mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    write_json(root / "experiment.json", asdict(experiment))
    seconds = run_stages(stages, root, parallel=parallel, share=share, say=say)
    record = {
        "experiment": asdict(experiment),
        "operators_success": _operators_success(experiment, root),
        "environment": environment(),
        "seconds": seconds,
    }
    write_json(results / "experiment.json", record)
    return read_json(results / "summary.json")


def _operators_success(e: Experiment, root: Path) -> list[float]:
    """Rate, low and high of the operators' own success: what a `flat` policy is measured against."""
    from vine_vla.core.options import EpisodeOutcome
    from vine_vla.evaluation.statistics import wilson

    outcomes = [d.outcome for d in open_demonstrations(e, root).demonstrations]
    won = sum(outcome is EpisodeOutcome.SUCCESS for outcome in outcomes)
    return list(wilson(won, len(outcomes))[:3])
