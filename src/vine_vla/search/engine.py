"""The search itself: choose leaves, ask the model once, back up; until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vine_vla.packing import PackedGraphs
from vine_vla.protocols import PlanningModel
from vine_vla.search.backup import back_up, count_visits
from vine_vla.search.config import SearchConfig
from vine_vla.search.outputs import Int, Outputs
from vine_vla.search.select import SelectionRule, descend, puct, release, reserve, slot_places
from vine_vla.search.tree import UNEXPANDED, Tree, add_nodes, create_tree, grow_tree

Clock = Callable[[], float]

_FIRST_CAPACITY = 256


@dataclass
class Searched:
    """A finished search of B problems.

    Args:
        tree, outputs: what was built. graphs: the roots' graphs [B]. instructions: [B].
        rounds: seconds of each model call with its selection and backup.
    """

    tree: Tree
    outputs: Outputs
    graphs: PackedGraphs
    instructions: list[str]
    rounds: list[float] = field(default_factory=list)


def search(
    model: PlanningModel,
    graphs: PackedGraphs,
    instructions: Sequence[str],
    config: SearchConfig,
    *,
    rule: SelectionRule = puct,
    clock: Clock = time.perf_counter,
) -> Searched:
    """Best-first tree search of B problems at once.

    Each round takes up to `config.leaves` leaves of every problem into one model call. Virtual visits
    spread the leaves of a round; they act in the exploration term only and are removed exactly. There
    is no randomness. With `config.seconds` no round is begun that would, if it took as long as the one
    before, end too late.

    Args:
        model: the planning model.
        graphs: the roots [B], with budgets >= 1.
        instructions: [B].
        config: settings; `expansions` counts the root.
        rule: how options are chosen on the way down.
        clock: seconds, for the time budget.
    """
    start = clock()
    found = _plant(model, graphs, instructions, config, expected=max(1, config.expansions))
    tree = found.tree
    found.rounds.append(clock() - start)
    everyone = np.arange(tree.problems)
    while config.seconds is None or clock() - start + found.rounds[-1] <= config.seconds:
        begun = clock()
        paths: list[Int] = []
        leaves: list[Int] = []
        for taken in range(config.leaves):
            # A problem without leaves never gets some within a round, so `taken` counts for all others.
            room = tree.count + taken < config.expansions
            ready = everyone[room & (tree.frontier[:, 0] > 0).any((1, 2))]
            if not len(ready):
                break
            path, leaf = descend(tree, ready, rule)
            reserve(tree, path, leaf)
            paths.append(path)
            leaves.append(leaf)
        if not leaves:
            return found
        release(tree, paths)
        _expand(found, slot_places(tree, np.concatenate(leaves)))
        found.rounds.append(clock() - begun)
    return found


def search_everything(
    model: PlanningModel,
    graphs: PackedGraphs,
    instructions: Sequence[str],
    config: SearchConfig,
    *,
    limit: int,
    batch: int = 256,
    clock: Clock = time.perf_counter,
) -> Searched:
    """Expand every leaf within look-ahead and budget, level by level.

    Args:
        limit: nodes a problem at which to stop. `config.seconds` holds, `config.expansions` does not.
        batch: leaves in one model call.
    """
    start = clock()
    found = _plant(model, graphs, instructions, config, expected=limit)
    tree = found.tree
    found.rounds.append(clock() - start)
    while config.seconds is None or clock() - start + found.rounds[-1] <= config.seconds:
        begun = clock()
        open_slots = np.nonzero(tree.children == UNEXPANDED)
        problem, node, _, _ = open_slots
        order = np.argsort(tree.depth[problem, node], kind="stable")
        room = {b: int(limit - tree.count[b]) for b in range(tree.problems)}
        chosen: list[int] = []
        for place in order.tolist():
            b = int(problem[place])
            if len(chosen) < batch and room[b] > 0:
                room[b] -= 1
                chosen.append(place)
        if not chosen:
            return found
        _expand(found, (problem[chosen], node[chosen], open_slots[2][chosen], open_slots[3][chosen]))
        found.rounds.append(clock() - begun)
    return found


def _plant(
    model: PlanningModel,
    graphs: PackedGraphs,
    instructions: Sequence[str],
    config: SearchConfig,
    *,
    expected: int,
) -> Searched:
    """Expand the roots; the arrays have room for `expected` nodes if those are few, and grow if not."""
    outputs = Outputs(model, config)
    row = outputs.look_up(graphs, list(instructions))
    problem = np.arange(len(row))
    tree = create_tree(len(row), min(expected, _FIRST_CAPACITY), outputs.members, config)
    add_nodes(tree, outputs, problem, np.zeros_like(row), row, budget=graphs.budget.astype(np.int64))
    tree.count[:] = 1
    back_up(tree, outputs, problem, np.zeros_like(row))
    return Searched(tree, outputs, graphs, list(instructions))


def _expand(found: Searched, slots: tuple[Int, Int, Int, Int]) -> None:
    """Expand the leaves in `slots` with one model call and back up."""
    tree, outputs = found.tree, found.outputs
    problem, parent, option, outcome = slots
    graphs = outputs.after(tree.row[problem, parent], option, outcome)
    graphs = graphs.with_budget(tree.budget[problem, parent] - 1)
    row = outputs.look_up(graphs, [found.instructions[b] for b in problem])
    needed = int((tree.count + np.bincount(problem, minlength=tree.problems)).max())
    if needed > tree.capacity:
        grow_tree(tree, max(needed, 2 * tree.capacity))
    node = _next_free(tree, problem)
    add_nodes(tree, outputs, problem, node, row, slot=(parent, option, outcome))
    count_visits(tree, problem, node)
    back_up(tree, outputs, problem, node)


def _next_free(tree: Tree, problem: Int) -> Int:
    """Node indices for new nodes of the given problems, in order of appearance. [n] -> [n]"""
    node = np.empty_like(problem)
    for place, b in enumerate(problem.tolist()):
        node[place] = tree.count[b]
        tree.count[b] += 1
    return node
