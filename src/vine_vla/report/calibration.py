"""Predicted probabilities: reliability per verb, scores beside the attainable, plans and episodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vine_vla.evaluation.probes.reliability import BINS, Ceiling, Scores, ceiling, reliability, score
from vine_vla.evaluation.probes.run import pruning_table
from vine_vla.report.headline import Block
from vine_vla.report.inputs import Results

SCENE = ["task", "split", "scene"]
SOURCES = {"probe": "probes, drawn uniformly from the proposals", "executed": "subgoals that the plan chose"}
MIN_ROWS = 10
"""Fewer rows than this are counted but not drawn."""
ROWS_PER_BIN = 15
PLAN_PANELS = 6

SUBGOAL, PLAN = ("predicted", "reached"), ("plan_p", "happened")
"""Columns of a prediction and of what came of it."""


class Bin(NamedTuple):
    """One bin: mean prediction, observed share with its 95 % band, and how many rows."""

    predicted: float
    observed: float
    low: float
    high: float
    count: int


class Panel(NamedTuple):
    """One reliability plot with a series a split; a series of too few rows is empty."""

    title: str
    counts: str
    summary: str
    series: list[list[Bin]]

    @property
    def tallest(self) -> int:
        return max([b.count for bins in self.series for b in bins], default=1)


class Group(NamedTuple):
    """Panels of one source of predictions."""

    title: str
    panels: list[Panel]
    legend: list[tuple[str, str]]


class Attainable(NamedTuple):
    """What AUROC the true probabilities reach, and which shares of the way from 0.5 to there are covered."""

    ceiling: Ceiling
    covered: tuple[float, float]


class Subgoals(NamedTuple):
    """Everything about predictions for single subgoals."""

    groups: list[Group]
    scores: dict[str, Scores]
    attainable: Attainable | None
    pruning: list[tuple[str, Any]]


class Plans(NamedTuple):
    """Everything about the probabilities of whole plans."""

    group: Group
    scores: dict[str, Scores]


def subgoals(results: Results, found: Sequence[Block], resamples: int) -> Subgoals | None:
    """Predictions for single subgoals; None where the run recorded none."""
    rows, main = results.feasibility, found[0].main
    if rows.empty:
        return None
    own = rows[rows["arm"] == main]
    splits, groups = sorted(own["split"].unique()), []
    for source, said in SOURCES.items():
        part = own[own["source"] == source]
        if part.empty:
            continue
        parts = [
            ("all verbs", part),
            *_several(part, "verb", "{}"),
            *_several(part, "lookahead", "{} subgoals ahead"),
        ]
        panels = [panel(r, t, splits, resamples, *SUBGOAL) for t, r in parts]
        groups.append(Group(f"{main}, {said}", panels, _legend(part, splits)))
    rivals = {block.rival.b for block in found if block.rival}
    scored = rows[(rows["source"] == "probe") | rows["arm"].isin({main, *rivals})]
    probes = rows[rows["source"] == "probe"]
    again = results.repeated if len(results.repeated) else probes
    return Subgoals(
        groups,
        _scores(scored.groupby(["arm", "source", "split"], sort=True), resamples, *SUBGOAL),
        attainable(again[again["arm"] == main]),
        _pruning(probes),
    )


def plans(episodes: pd.DataFrame, found: Sequence[Block], resamples: int) -> Plans | None:
    """First plans of episodes against the episodes' success; None where no arm gave a probability."""
    rows = episodes[episodes["plan_p"].notna() & episodes["success"].notna()]
    if rows.empty:
        return None
    rows = rows.assign(arm=rows["label"], happened=rows["success"] == 1)
    splits = sorted(rows["split"].unique())
    labels = dict.fromkeys([found[0].main, *(name for block in found for name in block.labels)])
    arms = [name for name in labels if name in set(rows["arm"])][:PLAN_PANELS]
    panels = [panel(rows[rows["arm"] == name], name, splits, resamples, *PLAN) for name in arms]
    scores = _scores(rows.groupby(["arm", "split"], sort=False), resamples, *PLAN)
    return Plans(Group("", panels, _legend(rows, splits)), scores)


def panel(
    rows: pd.DataFrame, title: str, splits: Sequence[str], resamples: int, predicted: str, happened: str
) -> Panel:
    """One reliability plot: a series a split."""
    parts = {split: rows[rows["split"] == split] for split in splits}
    series = {split: binned(part, predicted, happened, resamples) for split, part in parts.items()}
    summary = "; ".join(
        f"{split}: " + ", ".join(f"predicted {b.predicted:.2f} observed {b.observed:.2f}" for b in bins)
        for split, bins in series.items()
        if bins
    )
    counts = ", ".join(f"{split} {len(part)}" for split, part in parts.items() if len(part))
    return Panel(title, counts, f"Reliability of {title}: {summary}", list(series.values()))


def binned(rows: pd.DataFrame, predicted: str, happened: str, resamples: int = 300) -> list[Bin]:
    """Reliability of `rows` in bins of equal counts; empty if they are too few."""
    if len(rows) < MIN_ROWS:
        return []
    bins = int(np.clip(len(rows) // ROWS_PER_BIN, 1, BINS))
    made = reliability(*_arrays(rows, predicted, happened), bins=bins, resamples=resamples)
    return [Bin(b.predicted, b.reached, b.low, b.high, b.n) for b in made.itertuples()]


def attainable(probes: pd.DataFrame) -> Attainable | None:
    """The ceiling from probes executed equally often from the same state; None if none was repeated."""
    keys = [*SCENE, "arm", "training_seed", "position", "subgoal", "predicted"]
    outcomes = [group.to_numpy(float) for _, group in probes.groupby(keys)["reached"]]
    if not outcomes:
        return None
    usual = int(np.median([len(o) for o in outcomes]))
    kept = [o for o in outcomes if len(o) == usual]
    if usual < 2 or len(kept) < MIN_ROWS:
        return None
    found = ceiling(np.stack(kept))
    first, second = sorted(found.share(score(*_arrays(probes, *SUBGOAL), resamples=0).auroc))
    return Attainable(found, (first, second))


def _pruning(probes: pd.DataFrame) -> list[tuple[str, Any]]:
    """False cuts per split, arm and verb; empty if no probe would have been pruned."""
    if not probes["pruned"].any():
        return []
    return [
        (str(split), row)
        for split, part in probes.groupby("split")
        for row in pruning_table(part).itertuples()
    ]


def _several(rows: pd.DataFrame, column: str, title: str) -> list[tuple[str, pd.DataFrame]]:
    """The rows by a column's values; empty if there is only one value."""
    values = sorted(rows[column].unique())
    return [(title.format(v), rows[rows[column] == v]) for v in values] if len(values) > 1 else []


def _legend(rows: pd.DataFrame, splits: Sequence[str]) -> list[tuple[str, str]]:
    """Colours of the splits that occur."""
    return [(f"s{place}", split) for place, split in enumerate(splits) if (rows["split"] == split).any()]


def _scores(
    groups: Iterable[tuple[Any, pd.DataFrame]], resamples: int, predicted: str, happened: str
) -> dict[str, Scores]:
    return {
        " · ".join(map(str, key)): score(*_arrays(rows, predicted, happened), resamples=resamples)
        for key, rows in groups
    }


def _arrays(
    rows: pd.DataFrame, predicted: str, happened: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Predictions, outcomes and scenes, [n] each."""
    scenes = rows.groupby(SCENE, sort=False).ngroup().to_numpy(np.int64)
    return rows[predicted].to_numpy(float), rows[happened].to_numpy(float), scenes
