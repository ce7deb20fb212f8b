"""The search itself: choose leaves, ask the model once, back up; until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vine_vla.core.packing import PackedGraphs
from vine_vla.core.protocols import PlanningModel
from vine_vla.search.backup import back_up
from vine_vla.search.config import SearchConfig
from vine_vla.search.outputs import Int, Outputs
from vine_vla.search.select import SelectionRule, choose_leaves, puct, release
from vine_vla.search.tree import NO_NODE, UNEXPANDED, Tree, add_nodes, create_tree, grow_tree

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
    while config.seconds is None or clock() - start + found.rounds[-1] <= config.seconds:
        begun = clock()
        slots = choose_leaves(tree, rule)
        if not slots.size:
            return found
        release(tree, slots)
        _expand(found, slots)
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
        slots = np.array(np.nonzero(tree.nodes.children == UNEXPANDED))
        order = np.argsort(tree.nodes.depth[slots[0], slots[1]], kind="stable")
        room = {b: int(limit - tree.nodes.used[b]) for b in range(tree.problems)}
        chosen: list[int] = []
        for place, b in zip(order.tolist(), slots[0, order].tolist(), strict=True):
            if len(chosen) < batch and room[b] > 0:
                room[b] -= 1
                chosen.append(place)
        if not chosen:
            return found
        _expand(found, slots[:, chosen].copy())
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
    row = outputs.look_up(graphs, instructions)
    problem = np.arange(len(row))
    tree = create_tree(len(row), min(expected, _FIRST_CAPACITY), outputs.members, config)
    tree.nodes.budget[:, 0] = graphs.budget
    nowhere = np.full_like(row, NO_NODE)
    node = add_nodes(tree, outputs, row, np.array([problem, nowhere, nowhere, nowhere]))
    back_up(tree, outputs, problem, node)
    return Searched(tree, outputs, graphs, list(instructions))


def _expand(found: Searched, slots: Int) -> None:
    """Expand the leaves in `slots` [4, n] with one model call and back up."""
    tree, outputs = found.tree, found.outputs
    problem, parent, option, outcome = slots
    graphs = outputs.after(tree.nodes.row[problem, parent], option, outcome)
    graphs = graphs._replace(budget=(tree.nodes.budget[problem, parent] - 1).astype(np.int16))
    row = outputs.look_up(graphs, [found.instructions[b] for b in problem.tolist()])
    needed = int((tree.nodes.used + np.bincount(problem, minlength=tree.problems)).max())
    if needed > tree.capacity:
        grow_tree(tree, max(needed, 2 * tree.capacity))
    node = add_nodes(tree, outputs, row, slots)
    back_up(tree, outputs, problem, node)
