"""Write one self-contained HTML report of a results directory.

Shows success with intervals, paired wins and losses, reliability of the predicted probabilities,
filmstrips of episodes that VINE saved and lost, and the search tree behind a decision. The page needs
no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vine_vla.report.config import ReportConfig


@dataclass(frozen=True)
class Config:
    """Options of `vine report`."""

    path: tyro.conf.Positional[Path]
    """Results directory: holds episodes.csv, and feasibility.csv, run.json and traces if there are any.
    Or a search tree that `vine plan` wrote (.json): then the page shows this one decision."""
    shown: Annotated[ReportConfig, tyro.conf.OmitArgPrefixes] = ReportConfig()
    out: Path | None = None
    """The page; default: report.html in the results directory, or the tree's name with .html."""
    figures: Path | None = None
    """Folder for PNG pictures of success, reliability and one decision; default: none are drawn."""
    image: Path | None = None
    """Image of the camera that the tree was planned from; only with a search tree."""


def run(config: Config) -> int:
    """Write the page, and the pictures if they are asked for."""
    if config.path.suffix == ".json":
        print(_write_tree(config))
        return 0
    from vine_vla.report import load_results, load_trace, trace_files, write_report

    print(write_report(config.path, config.out, config.shown))
    if config.figures is not None:
        from vine_vla.report.figures import write_figures

        traces = [load_trace(file, config.path) for file in trace_files(config.path)]
        for file in write_figures(load_results(config.path), traces, config.figures):
            print(file)
    return 0


def _write_tree(config: Config) -> Path:
    """The page of one search tree, over its scene if the image is given."""
    from vine_vla.report import Decided, Frame, write_decision
    from vine_vla.search.trace import load_trace

    tree, camera = load_trace(config.path), config.shown.camera
    frame = None
    if config.image is not None and tree["nodes"]:
        frame = Frame(0, {camera: str(config.image)}, tree["nodes"][0]["graph"])
    decision = Decided(tree["instruction"] or config.path.stem, tree, str(config.path), frame, camera)
    return write_decision(decision, config.out or config.path.with_suffix(".html"))
