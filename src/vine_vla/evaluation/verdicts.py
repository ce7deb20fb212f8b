"""From rows to what is said about them: the summary table, the primary comparisons, and printing both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vine_vla.compute.progress import FEW, too_few
from vine_vla.evaluation.statistics import Comparison, compare, holm, summarise
from vine_vla.storage.json import write_json

SUBJECT = "vine"


def with_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose `arm` is the label, `success-only (slips-removed)`."""
    variant = rows["variant"].fillna("").astype(str)
    return rows.assign(arm=rows["arm"] + np.where(variant == "", "", " (" + variant + ")"))


def best_of(rows: pd.DataFrame, name: str) -> str | None:
    """The label of the variant of `name` with the highest success rate; ties go to the plain one."""
    labelled = with_labels(rows)
    own = labelled[labelled["arm"].str.split(" (", regex=False).str[0] == name]
    if own.empty:
        return None
    rates = own.groupby("arm")["success"].mean()
    return str(min(rates.index, key=lambda label: (-rates[label], label)))


def primary_comparisons(
    rows: pd.DataFrame, *, attempted: Sequence[int], rivals: Sequence[str] | None = None
) -> list[Comparison]:
    """`vine` against its rivals, the best `success-only` first; p values are not adjusted here.

    Args:
        rivals: labels; default: the best variant of `success-only`, then every other arm.
    """
    labelled = with_labels(rows)
    present = list(dict.fromkeys(labelled["arm"]))
    if SUBJECT not in present:
        return []
    if rivals is None:
        first = best_of(rows, "success-only")
        others = [label for label in present if label not in (SUBJECT, first)]
        rivals = ([first] if first else []) + others
    return [compare(labelled, SUBJECT, rival, attempted=attempted) for rival in rivals]


def summary(rows: pd.DataFrame, *, attempted: Sequence[int]) -> dict[str, Any]:
    """Arms with intervals and comparisons, JSON-ready; Holm's p over the comparisons beside each p."""
    found = primary_comparisons(rows, attempted=attempted)
    adjusted = holm([c.p_value for c in found])
    arms = summarise(with_labels(rows)).astype(object)
    return {
        "arms": arms.where(arms.notna(), None).to_dict("records"),
        "comparisons": [c.to_json() | {"p_holm": p} for c, p in zip(found, adjusted, strict=True)],
    }


def write_summary(out: Path, rows: pd.DataFrame, *, attempted: Sequence[int]) -> dict[str, Any]:
    """`summary.json` beside `episodes.csv`."""
    found = summary(rows, attempted=attempted)
    write_json(out / "summary.json", found)
    return found


def print_summary(found: dict[str, Any], title: str = "") -> None:
    """Both tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in ("arm", "success", "95 %", "n", "dead", "stopped", "replans", "plan ms"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm in found["arms"]:
        n = arm["episodes"]
        if n < FEW:
            table.add_row(str(arm["arm"]), too_few(n))
            continue
        table.add_row(
            str(arm["arm"]),
            f"{arm['success']:.3f}",
            f"{arm['low']:.3f} to {arm['high']:.3f}",
            str(n),
            f"{arm['dead']:.2f}",
            f"{arm['stopped']:.2f}",
            f"{arm['replans']:.2f}",
            "-" if arm["plan_seconds"] is None else f"{1000 * arm['plan_seconds']:.1f}",
        )
    console.print(table)
    for c in found["comparisons"]:
        console.print(comparison_line(c), highlight=False, soft_wrap=True)


def comparison_line(c: dict[str, Any]) -> str:
    """A comparison of `summary.json` in one line."""
    names = f"{c['a']} - {c['b']}"
    if c["scenes"] < FEW:
        return f"{names}: {too_few(c['scenes'])}"
    d, low, high = c["difference"]
    return (
        f"{names}: {d:+.3f} [{low:+.3f}, {high:+.3f}], p {c['p_value']:.4f} (Holm over rivals "
        f"{c['p_holm']:.4f}), {c['wins']} won, {c['losses']} lost, {c['ties']} tied: {c['verdict']}"
    )
