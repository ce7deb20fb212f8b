"""The compact backend: perception, proposals, outcomes, next graphs and values as small nets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lazy_loader

from vine_vla.core.options import Demonstration
from vine_vla.system2.backend import Backend, BackendKind, Report, TrainingData
from vine_vla.system2.compact.options import CompactConfig
from vine_vla.system2.segments import SegmentTable

# Imported when asked for, so that commands start fast.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["OutcomeConfig"],
        "learn": ["train_outcomes"],
        "model": ["GraphModel"],
        "perception_training": ["PerceptionConfig"],
        "system2": ["System2"],
        "training": ["System2Config", "train_system2"],
    },
)
__all__ += ["BACKEND", "CompactConfig"]


def _train(
    dataset: TrainingData, out: Path, config: CompactConfig, *, device: str | None, report: Report
) -> Path:
    from vine_vla.system2.compact.training import train_system2

    return train_system2(dataset, out, config.plain(), report, device=device)


def _load(folder: Path, variant: str, *, device: str | None) -> Backend:
    from vine_vla.system2.compact.system2 import load

    return load(folder, variant, device=device)


def _calibrate(
    folder: Path,
    name: str,
    probes: SegmentTable,
    demonstrations: Sequence[Demonstration],
    *,
    device: str | None,
) -> Path:
    from vine_vla.system2.compact.execution import calibrate_variant

    return calibrate_variant(folder, name, probes, demonstrations, device=device)


BACKEND = BackendKind(
    name="compact",
    about="small nets over the objects of a scene graph; milliseconds on a CPU",
    config=CompactConfig,
    train=_train,
    load=_load,
    calibrate=_calibrate,
)
