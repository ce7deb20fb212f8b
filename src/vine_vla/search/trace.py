"""The search tree as JSON: what `vine plan` writes and what the report draws with clickable nodes.

Schema, version 1. Probabilities are in [0, 1] and rounded to 6 digits; nothing depends on the clock::

    {"kind": "vine-search-tree", "version": 1,
     "planner": "tree", "instruction": str, "status": "planned" | "infeasible" | "unsupported",
     "reason": str, "config": {SearchConfig}, "members": {"choosing": [int], "reporting": [int]},
     "complete": bool,                  # nothing was left to expand within look-ahead and budget
     "expansions": int, "model_calls": int, "cache_hits": int,
     "variation": [[node, option], ...],# principal variation along `reached`; empty unless planned
     "nodes": [NODE, ...]}              # nodes[i]["id"] == i; 0 is the root, parents come first;
                                        # at most config.trace and the variation's; none without budget

    NODE = {"id": int, "parent": id | null, "option": place in the parent's options | null,
            "outcome": "reached" | "slipped" | null,   # what led here from the parent
            "depth": int, "budget": int,               # subgoals since the root, subgoals left
            "graph": str,                              # text form, `parse_graph` reads it
            "value", "lower", "upper", "spread": V of the reporting members,
            "best": place in options | null,           # null: every option is pruned
            "options": [OPTION, ...]}                  # in the order of their text

    OPTION = {"subgoal": "place(cup, shelf_2)", "text": sentence,
              "p": {"goal", "reached", "slipped", "dead"},   # mean of the reporting members
              "feasibility", "lower", "upper", "spread": Q of the reporting members,
              "score": float | null,                   # what the choosing members rank by; null: pruned
              "reachable_upper": pruning score u,
              "visits": int, "prior": float, "support": float,
              "pruned": null | {"code": "below_tau", "reason": str},
              "children": {"reached": id | null, "slipped": id | null},   # null: not expanded
              "value_after": {"reached": float, "slipped": float}}        # V used, of child or model
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.packing import PackedGraphs
from vine_vla.core.protocols import PlanStatus
from vine_vla.core.text import describe, format_graph
from vine_vla.search.config import SearchConfig
from vine_vla.search.engine import Searched
from vine_vla.search.outputs import Int, canonical_text
from vine_vla.search.packed_text import packed_texts
from vine_vla.search.pruning import BELOW_TAU, REASON_CODES, explain_pruning
from vine_vla.search.tree import F64, HIGH, LOW, MID, NO_NODE

KIND, VERSION = "vine-search-tree", 1
OUTCOMES = ("reached", "slipped")
PLACES = ("goal", "reached", "slipped", "dead")


def node_graphs(found: Searched, problem: int, nodes: Int) -> PackedGraphs:
    """The packed graphs of some nodes, other than the root, of one problem. [n]"""
    tree, outputs = found.tree, found.outputs
    parent = tree.nodes.row[problem, tree.nodes.parent[problem, nodes]]
    packed = outputs.after(parent, tree.nodes.option[problem, nodes], tree.nodes.outcome[problem, nodes])
    return packed.with_budget(tree.nodes.budget[problem, nodes])


def bounds(tree_q: F64, reporting: list[int], z: float) -> tuple[F64, F64, F64, F64]:
    """Feasibility, lower, upper and spread of the reporting members.

    Args:
        tree_q: Q or V with its three bounds. [..., 3, M, K] or [..., 3, M, 1]
        z: half width in standard deviations.

    Returns:
        four arrays [..., K]; the interval covers the feasibility and lies in [0, 1].
    """
    q = tree_q[..., reporting, :]
    mean, spread = q.mean(-2), q[..., MID, :, :].std(-2)
    middle = np.clip(mean[..., MID, :], 0, 1)
    lower = np.clip(mean[..., LOW, :] - z * spread, 0, 1)
    upper = np.clip(mean[..., HIGH, :] + z * spread, 0, 1)
    return middle, lower, upper, spread


def option_text(subgoal: Subgoal, graph: SceneGraph, found: Searched) -> str:
    """The subgoal's sentence in the root's scene, where ids have the meaning that people know."""
    if all(argument in graph for argument in subgoal.args):
        return describe(subgoal, graph, found.outputs.model.schema)
    return canonical_text(subgoal)


def trace_tree(
    found: Searched,
    problem: int,
    *,
    planner: str,
    graph: SceneGraph,
    status: PlanStatus,
    reason: str,
    variation: list[tuple[int, int]],
    texts: dict[Subgoal, str],
    root_reasons: Mapping[int, str],
) -> dict[str, object]:
    """The tree of one problem, JSON-ready.

    Args:
        graph: the root's scene. texts: sentences of subgoals, filled in as needed.
        root_reasons: full reasons of the root's pruned options, by place.
    """
    tree, outputs, nodes = found.tree, found.outputs, found.tree.nodes
    kept = _kept_nodes(found, problem, variation)
    place_of = {int(n): place for place, n in enumerate(kept)}
    numbers = _Numbers(found, problem, kept, place_of)
    graph_texts = [format_graph(graph), *_graph_texts(found, problem, kept[1:])]
    entries: list[dict[str, object]] = []
    for n, original in enumerate(kept.tolist()):
        at = problem, original
        row = int(nodes.row[at])
        parent = int(nodes.parent[at])
        options = []
        for k, subgoal in enumerate(outputs.subgoals[row]):
            if subgoal not in texts:
                texts[subgoal] = option_text(subgoal, graph, found)
            pruned = None
            if outputs.table.reason[row, k] == BELOW_TAU:
                line = root_reasons.get(k) if n == 0 else None
                u = float(outputs.table.upper[row, k])
                line = line or explain_pruning(subgoal, outputs.table.p[row, :, k], u, outputs.rule)
                pruned = {"code": REASON_CODES[BELOW_TAU], "reason": line}
            options.append(numbers.option(n, k, canonical_text(subgoal), texts[subgoal], pruned))
        best = int(nodes.best[at])
        entries.append(
            {
                "id": n,
                "parent": None if parent == NO_NODE else place_of[parent],
                "option": None if parent == NO_NODE else int(nodes.option[at]),
                "outcome": None if parent == NO_NODE else OUTCOMES[int(nodes.outcome[at])],
                "depth": int(nodes.depth[at]),
                "budget": int(nodes.budget[at]),
                "graph": graph_texts[n],
                **numbers.node(n),
                "best": None if best == NO_NODE else best,
                "options": options,
            }
        )
    head = empty_trace(planner, found.instructions[problem], status, reason, tree.config)
    return head | {
        "members": {"choosing": tree.choosing, "reporting": tree.reporting},
        "complete": tree.complete(problem),
        "expansions": int(tree.nodes.used[problem]),
        "model_calls": outputs.model_calls,
        "cache_hits": outputs.hits,
        "variation": [[place_of[n], k] for n, k in variation],
        "nodes": entries,
    }


def empty_trace(
    planner: str, instruction: str, status: PlanStatus, reason: str, config: SearchConfig
) -> dict[str, object]:
    """A trace without nodes: nothing was searched."""
    return {
        "kind": KIND,
        "version": VERSION,
        "planner": planner,
        "instruction": instruction,
        "status": str(status),
        "reason": reason,
        "config": asdict(config),
        "members": {"choosing": [], "reporting": []},
        "complete": True,
        "expansions": 0,
        "model_calls": 0,
        "cache_hits": 0,
        "variation": [],
        "nodes": [],
    }


def _kept_nodes(found: Searched, problem: int, variation: list[tuple[int, int]]) -> Int:
    """The nodes that a trace shows, in order; a node's parent is always among them."""
    shown = min(int(found.tree.nodes.used[problem]), found.tree.config.trace)
    return np.array(sorted({*range(shown), *(node for node, _ in variation)}), np.int64)


def _graph_texts(found: Searched, problem: int, nodes: Int) -> list[str]:
    """Text of the nodes' graphs; nodes that share a row have equal graphs, which are written once."""
    if not len(nodes):
        return []
    rows, first, which = np.unique(
        found.tree.nodes.row[problem, nodes], return_index=True, return_inverse=True
    )
    texts = packed_texts(node_graphs(found, problem, nodes[first]), found.outputs.model.schema)
    return [texts[place] for place in which.tolist()]


class _Numbers:
    """Numbers of all nodes as plain lists, taken out of the arrays at once."""

    def __init__(self, found: Searched, problem: int, nodes: Int, place_of: dict[int, int]) -> None:
        tree, outputs = found.tree, found.outputs
        one, rows = (problem, nodes), tree.nodes.row[problem, nodes]
        self.place_of = place_of

        def plain(array: Any) -> Any:
            return np.round(np.asarray(array, np.float64), 6).tolist()

        z = tree.config.z
        self.q = [plain(a) for a in bounds(tree.nodes.q[one], tree.reporting, z)]
        self.v = [plain(a[..., 0]) for a in bounds(tree.nodes.value[one][..., None], tree.reporting, z)]
        self.score = plain(np.where(np.isfinite(tree.nodes.score[one]), tree.nodes.score[one], -1.0))
        self.pruned = (~np.isfinite(tree.nodes.score[one])).tolist()
        self.p = plain(outputs.table.p[rows][:, tree.reporting].mean(1))
        below = tree.nodes.below[one][:, MID][:, tree.reporting].mean(1)
        self.below = plain(below)
        self.children = tree.nodes.children[one].tolist()
        self.visits = tree.nodes.visits[one].sum(-1).tolist()
        self.prior, self.support = plain(outputs.table.prior[rows]), plain(outputs.table.support[rows])
        self.upper = plain(outputs.table.upper[rows])

    def node(self, n: int) -> dict[str, float]:
        value, lower, upper, spread = (a[n] for a in self.v)
        return {"value": value, "lower": lower, "upper": upper, "spread": spread}

    def option(
        self, n: int, k: int, subgoal: str, text: str, pruned: dict[str, str] | None
    ) -> dict[str, object]:
        feasibility, lower, upper, spread = (a[n][k] for a in self.q)
        reached, slipped = self.children[n][k]
        return {
            "subgoal": subgoal,
            "text": text,
            "p": dict(zip(PLACES, self.p[n][k], strict=True)),
            "feasibility": feasibility,
            "lower": lower,
            "upper": upper,
            "spread": spread,
            "score": None if self.pruned[n][k] else self.score[n][k],
            "reachable_upper": self.upper[n][k],
            "visits": self.visits[n][k],
            "prior": self.prior[n][k],
            "support": self.support[n][k],
            "pruned": pruned,
            "children": {
                "reached": self.place_of.get(reached),
                "slipped": self.place_of.get(slipped),
            },
            "value_after": dict(zip(OUTCOMES, self.below[n][k], strict=True)),
        }


def save_trace(path: Path, trace: Mapping[str, object]) -> None:
    """Write a tree to `path`, under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + f".{os.getpid()}.partial")
    partial.write_text(json.dumps(trace, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def load_trace(path: Path) -> dict[str, Any]:
    """Read a tree; raises VineError that names the file and the field at fault."""
    try:
        trace = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VineError(f"cannot read the tree: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise VineError(f"not JSON: {error}", where=str(path)) from error
    validate_trace(trace, where=str(path))
    checked: dict[str, Any] = trace
    return checked


_NUMBER, _TEXT = (int, float), (str,)
_TOP: dict[str, tuple[type, ...]] = {
    **{"planner": _TEXT, "instruction": _TEXT, "status": _TEXT, "reason": _TEXT, "config": (dict,)},
    **{"members": (dict,), "complete": (bool,), "variation": (list,), "nodes": (list,)},
    **{"expansions": (int,), "model_calls": (int,), "cache_hits": (int,)},
}
_NODE: dict[str, tuple[type, ...]] = {
    **{"id": (int,), "parent": (int, type(None)), "option": (int, type(None)), "graph": _TEXT},
    **{"outcome": (str, type(None)), "depth": (int,), "budget": (int,), "best": (int, type(None))},
    **{"value": _NUMBER, "lower": _NUMBER, "upper": _NUMBER, "spread": _NUMBER, "options": (list,)},
}
_OPTION: dict[str, tuple[type, ...]] = {
    **{"subgoal": _TEXT, "text": _TEXT, "p": (dict,), "children": (dict,), "value_after": (dict,)},
    **{"feasibility": _NUMBER, "lower": _NUMBER, "upper": _NUMBER, "spread": _NUMBER},
    **{"score": (int, float, type(None)), "reachable_upper": _NUMBER, "visits": (int,)},
    **{"prior": _NUMBER, "support": _NUMBER, "pruned": (dict, type(None))},
}


def validate_trace(trace: object, where: str = "tree") -> None:
    """Raises VineError that names the first field that breaks the schema at the top of this file."""
    if not isinstance(trace, dict) or trace.get("kind") != KIND:
        raise VineError("not a search tree", where=where, hint="write it with `vine plan --out`")
    if trace.get("version") != VERSION:
        raise VineError(f"version {trace.get('version')} is not {VERSION}", where=f"{where}, version")
    _fields(trace, _TOP, where)
    nodes = trace["nodes"]
    for n, node in enumerate(nodes):
        here = f"{where}, nodes[{n}]"
        _fields(node, _NODE, here)
        if node["id"] != n or (n > 0) != (node["parent"] is not None) or (node["parent"] or 0) > n:
            raise VineError("ids and parents are out of order", where=here)
        for k, option in enumerate(node["options"]):
            place = f"{here}.options[{k}]"
            _fields(option, _OPTION, place)
            _fields(option["p"], dict.fromkeys(PLACES, _NUMBER), f"{place}.p")
            if abs(sum(option["p"].values()) - 1) > 1e-3:
                raise VineError("probabilities do not sum to 1", where=f"{place}.p")
            if not 0 <= option["lower"] <= option["feasibility"] + 1e-5 <= option["upper"] + 2e-5 <= 1.001:
                raise VineError("the interval does not cover the feasibility", where=place)
            for outcome in OUTCOMES:
                child = option["children"].get(outcome)
                if child is not None and not (
                    0 < child < len(nodes)
                    and (nodes[child].get("parent"), nodes[child].get("option")) == (n, k)
                    and nodes[child].get("outcome") == outcome
                ):
                    raise VineError(f"child {child} does not point back", where=f"{place}.children.{outcome}")
        if node["best"] is not None and not 0 <= node["best"] < len(node["options"]):
            raise VineError(f"best is {node['best']}", where=here)


def _fields(data: object, fields: Mapping[str, tuple[type, ...]], where: str) -> None:
    if not isinstance(data, dict):
        raise VineError("is not an object", where=where)
    for name, kinds in fields.items():
        if name not in data:
            raise VineError(f"field {name} is missing", where=where)
        if not isinstance(data[name], kinds):
            raise VineError(f"field {name} is {data[name]!r}", where=where)
