"""Who solved which scene, how the other episodes ended, and what planning cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd

from vine_vla.evaluation.world import DEAD, FINISHED, LIMIT, STOPPED, SUCCESS
from vine_vla.report.charts import Scale, decades
from vine_vla.report.headline import Block

ENDS = {SUCCESS: "win", DEAD: "loss", FINISHED: "half", LIMIT: "other0", STOPPED: "stop"}
"""Outcomes in their order, with their colour; any other comes after them by name."""

MERGED_FROM = 150
"""With this many scenes, equal neighbours of a grid's row are one rectangle: fewer elements, no seams."""

STATES = {"win": "solved", "half": "solved in some runs", "loss": "failed", "none": "not scored"}
"""What the colours of the scene grid mean."""


class Run(NamedTuple):
    """Neighbouring scenes of one colour in a grid's row."""

    start: int
    count: int
    tone: str
    state: str
    where: str


class GridRow(NamedTuple):
    label: str
    runs: list[Run]


class Grid(NamedTuple):
    """The scene grid; `longest` is the length of the longest label."""

    scenes: int
    longest: int
    rows: list[GridRow]
    legend: list[tuple[str, str]]


class Part(NamedTuple):
    """A share of an arm's episodes that ended alike; `start` and `share` are in [0, 1]."""

    name: str
    tone: str
    count: int
    total: int
    start: float
    share: float


class Endings(NamedTuple):
    """How one arm's episodes ended, and why those ended that did not solve the task."""

    name: str
    parts: list[Part]
    reasons: str
    subgoals: float
    replans: float
    steps: float

    @property
    def summary(self) -> str:
        return f"{self.name}: " + ", ".join(f"{part.name} {part.count}" for part in self.parts)


def scene_grid(block: Block) -> Grid:
    """Columns are sorted by who solved the scene, so that wins and losses stand together."""
    rates = _rates(block)
    order = _scene_order(rates, block)
    others = [block.rival.b] if block.rival else []
    names = dict.fromkeys([block.main, *others, *block.labels])
    rows = [GridRow(name, grid_runs(order, [float(rates.at[s, name]) for s in order])) for name in names]
    found = {run.tone for row in rows for run in row.runs} | {"win", "loss"}
    legend = [(tone, state) for tone, state in STATES.items() if tone in found]
    return Grid(len(order), max(map(len, names)), rows, legend)


def grid_runs(scenes: Sequence[int], rates: Sequence[float]) -> list[Run]:
    """One row of the grid: success of each scene in [0, 1], NaN where it was not scored."""
    merged = len(scenes) >= MERGED_FROM
    keys = [("none" if np.isnan(rate) else rate, 0 if merged else place) for place, rate in enumerate(rates)]
    runs, start = [], 0
    for (rate, _), group in groupby(keys):
        count = len(list(group))
        tone = "none" if rate == "none" else "win" if rate == 1 else "loss" if rate == 0 else "half"
        state = f"{rate:.0%}" if tone == "half" else STATES[tone]
        where = f"scene {scenes[start]}" if count == 1 else f"{count} scenes"
        runs.append(Run(start, count, tone, state, where))
        start += count
    return runs


def two_by_two(block: Block) -> pd.DataFrame:
    """Counts of scenes for the main arm against each rival: `both`, `won`, `lost`, `neither`; by rival."""
    rates, rows = _rates(block), {}
    for c in block.comparisons:
        pair = rates[[c.a, c.b]].dropna() >= 0.5
        a, b = pair[c.a], pair[c.b]
        rows[c.b] = [int(cell.sum()) for cell in (a & b, a & ~b, ~a & b, ~a & ~b)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["both", "won", "lost", "neither"])


def outcome_tones(rows: pd.DataFrame) -> dict[str, str]:
    """Outcomes that occur, in order, with their colours."""
    found = set(rows["outcome"].replace("", "unknown"))
    other = {kind: f"other{1 + place % 2}" for place, kind in enumerate(sorted(found - set(ENDS)))}
    return {kind: tone for kind, tone in ENDS.items() if kind in found} | other


def endings(block: Block) -> list[Endings]:
    """A row an arm: its episodes by outcome, and the agent's own reasons beside it."""
    tones, rows = outcome_tones(block.rows), []
    for name in block.labels:
        own = block.rows[block.rows["arm"] == name]
        counts = own["outcome"].replace("", "unknown").value_counts()
        failed = own[own["success"] != 1.0]
        reasons = failed["reason"].replace("", "no reason given").value_counts()
        rows.append(
            Endings(
                name=name,
                parts=stacked({kind: int(counts.get(kind, 0)) for kind in tones}, tones),
                reasons=", ".join(f"{reason} {count}" for reason, count in reasons.items()) or "–",
                subgoals=own["subgoals"].mean(),
                replans=own["replans"].mean(),
                steps=own["steps"].median(),
            )
        )
    return rows


def stacked(counts: dict[str, int], tones: dict[str, str]) -> list[Part]:
    """Counts side by side, as shares of their sum; empty ones are left out."""
    total, start, parts = sum(counts.values()) or 1, 0.0, []
    for name, count in counts.items():
        if count:
            parts.append(Part(name, tones[name], count, total, start, count / total))
            start += count / total
    return parts


def cost(block: Block) -> tuple[pd.DataFrame, Scale | None]:
    """Planning time in ms and model calls, median and 95th percentile over episodes, and the times' axis.

    A row an arm that plans, in table order, with `p50`, `p95`, `calls50` and `calls95`; no axis without one.
    """
    planned = block.rows[block.rows["plan_seconds"] > 0].assign(ms=lambda rows: rows["plan_seconds"] * 1e3)
    found = planned.groupby("arm")[["ms", "model_calls"]].quantile([0.5, 0.95]).unstack()
    found.columns = ["p50", "p95", "calls50", "calls95"]
    found = found.reindex([name for name in block.labels if name in found.index])
    return found, decades([*found["p50"], *found["p95"]]) if len(found) else None


def _rates(block: Block) -> pd.DataFrame:
    """Success [scenes, arms], mean over seeds; NaN where an arm has no scored row."""
    wide = block.rows.pivot_table(
        index="scene", columns="arm", values="success", aggfunc="mean", dropna=False
    )
    return wide.reindex(columns=list(block.labels))


def _scene_order(rates: pd.DataFrame, block: Block) -> list[int]:
    """Main arm's solved scenes first; within them those that the rival solves too, then its own wins; of the
    main arm's failures first those that the rival solves. The others decide ties."""
    first = [block.main, *([block.rival.b] if block.rival else [])]
    keys = -rates.fillna(-1)[list(dict.fromkeys([*first, *block.labels]))]
    return [int(s) for s in keys.sort_values(list(keys.columns), kind="stable").index]
