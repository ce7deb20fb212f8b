"""Axes of the page's charts: from data to pixels, with their ticks. `templates/charts.html` draws with them.

The charts are SVG in the page itself: static, a few hundred bytes each, with colours from the style sheet
(so they follow light, dark and print) and a sentence for screen readers. plotly.js would add 4.8 MB to a page
that must stay under 2 MB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 190.0
"""Of a chart in a table's row, in pixels of its own coordinates."""


@dataclass(frozen=True)
class Scale:
    """An axis from data [low, high] to pixels [start, end]; a logarithmic one needs a positive `low`.

    Calling it gives the pixel of a value; values beyond the axis are drawn at its end.
    """

    low: float
    high: float
    start: float = 10.0
    end: float = WIDTH - 14.0
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Four to six round steps, or whole decades."""
        if self.log:
            return [self.low * 10**i for i in range(round(math.log10(self.high / self.low)) + 1)]
        span = self.high - self.low
        step = next(s for s in (0.05, 0.1, 0.2, 0.25, 0.5, 1.0) if span / s <= 5.01)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 6) + 0.0 for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def tick_label(self, tick: float, factor: float = 1.0) -> str:
        """`0.25`, or with a sign where the axis has both."""
        sign = "+" if self.low < 0 < tick and not self.log else ""
        return f"{sign}{tick * factor:g}".replace("-", "−")


UNIT = Scale(0.0, 1.0)
SQUARE_X, SQUARE_Y = Scale(0.0, 1.0, 34.0, 234.0), Scale(0.0, 1.0, 206.0, 6.0)
"""Axes of a reliability plot."""


def difference_scale(bounds: Sequence[float]) -> Scale:
    """Symmetric around zero, wide enough for every interval, in steps of 10 points."""
    widest = max([abs(b) for b in bounds if math.isfinite(b)] + [0.05])
    edge = min(math.ceil(widest * 10 + 1e-9) / 10, 1.0)
    return Scale(-edge, edge, 12.0)


def decades(values: Sequence[float]) -> Scale:
    """Whole decades around positive values."""
    low = 10.0 ** math.floor(math.log10(min(values)))
    top = 10.0 ** math.ceil(math.log10(max(values) * 1.0001))
    return Scale(low, max(top, low * 10), 14.0, WIDTH - 20.0, log=True)
