"""Who solved which scene, how the other episodes ended, and what planning cost."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vine_vla.evaluation.world import DEAD, FINISHED, LIMIT, STOPPED, SUCCESS
from vine_vla.report import charts
from vine_vla.report.headline import Block
from vine_vla.report.markup import Markup, element, join
from vine_vla.report.parts import cell, note, row_head, table

ENDS = {SUCCESS: "win", DEAD: "loss", FINISHED: "half", LIMIT: "other0", STOPPED: "stop"}
"""Outcomes in their order, with their colour; any other comes after them by name."""


def paired_grid(block: Block) -> Markup:
    """The scene grid: columns sorted by who solved the scene, so that wins and losses stand together."""
    rates = _rates(block)
    order = _scene_order(rates, block)
    rows = [
        charts.GridRow(name, [_maybe(rates.at[s, name]) for s in order])
        for name in [block.main, *[n for n in _by_interest(block) if n != block.main]]
    ]
    seen = {rate for row in rows for rate in row.rates}
    keys = [("win", "solved"), ("loss", "failed")]
    if seen - {None, 0.0, 1.0}:
        keys.insert(1, ("half", "solved in some runs"))
    if None in seen:
        keys.append(("none", "not scored"))
    return join([element("div", charts.scene_grid(order, rows), class_="scroll"), charts.legend(keys)])


def two_by_two(block: Block) -> Markup:
    """Counts of scenes for the main arm against each rival: both, only one, neither."""
    rates = _rates(block)
    rows = []
    for c in block.comparisons:
        pair = rates[[c.a, c.b]].dropna()
        a, b = pair[c.a] >= 0.5, pair[c.b] >= 0.5
        won, lost = int((a & ~b).sum()), int((~a & b).sum())
        rows.append(
            (
                row_head(c.b),
                str(int((a & b).sum())),
                cell(str(won), class_="n good"),
                cell(str(lost), class_="n poor"),
                str(int((~a & ~b).sum())),
                str(len(pair)),
            )
        )
    names = (f"{block.main} and …", "both solve", f"only {block.main}", "only the other", "neither", "scenes")
    return element("div", table(names, rows, "Pairs of scenes"), class_="half-width")


def endings(block: Block) -> Markup:
    """How each arm's episodes ended: one bar by outcome, and the agent's own reasons beside it."""
    kinds = _kinds(block.rows)
    rows = []
    for name in block.labels:
        own = block.rows[block.rows["arm"] == name]
        counts = own["outcome"].replace("", "unknown").value_counts()
        parts = [(kind, int(counts[kind]), tone) for kind, tone in kinds.items() if kind in counts]
        spoken = f"{name}: " + ", ".join(f"{kind} {count}" for kind, count, _ in parts)
        failed = own[own["success"] != 1.0]
        reasons = failed["reason"].replace("", "no reason given").value_counts()
        shown = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        bar = charts.stacked_bar(parts, spoken)
        means = (
            f"{own['subgoals'].mean():.1f}",
            f"{own['replans'].mean():.2f}",
            f"{own['steps'].median():.0f}",
        )
        rows.append((row_head(name), cell(bar, class_="plot"), cell(shown or "–", class_="reasons"), *means))
    names = (
        "arm",
        "episodes by outcome",
        "reasons of those not solved",
        "subgoals",
        "replans",
        "steps, median",
    )
    keys = [(tone, kind) for kind, tone in kinds.items()]
    return join([table(names, rows, "How episodes ended", shown=False, text_from=3), charts.legend(keys)])


def cost(block: Block) -> Markup:
    """Planning time and model calls, median and 95th percentile over episodes, for arms that plan."""
    planned = block.rows[block.rows["plan_seconds"].notna() & (block.rows["plan_seconds"] > 0)]
    if planned.empty:
        return note("No arm planned in this run.")
    spans = {
        name: np.percentile(planned[planned["arm"] == name]["plan_seconds"] * 1e3, (50, 95))
        for name in block.labels
        if name in set(planned["arm"])
    }
    scale = charts.log_scale([float(v) for span in spans.values() for v in span])
    rows = []
    for name, (p50, p95) in spans.items():
        own = planned[planned["arm"] == name]
        calls = np.percentile(own["model_calls"], (50, 95))
        mark = charts.range_mark(p50, p95, scale, f"{name}: {p50:.1f} to {p95:.1f} ms")
        times = f"{p50:.1f}", f"{p95:.1f}", cell(mark, class_="plot"), f"{calls[0]:.0f}", f"{calls[1]:.0f}"
        rows.append((row_head(name), *times))
    names = ("arm", "ms a plan, p50", "p95", charts.range_axis(scale, "ms"), "model calls, p50", "p95")
    return table(names, rows, "What planning cost", shown=False)


def _rates(block: Block) -> pd.DataFrame:
    """Success [scenes, arms], mean over seeds; NaN where an arm has no scored row."""
    wide = block.rows.pivot_table(
        index="scene", columns="arm", values="success", aggfunc="mean", dropna=False
    )
    return wide.reindex(columns=list(block.labels))


def _by_interest(block: Block) -> list[str]:
    """The headline's rival first, then the others in table order."""
    first = [block.rival.b] if block.rival else []
    return [*first, *[name for name in block.labels if name not in first]]


def _scene_order(rates: pd.DataFrame, block: Block) -> list[int]:
    """Main arm's solved scenes first; within them those that the rival solves too, then its own wins; of the
    main arm's failures first those that the rival solves. The others decide ties."""
    rival = block.rival.b if block.rival else block.main
    keys = pd.DataFrame({"main": -rates[block.main].fillna(-1), "rival": -rates[rival].fillna(-1)})
    for place, name in enumerate(n for n in block.labels if n not in (block.main, rival)):
        keys[f"other{place}"] = -rates[name].fillna(-1)
    return [int(s) for s in keys.sort_values(list(keys.columns), kind="stable").index]


def _kinds(rows: pd.DataFrame) -> dict[str, str]:
    """Outcomes that occur, in order, with their colours."""
    found = set(rows["outcome"].replace("", "unknown"))
    other = {kind: f"other{1 + place % 2}" for place, kind in enumerate(sorted(found - set(ENDS)))}
    return {kind: tone for kind, tone in ENDS.items() if kind in found} | other


def _maybe(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
