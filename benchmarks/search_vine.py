"""VINE's side of `search.py`: its planning models of the problems, and its search."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from search_problems import F32, WIDTH, Problems, sigmoid, softmax

from vine_vla.core.packing import PackedGraphs
from vine_vla.core.protocols import DEAD, SLIPPED, Context, Expansion
from vine_vla.search import SearchConfig, TabularModel, search


class Believed(TabularModel):
    """VINE's planning model: the table, with the believed values."""

    def __init__(self, problems: Problems) -> None:
        super().__init__([problems.world], budget=problems.depth)
        self._value = problems.value[None]
        self.evaluated = self.expanded = 0

    def pack(self, states: NDArray[np.int64], budget: int) -> PackedGraphs:
        """Scenes of several states as arrays [B], without a graph object for each."""
        graphs = PackedGraphs(*(a.repeat(len(states), 0) for a in super().pack([0], budget)))
        graphs.attributes[:, 0, self._slot] = states
        return graphs

    def expand(
        self, graphs: PackedGraphs, instructions: list[str], k: int, context: Context | None = None
    ) -> Expansion:
        self.evaluated += len(instructions)
        self.expanded += len(instructions)
        return super().expand(graphs, instructions, k)


class BelievedByNetwork(Believed):
    """The same, computed by the network's weights in every call."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(problems)
        assert problems.network is not None
        self.network = problems.network
        self.slips = bool(problems.world.p[..., SLIPPED].any())
        self.heads = np.concatenate([problems.network.outcomes, problems.network.proposals], 1)

    def expand(
        self, graphs: PackedGraphs, instructions: list[str], k: int, context: Context | None = None
    ) -> Expansion:
        outcomes = 2 if self.slips else 1  # without slips nothing is asked about the graph after one
        count = len(instructions)
        self.evaluated += count * (1 + outcomes * k)
        self.expanded += count
        state = self.states_of(graphs)
        after = self.members[0].next[state][..., :outcomes].ravel()
        hidden = self.hidden(np.concatenate([state, after]))
        judged = hidden[:count] @ self.heads[:-1] + self.heads[-1]
        p = softmax(judged[:, : 4 * k].reshape(count, k, 4))
        if not self.slips:
            p[..., DEAD] += p[..., SLIPPED]
            p[..., SLIPPED] = 0
        # Every problem of a call may have another budget left: the column of its own level.
        left = (graphs.budget - 1).repeat(k * outcomes)
        levels = hidden[count:] @ self.network.values[:-1] + self.network.values[-1]
        found = sigmoid(levels[np.arange(len(left)), np.maximum(left - 1, 0)]) * (left > 0)
        value = np.zeros((count, k, 2), np.float32)
        value[..., :outcomes] = found.reshape(count, k, outcomes)
        order = np.arange(k)[None].repeat(count, 0)
        return self.answer(graphs, order, p[None], softmax(judged[:, 4 * k :]), value[None])

    def hidden(self, state: NDArray[np.int64]) -> F32:
        """The trunk's last layer, in blocks that fit a cache. [n, WIDTH]"""
        found = np.empty((len(state), WIDTH), np.float32)
        for start in range(0, len(state), 512):
            here = slice(start, start + 512)
            block = self.network.features[state[here]]
            for weight, bias in self.network.layers:
                block = block @ weight
                block += bias
                np.maximum(block, 0, out=block)
            found[here] = block
        return found


class Answer(NamedTuple):
    """What a planner chose for B problems, and what it took.

    Args:
        model_calls: calls of the model, each for the whole batch.
        graphs: graphs that the model evaluates, a problem.
        evaluations: pairs of a graph and a subgoal whose outcome it predicts, a problem.
    """

    action: NDArray[np.int64]
    model_calls: int
    graphs: float
    evaluations: float


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
        length_penalty=0,
        prune=False,
        stop=False,
    )

    def plan(problem: NDArray[np.int64]) -> Answer:
        model.evaluated = model.expanded = 0
        roots = model.pack(problem * problems.block, problems.depth)
        found = search(model, roots, ["go"] * len(problem), config)
        firsts = zip(found.tree.nodes.row[:, 0].tolist(), found.tree.nodes.best[:, 0].tolist(), strict=True)
        verbs = [found.outputs.subgoals[row][best].verb for row, best in firsts]
        action = np.array([int(verb.removeprefix("do_")) for verb in verbs])
        graphs, evaluations = model.evaluated / len(problem), k * model.expanded / len(problem)
        return Answer(action, found.outputs.model_calls, graphs, evaluations)

    return plan
