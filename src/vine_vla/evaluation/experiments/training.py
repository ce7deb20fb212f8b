"""Training for an experiment: exports, System 1, flat policies, System 2 and its execution calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vine_vla.compute.progress import progress_bars
from vine_vla.compute.stages import Share
from vine_vla.evaluation.arms import find_arm
from vine_vla.evaluation.build import RunBuilder
from vine_vla.evaluation.experiments.recording import STAGING, open_demonstrations
from vine_vla.evaluation.experiments.registry import Experiment, overrides
from vine_vla.evaluation.probes.execution import calibrate_run, calibration_probes
from vine_vla.evaluation.probes.run import ProbeConfig
from vine_vla.system2 import EXECUTED
from vine_vla.tasks.registry import find_task

if TYPE_CHECKING:
    from vine_vla.system2.backend import TrainingConfig

VARIANTS = ("all", "withhold", "withhold-slips", "withhold-matched")
"""Variants of System 2 that are trained nets of their own; `imitate-all` only uses another prior."""
BACKEND = "compact"
"""Kind of System 2."""
DAGGER_RATE = 6e-4
"""Peak learning rate when System 1 is trained on with the episodes of a DAgger round."""


def variants(arms: Sequence[str]) -> list[str]:
    """Folders of System 2's variants that the arms need, in the order of training."""
    wanted = {model.removesuffix(EXECUTED) for name in arms if (model := find_arm(name).model)}
    return [name for name in VARIANTS if name == "all" or name in wanted]


def executed(arms: Sequence[str]) -> list[str]:
    """The variants that the arms need with execution calibration."""
    models = {find_arm(name).model for name in arms}
    return [name for name in VARIANTS if name + EXECUTED in models]


def export_for_skills(root: Path, source: str, out: str, earlier: str | None, share: Share) -> None:
    """The dataset that System 1 learns from; clips of the export `earlier` are taken over."""
    from vine_vla.data import open_dataset
    from vine_vla.data.export.skills import export_skills

    export_skills(open_dataset(root / source), root / out, earlier=root / earlier if earlier else None)


def export_for_flat(root: Path, source: str, out: str, successful_only: bool, share: Share) -> None:
    """The dataset that a flat policy learns from."""
    from vine_vla.data import open_dataset
    from vine_vla.data.export.skills import export_flat

    export_flat(open_dataset(root / source), root / out, successful_only=successful_only)


def train_policy(
    root: Path, data: str, out: str, steps: int, seed: int, more: dict[str, Any], share: Share
) -> None:
    """System 1 or a flat policy.

    Args:
        more: fields of `System1Training`; paths in it are relative to `root`.
    """
    import torch

    from vine_vla.system1 import System1Training, train_system1

    paths = {name: root / more[name] for name in ("start", "encoders") if name in more}
    config = System1Training(steps=steps, seed=seed, **(more | paths))
    torch.set_num_threads(share.threads)
    with progress_bars() as report:
        train_system1(root / data, root / out, config, report=report)


def system2_config(e: Experiment, seed: int, name: str) -> TrainingConfig:
    """How the variant `name` is trained."""
    from vine_vla.system2 import Failures, find_backend

    return find_backend(BACKEND).config(
        failures=Failures(name),
        episodes=e.demonstrations if name == Failures.WITHHOLD_MATCHED else None,
        seed=seed,
        graphs_only=e.perception == "true",  # type: ignore[call-arg]
        perception_steps=e.perception_steps,
        frames=e.perception_frames,
        members=e.members,
        effort=e.effort,
    )


def source_of(e: Experiment, name: str) -> str:
    """What a variant of System 2 learns from: a dataset, or the staged episodes."""
    if not e.needs_dataset:
        return STAGING
    return "pool" if name == "withhold-matched" else "demos"


def train_variant(
    e: Experiment, root: Path, run: str, name: str, config: TrainingConfig, share: Share
) -> None:
    """A variant of System 2; the first one of a run trains what all share."""
    import torch

    from vine_vla.system2 import find_backend, train_backend

    data = open_demonstrations(e, root, pool=name == "withhold-matched")
    torch.set_num_threads(share.threads)
    with progress_bars() as report:
        train_backend(find_backend(BACKEND), data, root / run / "system2", config, report=report)


def calibrate_by_execution(e: Experiment, root: Path, run: str, names: Sequence[str], share: Share) -> None:
    """Execution calibration of the variants `names`, on scenes that look like the demonstrations."""
    task, folder = find_task(e.task), root / run
    split = task.evaluation_splits[0]
    builder = RunBuilder(task=e.task, split=split, runs=(str(folder),), **overrides(e))
    calibration = tuple(task.lists(split).calibration)
    each = max(1, -(-e.execution_probes // len(calibration)))
    drawn = ProbeConfig(scenes=calibration[: -(-e.execution_probes // each)], each=each, seed=e.seed)
    probes = calibration_probes(builder, folder, drawn, workers=share.workers)
    for name in names:
        data = open_demonstrations(e, root, pool=name == "withhold-matched")
        calibrate_run(folder, [name], probes, data.demonstrations)
