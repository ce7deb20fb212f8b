"""VINE's side of `search.py`: its planning models of the problems, and its search."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from search_problems import Problems, sigmoid, softmax

from vine_vla.packing import PackedGraphs
from vine_vla.protocols import DEAD, SLIPPED, Expansion
from vine_vla.search import SearchConfig, TabularModel, search


class Believed(TabularModel):
    """VINE's planning model: the table, with the believed values."""

    def __init__(self, problems: Problems) -> None:
        super().__init__([problems.world], budget=problems.depth)
        self._value = problems.value[None]
        self.evaluated = 0

    def expand(self, graphs: PackedGraphs, instructions: list[str], k: int) -> Expansion:
        self.evaluated += len(instructions)
        return super().expand(graphs, instructions, k)


class BelievedByNetwork(Believed):
    """The same, computed by the network's weights in every call."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(problems)
        assert problems.network is not None
        self.network = problems.network
        self.slips = bool(problems.world.p[..., SLIPPED].any())

    def expand(self, graphs: PackedGraphs, instructions: list[str], k: int) -> Expansion:
        self.evaluated += len(instructions) * (1 + 2 * k)
        state = self.states_of(graphs)
        net, world = self.network, self.members[0]
        hidden = net.trunk(state)
        p = softmax((hidden @ net.outcomes).reshape(len(state), -1, 4))
        if not self.slips:
            p[..., DEAD] += p[..., SLIPPED]
            p[..., SLIPPED] = 0
        prior = softmax(hidden @ net.proposals)
        after = world.next[state]
        left = np.maximum(graphs.budget.astype(np.int64) - 1, 0)[:, None, None]
        levels = sigmoid(net.trunk(after) @ net.values)
        value = np.take_along_axis(levels, np.maximum(left - 1, 0)[..., None].repeat(k, 1).repeat(2, 2), 3)
        value = np.where(left > 0, value[..., 0], 0)
        return self.answer(graphs, np.tile(np.arange(k), (len(state), 1)), p[None], prior, value[None])


class Answer(NamedTuple):
    """What a planner chose for B problems, and the calls and graphs that it took."""

    action: NDArray[np.int64]
    model_calls: int
    graphs: float


Planner = Callable[[NDArray[np.int64]], Answer]
"""Problems [B] -> answer."""


def vine(problems: Problems, budget: int, leaves: int) -> Planner:
    """VINE's tree search with `budget` expansions and `leaves` leaves a model call."""
    make = Believed if problems.network is None else BelievedByNetwork
    model = make(problems)
    k = problems.world.actions
    config = SearchConfig(
        k=k,
        expansions=budget,
        leaves=leaves,
        depth=problems.depth,
        kappa=0,
        haste=0,
        prune=False,
        stop=False,
    )

    def plan(problem: NDArray[np.int64]) -> Answer:
        model.evaluated = 0
        roots = model.pack((problem * problems.block).tolist(), problems.depth)
        found = search(model, roots, ["go"] * len(problem), config)
        row = found.tree.row[:, 0]
        best = found.tree.best[:, 0]
        verbs = [found.outputs.subgoals[r][b].verb for r, b in zip(row, best, strict=True)]
        action = np.array([int(verb.removeprefix("do_")) for verb in verbs])
        return Answer(action, found.outputs.model_calls, model.evaluated / len(problem))

    return plan
