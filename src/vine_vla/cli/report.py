"""Write one self-contained HTML report of a results directory.

Shows success with intervals, paired wins and losses, reliability of the predicted probabilities,
filmstrips of episodes that VINE saved and lost, and the search tree behind a decision. The page needs
no network.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Config:
    """Options of `vine report`."""

    path: tyro.conf.Positional[Path]
    """Results directory: holds episodes.csv, and feasibility.csv, run.json and traces if there are any."""
    out: Path | None = None
    """The page; default: report.html in the results directory."""
    camera: str = "front"
    """Camera role shown in filmstrips."""
    per_kind: int = 3
    """Scenes shown of each kind: saved, lost, both failed."""
    trees: int = 6
    """Decisions whose search tree can be opened."""


def run(config: Config) -> int:
    from vine_vla.report.page import ReportConfig, write_report

    options = ReportConfig(camera=config.camera, per_kind=config.per_kind, trees=config.trees)
    print(write_report(config.path, config.out, options))
    return 0
