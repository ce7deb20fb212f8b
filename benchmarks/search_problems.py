"""Problems for `search.py`: random reach-avoid tables and networks whose true values are known."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.protocols import DEAD, SLIPPED
from vine_vla.search import ReachAvoid, value_iteration
from vine_vla.search.tabular import q_values

F32 = NDArray[np.float32]
FEATURES, WIDTH = 32, 128
LEAN = (0.03, 0.8, 0.15, 0.1)
"""About how probable goal, reached, slipped and dead are: goals are rare, so that one has to look ahead."""


class Problems(NamedTuple):
    """N problems as blocks of one table; problem i starts in state `i * block`.

    Args:
        world: the whole table. depth: subgoal budget at the start.
        value: what planners believe V to be for every budget. float32 [depth + 1, S]
        logits: of the proposals. float32 [S, A]
        network: weights that give `world.p`, `value` and `logits`, if a network does.
        best: Q* of the starts. [N, A]
    """

    world: ReachAvoid
    depth: int
    block: int
    value: F32
    logits: F32
    network: "Network | None"
    best: NDArray[np.float64]

    @property
    def count(self) -> int:
        return len(self.best)

    def regret(self, problem: NDArray[np.int64], action: NDArray[np.int64]) -> NDArray[np.float64]:
        """V* - Q* of the chosen actions. [n] each"""
        return self.best[problem].max(1) - self.best[problem, action]


@dataclass(frozen=True)
class Network:
    """Two layers on a state's features, with heads for outcomes, proposals and values.

    Args:
        features: what is seen of each state. [S, FEATURES]
        layers: weights and biases of the trunk.
        outcomes, proposals, values: heads, the last row of each is the bias. [WIDTH + 1, ...]
    """

    features: F32
    layers: tuple[tuple[F32, F32], ...]
    outcomes: F32
    proposals: F32
    values: F32

    def trunk(self, state: NDArray[np.integer]) -> F32:
        """[..., WIDTH + 1], the last one 1."""
        hidden = self.features[state]
        for weight, bias in self.layers:
            hidden = np.maximum(hidden @ weight + bias, 0)
        return np.concatenate([hidden, np.ones((*hidden.shape[:-1], 1), np.float32)], -1)


def softmax(x: F32) -> F32:
    weight = np.exp(x - x.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def sigmoid(x: F32) -> F32:
    return 1 / (1 + np.exp(-x))


def make_problems(
    seed: int, count: int, actions: int, depth: int, *, slips: bool, network: bool, noise: float = 1.5
) -> Problems:
    """N problems of 24 states each; `noise` is the deviation of the believed values' logits.

    A table's errors are independent, a network's are those of a head that is off: like states, like errors.
    """
    rng = np.random.default_rng([seed, count, actions, depth, slips, network])
    block = 24
    states = count * block
    first = np.repeat(np.arange(count) * block, block)
    after = first[:, None, None] + rng.integers(block, size=(states, actions, 2))
    net = None
    if network:
        net = random_network(rng, states, actions, depth)
        raw = (net.trunk(np.arange(states)) @ net.outcomes).reshape(states, actions, 4).astype(np.float64)
    else:
        raw = 2.0 * rng.standard_normal((states, actions, 4)) + np.log(LEAN)
    p = without_slips(softmax(raw), slips)
    uniform = np.full((states, actions), 1 / actions)
    world = ReachAvoid(p, after, np.ones((states, actions), bool), uniform)
    exact = value_iteration(world, depth)
    q = q_values(world, exact[depth - 1])
    if net is None:
        logit = np.log(np.clip(exact, 1e-3, 1 - 1e-3) / np.clip(1 - exact, 1e-3, 1))
        value = sigmoid(logit + noise * rng.standard_normal(exact.shape)).astype(np.float32)
        value[0] = 0
        logits = (3 * (q + 0.15 * rng.standard_normal(q.shape))).astype(np.float32)
    else:
        net = fit_heads(rng, net, exact, q, noise)
        hidden = net.trunk(np.arange(states))
        value = np.zeros(exact.shape, np.float32)
        value[1:] = sigmoid(hidden @ net.values).T
        logits = hidden @ net.proposals
    world = ReachAvoid(p, after, world.applicable, softmax(logits).astype(np.float64))
    return Problems(world, depth, block, value, logits, net, q[::block])


def without_slips(p: NDArray[np.float64], slips: bool) -> NDArray[np.float64]:
    """`p` as it is, or with the slips' probability moved to dead."""
    if not slips:
        p = p.copy()
        p[..., DEAD] += p[..., SLIPPED]
        p[..., SLIPPED] = 0
    return p


def random_network(rng: np.random.Generator, states: int, actions: int, depth: int) -> Network:
    """Random weights of a scale that gives outcomes as varied as the table's."""

    def weights(rows: int, columns: int, scale: float) -> F32:
        return (scale * rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    layers = tuple((weights(rows, WIDTH, 1.4), np.zeros(WIDTH, np.float32)) for rows in (FEATURES, WIDTH))
    outcomes = weights(WIDTH + 1, actions * 4, 2.2)
    outcomes[-1] = np.tile(np.log(np.array(LEAN, np.float32)), actions)
    features = rng.standard_normal((states, FEATURES)).astype(np.float32)
    empty = np.zeros((WIDTH + 1, 1), np.float32)
    return Network(features, layers, outcomes, empty, empty)


def fit_heads(
    rng: np.random.Generator, net: Network, exact: NDArray[np.float64], q: NDArray[np.float64], noise: float
) -> Network:
    """Least squares for proposals and for values (in the logit), the latter then moved by `noise`."""
    hidden = net.trunk(np.arange(len(q)))
    clipped = np.clip(exact[1:].T, 1e-3, 1 - 1e-3)
    values = np.linalg.lstsq(hidden, np.log(clipped / (1 - clipped)), rcond=None)[0]
    off = rng.standard_normal(values.shape)
    off[-1] = -(hidden[:, :-1] @ off[:-1]).mean(0)  # right in the mean, at every level of the budget
    values += noise * off / (hidden @ off).std(0)
    proposals = np.linalg.lstsq(hidden, 3 * q, rcond=None)[0]
    return Network(
        net.features, net.layers, net.outcomes, proposals.astype(np.float32), values.astype(np.float32)
    )
