"""One decision's search tree, made ready for the page's script: a node an option, best path marked.

Reads the JSON of `search.trace`. The script lays the tree out; the table of root options, which is
written here as plain HTML, says the essential in print and to readers without JavaScript.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vine_vla.report import charts
from vine_vla.report.markup import Markup, element
from vine_vla.report.parts import cell, row_head, table, tag
from vine_vla.search.trace import OUTCOMES, PLACES, validate_trace

MAX_NODES = 500
"""Options drawn a tree; of larger trees the least visited branches are left out."""


def tree_view(tree: Mapping[str, object], title: str, where: str) -> dict[str, object]:
    """The tree for the script; VineError names the field if `tree` is malformed.

    Returns:
        `{"title", "nodes"}`; nodes have the fields of `_drawn`, parents come first, 0 is the root.
    """
    validate_trace(tree, where=where)
    data: Any = tree
    best = {(int(node), int(option)) for node, option in data["variation"]}
    path = {node for node, _ in best}
    root = data["nodes"][0]
    nodes: list[dict[str, object]] = [
        {
            **_blank(),
            "name": "the scene as perceived",
            "text": data["instruction"],
            "note": data["reason"],
            "graphs": [["scene graph", tidy(root["graph"])]],
        }
    ]
    queue = [(0, 0, 0, "")]  # search node, drawn parent, depth, outcome that led here
    while queue:
        queue.sort(key=lambda entry: (entry[0] not in path, -_visits(data["nodes"], entry[0])))
        index, parent, depth, via = queue.pop(0)
        options = data["nodes"][index]["options"]
        if len(nodes) + len(options) > MAX_NODES and index:
            continue
        ranked = sorted(range(len(options)), key=lambda k: _rank(options[k], (index, k) in best))
        for k in ranked:
            option = options[k]
            children = {o: option["children"][o] for o in OUTCOMES if option["children"][o] is not None}
            drawn = len(nodes)
            nodes.append(_drawn(option, parent, depth + 1, via, (index, k) in best))
            nodes[drawn]["graphs"] = [
                [f"scene expected once {outcome}", tidy(data["nodes"][child]["graph"])]
                for outcome, child in children.items()
            ]
            queue += [(child, drawn, depth + 1, outcome) for outcome, child in children.items()]
    return {"title": title, "nodes": nodes}


def options_table(tree: Mapping[str, object]) -> Markup:
    """The root's options, best first and cut ones last, with intervals and reasons."""
    data: Any = tree
    best = {(int(node), int(option)) for node, option in data["variation"]}
    options = list(enumerate(data["nodes"][0]["options"]))
    options.sort(key=lambda pair: _rank(pair[1], (0, pair[0]) in best))
    scale = charts.rate_scale()
    rows = []
    for k, option in options:
        low, middle, high = option["lower"], option["feasibility"], option["upper"]
        cut = option["pruned"]
        tone = "poor" if cut else "good" if (0, k) in best else "even"
        mark = charts.interval_mark(
            low, middle, high, scale, f"{middle:.2f}, {low:.2f} to {high:.2f}", tone=tone
        )
        said: tuple[object, ...] = (tag("chosen", "good"),) if (0, k) in best else ()
        if cut:
            said = tag("cut", "poor"), element("small", cut["reason"])
        rows.append(
            (
                row_head(option["text"]),
                cell(f"{middle:.2f}", class_="n strong"),
                cell(mark, class_="plot"),
                "–" if option["score"] is None else f"{option['score']:.2f}",
                str(option["visits"]),
                f"{option['prior']:.2f}",
                f"{option['support']:.2f}",
                cell(*said, class_="reasons"),
            )
        )
    axis = charts.interval_axis(scale, unit="probability", factor=1)
    names = ("option", "feasibility", axis, "score", "visits", "prior", "support", "")
    return table(names, rows, "Options at the root", shown=False)


def tidy(graph: str) -> str:
    """A graph's text with long fractions cut to 3 digits, for reading."""
    return re.sub(r"-?\d+\.\d{4,}(e-?\d+)?", lambda match: f"{float(match[0]):.3f}", graph)


def _blank() -> dict[str, object]:
    names = ("v", "lo", "hi", "score", "visits", "prior", "support", "spread", "p", "u")
    return {
        **dict.fromkeys(names),
        **{
            "parent": 0,
            "depth": 0,
            "via": "",
            "best": False,
            "pruned": "",
            "short": "",
            "text": "",
            "note": "",
        },
        "graphs": [],
    }


def _drawn(option: Mapping[str, Any], parent: int, depth: int, via: str, best: bool) -> dict[str, object]:
    p = [option["p"][name] for name in PLACES]
    cut = option["pruned"]
    return {
        **_blank(),
        "parent": parent,
        "depth": depth,
        "via": via,
        "name": option["subgoal"],
        "text": option["text"],
        "v": option["feasibility"],
        "lo": option["lower"],
        "hi": option["upper"],
        "score": option["score"],
        "visits": option["visits"],
        "prior": option["prior"],
        "support": option["support"],
        "spread": option["spread"],
        "p": p,
        "u": option["reachable_upper"],
        "pruned": cut["reason"] if cut else "",
        "short": f"P(reach) {p[0] + p[1]:.2f}" if cut else "",
        "best": best,
    }


def _rank(option: Mapping[str, Any], best: bool) -> tuple[bool, bool, float, str]:
    score = option["score"] if option["score"] is not None else option["feasibility"]
    return option["pruned"] is not None, not best, -score, option["subgoal"]


def _visits(nodes: Any, index: int) -> float:
    """How often the search came through a node: that of the option above it; the root comes first."""
    node = nodes[index]
    if node["parent"] is None:
        return float("inf")
    return float(nodes[node["parent"]]["options"][node["option"]]["visits"])
