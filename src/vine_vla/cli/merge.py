"""Merge LeRobot datasets with their sidecars into one.

Episodes keep their ids and are numbered anew; frames and videos are copied.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Config:
    """Options of `vine merge`."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Root folders of the datasets, in order."""
    out: Path
    """Folder of the merged dataset; must not exist."""


def run(config: Config) -> int:
    """Merge and say what came of it."""
    from vine_vla.data.record.merging import merge

    dataset = merge(config.paths, config.out)
    frames = sum(d.length for d in dataset.demonstrations)
    print(f"{config.out}: {len(dataset.demonstrations)} episodes, {frames} frames")
    return 0
