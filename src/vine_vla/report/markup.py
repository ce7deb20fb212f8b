"""HTML and SVG without string glue: text is escaped wherever it is put, so data cannot become markup.

`element("td", name, class_="arm")` escapes `name`; only what `element` itself made passes unescaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any


class Markup(str):
    """Text that is already safe to stand in the page. Only this module makes it."""

    __slots__ = ()


Child = Any  # Markup, text, number, None, or an iterable of these

VOID = frozenset({"meta", "input", "br", "hr", "img", "link", "col"})
RAW = frozenset({"script", "style"})
"""Elements whose content a browser does not unescape; they take `raw` content only."""


def element(name: str, /, *children: Child, **attributes: object) -> Markup:
    """One element. `class_` and `for_` lose the underscore at the end, `data_id` becomes `data-id`.

    An attribute that is None or False is left out, True stands bare, a float has at most 2 decimals.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{written}>")
    if name in RAW and not all(isinstance(child, Markup) for child in children):
        raise TypeError(f"<{name}> takes only `script_text` or `json_text`")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """The children one after another, each escaped unless it is markup."""
    return Markup("".join(_child(child) for child in children))


def script_text(source: str) -> Markup:
    """Our own script or style sheet as it is; it must not hold a closing tag."""
    if "</" in source:
        raise ValueError("a script or style sheet must not hold `</`")
    return Markup(source)


def json_text(data: object) -> Markup:
    """Data for a script element: JSON in which no tag or comment can open or close."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def number(value: float) -> str:
    """A coordinate: at most 2 decimals, no trailing zeros."""
    text = f"{float(value):.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = number(value) if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(text, quote=True)}"'


def _child(child: Child) -> str:
    if child is None or child is False:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return html.escape(child, quote=True)
    if isinstance(child, int | float):
        return html.escape(str(child))
    return join(child)
