"""The search tree: B problems with N nodes each in flat preallocated arrays.

A node is an expanded graph. What is not expanded yet is a slot of its parent: option k, outcome o
(after reached or after slipped), with the model's value of the graph it would lead to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.protocols import REACHED
from vine_vla.search.compiled import compiled
from vine_vla.search.config import SearchConfig, split_members
from vine_vla.search.outputs import Int, Outputs, Table
from vine_vla.search.pruning import KEPT

F64 = NDArray[np.float64]

UNEXPANDED, CLOSED, PENDING = -1, -2, -3
"""Sentinels in `Nodes.children`: may be expanded; never will be (pruned, padding, no budget or look-ahead
left, negligible outcome); chosen in the present round and waiting for the model."""

NO_NODE = -1
"""Sentinel in `Nodes.parent` and `Nodes.row`."""

LOW, MID, HIGH = range(3)
"""Places of the bounds in `Nodes.q` and `Nodes.value`: with uncovered options at their worst, as the
model says, and at their best. They are equal where everything is covered."""


class Layout(NamedTuple):
    """How an array of `Nodes` is made: a letter a dimension (or its size), and what it is filled with."""

    shape: str
    fill: float = 0


class Nodes(NamedTuple):
    """Flat arrays of B problems, N nodes, K options, M members; outcomes o are reached and slipped.

    They go to the compiled loops as they are.

    Args:
        used: nodes in use.
        row: row of the node's graph in `Outputs`, NO_NODE where not in use.
        parent, option, outcome: the slot that the node fills; NO_NODE at the root.
        depth, budget: subgoals since the root, subgoals left.
        children: node in each slot, or a sentinel.
        visits: expansions spent below each slot.
        virtual: leaves below each slot that wait for the model; 0 between rounds.
        frontier: leaves below each slot that may still be chosen.
        chance: P(reached), P(slipped), mean of the members.
        prior: of each option.
        below: V in each slot, of the child or else of the model.
        q: Q of each option and member, three bounds.
        score: what options are chosen by, -inf where pruned.
        best: option with the highest score, NO_NODE if all are pruned.
        value: V of the node along `best`, 0 if all are pruned.
        length: subgoals along `best` and `reached` from the node on, as far as is known.
    """

    used: Annotated[Int, Layout("B")]
    row: Annotated[Int, Layout("BN", NO_NODE)]
    parent: Annotated[Int, Layout("BN", NO_NODE)]
    option: Annotated[Int, Layout("BN", NO_NODE)]
    outcome: Annotated[Int, Layout("BN", NO_NODE)]
    depth: Annotated[Int, Layout("BN")]
    budget: Annotated[Int, Layout("BN")]
    children: Annotated[Int, Layout("BNK2", CLOSED)]
    visits: Annotated[Int, Layout("BNK2")]
    virtual: Annotated[Int, Layout("BNK2")]
    frontier: Annotated[Int, Layout("BNK2")]
    chance: Annotated[F64, Layout("BNK2")]
    prior: Annotated[F64, Layout("BNK")]
    below: Annotated[F64, Layout("BN3MK2")]
    q: Annotated[F64, Layout("BN3MK")]
    score: Annotated[F64, Layout("BNK", -np.inf)]
    best: Annotated[Int, Layout("BN", NO_NODE)]
    value: Annotated[F64, Layout("BN3M")]
    length: Annotated[Int, Layout("BN")]


_LAYOUT = get_type_hints(Nodes, include_extras=True)


def _empty_nodes(**sizes: int) -> Nodes:
    """Arrays without nodes; `sizes` of the dimensions B, N, K and M."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, hint in _LAYOUT.items():
        shape, fill = hint.__metadata__[0]
        kind = np.int64 if hint.__origin__ == Int else np.float64
        arrays[name] = np.full([sizes.get(d) or int(d) for d in shape], fill, kind)
    return Nodes(**arrays)


@dataclass
class Tree:
    """The trees of B problems.

    Args:
        config: settings of the search.
        choosing, reporting: members that choose options and members that report probabilities.
        nodes: see `Nodes`.
    """

    config: SearchConfig
    choosing: list[int]
    reporting: list[int]
    nodes: Nodes

    @property
    def problems(self) -> int:
        return self.nodes.row.shape[0]

    @property
    def capacity(self) -> int:
        return self.nodes.row.shape[1]

    @property
    def members(self) -> int:
        return self.nodes.value.shape[3]

    def complete(self, problem: int) -> bool:
        """Whether nothing is left to expand within look-ahead and budget."""
        nodes = self.nodes
        return nodes.used[problem] > 0 and not (nodes.children[problem] == UNEXPANDED).any()


def create_tree(problems: int, capacity: int, members: int, config: SearchConfig) -> Tree:
    """A tree without nodes and with room for `capacity` nodes a problem."""
    nodes = _empty_nodes(B=problems, N=capacity, K=config.k, M=members)
    return Tree(config, *split_members(members, config.split), nodes)


def grow_tree(tree: Tree, capacity: int) -> None:
    """Make room for `capacity` nodes a problem."""
    larger = _empty_nodes(B=tree.problems, N=capacity, K=tree.config.k, M=tree.members)
    for old, new in zip(tree.nodes, larger, strict=True):
        new[tuple(map(slice, old.shape))] = old
    tree.nodes = larger


def add_nodes(tree: Tree, outputs: Outputs, row: Int, slots: Int) -> Int:
    """Fill in new nodes, for which there must be room; values are left to `back_up`.

    Args:
        row: their rows in `outputs`. [n]
        slots: problem, parent, option and outcome that they fill; for roots, whose budget is already in the
            tree, the last three are NO_NODE. [4, n]

    Returns:
        their indices, the next free ones of each problem. [n]
    """
    return _add_nodes(
        tree.nodes, outputs.table, row, slots, tree.config.depth, float(tree.config.min_outcome)
    )


@compiled
def _add_nodes(t: Nodes, table: Table, row: Int, slots: Int, depth: int, min_outcome: float) -> Int:
    nodes = np.empty_like(row)
    members, options = table.p.shape[1:3]
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
            kept = table.reason[r, e] == KEPT
            t.prior[b, n, e] = table.prior[r, e]
            t.score[b, n, e] = 0.0 if kept else -np.inf
            for o in range(2):
                chance = 0.0
                for m in range(members):
                    chance += table.p[r, m, e, REACHED + o]
                    value = min(max(table.value[r, m, e, o], 0.0), 1.0) if left > 0 else 0.0
                    for bound in range(3):
                        t.below[b, n, bound, m, e, o] = value
                chance /= members
                may = kept and further and chance > min_outcome
                t.chance[b, n, e, o] = chance
                t.children[b, n, e, o] = UNEXPANDED if may else CLOSED
                t.frontier[b, n, e, o] = may
    return nodes
