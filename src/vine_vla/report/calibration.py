"""The section on probabilities: reliability per verb, scores beside the attainable, plans and episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vine_vla.evaluation.probes.reliability import BINS, Ceiling, Scores, ceiling, reliability, score
from vine_vla.evaluation.probes.run import pruning_table
from vine_vla.report import charts, notes
from vine_vla.report.headline import Block
from vine_vla.report.inputs import Results
from vine_vla.report.markup import Markup, element, join
from vine_vla.report.parts import note, percent, row_head, table

SCENE = ["task", "split", "scene"]
SOURCES = {"probe": "probes, drawn uniformly from the proposals", "executed": "subgoals that the plan chose"}
MIN_ROWS = 10
"""Fewer rows than this are counted but not drawn."""
ROWS_PER_BIN = 15
PLAN_PANELS = 6


def sections(results: Results, found: Sequence[Block], resamples: int) -> list[Markup]:
    """Everything about predicted probabilities that the run recorded."""
    return [
        _subgoals(results, found, resamples),
        _plans(results.episodes, found, resamples),
    ]


def _subgoals(results: Results, found: Sequence[Block], resamples: int) -> Markup:
    rows = results.feasibility
    if rows.empty:
        return note("This run recorded no predictions for single subgoals.")
    main = found[0].main
    own = rows[rows["arm"] == main]
    parts: list[Markup | None] = [element("h3", "One subgoal: P(goal or reached)"), note(notes.SUBGOALS)]
    for source in [s for s in SOURCES if s in set(own["source"])]:
        part = own[own["source"] == source]
        splits = sorted(part["split"].unique())
        panels = [_panel(part, "all verbs", splits, resamples, "predicted", "reached")]
        verbs = sorted(part["verb"].unique())
        if len(verbs) > 1:
            each = [(verb, part[part["verb"] == verb]) for verb in verbs]
            panels += [_panel(r, verb, splits, resamples, "predicted", "reached") for verb, r in each]
        ahead = sorted(part["lookahead"].unique())
        if len(ahead) > 1:
            each = [(f"{h} subgoals ahead", part[part["lookahead"] == h]) for h in ahead]
            panels += [_panel(r, name, splits, resamples, "predicted", "reached") for name, r in each]
        parts.append(element("h4", f"{main}, {SOURCES[source]}"))
        parts.append(charts.legend([(f"s{i}", split) for i, split in enumerate(splits)]))
        parts.append(element("div", panels, class_="panels"))
    rivals = {block.rival.b for block in found if block.rival}
    scored = rows[(rows["source"] == "probe") | rows["arm"].isin({main, *rivals})]
    groups = scored.groupby(["arm", "source", "split"], sort=True)
    parts.append(
        _scores_table({_name(key): _score(r, "predicted", "reached", resamples) for key, r in groups})
    )
    probes = rows[rows["source"] == "probe"]
    again = results.repeated if len(results.repeated) else probes
    parts += [_ceiling(again[again["arm"] == main], main), _pruning(probes)]
    return join(parts)


def _plans(episodes: pd.DataFrame, found: Sequence[Block], resamples: int) -> Markup:
    rows = episodes[episodes["plan_p"].notna() & episodes["success"].notna()]
    if rows.empty:
        return note("No arm of this run gave a probability for its plan.")
    rows = rows.assign(arm=rows["label"], happened=rows["success"] == 1)
    labels = dict.fromkeys([found[0].main, *(name for block in found for name in block.labels)])
    arms = [name for name in labels if name in set(rows["arm"])]
    splits = sorted(rows["split"].unique())
    each = [(name, rows[rows["arm"] == name]) for name in arms]
    panels = [_panel(r, name, splits, resamples, "plan_p", "happened") for name, r in each[:PLAN_PANELS]]
    groups = rows.groupby(["arm", "split"], sort=False)
    return join(
        [
            element("h3", "A whole plan: V against the episode’s success"),
            note(notes.PLANS),
            charts.legend([(f"s{i}", split) for i, split in enumerate(splits)]),
            element("div", panels, class_="panels"),
            _scores_table({_name(key): _score(r, "plan_p", "happened", resamples) for key, r in groups}),
        ]
    )


def _panel(
    rows: pd.DataFrame, title: str, splits: Sequence[str], resamples: int, predicted: str, happened: str
) -> Markup:
    """One reliability plot with a series a split."""
    series: dict[str, list[charts.ReliabilityBin]] = {}
    for split in splits:
        part = rows[rows["split"] == split]
        series[split] = []
        if len(part) >= MIN_ROWS:
            bins = int(np.clip(len(part) // ROWS_PER_BIN, 1, BINS))
            made = reliability(*_arrays(part, predicted, happened), bins=bins, resamples=resamples)
            series[split] = [
                charts.ReliabilityBin(b.predicted, b.reached, b.low, b.high, b.n) for b in made.itertuples()
            ]
    counts = ", ".join(f"{split} {int((rows['split'] == split).sum())}" for split in splits)
    spoken = f"Reliability of {title}: " + "; ".join(
        f"{split}: " + ", ".join(f"predicted {b.predicted:.2f} observed {b.observed:.2f}" for b in bins)
        for split, bins in series.items()
        if bins
    )
    drawn = any(series.values())
    body = charts.reliability_plot(series, spoken) if drawn else note("Too few rows to draw.")
    said = element("figcaption", element("b", title), f" · rows: {counts}")
    return element("figure", body, said)


def _scores_table(scores: Mapping[str, Scores]) -> Markup:
    names = (
        "",
        "rows",
        "came true",
        "AUROC",
        "95 % interval",
        "ECE",
        "perfect (95 %)",
        "Brier",
        "base",
        "log loss",
    )
    rows = [
        (
            row_head(name),
            str(s.n),
            percent(s.base),
            element("b", _three(s.auroc)),
            f"{_three(s.auroc_low)} to {_three(s.auroc_high)}",
            element("b", _three(s.ece), class_="bad" if s.ece > s.ece_perfect + 0.05 else None),
            f"{_three(s.ece_perfect)} ({_three(s.ece_perfect_95)})",
            element("b", _three(s.brier)),
            _three(s.brier_base),
            _three(s.log_loss),
        )
        for name, s in scores.items()
    ]
    return join([table(names, rows, "Scores of the predicted probabilities"), note(notes.SCORES)])


def _ceiling(probes: pd.DataFrame, main: str) -> Markup:
    """What AUROC is attainable at all, if the probes were repeated."""
    found = repeated(probes)
    if found is None:
        return note(notes.NO_CEILING)
    reach = score(*_arrays(probes, "predicted", "reached"), resamples=0).auroc
    first, second = sorted(found.share(reach))
    text = notes.CEILING.format(
        probes=found.probes,
        repeats=found.repeats,
        low=_three(found.left_out),
        high=_three(found.plug_in),
        main=main,
        first=percent(first),
        second=percent(second),
    )
    return note(text)


def repeated(probes: pd.DataFrame) -> Ceiling | None:
    """The ceiling from probes executed equally often from the same state; None if none was repeated."""
    keys = [*SCENE, "arm", "training_seed", "position", "subgoal", "predicted"]
    outcomes = [group.to_numpy(float) for _, group in probes.groupby(keys)["reached"]]
    if not outcomes:
        return None
    usual = int(np.median([len(o) for o in outcomes]))
    kept = [o for o in outcomes if len(o) == usual]
    return ceiling(np.stack(kept)) if usual >= 2 and len(kept) >= MIN_ROWS else None


def _pruning(probes: pd.DataFrame) -> Markup | None:
    """False cuts per arm and verb; None if no probe would have been cut."""
    if not probes["pruned"].any():
        return None
    rows = []
    for split, part in probes.groupby("split"):
        for row in pruning_table(part).itertuples():
            cells = (f"{row.n}", percent(row.cut), f"{row.reached}", element("b", percent(row.reached_cut)))
            rows.append((row_head(f"{row.arm} · {row.verb} · {split}"), *cells))
    names = ("arm · verb · split", "probes", "cut", "reached", "of these cut")
    return join(
        [element("h4", "Pruning"), note(notes.PRUNING), table(names, rows, "Probes that pruning would cut")]
    )


def _score(rows: pd.DataFrame, predicted: str, happened: str, resamples: int) -> Scores:
    return score(*_arrays(rows, predicted, happened), resamples=resamples)


def _arrays(rows: pd.DataFrame, predicted: str, happened: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Predictions, outcomes and scenes, [n] each."""
    scenes = rows.groupby(SCENE, sort=False).ngroup().to_numpy(np.int64)
    return rows[predicted].to_numpy(float), rows[happened].to_numpy(float), scenes


def _name(key: Sequence[object]) -> str:
    return " · ".join(str(part) for part in key)


def _three(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"
