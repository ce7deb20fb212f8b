"""Selection: from the root down to a leaf, one leaf of each problem at a time.

Slots of the tree are addressed by their flat index over [B, N, K, 2]; `slot_places` takes it apart.
Many problems descend together in arrays; a few descend one after the other, which is three times
faster for each of them. Both make the same choices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vine_vla.search.outputs import Int
from vine_vla.search.tree import F64, PENDING, Tree

SelectionRule = Callable[[F64, F64, Int, float], F64]
"""(score, prior, visits with virtual ones, c) -> urgency, the highest wins; arrays [K] or [R, K]."""

FEW = 4
"""Up to so many problems descend one after the other (measured)."""


def puct(score: F64, prior: F64, visits: Int, c: float) -> F64:
    """Score plus prior-weighted exploration, on the absolute scale: Q + c P sqrt(1 + N) / (1 + n)."""
    weight: F64 = c * np.sqrt(1 + np.add.reduce(visits, -1, keepdims=True))
    return score + prior * weight / (1 + visits)


def descend(tree: Tree, problems: Int, rule: SelectionRule) -> tuple[Int, Int]:
    """Choose one leaf in each of `problems` [R], which must have one left (`frontier` > 0).

    Options are chosen by `rule` among those with leaves left; an outcome by its probability over its
    visits, so that the more probable one is searched more. The search's answer is an exact
    expectation over both.

    Returns:
        the paths: flat slots, all different, the leaves among them; the leaves: flat slots [R].
    """
    if len(problems) > FEW:
        return _descend_together(tree, problems, rule)
    paths = [_descend_alone(tree, int(b), rule) for b in problems]
    return np.array([slot for path in paths for slot in path]), np.array([path[-1] for path in paths])


def _descend_alone(tree: Tree, problem: int, rule: SelectionRule) -> list[int]:
    visits, virtual, frontier = tree.visits[problem], tree.virtual[problem], tree.frontier[problem]
    score, prior, chance = tree.score[problem], tree.prior[problem], tree.chance[problem]
    children, k = tree.children[problem], tree.config.k
    start, node, path = problem * tree.capacity, 0, []
    while node >= 0:
        seen, left = visits[node] + virtual[node], frontier[node]
        urgency = rule(score[node], prior[node], seen[:, 0] + seen[:, 1], tree.config.c_puct)
        urgency[(left[:, 0] + left[:, 1]) == 0] = -np.inf
        option = int(urgency.argmax())
        reached, slipped = (chance[node, option] * (left[option] > 0) / (1 + seen[option])).tolist()
        outcome = int(slipped > reached)
        path.append(((start + node) * k + option) * 2 + outcome)
        node = int(children[node, option, outcome])
    return path


def _descend_together(tree: Tree, problems: Int, rule: SelectionRule) -> tuple[Int, Int]:
    k = tree.config.k
    visits, virtual, frontier = (a.reshape(-1, k, 2) for a in (tree.visits, tree.virtual, tree.frontier))
    score, prior = tree.score.reshape(-1, k), tree.prior.reshape(-1, k)
    chance, children = tree.chance.reshape(-1, k, 2), tree.children.reshape(-1)
    path: list[Int] = []
    leaf: Int = np.empty_like(problems)
    place: Int = np.arange(len(problems))
    first: Int = problems * tree.capacity
    node = first
    while len(place):
        seen, left = visits[node] + virtual[node], frontier[node]
        urgency = rule(score[node], prior[node], seen[..., 0] + seen[..., 1], tree.config.c_puct)
        urgency[(left[..., 0] + left[..., 1]) == 0] = -np.inf
        option = urgency.argmax(1)
        each = np.arange(len(node))
        weight = chance[node, option] * (left[each, option] > 0) / (1 + seen[each, option])
        slot = (node * k + option) * 2 + (weight[:, 1] > weight[:, 0])
        path.append(slot)
        child = children[slot]
        leaf[place[child < 0]] = slot[child < 0]
        going = child >= 0
        place, first = place[going], first[going]
        node = first + child[going]
    return np.concatenate(path), leaf


def slot_places(tree: Tree, slots: Int) -> tuple[Int, Int, Int, Int]:
    """Problem, node, option and outcome of flat slots. [n] each"""
    problem, node, option, outcome = np.unravel_index(slots, tree.children.shape)
    return problem, node, option, outcome


def reserve(tree: Tree, path: Int, leaf: Int) -> None:
    """Mark descents as under way: virtual visits along them, their leaves pending."""
    tree.virtual.reshape(-1)[path] += 1
    tree.frontier.reshape(-1)[path] -= 1
    tree.children.reshape(-1)[leaf] = PENDING


def release(tree: Tree, paths: list[Int]) -> None:
    """Take the virtual visits of `paths` back, exactly; `count_visits` counts the real ones."""
    np.subtract.at(tree.virtual.reshape(-1), np.concatenate(paths), 1)
