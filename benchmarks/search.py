"""VINE's search against mctx at equal regret: model calls and seconds.

    pip install -e '.[bench]'
    python benchmarks/search.py --out results/search

One process, one thread, float32. A family is `dead-ends` (a subgoal is reached or ends the episode; mctx's
`muzero_policy` and `gumbel_muzero_policy`) or `slips` (a third outcome from which one can go on;
`stochastic_muzero_policy`). A model is a `table`, or a small `network` whose weights both sides use. Both
know true outcomes and next states; what they believe of a state's value is wrong by noise (table) or by what
a network cannot fit, so that a planner has to look ahead. Regret is the mean of V*(root) - Q*(root, chosen)
over the problems.

Reach-avoid needs no new machinery in mctx: the reward of an edge is P(goal), its discount P(reached), what
is missing to 1 is death. Its value scale is fixed to (0, 1), its noise is off, and it may choose by value
or by visits and with several exploration constants: what was best on problems of another seed is its
entry (`--tune` tries them; the same is done for VINE's leaves a call). Its calls are compiled and
warmed up before the clock starts; transfers to and from arrays count. A model call is one call for the
whole batch.

Columns of `speed.csv`: planner, family, model, threads, B, K, depth, budget (expansions or simulations),
regret, seconds (a call of the planner, for all B), model_calls, graphs (evaluated by the model, a problem),
repeat.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
from numpy.typing import NDArray

from vine_vla.packing import PackedGraphs
from vine_vla.protocols import DEAD, GOAL, REACHED, SLIPPED, Expansion
from vine_vla.search import ReachAvoid, SearchConfig, TabularModel, search, value_iteration
from vine_vla.search.tabular import q_values

F32 = NDArray[np.float32]
FEATURES, WIDTH = 32, 128
COLUMNS = ("planner", "family", "model", "threads", "B", "K", "depth", "budget", "regret", "seconds")
COLUMNS += ("model_calls", "graphs", "repeat")


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
    seed: int, count: int, actions: int, depth: int, *, slips: bool, network: bool, noise: float = 0.6
) -> Problems:
    """N problems of 24 states each; `noise` is in the logit of the believed values."""
    rng = np.random.default_rng([seed, count, actions, depth, slips, network])
    block = 24
    states = count * block
    first = np.repeat(np.arange(count) * block, block)
    after = first[:, None, None] + rng.integers(block, size=(states, actions, 2))
    lean = np.log(np.array([0.12, 0.6, 0.2, 0.25]))
    net = None
    if network:
        net = random_network(rng, states, actions, depth)
        raw = (net.trunk(np.arange(states)) @ net.outcomes).reshape(states, actions, 4).astype(np.float64)
    else:
        raw = 1.6 * rng.standard_normal((states, actions, 4)) + lean
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
        net = fit_heads(net, exact, q)
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
    outcomes[-1] = np.tile(np.log(np.array([0.12, 0.6, 0.2, 0.25], np.float32)), actions)
    features = rng.standard_normal((states, FEATURES)).astype(np.float32)
    empty = np.zeros((WIDTH + 1, 1), np.float32)
    return Network(features, layers, outcomes, empty, empty)


def fit_heads(net: Network, exact: NDArray[np.float64], q: NDArray[np.float64]) -> Network:
    """Least squares for values (in the logit) and proposals; what the trunk cannot tell stays wrong."""
    hidden = net.trunk(np.arange(len(q)))
    clipped = np.clip(exact[1:].T, 1e-3, 1 - 1e-3)
    values = np.linalg.lstsq(hidden, np.log(clipped / (1 - clipped)), rcond=None)[0]
    proposals = np.linalg.lstsq(hidden, 3 * q, rcond=None)[0]
    return Network(
        net.features, net.layers, net.outcomes, proposals.astype(np.float32), values.astype(np.float32)
    )


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


@dataclass(frozen=True)
class Mctx:
    """One of mctx's policies with its settings.

    Args:
        policy: `muzero`, `gumbel` or `stochastic`.
        explore: `pb_c_init`, or for gumbel `value_scale`.
        by_value: the action of highest searched value, instead of the policy's own choice.
    """

    policy: str
    explore: float
    by_value: bool

    def planner(self, problems: Problems, budget: int) -> Planner:
        """A compiled planner with `budget` simulations; compiled anew for every batch size."""
        import jax
        import jax.numpy as jnp
        import mctx

        functions = mctx_model(problems)
        depth = problems.depth
        scale = partial(mctx.qtransform_by_min_max, min_value=0.0, max_value=1.0)
        plain = {"dirichlet_fraction": 0.0, "temperature": 0.0, "pb_c_init": self.explore}

        @jax.jit
        def run(state: "jax.Array") -> "jax.Array":
            root = functions.root(state)
            key = jax.random.PRNGKey(0)
            if self.policy == "stochastic":
                output = mctx.stochastic_muzero_policy(
                    None,
                    key,
                    root,
                    functions.decide,
                    functions.chance,
                    num_simulations=budget,
                    max_depth=2 * depth,
                    qtransform=scale,
                    **plain,
                )
            elif self.policy == "gumbel":
                output = mctx.gumbel_muzero_policy(
                    None,
                    key,
                    root,
                    functions.step,
                    num_simulations=budget,
                    max_depth=depth,
                    gumbel_scale=0.0,
                    qtransform=partial(
                        mctx.qtransform_completed_by_mix_value,
                        value_scale=self.explore,
                        rescale_values=False,
                    ),
                )
            else:
                output = mctx.muzero_policy(
                    None,
                    key,
                    root,
                    functions.step,
                    num_simulations=budget,
                    max_depth=depth,
                    qtransform=scale,
                    **plain,
                )
            if not self.by_value:
                return output.action
            summary = output.search_tree.summary()
            return jnp.where(summary.visit_counts > 0, summary.qvalues, -1.0).argmax(-1)

        def plan(problem: NDArray[np.int64]) -> Answer:
            action = run(jnp.asarray((problem * problems.block).astype(np.int32)))
            # A stochastic simulation asks for a decision and a chance outcome and uses one: it counts as one.
            graphs = 1 + budget * (1 if problems.network is None or self.policy != "stochastic" else 3)
            return Answer(np.asarray(action), budget + 1, graphs)

        return plan


class MctxModel(NamedTuple):
    """mctx's view of the problems; an embedding is (state, subgoals left)."""

    root: Callable
    step: Callable
    decide: Callable
    chance: Callable


def mctx_model(problems: Problems) -> MctxModel:
    """The same numbers and weights as VINE's models, in jax."""
    import jax
    import jax.numpy as jnp
    import mctx

    after = jnp.asarray(problems.world.next.astype(np.int32))
    depth, net = problems.depth, problems.network
    slips = bool(problems.world.p[..., SLIPPED].any())
    if net is None:
        table = jnp.asarray(problems.world.p.astype(np.float32))
        believed, prior = jnp.asarray(problems.value), jnp.asarray(problems.logits)

        def outcomes(state, action):
            return table[state, action]

        def judged(state, left):
            return prior[state], jnp.where(left > 0, believed[jnp.maximum(left, 0), state], 0.0)

    else:
        features = jnp.asarray(net.features)
        layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in net.layers]
        heads = [jnp.asarray(h) for h in (net.outcomes, net.proposals, net.values)]

        def trunk(state):
            hidden = features[state]
            for weight, bias in layers:
                hidden = jax.nn.relu(hidden @ weight + bias)
            return jnp.concatenate([hidden, jnp.ones((*hidden.shape[:-1], 1))], -1)

        def outcomes(state, action):
            every = (trunk(state) @ heads[0]).reshape(len(state), -1, 4)
            p = jax.nn.softmax(every[jnp.arange(len(state)), action])
            if not slips:
                p = p.at[..., DEAD].add(p[..., SLIPPED]).at[..., SLIPPED].set(0.0)
            return p

        def judged(state, left):
            hidden = trunk(state)
            levels = jax.nn.sigmoid(hidden @ heads[2])
            mine = jnp.take_along_axis(levels, jnp.maximum(left - 1, 0)[:, None], 1)[:, 0]
            return hidden @ heads[1], jnp.where(left > 0, mine, 0.0)

    def root(state):
        left = jnp.full(state.shape, depth, jnp.int32)
        logits, value = judged(state, left)
        return mctx.RootFnOutput(prior_logits=logits, value=value, embedding=(state, left))

    def step(params, key, action, embedding):
        state, left = embedding
        p = outcomes(state, action)
        following = after[state, action, 0]
        logits, value = judged(following, left - 1)
        alive = (left > 0).astype(jnp.float32)
        output = mctx.RecurrentFnOutput(
            reward=p[:, GOAL] * alive,
            discount=p[:, REACHED] * alive * (left > 1),
            prior_logits=logits,
            value=value,
        )
        return output, (following, left - 1)

    def decide(params, key, action, embedding):
        state, left = embedding
        p = outcomes(state, action)
        both = after[state, action]
        values = [judged(both[:, o], left - 1)[1] for o in range(2)]
        expected = p[:, GOAL] + p[:, REACHED] * values[0] + p[:, SLIPPED] * values[1]
        logits = jnp.log(jnp.maximum(p[:, REACHED : SLIPPED + 1], 1e-9))
        alive = (left > 0).astype(jnp.float32)
        output = mctx.DecisionRecurrentFnOutput(chance_logits=logits, afterstate_value=expected * alive)
        return output, (both, left, p)

    def chance(params, key, outcome, embedding):
        both, left, p = embedding
        # mctx asks both functions in every simulation and throws one answer away: clip what is not asked.
        following = both[jnp.arange(len(left)), jnp.clip(outcome, 0, 1)]
        logits, value = judged(following, left - 1)
        alive = (left > 0).astype(jnp.float32)
        output = mctx.ChanceRecurrentFnOutput(
            action_logits=logits,
            value=value,
            reward=p[:, GOAL] * alive,
            discount=(p[:, REACHED] + p[:, SLIPPED]) * alive * (left > 1),
        )
        return output, (following, left - 1)

    return MctxModel(root, step, decide, chance)


def measure(planner: Planner, problems: Problems, batch: int, repeats: int) -> Iterator[dict[str, float]]:
    """Regret over all problems and seconds a call, once for each repeat; the first call is not timed."""
    order = np.arange(problems.count).reshape(-1, batch)
    planner(order[0])
    for repeat in range(repeats):
        regret, seconds, calls, graphs = [], [], [], []
        for problem in order:
            start = time.perf_counter()
            answer = planner(problem)
            seconds.append(time.perf_counter() - start)
            regret.append(problems.regret(problem, answer.action))
            calls.append(answer.model_calls)
            graphs.append(answer.graphs)
        yield {
            "regret": float(np.concatenate(regret).mean()),
            "seconds": float(np.median(seconds)),
            "model_calls": float(np.mean(calls)),
            "graphs": float(np.mean(graphs)),
            "repeat": repeat,
        }


BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TARGET = 0.01
Maker = Callable[[Problems, int], Planner]


def entrants(slips: bool, tune: bool) -> dict[str, Maker]:
    """Planners by name; with `tune`, every setting that was tried."""
    if tune:
        found: dict[str, Maker] = {
            f"vine leaves={leaves}": partial(vine, leaves=leaves) for leaves in (1, 2, 4, 8, 16)
        }
        policies = ("stochastic",) if slips else ("muzero", "gumbel")
        for policy in policies:
            for explore in (0.1, 0.3, 1.0) if policy == "gumbel" else (0.3, 0.6, 1.25):
                for by_value in (False, True):
                    name = f"mctx-{policy} explore={explore} by_value={by_value}"
                    found[name] = Mctx(policy, explore, by_value).planner
        return found
    if slips:
        return {"vine": partial(vine, leaves=4), "mctx-stochastic": Mctx("stochastic", 0.6, True).planner}
    return {
        "vine": partial(vine, leaves=4),
        "mctx-muzero": Mctx("muzero", 0.6, True).planner,
        "mctx-gumbel": Mctx("gumbel", 0.3, True).planner,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/search"))
    parser.add_argument("--problems", type=int, default=256, help="a multiple of every B")
    parser.add_argument("--depth", type=int, default=6, help="subgoals of the budget, and of the look-ahead")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--options", type=int, nargs="+", default=[3, 5, 8], help="K")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true", help="all settings on problems of another seed")
    args = parser.parse_args()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / ("tuning.csv" if args.tune else "speed.csv")
    with file.open("w", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS)
        table.writeheader()
        for k in args.options:
            for family in ("dead-ends", "slips"):
                for kind in ("table", "network"):
                    problems = make_problems(
                        args.seed + 1000 * args.tune,
                        args.problems,
                        k,
                        args.depth,
                        slips=family == "slips",
                        network=kind == "network",
                    )
                    for batch in args.batches:
                        for name, make in entrants(family == "slips", args.tune).items():
                            fixed = {"planner": name, "family": family, "model": kind, "threads": 1}
                            fixed |= {"B": batch, "K": k, "depth": args.depth}
                            sweep(table, fixed, make, problems, args.repeats)
                            stream.flush()


def sweep(
    table: csv.DictWriter, fixed: dict[str, object], make: Maker, problems: Problems, repeats: int
) -> None:
    """Raise the budget until the target is met twice in a row, or budgets end."""
    met = 0
    for budget in BUDGETS:
        rows = list(measure(make(problems, budget), problems, int(str(fixed["B"])), repeats))
        for row in rows:
            table.writerow(fixed | {"budget": budget} | {n: f"{v:.6g}" for n, v in row.items()})
        best = min(rows, key=lambda row: row["seconds"])
        text = " ".join(f"{name} {value}" for name, value in fixed.items())
        print(
            f"{text} budget {budget}: regret {best['regret']:.4f}, {1000 * best['seconds']:.2f} ms, "
            f"{best['model_calls']:.0f} calls",
            flush=True,
        )
        met = met + 1 if best["regret"] <= TARGET else 0
        if met == 2:
            return


if __name__ == "__main__":
    main()
