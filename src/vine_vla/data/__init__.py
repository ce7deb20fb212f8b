"""Demonstrations: record, stage, assemble, read, validate, annotate and merge LeRobot datasets."""

from typing import TYPE_CHECKING, Any

from vine_vla.data.lerobot.dataset import DemoDataset, open_dataset
from vine_vla.data.record.recorder import EpisodeRecorder
from vine_vla.data.record.staging import staged_ids
from vine_vla.data.sidecars.boxes import BoxTable
from vine_vla.data.sidecars.splits import calibration_split

if TYPE_CHECKING:
    from vine_vla.data.record.assembly import assemble

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
        from vine_vla.data.record.assembly import assemble

        return assemble
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
