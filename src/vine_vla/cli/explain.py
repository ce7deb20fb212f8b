"""What feasibility rests on, which decisions the failures change, and what to demonstrate next.

Per verb the attributes and relations that lower feasibility most (permutation importance on cases that
training did not see), the decisions that change when the failures are withheld with the nearest recorded
episodes behind them, and the scenes where the ensemble disagrees most about the best subgoal. Printed as
tables; with --out also `explain.json`, which `vine report` shows as a page of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vine_vla.cli._options import Device
from vine_vla.core.errors import VineError

if TYPE_CHECKING:
    import pandas as pd

    from vine_vla.evaluation.explain import Case


@dataclass(frozen=True)
class Config:
    """Options of `vine explain`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run with a trained System 2, or of that System 2."""
    data: Path | None = None
    """Dataset whose calibration and test episodes are the cases."""
    probes: Path | None = None
    """Executed probes (probes_x1.jsonl.gz of a results directory) as the cases instead."""
    variant: str | None = None
    """Which planning model of the run; default: all, if it was trained."""
    withheld: str = "withhold"
    """The variant that learned without failures; left out if it was not trained."""
    rows: int = 12
    """Rows printed of each table, at least 1."""
    seed: int = 0
    """Of the permutations."""
    out: Path | None = None
    """Results directory: writes explain.json there."""
    device: Device = None
    json: bool = False
    """Print the tables as JSON."""


def run(config: Config) -> int:
    """Explain, print, and write."""
    from vine_vla.evaluation.explain import explain
    from vine_vla.storage.json import write_json
    from vine_vla.system2.load import load_system2

    if config.rows < 1:
        raise VineError(f"rows is {config.rows}", where="--rows", hint="give 1 or more")
    system2 = load_system2(config.run, config.variant, device=config.device)
    cases = read_cases(config, system2.info.budget)
    withheld = system2.variant(config.withheld) if config.withheld in system2.variants() else None
    tables = explain(system2, withheld, cases, seed=config.seed)
    records = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
    record = {"cases": len(cases), "source": str((config.probes or config.data or Path()).name), **records}
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        write_json(config.out / "explain.json", record)
    if config.json:
        print(json.dumps(record))
    else:
        for name, table in tables.items():
            # What a verb's feasibility rests on most comes first, whichever verb it is.
            order = table.sort_values("importance", ascending=False) if "importance" in table else table
            print_table(TITLES[name], order.head(config.rows))
    return 0


TITLES = {
    "importance": "What feasibility rests on (importance: rise of the Brier score; effect: of a value on P)",
    "decisions": "Decisions that change when the failures are withheld",
    "unknown": "Where the ensemble disagrees most about the best subgoal: demonstrate these next",
}


def read_cases(config: Config, budget: int) -> list[Case]:
    """The cases asked for; raises VineError when there are none or both sources are given."""
    from vine_vla.data import open_dataset
    from vine_vla.evaluation.explain import cases_of_episodes, cases_of_probes
    from vine_vla.evaluation.probes.run import read_probes

    if (config.data is None) == (config.probes is None):
        raise VineError("cases come from one source", hint="give either --data DATASET or --probes FILE")
    if config.data is not None:
        found = cases_of_episodes(open_dataset(config.data), budget)
        if not found:
            raise VineError(
                "no held-out segment with a known outcome and a scene graph",
                where=str(config.data),
                hint="annotate outcomes and segments, or give --probes",
            )
        return found
    assert config.probes is not None
    return cases_of_probes(read_probes(config.probes))


def print_table(title: str, table: pd.DataFrame) -> None:
    """One table for people."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", title_style="bold")
    for name in table.columns:
        justify = "left" if table[name].dtype == object else "right"
        shown.add_column(str(name), justify=justify, overflow="fold")
    for row in table.itertuples(index=False):
        shown.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
    Console().print(shown)
