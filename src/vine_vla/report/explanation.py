"""The section made by `vine explain`: what feasibility rests on, what failures change, what is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vine_vla.core.errors import VineError
from vine_vla.report import notes
from vine_vla.report.markup import Markup, element
from vine_vla.report.parts import cell, note, points, row_head, table

COLUMNS = {
    "importance": ("verb", "feature", "n", "importance", "value", "shown", "effect"),
    "decisions": ("source", "with_failures", "feasibility", "withheld", "withheld_feasibility", "regret"),
    "unknown": ("source", "entropy", "votes", "stake"),
}
MOST = 20
"""Rows shown of a table."""


def check_explanation(data: Mapping[str, object], where: str) -> None:
    """Raises VineError unless `data` is what `vine explain` writes."""
    for name, columns in COLUMNS.items():
        rows = data.get(name, [])
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and set(columns) <= set(row) for row in rows
        ):
            raise VineError(f"{name} is not a table", where=where, hint="write it anew with `vine explain`")


def explanation(data: Mapping[str, object]) -> list[Markup]:
    """The section; a note alone where nothing was explained."""
    if not data:
        return [note("This run was not explained: `vine explain RUN --out RESULTS` adds this section.")]
    parts = [note(notes.EXPLAINED.format(cases=data.get("cases", "?"), source=data.get("source", "")))]
    parts += [element("h3", "What feasibility rests on"), _importance(_rows(data, "importance"))]
    if "decisions" in data:
        rows = _rows(data, "decisions")
        parts += [element("h3", "Decisions that change when the failures are withheld"), note(notes.CHANGED)]
        parts.append(_decisions(rows) if rows else note("None changed."))
    unknown = [row for row in _rows(data, "unknown") if _number(row, "entropy") > 0]
    parts += [element("h3", "What to demonstrate next"), note(notes.UNKNOWN)]
    parts.append(_unknown(unknown) if unknown else note("The members agree everywhere."))
    return parts


def _rows(data: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    rows = data.get(name, [])
    return list(rows) if isinstance(rows, list) else []


def _number(row: Mapping[str, object], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else float("nan")


def _importance(rows: Sequence[Mapping[str, object]]) -> Markup:
    """A row a feature and value; features that do not matter are left out."""
    shown = [r for r in rows if _number(r, "importance") >= 0.001][: 3 * MOST]
    return table(
        ["verb", "feature", "importance", "value", "occurs", "effect on P"],
        [
            [
                row_head(str(r["verb"])),
                cell(str(r["feature"])),
                f"{_number(r, 'importance'):.3f}",
                cell(str(r["value"])),
                f"{_number(r, 'shown'):.0%}",
                points(_number(r, "effect")),
            ]
            for r in shown
        ],
        "Rise of the Brier score when the feature is another case's, and points of P that a value brings",
        text_from=2,
    )


def _decisions(rows: Sequence[Mapping[str, object]]) -> Markup:
    return table(
        ["scene", "with failures", "feasibility", "without", "it says", "loses", "nearest failed episodes"],
        [
            [
                row_head(str(r["source"])),
                cell(str(r["with_failures"])),
                f"{_number(r, 'feasibility'):.2f}",
                cell(str(r["withheld"])),
                f"{_number(r, 'withheld_feasibility'):.2f}",
                points(_number(r, "regret"), sign=False),
                cell(str(r.get("nearest_failed") or "–")),
            ]
            for r in rows[:MOST]
        ],
        f"{min(len(rows), MOST)} of {len(rows)} decisions",
    )


def _unknown(rows: Sequence[Mapping[str, object]]) -> Markup:
    return table(
        ["scene", "entropy, bits", "stake", "votes of the members"],
        [
            [
                row_head(str(r["source"])),
                f"{_number(r, 'entropy'):.2f}",
                points(_number(r, "stake"), sign=False),
                cell(str(r["votes"])),
            ]
            for r in rows[:MOST]
        ],
        f"{min(len(rows), MOST)} of {len(rows)} scenes on which the members do not agree",
    )
