"""The headline: success of every arm with its interval, and the main arm against each rival on the same scenes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from vine_vla.evaluation import statistics
from vine_vla.evaluation.statistics import Comparison
from vine_vla.report import charts
from vine_vla.report.markup import Markup, element, join

MAIN_ARM = "vine"
WEAK_SHARE = 0.8
"""A `flat` under this share of the operators' own success is marked as a weak baseline."""


@dataclass(frozen=True)
class Block:
    """One task and split: what a table may be about without mixing.

    Args:
        task, split: of every row.
        rows: the episodes; `arm` holds labels (arm with variant), `success` is 1, 0 or NaN (not scored).
        labels: arms in table order.
        main: the arm that is compared with the others.
        comparisons: main against each other arm, in table order.
        operator_success: share of the operators' own episodes that succeed, if the run says so.
    """

    task: str
    split: str
    rows: pd.DataFrame
    labels: Sequence[str]
    main: str
    comparisons: Sequence[Comparison]
    operator_success: float | None = None

    @property
    def scenes(self) -> list[int]:
        return sorted(int(s) for s in self.rows["scene"].unique())

    @property
    def rival(self) -> Comparison | None:
        """The comparison the headline is about: the strongest `success-only`, else the strongest fair rival."""
        own = (f"{self.main} (", "oracle", "best-of")
        fair = [c for c in self.comparisons if not c.b.startswith(own)]
        named = [c for c in fair if c.b.startswith("success-only")] or fair
        return max(named, key=lambda c: c.rate_b.estimate, default=None)


def blocks(episodes: pd.DataFrame, order: Sequence[str], operator_success: float | None) -> list[Block]:
    """One block a task and split, with the comparisons made."""
    found = []
    for (task, split), rows in episodes.groupby(["task", "split"], sort=True):
        rows = rows.assign(arm=rows["label"])
        labels = [name for name in order if name in set(rows["label"])]
        main = MAIN_ARM if MAIN_ARM in labels else labels[-1]
        planned = sorted(int(s) for s in rows["scene"].unique())
        against = [statistics.compare(rows, main, name, attempted=planned) for name in labels if name != main]
        found.append(Block(str(task), str(split), rows, labels, main, against, operator_success))
    return found


def verdict(comparison: Comparison) -> str:
    """`better`, `worse`, `unresolved` or `no verdict`: an interval that covers 0 is never more."""
    if comparison.coverage < statistics.MIN_COVERAGE:
        return "no verdict"
    if not comparison.claim or comparison.difference.low <= 0 <= comparison.difference.high:
        return "unresolved"
    return "better" if comparison.difference.estimate > 0 else "worse"


def finding(block: Block) -> Markup:
    """The result in one or two sentences, as strong as the numbers allow and no stronger."""
    rates = statistics.summarise(block.rows).set_index("arm")
    own = rates.loc[block.main]
    start = [
        element("b", block.main),
        f" solves {percent(own['success'])} of {int(own['scenes'])} scenes"
        f" ({percent(own['low'])} to {percent(own['high'])}).",
    ]
    rival = block.rival
    if rival is None:
        return join([*start, " There is no other arm to compare it with."])
    size, word = rival.difference, verdict(rival)
    interval = f"95 % interval {points(size.low)} to {points(size.high)}, p = {p_value(rival.p_value)}"
    name = element("b", rival.b)
    if word == "no verdict":
        tail = [
            " Against ",
            name,
            f" there is no verdict: {percent(rival.coverage)} of the scenes are scored in both arms.",
        ]
    elif word == "unresolved":
        tail = [
            " Its difference to ",
            name,
            f" is unresolved: {points(size.estimate)} points, {interval}. "
            f"This run would have found {points(rival.mde, sign=False)} points with 80 % power.",
        ]
    else:
        more = "more" if word == "better" else "fewer"
        tail = [
            f" That is {points(abs(size.estimate), sign=False)} points {more} than ",
            name,
            f" ({interval}).",
        ]
    return join([*start, *tail])


def arms_table(block: Block) -> Markup:
    """Success with interval, n, coverage and what ended the rest, one row an arm."""
    table = statistics.summarise(block.rows).set_index("arm")
    scale = charts.rate_scale()
    total = len(block.scenes) * block.rows["training_seed"].nunique()
    rows = []
    for name in block.labels:
        row = table.loc[name]
        share = row["episodes"] / total
        mark = charts.interval_mark(
            row["low"],
            row["success"],
            row["high"],
            scale,
            f"{name}: {percent(row['success'])}",
            tone=_tone(block, name),
        )
        rows.append(
            element(
                "tr",
                element("th", name, badge(block, name, float(row["success"])), scope="row"),
                element("td", percent(row["success"]), class_="n strong"),
                element("td", f"{number(row['low'] * 100)} – {number(row['high'] * 100)}", class_="n"),
                element("td", mark, class_="plot"),
                element("td", f"{int(row['episodes'])}", class_="n"),
                element(
                    "td", percent(share), class_="n" + (" bad" if share < statistics.MIN_COVERAGE else "")
                ),
                element("td", percent(row["dead"]), class_="n"),
                element("td", percent(row["stopped"]), class_="n"),
                element("td", f"{row['subgoals']:.1f}", class_="n"),
                element("td", f"{row['replans']:.2f}", class_="n"),
                class_="main" if name == block.main else None,
            )
        )
    heads = [("arm", ""), ("success", "n"), ("95 % interval", "n")]
    more = [
        ("episodes", "n"),
        ("coverage", "n"),
        ("dead", "n"),
        ("stopped", "n"),
        ("subgoals", "n"),
        ("replans", "n"),
    ]
    head = element(
        "tr",
        [element("th", n, class_=c or None, scope="col") for n, c in heads],
        element("th", charts.interval_axis(scale), scope="col", class_="plot"),
        [element("th", n, class_=c, scope="col") for n, c in more],
    )
    return _table(head, rows, "Success of every arm")


def differences_table(block: Block) -> Markup:
    """The main arm minus each rival, paired by scene."""
    bounds = [b for c in block.comparisons for b in (c.difference.low, c.difference.high)]
    scale = charts.difference_scale(bounds)
    seeds = sorted({seed for c in block.comparisons for seed in c.mcnemar})
    rows = []
    for c in block.comparisons:
        word = verdict(c)
        d = c.difference
        spoken = f"{c.a} minus {c.b}: {points(d.estimate)} points, {points(d.low)} to {points(d.high)}"
        tone = {"better": "good", "worse": "poor"}.get(word, "even")
        agree = "" if len(seeds) < 2 else " / ".join(points(c.seed_differences[s]) for s in seeds)
        rows.append(
            element(
                "tr",
                element("th", f"{c.a} − {c.b}", scope="row"),
                element("td", points(d.estimate), class_="n strong"),
                element("td", f"{points(d.low)} – {points(d.high)}", class_="n"),
                element(
                    "td",
                    charts.interval_mark(d.low, d.estimate, d.high, scale, spoken, tone=tone, reference=0),
                    class_="plot",
                ),
                element("td", p_value(c.p_value), class_="n"),
                element("td", " / ".join(p_value(c.mcnemar[s]) for s in seeds if s in c.mcnemar), class_="n"),
                element("td", f"{c.wins}–{c.losses}–{c.ties}", class_="n"),
                element(
                    "td",
                    f"{points(c.mde, sign=False)}",
                    class_="n" + ("" if word == "unresolved" else " faint"),
                ),
                element("td", agree, class_="n") if len(seeds) > 1 else None,
                element(
                    "td", element("span", word, class_=f"tag {tone}"), [element("small", n) for n in c.notes]
                ),
            )
        )
    names = ["difference", "points", "95 % interval"]
    rest = [
        "permutation p",
        "McNemar p",
        "won–lost–tied",
        "detectable",
        *(["per seed"] if len(seeds) > 1 else []),
        "verdict",
    ]
    head = element(
        "tr",
        [element("th", n, scope="col", class_="n" if i else None) for i, n in enumerate(names)],
        element("th", charts.interval_axis(scale, unit="points"), scope="col", class_="plot"),
        [element("th", n, scope="col", class_=None if n == "verdict" else "n") for n in rest],
    )
    return _table(head, rows, f"{block.main} against each rival")


def badge(block: Block, name: str, success: float) -> Markup | None:
    """The *weak baseline* mark of DESIGN section 7 on `flat` arms."""
    if name.split(" (")[0] not in ("flat", "flat-all"):
        return None
    if block.operator_success is None:
        return element("span", "operators’ success unknown", class_="tag even")
    if success >= WEAK_SHARE * block.operator_success:
        return None
    title = (
        f"under {WEAK_SHARE:.0%} of the operators’ own success, which is {percent(block.operator_success)}"
    )
    return element("span", "weak baseline", class_="tag poor", title=title)


def holm_table(found: Sequence[Block]) -> Markup | None:
    """Holm-adjusted p of the headline comparison over tasks; None for a single task."""
    pairs = [(block, block.rival) for block in found]
    kept = [(block, rival) for block, rival in pairs if rival is not None]
    if len({block.task for block, _ in kept}) < 2:
        return None
    adjusted = statistics.holm([rival.p_value for _, rival in kept])
    rows = [
        element(
            "tr",
            element("th", f"{b.task}, {b.split}", scope="row"),
            element("td", f"{r.a} − {r.b}"),
            element("td", points(r.difference.estimate), class_="n"),
            element("td", p_value(r.p_value), class_="n"),
            element("td", p_value(p), class_="n"),
        )
        for (b, r), p in zip(kept, adjusted, strict=True)
    ]
    names = ("task", "comparison", "points", "permutation p", "Holm p")
    head = element(
        "tr", [element("th", n, scope="col", class_="n" if i > 1 else None) for i, n in enumerate(names)]
    )
    return _table(head, rows, "Over all tasks")


def _table(head: Markup, rows: Sequence[Markup], caption: str) -> Markup:
    body = [element("caption", caption), element("thead", head), element("tbody", rows)]
    return element(
        "div", element("table", body), class_="scroll", tabindex="0", role="region", aria_label=caption
    )


def _tone(block: Block, name: str) -> str:
    return "good" if name == block.main else "oracle" if name.startswith("oracle") else "even"


def percent(share: float) -> str:
    """`78.3 %`, or a dash where there is nothing."""
    return "–" if math.isnan(share) else f"{number(share * 100)} %"


def points(difference: float, *, sign: bool = True) -> str:
    """Percentage points with a true minus sign."""
    if not math.isfinite(difference):
        return "–"
    shown = f"{difference * 100:+.1f}" if sign else f"{difference * 100:.1f}"
    return shown.replace("-", "−")


def number(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def as_mapping(value: object) -> Mapping[str, object]:
    """`value` if it is a mapping, else an empty one (for optional parts of `run.json`)."""
    return value if isinstance(value, Mapping) else {}
