"""Who solved which scene, how the other episodes ended, and what planning cost."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vine_vla.evaluation.world import DEAD, FINISHED, LIMIT, STOPPED, SUCCESS
from vine_vla.report import charts
from vine_vla.report.headline import Block
from vine_vla.report.markup import Markup, element, join

ENDS = (SUCCESS, DEAD, FINISHED, LIMIT, STOPPED)
"""Outcomes with a fixed place and tone; any other comes after them in the order of its name."""


def paired_grid(block: Block) -> Markup:
    """The scene grid: columns sorted by who solved the scene, so that wins and losses stand together."""
    rates = _rates(block)
    order = _scene_order(rates, block)
    rows = [
        charts.GridRow(name, [_maybe(rates.at[s, name]) for s in order])
        for name in [block.main, *[n for n in block.labels if n != block.main]]
    ]
    keys = [("win", "solved"), ("loss", "failed"), ("none", "not scored")]
    if any(rate not in (None, 0.0, 1.0) for row in rows for rate in row.rates):
        keys.insert(1, ("half", "solved in some seeds"))
    return join([element("div", charts.scene_grid(order, rows), class_="scroll"), charts.legend(keys)])


def two_by_two(block: Block) -> Markup:
    """Counts of scenes for the main arm against each rival: both, only one, neither."""
    rates = _rates(block)
    tables = []
    for comparison in block.comparisons:
        pair = rates[[comparison.a, comparison.b]].dropna()
        a, b = pair[comparison.a] >= 0.5, pair[comparison.b] >= 0.5
        cells = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
        head = element(
            "tr", element("td"), element("th", "solved", scope="col"), element("th", "failed", scope="col")
        )
        body = [
            element(
                "tr",
                element("th", f"{comparison.a} {word}", scope="row"),
                [_count(n, c) for n, c in zip(row, tone)],
            )
            for word, row, tone in zip(("solved", "failed"), cells, (("", "good"), ("poor", "")))
        ]
        caption = element("caption", f"columns: {comparison.b}")
        tables.append(
            element("table", caption, element("thead", head), element("tbody", body), class_="small")
        )
    return element("div", tables, class_="wrap")


def endings(block: Block) -> Markup:
    """How each arm's episodes ended: one bar by outcome, and the reasons counted beside it."""
    kinds = _kinds(block.rows)
    rows = []
    for name in block.labels:
        own = block.rows[block.rows["arm"] == name]
        counts = own["outcome"].replace("", "unknown").value_counts()
        parts = [
            (kind, int(counts[kind]), _tone(kind, place))
            for place, kind in enumerate(kinds)
            if kind in counts
        ]
        spoken = f"{name}: " + ", ".join(f"{kind} {count}" for kind, count, _ in parts)
        failed = own[own["success"] != 1.0]
        reasons = failed["reason"].replace("", "no reason given").value_counts()
        shown = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        rows.append(
            element(
                "tr",
                element("th", name, scope="row"),
                element("td", charts.stacked_bar(parts, spoken), class_="plot"),
                element("td", shown or "–", class_="reasons"),
            )
        )
    head = element(
        "tr", [element("th", n, scope="col") for n in ("arm", "episodes by outcome", "why the others ended")]
    )
    table = element("table", element("thead", head), element("tbody", rows))
    keys = [(_tone(kind, place), kind) for place, kind in enumerate(kinds)]
    return join([element("div", table, class_="scroll"), charts.legend(keys)])


def cost(block: Block) -> Markup:
    """Planning time and model calls, median and 95th percentile per episode, for arms that plan."""
    planned = block.rows[block.rows["plan_seconds"].notna() & (block.rows["plan_seconds"] > 0)]
    if planned.empty:
        return element("p", "No arm planned in this run.", class_="note")
    rows, ranges = [], []
    for name in [n for n in block.labels if n in set(planned["arm"])]:
        own = planned[planned["arm"] == name]
        seconds = np.percentile(own["plan_seconds"], (50, 95)) * 1e3
        calls = np.percentile(own["model_calls"], (50, 95))
        plans = 1 + own["replans"].mean()
        ranges.append((name, float(seconds[0]), float(seconds[1])))
        cells = (
            f"{seconds[0]:.1f}",
            f"{seconds[1]:.1f}",
            f"{calls[0]:.0f}",
            f"{calls[1]:.0f}",
            f"{plans:.2f}",
        )
        rows.append(
            element("tr", element("th", name, scope="row"), [element("td", c, class_="n") for c in cells])
        )
    names = ("arm", "planning ms p50", "p95", "model calls p50", "p95", "plans an episode")
    head = element(
        "tr", [element("th", n, scope="col", class_="n" if i else None) for i, n in enumerate(names)]
    )
    table = element("div", element("table", element("thead", head), element("tbody", rows)), class_="scroll")
    return element("div", table, charts.range_chart(ranges, "ms"), class_="wrap")


def _rates(block: Block) -> pd.DataFrame:
    """Success [scenes, arms], mean over training seeds; NaN where an arm has no scored row."""
    table = block.rows.pivot_table(
        index="scene", columns="arm", values="success", aggfunc="mean", dropna=False
    )
    return table.reindex(columns=list(block.labels))


def _scene_order(rates: pd.DataFrame, block: Block) -> list[int]:
    """Main arm's wins first; within them scenes that the headline's rival fails, then the other arms'."""
    rival = block.rival.b if block.rival else block.main
    others = [n for n in block.labels if n not in (block.main, rival)]
    keys = pd.DataFrame({"main": -rates[block.main].fillna(-1), "rival": rates[rival].fillna(-1)})
    for place, name in enumerate(others):
        keys[f"other{place}"] = -rates[name].fillna(-1)
    return [int(s) for s in keys.sort_values(list(keys.columns), kind="stable").index]


def _kinds(rows: pd.DataFrame) -> list[str]:
    found = set(rows["outcome"].replace("", "unknown"))
    return [*[k for k in ENDS if k in found], *sorted(found - set(ENDS))]


def _tone(kind: str, place: int) -> str:
    known = {SUCCESS: "win", DEAD: "loss", FINISHED: "half", LIMIT: "other0", STOPPED: "stop"}
    return known.get(kind, f"other{place % 3}")


def _maybe(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _count(count: int, tone: str) -> Markup:
    return element("td", str(count), class_=f"n {tone}".strip())
