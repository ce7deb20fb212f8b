"""Show what a dataset holds and what is wrong with it.

Works on any LeRobot v3 dataset, with VINE's sidecars or without, and explains older formats. Exit code 0 when
VINE can use the dataset (warnings say what it then cannot learn), 2 when it cannot.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from vine_vla.data.inspection import Inspection


@dataclass(frozen=True)
class Config:
    """Options of `vine inspect`."""

    path: tyro.conf.Positional[Path]
    """Root folder of the dataset (the one with meta/info.json)."""
    json: bool = False
    """Print everything as one JSON object."""
    decode: bool = False
    """Also decode the frames of every segment; takes about 5 ms a frame."""


def run(config: Config) -> int:
    """Print the report; errors also go to stderr, one line each."""
    from vine_vla.data.inspection import inspect_dataset

    report = inspect_dataset(config.path, decode=config.decode)
    if config.json:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        _print(report)
    for problem in report.errors:
        print(f"vine: error: {problem}", file=sys.stderr)
    return 2 if report.errors else 0


def _print(report: "Inspection") -> None:
    from rich.console import Console
    from rich.table import Table

    def counts(values: dict[str, int]) -> str:
        return ", ".join(f"{n} {name}" for name, n in values.items() if n) or "none"

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("dataset", f"{report.path} ({report.format}, robot {report.robot_type or 'unknown'})")
    seconds = report.frames / report.fps
    table.add_row(
        "episodes", f"{report.episodes}, {report.frames} frames, {report.fps:g} fps, {seconds:.0f} s"
    )
    for role, camera in report.cameras.items():
        size = f"{camera['width']} x {camera['height']}"
        table.add_row(f"camera {role}", f"{camera['key']}, {size}, {camera['codec'] or 'codec unknown'}")
    table.add_row("tasks", "; ".join(report.tasks[:3]) + (" ..." if len(report.tasks) > 3 else ""))
    table.add_row("outcomes", counts(report.outcomes))
    if report.sidecars:
        table.add_row("splits", counts(report.splits))
        table.add_row("graphs", f"{report.graphs}, {report.boxes} boxes")
    for verb, outcomes in sorted(report.segments.items()):
        table.add_row(f"segments {verb}", f"{sum(outcomes.values())}: {counts(outcomes)}")
    if report.missing_labels:
        first = ", ".join(report.missing_labels[:5]) + (" ..." if len(report.missing_labels) > 5 else "")
        table.add_row("no outcome", f"{len(report.missing_labels)}: {first}")
    if not report.problems:
        table.add_row("problems", "none")
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    for problem in report.problems:
        if problem.level == "warning":
            console.print(f"warning: {problem}", style="yellow", markup=False)
    if report.errors:
        count = len(report.errors)
        noun = "1 error keeps" if count == 1 else f"{count} errors keep"
        console.print(f"{noun} VINE from using this dataset", style="red")
