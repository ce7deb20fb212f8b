"""Backup: exact expectation over outcomes, each member along the same options.

    Q_m(n, e) = p_m(goal) + p_m(reached) V_m(n'_reached) + p_m(slipped) V_m(n'_slipped)
    V_m(n)    = Q_m(n, e*),  e* = argmax over e of mean - kappa x spread of the choosing members' lower Q
                             - length penalty x subgoals of the plan that starts with e

An option that the data do not cover (gap g > 0) has its lower Q shrunk by 1 - g and its upper Q moved
towards 1 by g; both bounds are backed up along the same options, so that a plan which rests on an
uncovered option anywhere carries a wide interval at the root.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.protocols import AFTER_REACHED, GOAL, REACHED, SLIPPED
from vine_vla.search.compiled import compiled
from vine_vla.search.outputs import Int, Outputs, Table
from vine_vla.search.tree import F64, HIGH, LOW, NO_NODE, Nodes, Tree


def back_up(tree: Tree, outputs: Outputs, problem: Int, node: Int, *, expanded: bool = True) -> None:
    """Recompute the given nodes [n] and all their ancestors, deepest first.

    Args:
        expanded: the nodes are new: count a visit for each in every slot above it.
    """
    config, choosing = tree.config, np.array(tree.choosing)
    settings = float(config.kappa), float(config.length_penalty)
    _back_up(tree.nodes, outputs.table, choosing, problem, node, expanded, *settings)


def back_up_all(tree: Tree, outputs: Outputs) -> None:
    """Recompute every node from the leaves up; a tree that is up to date does not change."""
    problem, node = np.nonzero(tree.nodes.row >= 0)
    back_up(tree, outputs, problem.copy(), node.copy(), expanded=False)


@compiled
def _back_up(
    t: Nodes,
    table: Table,
    choosing: Int,
    problem: Int,
    node: Int,
    expanded: bool,
    kappa: float,
    length_penalty: float,
) -> None:
    stale: NDArray[np.bool_] = np.zeros(t.row.shape, np.bool_)
    last = np.full(len(t.row), -1)
    for i in range(len(problem)):
        b, n = problem[i], node[i]
        last[b] = max(last[b], n)
        stale[b, n] = True
        while n > 0:
            above = t.parent[b, n]
            if expanded:
                t.visits[b, above, t.option[b, n], t.outcome[b, n]] += 1
            stale[b, above] = True
            n = above
    for b in range(len(t.row)):
        for n in range(last[b], -1, -1):  # a node's index is above its parent's
            if stale[b, n]:
                _evaluate(t, table, choosing, b, n, kappa, length_penalty)
                if n > 0:
                    above, e, o = t.parent[b, n], t.option[b, n], t.outcome[b, n]
                    t.below[b, above, :, :, e, o] = t.value[b, n]
                    t.frontier[b, above, e, o] = t.frontier[b, n].sum()


@compiled
def _evaluate(
    t: Nodes, table: Table, choosing: Int, b: int, n: int, kappa: float, length_penalty: float
) -> None:
    """Q, score, best option and V of a node from what stands in its slots."""
    p, gap = table.p[t.row[b, n]], table.gap[t.row[b, n]]
    below, q = t.below[b, n], t.q[b, n]
    members, options = p.shape[:2]
    best, length = NO_NODE, 0
    for e in range(options):
        goal, reached = 0.0, 0.0
        for m in range(members):
            goal += p[m, e, GOAL]
            reached += p[m, e, REACHED]
            for bound in range(3):
                after = below[bound, m, e]
                q[bound, m, e] = p[m, e, GOAL] + p[m, e, REACHED] * after[0] + p[m, e, SLIPPED] * after[1]
            q[LOW, m, e] *= 1 - gap[e]
            q[HIGH, m, e] += gap[e] * (1 - q[HIGH, m, e])
        if t.score[b, n, e] == -np.inf:
            continue
        # What follows an option is known where its graph is expanded; else one more subgoal, unless the
        # option more probably fulfils the goal than it leaves something to do.
        child = t.children[b, n, e, AFTER_REACHED]
        further = max(t.length[b, child], 1) if child >= 0 else 1
        subgoals = 1 if goal / members >= reached / members else 1 + further
        t.score[b, n, e] = _choice_score(q[LOW, :, e], choosing, kappa) - length_penalty * subgoals
        if best == NO_NODE or t.score[b, n, e] > t.score[b, n, best]:
            best, length = e, subgoals
    t.best[b, n], t.length[b, n] = best, length
    if best == NO_NODE:
        t.value[b, n] = 0.0
    else:
        t.value[b, n] = q[:, :, best]


@compiled
def _choice_score(q: F64, choosing: Int, kappa: float) -> float:
    """Mean minus kappa x spread over the choosing members. q [M]"""
    total = 0.0
    for m in choosing:
        total += q[m]
    mean = total / len(choosing)
    if kappa == 0 or len(choosing) == 1:
        return mean
    squares: float = 0.0
    for m in choosing:
        squares += (q[m] - mean) * (q[m] - mean)
    return mean - kappa * math.sqrt(squares / len(choosing))
