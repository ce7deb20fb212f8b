"""One decision's search tree, made ready for the page's script: a node an option, best path marked.

Reads the JSON of `search.trace`. The script lays the tree out; the table of root options, which is plain
HTML, says the essential in print and to readers without JavaScript.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vine_vla.search.trace import OUTCOMES, PLACES, validate_trace

MAX_NODES = 500
"""Options drawn a tree; of larger trees the least visited branches are left out."""

BLANK: dict[str, Any] = {
    **dict.fromkeys(("v", "lo", "hi", "score", "visits", "prior", "support", "spread", "p", "u")),
    **dict.fromkeys(("via", "pruned", "short", "text", "note"), ""),
    **{"parent": 0, "depth": 0, "best": False, "graphs": []},
}
"""Fields of a node that says nothing."""

COPIED = {
    **{"name": "subgoal", "text": "text", "v": "feasibility", "lo": "lower", "hi": "upper"},
    **{"u": "reachable_upper"},
    **{name: name for name in ("score", "visits", "prior", "support", "spread")},
}
"""Fields of a node and those of the option that they come from."""


class RootOption(NamedTuple):
    """An option at the root, as `search.trace` has it."""

    option: Mapping[str, Any]
    chosen: bool

    @property
    def tone(self) -> str:
        return "poor" if self.option["pruned"] else "good" if self.chosen else "even"


def tree_view(tree: Mapping[str, Any], title: str, where: str) -> dict[str, Any]:
    """The tree for the script; VineError names the field if `tree` is malformed.

    Returns:
        `{"title", "nodes"}`; nodes have the fields of `BLANK`, parents come first, 0 is the root.
    """
    validate_trace(tree, where=where)
    best = {(int(node), int(option)) for node, option in tree["variation"]}
    path = {node for node, _ in best}
    found = tree["nodes"]
    nodes = [
        {
            **BLANK,
            "name": "the scene as perceived",
            "text": tree["instruction"],
            "note": tree["reason"],
            "graphs": [["scene graph", tidy(found[0]["graph"])]],
        }
    ]
    queue = [(0, 0, 0, "")]  # search node, drawn parent, depth, outcome that led here
    while queue:
        queue.sort(key=lambda entry: (entry[0] not in path, -_visits(found, entry[0])))
        index, parent, depth, via = queue.pop(0)
        options = found[index]["options"]
        if len(nodes) + len(options) > MAX_NODES and index:
            continue
        for k in sorted(range(len(options)), key=lambda k: _rank(options[k], (index, k) in best)):
            children = {o: child for o in OUTCOMES if (child := options[k]["children"][o]) is not None}
            queue += [(child, len(nodes), depth + 1, outcome) for outcome, child in children.items()]
            nodes.append(
                {
                    **_node(options[k]),
                    **{"parent": parent, "depth": depth + 1, "via": via, "best": (index, k) in best},
                    "graphs": [
                        [f"scene expected once {outcome}", tidy(found[child]["graph"])]
                        for outcome, child in children.items()
                    ],
                }
            )
    return {"title": title, "nodes": nodes}


def root_options(tree: Mapping[str, Any]) -> list[RootOption]:
    """The root's options, best first and pruned ones last."""
    best = [int(option) for node, option in tree["variation"] if node == 0]
    options = [RootOption(option, k in best) for k, option in enumerate(tree["nodes"][0]["options"])]
    return sorted(options, key=lambda root: _rank(root.option, root.chosen))


def tidy(graph: str) -> str:
    """A graph's text with long fractions cut to 3 digits, for reading."""
    return re.sub(r"-?\d+\.\d{4,}(e-?\d+)?", lambda match: f"{float(match[0]):.3f}", graph)


def _node(option: Mapping[str, Any]) -> dict[str, Any]:
    p, pruned = [option["p"][name] for name in PLACES], option["pruned"]
    return {
        **BLANK,
        **{name: option[source] for name, source in COPIED.items()},
        "p": p,
        "pruned": pruned["reason"] if pruned else "",
        "short": f"P(reach) {p[0] + p[1]:.2f}" if pruned else "",
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
