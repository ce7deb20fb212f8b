"""The headline: success of every arm with its interval, and the main arm against each rival, paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from markupsafe import Markup

from vine_vla.evaluation import statistics
from vine_vla.evaluation.statistics import Comparison
from vine_vla.report.charts import Scale, difference_scale
from vine_vla.report.rendering import render

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
    def runs(self) -> int:
        """Episodes that an arm plays in every scene: training seeds times policy seeds."""
        return int(self.rows["training_seed"].nunique() * self.rows["policy_seed"].nunique())

    @property
    def rival(self) -> Comparison | None:
        """What the headline is about: the strongest `success-only`, else the strongest fair rival."""
        own = (f"{self.main} (", "oracle", "best-of")
        fair = [c for c in self.comparisons if not c.b.startswith(own)]
        named = [c for c in fair if c.b.startswith("success-only")] or fair
        return max(named, key=lambda c: c.rate_b.estimate, default=None)

    @property
    def flat(self) -> Comparison | None:
        """The comparison with `flat`, where it is not the headline's own."""
        return next((c for c in self.comparisons if c.b == "flat" and c is not self.rival), None)

    @cached_property
    def arms(self) -> pd.DataFrame:
        """`statistics.summarise` by label in table order, with `coverage`, `tone` and `weak` (baseline)."""
        rates = statistics.summarise(self.rows).set_index("arm").loc[list(self.labels)]
        tones = {name: "oracle" if name.startswith("oracle") else "even" for name in rates.index}
        tones[self.main] = "good"
        return rates.assign(
            coverage=rates["episodes"] / (len(self.planned) * self.runs),
            tone=list(tones.values()),
            weak=[self.is_weak(name, rate) for name, rate in rates["success"].items()],
        )

    def is_weak(self, name: str, success: float) -> bool:
        """Whether a flat arm stays under `WEAK_SHARE` of the operators; False if those are not known."""
        if name.split(" (")[0] not in FLAT or self.operator_success is None:
            return False
        return success < WEAK_SHARE * self.operator_success

    @cached_property
    def scale(self) -> Scale:
        """The axis of the differences."""
        return difference_scale([b for c in self.comparisons for b in (c.difference.low, c.difference.high)])

    @property
    def seeds(self) -> list[int]:
        """Training seeds that occur in a comparison."""
        return sorted({seed for c in self.comparisons for seed in c.mcnemar})


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
        # Repetitions with other seeds of System 1 are averaged: the scene is the unit.
        paired = rows.groupby(["scene", "arm", "training_seed"], as_index=False)["success"].mean()
        against = [
            statistics.compare(paired, main, name, attempted=planned) for name in labels if name != main
        ]
        found.append(Block(str(task), str(split), rows, labels, main, against, planned, operator_success))
    return found


def verdict(comparison: Comparison) -> str:
    """`better`, `worse`, `unresolved` or `no verdict`: an interval that covers 0 is never more.

    Whether `better` and `worse` may be claimed is `comparison.standing`.
    """
    if comparison.coverage < statistics.MIN_COVERAGE:
        return "no verdict"
    if not comparison.resolved or comparison.difference.low <= 0 <= comparison.difference.high:
        return "unresolved"
    return "better" if comparison.difference.estimate > 0 else "worse"


def finding(block: Block) -> Markup:
    """The result in a few sentences, as strong as the numbers allow and no stronger."""
    return render("finding.html", block=block, own=block.arms.loc[block.main], verdict=verdict)


def holm_rows(found: Sequence[Block]) -> list[tuple[Block, Comparison, float]]:
    """The headline comparisons with their Holm-adjusted p over tasks; empty for a single task."""
    kept = [(block, rival) for block in found if (rival := block.rival) is not None]
    if len({block.task for block, _ in kept}) < 2:
        return []
    adjusted = statistics.holm([rival.p_value for _, rival in kept])
    return [(block, rival, p) for (block, rival), p in zip(kept, adjusted, strict=True)]
