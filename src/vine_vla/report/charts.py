"""Hand-drawn SVG: interval marks, bars, the scene grid and reliability plots.

Every chart is static, takes its colours from the page's style sheet through classes (so it follows light,
dark and print) and carries a sentence for screen readers. Lengths are pixels of the SVG's own coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vine_vla.report.markup import Markup, element, join


class Scale(NamedTuple):
    """A linear axis from data [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)

    def clip(self, value: float) -> float:
        return self(min(max(value, self.low), self.high))


class LogScale(NamedTuple):
    """A logarithmic axis; `low` must be positive."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def svg(width: float, height: float, label: str, *children: object, class_: str = "chart") -> Markup:
    """An SVG that shrinks with its column and is read aloud as `label`."""
    box = f"0 0 {width:g} {height:g}"
    return element(
        "svg",
        children,
        viewBox=box,
        width=f"{width:g}",
        height=f"{height:g}",
        class_=class_,
        role="img",
        aria_label=label,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def text(x: float, y: float, content: str, class_: str = "t", anchor: str = "start") -> Markup:
    return element("text", content, x=float(x), y=float(y), class_=class_, text_anchor=anchor)


def rect(x: float, y: float, width: float, height: float, class_: str, title: str = "") -> Markup:
    size = {"width": float(max(width, 0.0)), "height": float(max(height, 0.0))}
    inner = element("title", title) if title else None
    return element("rect", inner, x=float(x), y=float(y), class_=class_, **size)


WIDTH, PAD = 190.0, 6.0


def interval_mark(
    low: float,
    middle: float,
    high: float,
    domain: Scale,
    label: str,
    *,
    tone: str,
    reference: float | None = None,
) -> Markup:
    """Dot and whisker for one table row; `reference` draws a vertical line (zero, or a rival's rate)."""
    height, y = 22.0, 11.0
    parts: list[Markup] = [line(domain(tick), 0, domain(tick), height, "grid") for tick in ticks(domain)]
    if reference is not None and domain.low <= reference <= domain.high:
        parts.append(line(domain(reference), 0, domain(reference), height, "reference"))
    if math.isfinite(middle):
        left, right = domain.clip(low), domain.clip(high)
        parts += [
            rect(left, y - 4, right - left, 8, f"band {tone}"),
            line(left, y - 4, left, y + 4, f"whisker {tone}"),
            line(right, y - 4, right, y + 4, f"whisker {tone}"),
            element("circle", cx=domain.clip(middle), cy=y, r=4.5, class_=f"dot {tone}"),
        ]
    return svg(WIDTH, height, label, *parts, class_="chart row")


def interval_axis(domain: Scale, *, unit: str = "%", factor: float = 100.0) -> Markup:
    """Tick labels for a column of interval marks."""
    marks = [
        text(
            domain(t),
            12,
            f"{'+' if domain.low < 0 < t else ''}{t * factor:g}".replace("-", "−"),
            "tick",
            "middle",
        )
        for t in ticks(domain)
    ]
    return svg(WIDTH, 16, f"axis in {unit}", *marks, class_="chart row")


def rate_scale() -> Scale:
    return Scale(0.0, 1.0, PAD + 4, WIDTH - PAD - 8)


def difference_scale(bounds: Sequence[float]) -> Scale:
    """Symmetric around zero, wide enough for every interval, in steps of 10 points."""
    widest = max([abs(b) for b in bounds if math.isfinite(b)] + [0.05])
    edge = min(math.ceil(widest * 10 + 1e-9) / 10, 1.0)
    return Scale(-edge, edge, PAD + 6, WIDTH - PAD - 8)


def ticks(scale: Scale) -> list[float]:
    """Four to six round steps over the scale."""
    span = scale.high - scale.low
    step = next(s for s in (0.05, 0.1, 0.2, 0.25, 0.5, 1.0) if span / s <= 5.01)
    first = math.ceil(scale.low / step - 1e-9)
    return [round(i * step, 6) + 0.0 for i in range(first, math.floor(scale.high / step + 1e-9) + 1)]


def stacked_bar(parts: Sequence[tuple[str, int, str]], label: str, width: float = 400.0) -> Markup:
    """One arm's episodes by how they ended: (name, count, class), left to right."""
    total = sum(count for _, count, _ in parts) or 1
    x, drawn = 0.0, []
    for name, count, class_ in parts:
        wide = count / total * width
        drawn.append(rect(x, 0, wide - 1.0, 20, f"part {class_}", f"{name}: {count} of {total}"))
        if wide > 30:
            drawn.append(text(x + wide / 2, 14, f"{count}", f"on {class_}", "middle"))
        x += wide
    return svg(width, 20, label, *drawn, class_="chart row")


class GridRow(NamedTuple):
    """One arm in the scene grid: success a scene (mean over seeds), None where it was not scored."""

    label: str
    rates: Sequence[float | None]


def scene_grid(scenes: Sequence[int], rows: Sequence[GridRow]) -> Markup:
    """Who solved what: one column a scene, one row an arm, in the order given."""
    width, high, gap = 1010.0, 20.0, 4.0
    left = 20.0 + 6.9 * max(len(row.label) for row in rows)
    cell = (width - left) / max(len(scenes), 1)
    parts: list[Markup] = []
    for place, row in enumerate(rows):
        y = place * (high + gap)
        parts.append(text(left - 10, y + 14.5, row.label, "t", "end"))
        start = 0
        while start < len(scenes):  # equal neighbours are one rectangle: fewer elements, no seams
            stop = start + 1
            while stop < len(scenes) and row.rates[stop] == row.rates[start] and cell < 6:
                stop += 1
            rate = row.rates[start]
            where = f"scene {scenes[start]}" if stop == start + 1 else f"{stop - start} scenes"
            state = (
                "not scored"
                if rate is None
                else ("solved" if rate == 1 else "failed" if rate == 0 else f"{rate:.0%}")
            )
            class_ = (
                "none" if rate is None else "win" if rate >= 0.999 else "loss" if rate <= 0.001 else "half"
            )
            wide = (stop - start) * cell - (1.0 if cell > 4 else 0.0)
            parts.append(
                rect(left + start * cell, y, wide, high, f"scene {class_}", f"{row.label}, {where}: {state}")
            )
            start = stop
    label = f"Grid of {len(scenes)} scenes by {len(rows)} arms: solved or failed"
    return svg(width, len(rows) * (high + gap), label, *parts)


def log_scale(values: Sequence[float]) -> LogScale:
    """Whole decades around positive values."""
    low = 10 ** math.floor(math.log10(min(values)))
    top = 10 ** math.ceil(math.log10(max(values) * 1.0001))
    return LogScale(low, max(top, low * 10), PAD + 8, WIDTH - PAD - 14)


def decades(scale: LogScale) -> list[float]:
    return [scale.low * 10**i for i in range(round(math.log10(scale.high / scale.low)) + 1)]


def range_mark(p50: float, p95: float, scale: LogScale, label: str) -> Markup:
    """Median (dot) to 95th percentile (bar) for one table row."""
    height, y = 22.0, 11.0
    return svg(
        WIDTH,
        height,
        label,
        [line(scale(d), 0, scale(d), height, "grid") for d in decades(scale)],
        line(scale(p50), y, scale(p95), y, "span"),
        line(scale(p95), y - 4, scale(p95), y + 4, "whisker mine"),
        element("circle", cx=scale(p50), cy=y, r=4.5, class_="dot mine"),
        class_="chart row",
    )


def range_axis(scale: LogScale, unit: str) -> Markup:
    marks = [text(scale(d), 12, f"{d:g}", "tick", "middle") for d in decades(scale)]
    return svg(WIDTH, 16, f"axis in {unit}, logarithmic", *marks, class_="chart row")


class ReliabilityBin(NamedTuple):
    """One bin: mean prediction, observed share with a band, and how many rows."""

    predicted: float
    observed: float
    low: float
    high: float
    count: int


def reliability_plot(
    series: Mapping[str, Sequence[ReliabilityBin]], label: str, size: float = 200.0
) -> Markup:
    """Observed against predicted with bands; the diagonal is a perfect predictor. One tone a series."""
    left, bottom, hist = 34.0, 30.0, 34.0
    x = Scale(0, 1, left, left + size)
    y = Scale(0, 1, 6 + size, 6)
    parts: list[Markup] = []
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [line(x(t), y(0), x(t), y(1), "grid"), line(x(0), y(t), x(1), y(t), "grid")]
        parts += [
            text(x(t), y(0) + hist + 16, f"{t:g}", "tick", "middle"),
            text(left - 6, y(t) + 4, f"{t:g}", "tick", "end"),
        ]
    parts.append(line(x(0), y(0), x(1), y(1), "diagonal"))
    tallest = max([b.count for bins in series.values() for b in bins] + [1])
    for place, bins in enumerate(series.values()):
        tone = f"s{place}"
        if len(bins) > 1:
            upper = [(x(b.predicted), y.clip(b.high)) for b in bins]
            lower = [(x(b.predicted), y.clip(b.low)) for b in reversed(bins)]
            parts.append(element("polygon", points=_points(upper + lower), class_=f"band {tone}"))
            parts.append(
                element(
                    "polyline",
                    points=_points([(x(b.predicted), y(b.observed)) for b in bins]),
                    class_=f"curve {tone}",
                )
            )
        for b in bins:
            band = f"[{b.low:.2f}, {b.high:.2f}]"
            title = f"predicted {b.predicted:.2f}, observed {b.observed:.2f} {band}, {b.count} rows"
            if len(bins) == 1:
                parts.append(
                    line(x(b.predicted), y.clip(b.low), x(b.predicted), y.clip(b.high), f"whisker {tone}")
                )
            parts.append(
                element(
                    "circle",
                    element("title", title),
                    cx=x(b.predicted),
                    cy=y(b.observed),
                    r=3.6,
                    class_=f"dot {tone}",
                )
            )
            shift = (place - (len(series) - 1) / 2) * 6
            tall = b.count / tallest * (hist - 6)
            parts.append(
                rect(
                    x(b.predicted) - 2.5 + shift,
                    y(0) + hist - tall,
                    5,
                    tall,
                    f"bar {tone}",
                    f"{b.count} rows",
                )
            )
    parts.append(line(x(0), y(0), x(1), y(0), "axis"))
    parts.append(line(x(0), y(0) + hist, x(1), y(0) + hist, "grid"))
    return svg(left + size + 12, size + hist + bottom + 2, label, *parts, class_="chart square")


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{px:.1f},{py:.1f}" for px, py in points)


def meter(value: float, low: float | None, high: float | None, label: str, width: float = 120.0) -> Markup:
    """A probability as a bar with its interval, for captions."""
    scale = Scale(0, 1, 1, width - 1)
    parts = [rect(0, 4, width, 6, "track"), rect(0, 4, scale.clip(value), 6, "fill")]
    if low is not None and high is not None:
        parts += [line(scale.clip(low), 7, scale.clip(high), 7, "range")]
    parts.append(line(scale.clip(value), 2, scale.clip(value), 12, "needle"))
    return svg(width, 14, label, *parts, class_="chart meter")


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """(class of the swatch, name) pairs on one line."""
    return element(
        "p",
        join(element("span", element("i", class_=f"swatch {c}"), n, class_="key") for c, n in entries),
        class_="legend",
    )
