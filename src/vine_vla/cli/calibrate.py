"""Calibrate System 2 on what System 1 achieves, instead of what demonstrators achieved.

Single subgoals are executed by System 1 on calibration scenes, which serve nothing else (or were executed
elsewhere: --probes), and every variant is written once more as VARIANT-executed, with its scale, pruning
thresholds and feasibilities fitted to them. The arms `vine:execution` and `success-only:execution` use them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from vine_vla.cli._options import Device
from vine_vla.tasks.registry import DEFAULT_TASK


@dataclass(frozen=True)
class Config:
    """Options of `vine calibrate`."""

    run: tyro.conf.Positional[Path]
    """Run directory with `system1` and `system2`."""
    dataset: tyro.conf.Positional[Path]
    """Dataset that the variants were trained on; feasibilities are learned from its scenes again."""
    variants: tuple[str, ...] = ("all",)
    """Variants of System 2 to calibrate: all, withhold, withhold-slips, withhold-matched."""
    probes: Path | None = None
    """Executed probes (JSON lines, .gz or not) instead of executing some in simulation."""
    task: str = DEFAULT_TASK
    """Name of the simulated task."""
    split: str | None = None
    """Appearance of the scenes; default: that of the demonstrations."""
    scenes: str | None = None
    """Scene numbers of the calibration list, end exclusive; default: all of it."""
    each: int = 3
    """Probes a scene, at least 1."""
    workers: int = 2
    """Processes, one thread each; 0: in this one."""
    seed: int = 0
    """Of the draws."""
    device: Device = None


def run(config: Config) -> int:
    """Execute probes if none are given, calibrate, and say how good the probabilities are now."""
    from vine_vla.core.errors import VineError
    from vine_vla.data import open_dataset
    from vine_vla.evaluation.build import RunBuilder
    from vine_vla.evaluation.final import check_scenes
    from vine_vla.evaluation.probes.execution import calibrate_run, calibration_probes
    from vine_vla.evaluation.probes.run import ProbeConfig, read_probes
    from vine_vla.system2.folder import METRICS, read_json
    from vine_vla.tasks.registry import find_task
    from vine_vla.tasks.scenes import parse_scenes

    if config.each < 1:
        raise VineError(f"each is {config.each}", where="--each", hint="give 1 or more")
    demonstrations = open_dataset(config.dataset).demonstrations
    if config.probes is not None:
        probes = read_probes(config.probes)
    else:
        task = find_task(config.task)
        split = config.split or task.evaluation_splits[0]
        lists = task.lists(split)
        scenes = parse_scenes(config.scenes) if config.scenes else tuple(lists.calibration)
        check_scenes(scenes, lists, final=False, calibration=True)
        builder = RunBuilder(task=config.task, split=split, runs=(str(config.run),), device=config.device)
        builder.check(("vine",))
        drawn = ProbeConfig(scenes=scenes, each=config.each, seed=config.seed)
        probes = calibration_probes(builder, config.run, drawn, workers=config.workers)
    folders = calibrate_run(config.run, config.variants, probes, demonstrations, device=config.device)
    for folder in folders:
        scores = read_json(folder / METRICS)["outcomes"]["reach"]
        auroc = "-" if scores["auroc"] is None else f"{scores['auroc']:.3f}"
        print(
            f"{scores['count']} probes, reached {scores['rate']:.2f}, Brier {scores['brier']:.3f}, "
            f"ECE {scores['ece']:.3f}, AUROC {auroc}",
            file=sys.stderr,
        )
        print(folder)
    return 0
