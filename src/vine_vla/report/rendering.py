"""Jinja2 templates in which every text is escaped, how numbers are written, and the document around it."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vine_vla.report.charts import SQUARE_X, SQUARE_Y, UNIT, Scale

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that change the direction of writing: shown as a replacement character."""


def percent(share: float) -> str:
    """`78.3 %` with a no-break space, or a dash where there is nothing."""
    return "–" if math.isnan(share) else f"{share * 100:.1f}\u00a0%".replace("100.0", "100")


def points(difference: float, sign: bool = True) -> str:
    """Percentage points with a true minus sign; zero has no sign."""
    if not math.isfinite(difference):
        return "–"
    shown = f"{difference * 100:+.1f}" if sign else f"{difference * 100:.1f}"
    return shown[1:] if shown in ("+0.0", "-0.0") else shown.replace("-", "−")


def decimals(value: float | None, digits: int = 2) -> str:
    """A number with a fixed count of decimals, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def p_value(p: float) -> str:
    return "<\u00a00.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_stated(p: float) -> str:
    """`p = 0.02` or `p < 0.001`, for sentences."""
    return f"p\u00a0{p_value(p)}" if p < 0.001 else f"p\u00a0=\u00a0{p_value(p)}"


def pixels(value: float) -> str:
    """A coordinate: at most 2 decimals, no trailing zeros."""
    text = f"{float(value):.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def visible(value: Any) -> Any:
    """Text, and all text in lists and mappings, without control characters; markup is left alone."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return CONTROL.sub("\ufffd", value)
    if isinstance(value, dict):
        return {visible(name): visible(inner) for name, inner in value.items()}
    return [visible(inner) for inner in value] if isinstance(value, list) else value


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("vine_vla.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible("" if value is None else value),
    )
    for function in (percent, points, decimals, p_value, p_stated, pixels, visible):
        made.filters[function.__name__] = function
    made.globals |= {"UNIT": UNIT, "SQUARE_X": SQUARE_X, "SQUARE_Y": SQUARE_Y, "Scale": Scale}
    return made


ENVIRONMENT = _environment()


def render(template: str, **context: object) -> Markup:
    """A template of this package, filled in: texts of `context` are escaped, a missing name is an error."""
    return Markup(ENVIRONMENT.get_template(template).render(**context))


def document(template: str, **context: object) -> str:
    """A whole page with style and script in it; its policy lets no other script run and nothing load."""
    static = files("vine_vla.report") / "static"
    style, script = (static.joinpath(f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return render(
        template,
        style=Markup(style),
        script=Markup(script),
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        **context,
    )
