"""The section on probabilities: reliability per verb, scores beside the attainable ones, plans against episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vine_vla.report import charts
from vine_vla.report.headline import Block, percent
from vine_vla.report.inputs import Results
from vine_vla.report.markup import Markup, element, join
from vine_vla.report.reliability import Scores, reliability_bins, score

EPISODE = ["task", "split", "scene", "arm", "training_seed"]
SOURCES = {
    "probe": "probes: subgoals drawn uniformly from the proposals",
    "executed": "subgoals that the plan chose",
}
MIN_ROWS = 10
"""Fewer rows than this are counted but not drawn."""


def sections(results: Results, found: Sequence[Block], resamples: int) -> list[Markup]:
    """Everything about predicted probabilities that the run recorded."""
    parts = [
        _subgoals(results.feasibility, found, resamples),
        _plans(results.episodes, found, resamples),
    ]
    return [part for part in parts if part is not None]


def _subgoals(rows: pd.DataFrame, found: Sequence[Block], resamples: int) -> Markup:
    if rows.empty:
        return element("p", "This run recorded no predictions for single subgoals.", class_="note")
    parts: list[Markup] = [element("h3", "One subgoal: P(goal or reached)")]
    parts.append(
        element(
            "p",
            "Predicted before the subgoal was executed, against what the simulator says came of it. This is the chance "
            "of a single execution: neither V nor V_mu. Dots on the diagonal are right; bands resample whole episodes; "
            "the bars below count rows. Probes judge the model; chosen subgoals are a selection of what looked best.",
            class_="note",
        )
    )
    main = found[0].main
    own = rows[rows["arm"] == main]
    for source in [
        s for s in (*SOURCES, *sorted(set(rows["source"]) - set(SOURCES))) if s in set(own["source"])
    ]:
        part = own[own["source"] == source]
        splits = sorted(part["split"].unique())
        panels = [_panel(part, "all verbs", splits, resamples, "predicted", "reached")]
        verbs = sorted(part["verb"].unique())
        if len(verbs) > 1:
            panels += [
                _panel(part[part["verb"] == v], v, splits, resamples, "predicted", "reached") for v in verbs
            ]
        parts.append(element("h4", f"{main}, {SOURCES.get(source, source)}"))
        parts.append(charts.legend([(f"s{i}", split) for i, split in enumerate(splits)]))
        parts.append(element("div", [p for p in panels if p], class_="panels"))
    groups = rows.groupby(["arm", "source", "split"], sort=True)
    table = {" · ".join(str(k) for k in key): _score(part, "predicted", "reached") for key, part in groups}
    parts.append(_scores_table(table, "arm · source · split"))
    return join(parts)


def _plans(episodes: pd.DataFrame, found: Sequence[Block], resamples: int) -> Markup:
    rows = episodes[episodes["plan_p"].notna() & episodes["success"].notna()]
    if rows.empty:
        return element("p", "No arm of this run gave a probability for its plan.", class_="note")
    rows = rows.assign(arm=rows["label"], happened=rows["success"] == 1)
    labels = [name for block in found for name in block.labels]
    arms = [name for name in dict.fromkeys(labels) if name in set(rows["arm"])]
    first = [name for name in dict.fromkeys([found[0].main, *arms])][:6]
    splits = sorted(rows["split"].unique())
    panels = [
        _panel(rows[rows["arm"] == name], name, splits, resamples, "plan_p", "happened") for name in first
    ]
    groups = rows.groupby(["arm", "split"], sort=False)
    table = {" · ".join(str(k) for k in key): _score(part, "plan_p", "happened") for key, part in groups}
    return join(
        [
            element("h3", "A whole plan: V against the episode’s success"),
            element(
                "p",
                "The first plan’s feasibility is V: P(goal before failure) if the best subgoal is taken from here on. "
                "Replanning after a failure can lift success above it.",
                class_="note",
            ),
            charts.legend([(f"s{i}", split) for i, split in enumerate(splits)]),
            element("div", [p for p in panels if p], class_="panels"),
            _scores_table(table, "arm · split"),
        ]
    )


def _panel(
    rows: pd.DataFrame, title: str, splits: Sequence[str], resamples: int, predicted: str, happened: str
) -> Markup:
    series, counts = {}, []
    for split in splits:
        part = rows[rows["split"] == split]
        counts.append(f"{split} {len(part)}")
        p, y, e = _arrays(part, predicted, happened)
        series[split] = reliability_bins(p, y, e, resamples=resamples) if len(part) >= MIN_ROWS else []
    drawn = any(series.values())
    spoken = f"Reliability of {title}: " + "; ".join(
        f"{split}: " + ", ".join(f"predicted {b.predicted:.2f} observed {b.observed:.2f}" for b in bins)
        for split, bins in series.items()
        if bins
    )
    body = (
        charts.reliability_plot(series, spoken)
        if drawn
        else element("p", "too few rows to draw", class_="note")
    )
    said = element(
        "figcaption",
        element("b", title),
        " · rows: ",
        ", ".join(counts),
        ". Across: predicted; up: observed.",
    )
    return element("figure", body, said)


def _scores_table(table: Mapping[str, Scores], what: str) -> Markup:
    rows = []
    for name, s in table.items():
        within = s.ece <= s.ece_attainable + 0.05
        rows.append(
            element(
                "tr",
                element("th", name, scope="row"),
                element("td", str(s.n), class_="n"),
                element("td", str(s.episodes), class_="n"),
                element("td", percent(s.rate), class_="n"),
                element("td", _three(s.auroc), class_="n strong"),
                element("td", f"{_three(s.auroc_low)} – {_three(s.auroc_high)}", class_="n"),
                element("td", _three(s.auroc_attainable), class_="n faint"),
                element("td", _three(s.ece), class_="n strong" + ("" if within else " bad")),
                element(
                    "td", f"{_three(s.ece_attainable)} (95 %: {_three(s.ece_perfect_high)})", class_="n faint"
                ),
                element("td", _three(s.brier), class_="n strong"),
                element("td", _three(s.brier_attainable), class_="n faint"),
                element("td", _three(s.log_loss), class_="n"),
            )
        )
    names = (
        what,
        "rows",
        "episodes",
        "came true",
        "AUROC",
        "95 % interval",
        "attainable",
        "ECE",
        "perfect predictor",
    )
    names = (*names, "Brier", "attainable", "log loss")
    head = element(
        "tr", [element("th", n, scope="col", class_="n" if i else None) for i, n in enumerate(names)]
    )
    note = element(
        "p",
        "“Attainable” is what these predictions would score if each were exactly right, so no predictor with this spread "
        "does better at this n. An ECE more than 0.05 above a perfect predictor’s is set in red. AUROC near 0.5 with an "
        "interval that covers it means: no ranking shown.",
        class_="note",
    )
    return join(
        [
            element("div", element("table", element("thead", head), element("tbody", rows)), class_="scroll"),
            note,
        ]
    )


def _score(rows: pd.DataFrame, predicted: str, happened: str) -> Scores:
    return score(*_arrays(rows, predicted, happened))


def _arrays(rows: pd.DataFrame, predicted: str, happened: str):  # type: ignore[no-untyped-def]
    codes = rows.groupby(EPISODE, sort=False).ngroup().to_numpy(np.int64)
    return rows[predicted].to_numpy(float), rows[happened].to_numpy(bool), codes


def _three(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"
