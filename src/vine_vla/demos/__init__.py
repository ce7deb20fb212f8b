"""Demonstrations: record, stage, assemble, read, validate, annotate and merge LeRobot datasets."""

from typing import TYPE_CHECKING, Any

from vine_vla.demos.dataset import DemoDataset, open_dataset
from vine_vla.demos.recorder import EpisodeRecorder
from vine_vla.demos.splits import calibration_split
from vine_vla.demos.staging import BoxTable, staged_ids

if TYPE_CHECKING:
    from vine_vla.demos.assembly import assemble

__all__ = [
    "BoxTable",
    "DemoDataset",
    "EpisodeRecorder",
    "assemble",
    "calibration_split",
    "open_dataset",
    "staged_ids",
]


def __getattr__(name: str) -> Any:
    """Import what needs LeRobot (and with it torch) when asked for, so that recording stays light."""
    if name == "assemble":
        from vine_vla.demos.assembly import assemble

        return assemble
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
