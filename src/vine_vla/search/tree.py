"""The search tree: B problems with N nodes each in flat preallocated arrays.

A node is an expanded graph. What is not expanded yet is a slot of its parent: option k, outcome o
(after reached or after slipped), with the model's value of the graph it would lead to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.protocols import REACHED, Float
from vine_vla.search.compiled import compiled
from vine_vla.search.config import SearchConfig, split_members
from vine_vla.search.outputs import Int, Outputs
from vine_vla.search.pruning import KEPT

F64 = NDArray[np.float64]

UNEXPANDED, CLOSED, PENDING = -1, -2, -3
"""Sentinels in `Tree.children`: may be expanded; never will be (cut, padding, no budget or look-ahead
left, negligible outcome); chosen in the present round and waiting for the model."""

NO_NODE = -1
"""Sentinel in `Tree.parent` and `Tree.row`."""

LOW, MID, HIGH = range(3)
"""Places of the bounds in `Tree.q` and `Tree.value`: with uncovered options at their worst, as the
model says, and at their best. They are equal where everything is covered."""


@dataclass
class Tree:
    """Flat arrays of B problems, N nodes, K options, M members; outcomes o are reached and slipped.

    Args:
        config: settings of the search.
        choosing, reporting: members that choose options and members that report probabilities.
        count: nodes in use. [B]
        row: row of the node's graph in `Outputs`, NO_NODE where not in use. [B, N]
        parent, option, outcome: the slot that the node fills; NO_NODE at the root. [B, N]
        depth, budget: subgoals since the root, subgoals left. [B, N]
        children: node in each slot, or a sentinel. [B, N, K, 2]
        visits: expansions spent below each slot. [B, N, K, 2]
        virtual: leaves below each slot that wait for the model; 0 between rounds. [B, N, K, 2]
        frontier: leaves below each slot that may still be chosen. [B, N, K, 2]
        chance: P(reached), P(slipped), mean of the members. [B, N, K, 2]
        prior: of each option. [B, N, K]
        below: V in each slot, of the child or else of the model. [B, N, 3, M, K, 2]
        q: Q of each option and member, three bounds. [B, N, 3, M, K]
        score: what options are chosen by, -inf where cut. [B, N, K]
        best: option with the highest score, NO_NODE if all are cut. [B, N]
        value: V of the node along `best`, 0 if all are cut. [B, N, 3, M]
        length: subgoals along `best` and `reached` from the node on, as far as is known. [B, N]
    """

    config: SearchConfig
    choosing: list[int]
    reporting: list[int]
    count: Int
    row: Int
    parent: Int
    option: Int
    outcome: Int
    depth: Int
    budget: Int
    children: Int
    visits: Int
    virtual: Int
    frontier: Int
    chance: F64
    prior: F64
    below: F64
    q: F64
    score: F64
    best: Int
    value: F64
    length: Int

    @property
    def problems(self) -> int:
        return self.row.shape[0]

    @property
    def capacity(self) -> int:
        return self.row.shape[1]

    @property
    def members(self) -> int:
        return self.value.shape[3]

    def complete(self, problem: int) -> bool:
        """Whether nothing is left to expand within look-ahead and budget."""
        return self.count[problem] > 0 and not (self.children[problem] == UNEXPANDED).any()


def create_tree(problems: int, capacity: int, members: int, config: SearchConfig) -> Tree:
    """A tree without nodes and with room for `capacity` nodes a problem."""
    choosing, reporting = split_members(members, config.split)
    lead, k = (problems, capacity), config.k

    def integers(*shape: int, fill: int = 0) -> Int:
        return np.full((*lead, *shape), fill, np.int64) if fill else np.zeros((*lead, *shape), np.int64)

    return Tree(
        config=config,
        choosing=choosing,
        reporting=reporting,
        count=np.zeros(problems, np.int64),
        row=integers(fill=NO_NODE),
        parent=integers(fill=NO_NODE),
        option=integers(fill=NO_NODE),
        outcome=integers(fill=NO_NODE),
        depth=integers(),
        budget=integers(),
        children=integers(k, 2, fill=CLOSED),
        visits=integers(k, 2),
        virtual=integers(k, 2),
        frontier=integers(k, 2),
        chance=np.zeros((*lead, k, 2)),
        prior=np.zeros((*lead, k)),
        below=np.zeros((*lead, 3, members, k, 2)),
        q=np.zeros((*lead, 3, members, k)),
        score=np.full((*lead, k), -np.inf),
        best=integers(fill=NO_NODE),
        value=np.zeros((*lead, 3, members)),
        length=integers(),
    )


_BY_NODE = (
    *("row", "parent", "option", "outcome", "depth", "budget", "children", "visits", "virtual"),
    *("frontier", "chance", "prior", "below", "q", "score", "best", "value", "length"),
)


def grow_tree(tree: Tree, capacity: int) -> None:
    """Make room for `capacity` nodes a problem."""
    larger = create_tree(tree.problems, capacity, tree.members, tree.config)
    used = tree.capacity
    for name in _BY_NODE:
        array = getattr(larger, name)
        array[:, :used] = getattr(tree, name)
        setattr(tree, name, array)


class _Arrays(NamedTuple):
    """What `add_nodes` reads and writes of a tree and its outputs; shapes as there."""

    used: Int
    row: Int
    parent: Int
    option: Int
    outcome: Int
    depth: Int
    budget: Int
    children: Int
    frontier: Int
    chance: F64
    prior: F64
    below: F64
    score: F64
    p: Float
    priors: Float
    values: Float
    cut: NDArray[np.int8]


def add_nodes(tree: Tree, outputs: Outputs, row: Int, slots: Int) -> Int:
    """Fill in new nodes, for which there must be room; values are left to `back_up`.

    Args:
        row: their rows in `outputs`. [n]
        slots: problem, parent, option and outcome that they fill; for roots, whose budget is already in the
            tree, the last three are NO_NODE. [4, n]

    Returns:
        their indices, the next free ones of each problem. [n]
    """
    arrays = _Arrays(
        used=tree.count,
        row=tree.row,
        parent=tree.parent,
        option=tree.option,
        outcome=tree.outcome,
        depth=tree.depth,
        budget=tree.budget,
        children=tree.children,
        frontier=tree.frontier,
        chance=tree.chance,
        prior=tree.prior,
        below=tree.below,
        score=tree.score,
        p=outputs.p,
        priors=outputs.prior,
        values=outputs.value,
        cut=outputs.cut,
    )
    return _add_nodes(arrays, row, slots, tree.config.depth, float(tree.config.min_outcome))


@compiled
def _add_nodes(t: _Arrays, row: Int, slots: Int, depth: int, min_outcome: float) -> Int:
    nodes = np.empty_like(row)
    members, options = t.p.shape[1:3]
    for i in range(len(row)):
        b, parent, option, outcome = slots[:, i]
        n = t.used[b]
        nodes[i] = n
        t.used[b] += 1
        r = row[i]
        t.row[b, n], t.parent[b, n], t.option[b, n], t.outcome[b, n] = r, parent, option, outcome
        if parent >= 0:
            t.depth[b, n], t.budget[b, n] = t.depth[b, parent] + 1, t.budget[b, parent] - 1
            t.children[b, parent, option, outcome] = n
        left = t.budget[b, n] - 1
        further = left > 0 and t.depth[b, n] + 1 < depth
        for e in range(options):
            kept = t.cut[r, e] == KEPT
            t.prior[b, n, e] = t.priors[r, e]
            t.score[b, n, e] = 0.0 if kept else -np.inf
            for o in range(2):
                chance = 0.0
                for m in range(members):
                    chance += t.p[r, m, e, REACHED + o]
                    value = min(max(t.values[r, m, e, o], 0.0), 1.0) if left > 0 else 0.0
                    for bound in range(3):
                        t.below[b, n, bound, m, e, o] = value
                chance /= members
                may = kept and further and chance > min_outcome
                t.chance[b, n, e, o] = chance
                t.children[b, n, e, o] = UNEXPANDED if may else CLOSED
                t.frontier[b, n, e, o] = may
    return nodes
