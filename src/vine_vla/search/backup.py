"""Backup: exact expectation over outcomes, each member along the same options.

    Q_m(n, e) = p_m(goal) + p_m(reached) V_m(n'_reached) + p_m(slipped) V_m(n'_slipped)
    V_m(n)    = Q_m(n, e*),  e* = argmax over e of mean - kappa x spread of the choosing members' lower Q
                             - haste x subgoals of the plan that starts with e

An option that the data do not cover (gap g > 0) has its lower Q shrunk by 1 - g and its upper Q moved
towards 1 by g; both bounds are backed up along the same options, so that a plan which rests on an
uncovered option anywhere carries a wide interval at the root.
"""

from __future__ import annotations

import numpy as np

from vine_vla.protocols import AFTER_REACHED, GOAL, REACHED, SLIPPED
from vine_vla.search.outputs import Int, Outputs
from vine_vla.search.tree import F64, HIGH, LOW, NO_NODE, Tree


def back_up(tree: Tree, outputs: Outputs, problem: Int, node: Int) -> None:
    """Recompute the given nodes [n] and all their ancestors, deepest first."""
    depth = tree.depth[problem, node]
    flat = problem * tree.capacity + node
    level: Int = np.empty(0, np.int64)
    for d in range(int(depth.max()), -1, -1):
        level = np.unique(np.concatenate([level, flat[depth == d]]))
        b, n = np.divmod(level, tree.capacity)
        evaluate(tree, outputs, b, n)
        if d:
            up = (b, tree.parent[b, n])
            slot = (*up, tree.option[b, n], tree.outcome[b, n])
            tree.below[slot[0], slot[1], :, :, slot[2], slot[3]] = tree.value[b, n]
            tree.frontier[slot] = tree.frontier[b, n].sum((1, 2))
            level = up[0] * tree.capacity + up[1]


def evaluate(tree: Tree, outputs: Outputs, problem: Int, node: Int) -> None:
    """Q, score, best option and V of the given nodes [n] from what stands in their slots."""
    at = (problem, node)
    row = tree.row[at]
    p = outputs.p[row].astype(np.float64)[:, None]
    below = tree.below[at]
    q = p[..., GOAL] + p[..., REACHED] * below[..., 0] + p[..., SLIPPED] * below[..., 1]
    gap = outputs.gap[row]
    if gap.any():
        q[:, LOW] *= 1 - gap[:, None]
        q[:, HIGH] += gap[:, None] * (1 - q[:, HIGH])
    tree.q[at] = q
    length = plan_lengths(tree, p[:, 0], problem, node)
    score = choice_score(q[:, LOW][:, tree.choosing], tree.config.kappa) - tree.config.haste * length
    score[tree.score[at] == -np.inf] = -np.inf
    best = score.argmax(1)
    each = np.arange(len(row))
    none = score[each, best] == -np.inf
    value = q[each, :, :, best]
    value[none], best[none] = 0.0, NO_NODE
    tree.score[at], tree.best[at], tree.value[at] = score, best, value
    tree.length[at] = np.where(none, 0, length[each, best])


def plan_lengths(tree: Tree, p: F64, problem: Int, node: Int) -> Int:
    """Subgoals of the plan that starts with each option, if all are reached. [n, K]

    What follows an option is known where its graph is expanded; else one more subgoal, unless the option
    more probably fulfils the goal than it leaves something to do. p [n, M, K, 4]
    """
    mean = p.mean(1)
    child = tree.children[problem, node, :, AFTER_REACHED]
    known = tree.length[problem[:, None], np.maximum(child, 0)]
    further = np.where(child >= 0, np.maximum(known, 1), 1)
    lengths: Int = 1 + np.where(mean[..., GOAL] >= mean[..., REACHED], 0, further)
    return lengths


def choice_score(q: F64, kappa: float) -> F64:
    """Mean minus kappa x spread over the members. q [n, M, K] -> [n, K]"""
    members = q.shape[1]
    mean: F64 = q.sum(1) / members
    if not kappa or members == 1:
        return mean
    away = q - mean[:, None]
    spread: F64 = np.sqrt((away * away).sum(1) / members)
    return mean - kappa * spread


def count_visits(tree: Tree, problem: Int, node: Int) -> None:
    """Count one expansion for each of the given nodes in every slot above it."""
    while len(node):
        parent = tree.parent[problem, node]
        inner = parent >= 0
        problem, node, parent = problem[inner], node[inner], parent[inner]
        slot = (problem, parent, tree.option[problem, node], tree.outcome[problem, node])
        np.add.at(tree.visits, slot, 1)
        node = parent


def back_up_all(tree: Tree, outputs: Outputs) -> None:
    """Recompute every node from the leaves up; a tree that is up to date does not change."""
    problem, node = np.nonzero(tree.row >= 0)
    back_up(tree, outputs, problem, node)
