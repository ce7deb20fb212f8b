"""Selection: from the root down to leaves, and virtual visits that spread the leaves of a round.

Leaves are slots of the tree: rows problem, node, option and outcome of an array [4, L].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vine_vla.search.compiled import compiled
from vine_vla.search.outputs import Int
from vine_vla.search.tree import F64, PENDING, Nodes, Tree

SelectionRule = Callable[[F64, F64, Int, float], F64]
"""(score, prior, visits with virtual ones, c) -> urgency, the highest wins; arrays [K]."""


def puct(score: F64, prior: F64, visits: Int, c: float) -> F64:
    """Score plus prior-weighted exploration, on the absolute scale: Q + c P sqrt(1 + N) / (1 + n)."""
    weight: F64 = c * np.sqrt(1 + np.add.reduce(visits, -1, keepdims=True))
    return score + prior * weight / (1 + visits)


def choose_leaves(tree: Tree, rule: SelectionRule) -> Int:
    """Leaves for one model call: `leaves` a problem, fewer where the expansions or the leaves end.

    Options are chosen by `rule` among those with leaves left; an outcome by its probability over its
    visits, so that the more probable one is searched more. The search's answer is an exact
    expectation over both. Each descent leaves a virtual visit in every slot that it passes, and its leaf
    is pending. `puct` is compiled; any other rule is called at every node.

    Returns:
        slots [4, L], the first leaf of every problem first.
    """
    config, nodes = tree.config, tree.nodes
    if rule is puct:
        return _choose_by_puct(nodes, config.expansions, config.leaves, config.c_puct)
    found: list[tuple[int, int, int, int]] = []
    for taken in range(config.leaves):
        for problem in range(tree.problems):
            if nodes.used[problem] + taken < config.expansions and nodes.frontier[problem, 0].any():
                found.append(_descend(tree, problem, rule))
    return np.array(found, np.int64).reshape(-1, 4).T.copy()


def _descend(tree: Tree, problem: int, rule: SelectionRule) -> tuple[int, int, int, int]:
    """One leaf of `problem` by any rule."""
    t, node = tree.nodes, 0
    visits, virtual, frontier = t.visits[problem], t.virtual[problem], t.frontier[problem]
    children = t.children[problem]
    while True:
        seen, left = visits[node] + virtual[node], frontier[node]
        urgency = rule(t.score[problem, node], t.prior[problem, node], seen.sum(1), tree.config.c_puct)
        option = int(np.where(left.sum(1) > 0, urgency, -np.inf).argmax())
        weight = t.chance[problem, node, option] * (left[option] > 0) / (1 + seen[option])
        outcome = int(weight[1] > weight[0])
        virtual[node, option, outcome] += 1
        frontier[node, option, outcome] -= 1
        child = int(children[node, option, outcome])
        if child < 0:
            children[node, option, outcome] = PENDING
            return problem, node, option, outcome
        node = child


@compiled
def _choose_by_puct(t: Nodes, expansions: int, leaves: int, c: float) -> Int:
    problems, _, k = t.prior.shape
    slots = np.empty((4, problems * leaves), np.int64)
    found = 0
    for taken in range(leaves):
        for b in range(problems):
            if t.used[b] + taken >= expansions or not t.frontier[b, 0].any():
                continue
            node = 0
            while node >= 0:
                total = 1
                for e in range(k):
                    for o in range(2):
                        total += t.visits[b, node, e, o] + t.virtual[b, node, e, o]
                weight, option, highest = c * np.sqrt(total), 0, -np.inf
                for e in range(k):
                    if t.frontier[b, node, e, 0] + t.frontier[b, node, e, 1] > 0:
                        seen = t.visits[b, node, e, 0] + t.virtual[b, node, e, 0]
                        seen += t.visits[b, node, e, 1] + t.virtual[b, node, e, 1]
                        urgency = t.score[b, node, e] + t.prior[b, node, e] * weight / (1 + seen)
                        if urgency > highest:
                            option, highest = e, urgency
                outcome, heaviest = 0, 0.0
                for o in range(2):
                    if t.frontier[b, node, option, o] > 0:
                        seen = t.visits[b, node, option, o] + t.virtual[b, node, option, o]
                        heavy = t.chance[b, node, option, o] / (1 + seen)
                        if heavy > heaviest:
                            outcome, heaviest = o, heavy
                t.virtual[b, node, option, outcome] += 1
                t.frontier[b, node, option, outcome] -= 1
                child = t.children[b, node, option, outcome]
                if child < 0:
                    t.children[b, node, option, outcome] = PENDING
                    slots[:, found] = b, node, option, outcome
                    found += 1
                node = child
    return slots[:, :found].copy()


def release(tree: Tree, slots: Int) -> None:
    """Take the virtual visits in and above the leaves `slots` back, exactly. `back_up` counts real ones."""
    _release(tree.nodes, slots)


@compiled
def _release(t: Nodes, slots: Int) -> None:
    for i in range(slots.shape[1]):
        b, node, e, o = slots[:, i]
        while node >= 0:
            t.virtual[b, node, e, o] -= 1
            node, e, o = t.parent[b, node], t.option[b, node], t.outcome[b, node]
