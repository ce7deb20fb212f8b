"""The headline: success of every arm with its interval, and the main arm against each rival, paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from vine_vla.evaluation import statistics
from vine_vla.evaluation.statistics import Comparison
from vine_vla.report import charts
from vine_vla.report.markup import Markup, element, join
from vine_vla.report.parts import cell, p_said, p_value, percent, points, row_head, table, tag

MAIN_ARM = "vine"
WEAK_SHARE = 0.8
"""A flat arm under this share of the operators' own success is marked as a weak baseline."""

FLAT = ("flat", "flat-all")


@dataclass(frozen=True)
class Block:
    """One task and split: what a table may be about without mixing.

    Args:
        task, split: of every row.
        rows: the episodes; `arm` holds labels (arm with variant), `success` is 1, 0 or NaN (not scored).
        labels: arms in table order.
        main: the arm that is compared with the others.
        comparisons: main against each other arm, in table order.
        planned: scenes that every arm was to run.
        operator_success: share of the operators' own episodes that succeed, if the run says so.
    """

    task: str
    split: str
    rows: pd.DataFrame
    labels: Sequence[str]
    main: str
    comparisons: Sequence[Comparison]
    planned: Sequence[int]
    operator_success: float | None = None

    @property
    def scenes(self) -> list[int]:
        return sorted(int(s) for s in self.rows["scene"].unique())

    @property
    def rival(self) -> Comparison | None:
        """What the headline is about: the strongest `success-only`, else the strongest fair rival."""
        own = (f"{self.main} (", "oracle", "best-of")
        fair = [c for c in self.comparisons if not c.b.startswith(own)]
        named = [c for c in fair if c.b.startswith("success-only")] or fair
        return max(named, key=lambda c: c.rate_b.estimate, default=None)

    @property
    def rates(self) -> pd.DataFrame:
        """`statistics.summarise`, by label."""
        return statistics.summarise(self.rows).set_index("arm")


def blocks(
    episodes: pd.DataFrame,
    order: Sequence[str],
    operator_success: float | None = None,
    scheduled: Sequence[int] = (),
) -> list[Block]:
    """One block a task and split, with the comparisons made.

    Args:
        order: labels in table order. scheduled: scenes that were to be run, beyond those that were.
    """
    found = []
    for (task, split), rows in episodes.groupby(["task", "split"], sort=True):
        rows = rows.assign(arm=rows["label"])
        labels = [name for name in order if name in set(rows["label"])]
        main = MAIN_ARM if MAIN_ARM in labels else labels[-1]
        planned = sorted({int(s) for s in rows["scene"].unique()} | set(scheduled))
        # Repetitions with other luck of System 1 are averaged: the scene is the unit.
        paired = rows.groupby(["scene", "arm", "training_seed"], as_index=False)["success"].mean()
        against = [
            statistics.compare(paired, main, name, attempted=planned) for name in labels if name != main
        ]
        found.append(Block(str(task), str(split), rows, labels, main, against, planned, operator_success))
    return found


def verdict(comparison: Comparison) -> str:
    """`better`, `worse`, `unresolved` or `no verdict`: an interval that covers 0 is never more."""
    if comparison.coverage < statistics.MIN_COVERAGE:
        return "no verdict"
    if not comparison.claim or comparison.difference.low <= 0 <= comparison.difference.high:
        return "unresolved"
    return "better" if comparison.difference.estimate > 0 else "worse"


def finding(block: Block) -> Markup:
    """The result in a few sentences, as strong as the numbers allow and no stronger."""
    own = block.rates.loc[block.main]
    start = (
        element("b", block.main),
        f" solves {percent(own['success'])} of {int(own['scenes'])} scenes "
        f"(95 % interval {percent(own['low'])} to {percent(own['high'])}). ",
    )
    rival = block.rival
    if rival is None:
        return join([*start, "There is no rival to compare it with."])
    flat = next((c for c in block.comparisons if c.b == "flat" and c is not rival), None)
    return join([*start, _sentence(rival), (" ", _sentence(flat)) if flat else None])


def _sentence(c: Comparison) -> Markup:
    d, word, name = c.difference, verdict(c), element("b", c.b)
    interval = f"95 % interval {points(d.low)} to {points(d.high)}, {p_said(c.p_value)}"
    if word == "no verdict":
        shown = percent(c.coverage)
        return join(
            ["Against ", name, f" there is no verdict: only {shown} of the scenes are scored in both."]
        )
    if word == "unresolved":
        return join(
            [
                "The difference to ",
                name,
                f" is unresolved: {points(d.estimate)} points ({interval}); this run finds "
                f"{points(c.mde, sign=False)} points with 80 % power.",
            ]
        )
    more = "more" if word == "better" else "fewer"
    return join(
        [f"That is {points(abs(d.estimate), sign=False)} points {more} than ", name, f" ({interval})."]
    )


def arms_table(block: Block) -> Markup:
    """Success with interval, n and coverage, one row an arm."""
    rates, scale = block.rates, charts.rate_scale()
    seeds = block.rows["training_seed"].nunique() * block.rows["policy_seed"].nunique()
    planned = len(block.planned) * seeds
    rows = []
    for name in block.labels:
        row = rates.loc[name]
        share = row["episodes"] / planned
        spoken = f"{name}: {percent(row['success'])}, {percent(row['low'])} to {percent(row['high'])}"
        mark = charts.interval_mark(
            row["low"], row["success"], row["high"], scale, spoken, tone=_tone(block, name)
        )
        rows.append(
            (
                row_head(name, badge(block, name, float(row["success"]))),
                cell(percent(row["success"]), class_="n strong"),
                f"{row['low'] * 100:.1f} to {row['high'] * 100:.1f}",
                cell(mark, class_="plot"),
                f"{int(row['episodes'])}",
                cell(percent(share), class_="n bad" if share < statistics.MIN_COVERAGE else "n"),
                percent(row["dead"]),
                percent(row["stopped"]),
            )
        )
    axis = charts.interval_axis(scale)
    names = ("arm", "success", "95 % interval", axis, "episodes", "coverage", "dead", "stopped")
    return table(names, rows, "Success of every arm", marked=[list(block.labels).index(block.main)])


def differences_table(block: Block) -> Markup:
    """The main arm minus each rival, paired by scene."""
    bounds = [b for c in block.comparisons for b in (c.difference.low, c.difference.high)]
    scale = charts.difference_scale(bounds)
    seeds = sorted({seed for c in block.comparisons for seed in c.mcnemar})
    rows = []
    for c in block.comparisons:
        word, d = verdict(c), c.difference
        spoken = f"{c.a} minus {c.b}: {points(d.estimate)} points, {points(d.low)} to {points(d.high)}"
        tone = {"better": "good", "worse": "poor"}.get(word, "even")
        mark = charts.interval_mark(d.low, d.estimate, d.high, scale, spoken, tone=tone, reference=0)
        per_seed = " / ".join(points(c.seed_differences[s]) for s in seeds)
        rows.append(
            (
                row_head("− ", c.b),
                cell(tag(word, tone), [element("small", n) for n in c.notes]),
                cell(points(d.estimate), class_="n strong"),
                f"{points(d.low)} to {points(d.high)}",
                cell(mark, class_="plot"),
                p_value(c.p_value),
                " / ".join(p_value(c.mcnemar[s]) for s in seeds if s in c.mcnemar),
                f"{c.wins}–{c.losses}–{c.ties}",
                cell(points(c.mde, sign=False), class_="n" if word == "unresolved" else "n faint"),
                per_seed if len(seeds) > 1 else None,
            )
        )
    names = (
        *(block.main, "", "points", "95 % interval", charts.interval_axis(scale, unit="points")),
        *(
            "permut. p",
            "McNemar p",
            "won–lost–tied",
            "detectable",
            "per seed" if len(seeds) > 1 else None,
        ),
    )
    return table(names, rows, f"{block.main} minus each rival, paired by scene, in points")


def badge(block: Block, name: str, success: float) -> Markup | None:
    """The *weak baseline* mark of a flat arm; None if it is none, or if the operators are not known."""
    if name.split(" (")[0] not in FLAT or block.operator_success is None:
        return None
    if success >= WEAK_SHARE * block.operator_success:
        return None
    known = percent(block.operator_success)
    return tag("weak baseline", "poor", f"under {WEAK_SHARE:.0%} of the operators’ own success, {known}")


def holm_table(found: Sequence[Block]) -> Markup | None:
    """Holm-adjusted p of the headline comparison over tasks; None for a single task."""
    kept = [(block, rival) for block in found if (rival := block.rival) is not None]
    if len({block.task for block, _ in kept}) < 2:
        return None
    adjusted = statistics.holm([rival.p_value for _, rival in kept])
    rows = [
        (
            row_head(f"{block.task}, {block.split}"),
            cell(f"{rival.a} − {rival.b}"),
            points(rival.difference.estimate),
            p_value(rival.p_value),
            p_value(p),
        )
        for (block, rival), p in zip(kept, adjusted, strict=True)
    ]
    names = ("task", "comparison", "points", "permutation p", "Holm p")
    return table(names, rows, "Over all tasks", text_from=2)


def _tone(block: Block, name: str) -> str:
    return "good" if name == block.main else "oracle" if name.startswith("oracle") else "even"


def as_mapping(value: object) -> Mapping[str, object]:
    """`value` if it is a mapping, else an empty one (for optional parts of `run.json`)."""
    return value if isinstance(value, Mapping) else {}
