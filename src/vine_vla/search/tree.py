"""The search tree: B problems with N nodes each in flat preallocated arrays.

A node is an expanded graph. What is not expanded yet is a slot of its parent: option k, outcome o
(after reached or after slipped), with the model's value of the graph it would lead to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vine_vla.protocols import REACHED, SLIPPED
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
        return np.full((*lead, *shape), fill, np.int64)

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


def add_nodes(
    tree: Tree,
    outputs: Outputs,
    problem: Int,
    node: Int,
    row: Int,
    *,
    slot: tuple[Int, Int, Int] | None = None,
    budget: Int | None = None,
) -> None:
    """Fill in new nodes; values are left to `back_up`.

    Args:
        problem, node, row: where the n nodes stand and their rows in `outputs`. [n] each
        slot: parent, option and outcome that they fill; None for roots. [n] each
        budget: subgoals left at a root; other nodes have one less than their parent. [n]
    """
    at = (problem, node)
    tree.row[at] = row
    if slot is None:
        assert budget is not None
        tree.budget[at] = budget
    else:
        parent, option, outcome = slot
        tree.parent[at], tree.option[at], tree.outcome[at] = slot
        tree.depth[at] = tree.depth[problem, parent] + 1
        tree.budget[at] = tree.budget[problem, parent] - 1
        tree.children[problem, parent, option, outcome] = node
    left = tree.budget[at] - 1
    chance = outputs.p[row][..., REACHED : SLIPPED + 1].mean(1, dtype=np.float64)
    kept = outputs.cut[row] == KEPT
    further = (left > 0) & (tree.depth[at] + 1 < tree.config.depth)
    may = kept[..., None] & further[:, None, None] & (chance > tree.config.min_outcome)
    tree.chance[at], tree.prior[at] = chance, outputs.prior[row]
    tree.children[at] = np.where(may, UNEXPANDED, CLOSED)
    tree.frontier[at] = may
    tree.score[at] = np.where(kept, 0.0, -np.inf)
    value = np.clip(outputs.value[row], 0.0, 1.0) * (left > 0)[:, None, None, None]
    tree.below[at] = value[:, None]
