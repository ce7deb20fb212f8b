"""Check that this machine has what VINE needs, or a dataset's sidecars, and say how to mend what is wrong.

Renders a frame, encodes and decodes a video, compares the installed packages with the lock file,
looks at disk, memory, cores and accelerators. Exit code 0 when everything needed works, else 1.
With a dataset it finds sidecars that cannot be read, and with --repair mends what older versions left.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vine_vla.core.errors import VineError

if TYPE_CHECKING:
    from vine_vla.compute.machine import Check


@dataclass(frozen=True)
class Config:
    """Options of `vine doctor`."""

    data: tyro.conf.Positional[Path | None] = None
    """Root folder of a dataset to check instead of the machine."""
    repair: bool = False
    """Write the dataset's repaired sidecars; without it they are only looked at."""
    grasped: str | None = None
    """Class that labelled grasps take hold of, where a repair must know it; default: what the boxes say."""
    json: bool = False
    """Print the checks as JSON instead of a table."""
    disk: Path = field(default_factory=Path.cwd)
    """Folder whose disk is checked for free space."""


def run(config: Config) -> int:
    """Make every check and print the result; 0 when none failed."""
    from vine_vla.compute.machine import check_machine

    if config.data is not None:
        return _check_data(config.data, config)
    if config.repair:
        raise VineError("nothing to repair", hint="name a dataset: `vine doctor DATA --repair`")
    checks = check_machine(config.disk)
    healthy = all(check.status != "failed" for check in checks)
    if config.json:
        print(json.dumps({"ok": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print_table(checks, healthy)
    return 0 if healthy else 1


def _check_data(data: Path, config: Config) -> int:
    """Say what is wrong with the dataset's sidecars, repair it if that is wanted; 0 when all is well then."""
    from vine_vla.data.annotate.repair import examine, repair

    found = (repair if config.repair else examine)(data, config.grasped)
    healthy = config.repair or (found.fault is None and not found.changes)
    if config.json:
        fault = str(found.fault) if found.fault else None
        print(json.dumps({"ok": healthy, "fault": fault, "changes": list(found.changes)}, indent=2))
        return 0 if healthy else 1
    if found.fault is not None:
        print(f"{data}: {found.fault}")
    for line in found.changes:
        print(f"{'repaired' if config.repair else 'to repair'}: {line}")
    if healthy:
        print(f"{data}: sidecars are sound")
    elif found.changes and found.repairable:
        if config.grasped is None and any("_unnamed()" in line for line in found.changes):
            print("the boxes do not say what is grasped: --grasped CLASS does")
        print(f"`vine doctor {data} --repair` does this; no label is lost")
    return 0 if healthy else 1


def _print_table(checks: list[Check], healthy: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    colour = {"ok": "green", "warning": "yellow", "failed": "red"}
    table = Table(box=None, pad_edge=False)
    for title in ("check", "status", "finding"):
        table.add_column(title, overflow="fold")
    for check in checks:
        table.add_row(check.name, f"[{colour[check.status]}]{check.status}[/]", check.detail)
        if check.fix and check.status != "ok":
            table.add_row("", "", f"[bold]hint:[/] {check.fix}")
    console = Console()
    console.print(table)
    console.print("everything needed works" if healthy else "something needed does not work")
