"""Small pieces that several sections are made of: tables, notes, tags, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vine_vla.report.markup import Markup, element

Cell = Markup | str | None


def note(text: str) -> Markup:
    """A paragraph in small print."""
    return element("p", " ".join(text.split()), class_="note")


def tag(text: str, tone: str = "even", title: str | None = None) -> Markup:
    """A rounded label; tones: good, poor, even, mark."""
    return element("span", text, class_=f"tag {tone}", title=title)


def row_head(*content: object) -> Markup:
    return element("th", content, scope="row")


def cell(*content: object, class_: str | None = None) -> Markup:
    """A cell of running text or a drawing; plain strings in `table` become number cells instead."""
    return element("td", content, class_=class_)


def table(
    names: Sequence[Cell],
    rows: Sequence[Sequence[Cell]],
    caption: str,
    *,
    shown: bool = True,
    marked: Sequence[int] = (),
    text_from: int = 1,
) -> Markup:
    """A table that scrolls sideways when it must.

    Args:
        names: heads of the columns; markup is set as a plot's axis.
        rows: cells; markup that is a `th` or `td` stays as it is, the rest is set as a number.
        caption: read aloud, and shown unless `shown` is False.
        marked: rows that stand out.
        text_from: columns before this one have their heads to the left.
    """
    heads = [
        element(
            "th",
            name,
            scope="col",
            class_="plot" if isinstance(name, Markup) else "n" if i >= text_from else None,
        )
        for i, name in enumerate(names)
        if name is not None
    ]
    body = [
        element("tr", [_wrapped(c) for c in row if c is not None], class_="main" if place in marked else None)
        for place, row in enumerate(rows)
    ]
    inner = element(
        "table",
        element("caption", caption) if shown else None,
        element("thead", element("tr", heads)),
        element("tbody", body),
    )
    return element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _wrapped(content: Cell) -> Markup:
    if isinstance(content, Markup) and content.startswith(("<th", "<td")):
        return content
    return element("td", content, class_="n")


def percent(share: float) -> str:
    """`78.3 %` with a no-break space, or a dash where there is nothing."""
    return "–" if math.isnan(share) else f"{share * 100:.1f}\u00a0%".replace("100.0", "100")


def points(difference: float, *, sign: bool = True) -> str:
    """Percentage points with a true minus sign; zero has no sign."""
    if not math.isfinite(difference):
        return "–"
    shown = f"{difference * 100:+.1f}" if sign else f"{difference * 100:.1f}"
    return shown[1:] if shown in ("+0.0", "-0.0") else shown.replace("-", "−")


def p_value(p: float) -> str:
    return "<\u00a00.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_said(p: float) -> str:
    """`p = 0.02` or `p < 0.001`, for sentences."""
    return f"p\u00a0{p_value(p)}" if p < 0.001 else f"p\u00a0=\u00a0{p_value(p)}"
