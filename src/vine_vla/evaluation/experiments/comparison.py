"""The comparison of an experiment: its arms in its scenes, and the calibration figures of its models."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vine_vla.compute.stages import Share
from vine_vla.evaluation.arms import find_arm
from vine_vla.evaluation.build import RunBuilder
from vine_vla.evaluation.experiments.registry import Experiment, overrides
from vine_vla.evaluation.final import record_final
from vine_vla.evaluation.probes.run import ProbeConfig, evaluate_probes
from vine_vla.evaluation.runner import Schedule, evaluate
from vine_vla.evaluation.verdicts import write_summary
from vine_vla.tasks.scenes import parse_scenes


def run_builder(e: Experiment, root: Path) -> RunBuilder:
    """Builds arms from the run directories of all training seeds."""
    runs = tuple(str(root / f"run/seed_{seed}") for seed in e.training_seeds)
    return RunBuilder(task=e.task, split=e.split, runs=runs, seeds=e.training_seeds, **overrides(e))


def evaluate_arms(
    e: Experiment, root: Path, results: Path, arms: tuple[str, ...], seeds: tuple[int, ...], share: Share
) -> None:
    """Rows of `arms` for the training seeds `seeds`, and the summary of what is there."""
    scenes = parse_scenes(e.scenes)
    labels = tuple(find_arm(name).label for name in arms)
    if e.final and not (results / "run.json").is_file():
        record_final(
            results.parent / "final_runs.csv",
            task=e.task,
            split=e.split,
            scenes=scenes,
            arms=[find_arm(name).label for name in e.arms],
            out=results,
        )
    slow = tuple(label for label in labels if find_arm(label).planner == "oracle-value")
    quick = tuple(label for label in labels if label not in slow)
    parts = []
    # The slow ones first: what is run last is the schedule that the run is known by.
    for some, own in ((scenes[: e.slow_scenes or None], slow), (scenes, quick)):
        if own:
            schedule = Schedule(scenes=some, arms=own, training_seeds=seeds, keep=e.keep)
            parts.append(evaluate(run_builder(e, root), schedule, results, workers=share.workers))
    write_summary(results, pd.concat(parts, ignore_index=True), attempted=scenes)


def probe_folder(results: Path, repeats: int) -> Path:
    """Where the figures of probes are that were executed `repeats` times."""
    return results if repeats == 1 else results / "repeated"


def probe(e: Experiment, root: Path, results: Path, count: int, repeats: int, share: Share) -> None:
    """Calibration figures of the models of the first training seed."""
    scenes = parse_scenes(e.scenes)
    arms = {find_arm(name).label: find_arm(name) for name in e.arms}
    models = tuple(label for label, arm in arms.items() if arm.model and arm.planner == "tree")
    each = max(1, -(-count // len(scenes)))
    config = ProbeConfig(
        scenes=scenes[: -(-count // each)], each=each, repeats=repeats, training_seed=e.training_seeds[0]
    )
    folder = probe_folder(results, repeats)
    evaluate_probes(run_builder(e, root), config, models, folder, workers=share.workers)
