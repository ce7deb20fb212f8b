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
        outcomes = 2 if self.slips else 1  # without slips nothing is asked about the graph after one
        self.evaluated += len(instructions) * (1 + outcomes * k)
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
        # Every problem of a call may have another budget left: the column of its own level.
        levels = net.trunk(after[..., :outcomes]) @ net.values
        at = np.maximum(left - 1, 0)[..., None].repeat(k, 1).repeat(outcomes, 2)
        found = np.where(left > 0, sigmoid(np.take_along_axis(levels, at, 3)[..., 0]), 0)
        value = np.zeros((*after.shape[:2], 2), np.float32)
        value[..., :outcomes] = found
        return self.answer(graphs, np.tile(np.arange(k), (len(state), 1)), p[None], prior, value[None])


class Answer(NamedTuple):
    """What a planner chose for B problems, and the calls and graphs that it took."""

    action: NDArray[np.int64]
    model_calls: int
    graphs: float


Planner = Callable[[NDArray[np.int64]], Answer]
"""Problems [B] -> answer."""


def vine(problems: Problems, budget: int, leaves: int, explore: float) -> Planner:
    """VINE's tree search with `budget` expansions, `leaves` leaves a model call and `c_puct` = `explore`."""
    make = Believed if problems.network is None else BelievedByNetwork
    model = make(problems)
    k = problems.world.actions
    config = SearchConfig(
        k=k,
        expansions=budget,
        leaves=leaves,
        c_puct=explore,
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
