"""mctx's side of `search.py`: the same numbers and weights in jax, and its three policies."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mctx
import numpy as np
from numpy.typing import NDArray
from search_problems import Problems
from search_vine import Answer, Planner

from vine_vla.core.protocols import DEAD, GOAL, REACHED, SLIPPED


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
        functions = mctx_model(problems)
        depth = problems.depth
        scale = partial(mctx.qtransform_by_min_max, min_value=0.0, max_value=1.0)
        plain = {"dirichlet_fraction": 0.0, "temperature": 0.0, "pb_c_init": self.explore}

        @jax.jit
        def run(state: jax.Array) -> jax.Array:
            root = functions.root(state)
            key = jax.random.PRNGKey(0)
            shared = {"num_simulations": budget, "max_depth": depth * (1 + (self.policy == "stochastic"))}
            if self.policy == "stochastic":
                asked = (functions.decide, functions.chance)
                output = mctx.stochastic_muzero_policy(
                    None, key, root, *asked, qtransform=scale, **shared, **plain
                )
            elif self.policy == "gumbel":
                completed = partial(
                    mctx.qtransform_completed_by_mix_value, value_scale=self.explore, rescale_values=False
                )
                output = mctx.gumbel_muzero_policy(
                    None, key, root, functions.step, gumbel_scale=0.0, qtransform=completed, **shared
                )
            else:
                output = mctx.muzero_policy(
                    None, key, root, functions.step, qtransform=scale, **shared, **plain
                )
            if not self.by_value:
                return output.action
            summary = output.search_tree.summary()
            return jnp.where(summary.visit_counts > 0, summary.qvalues, -1.0).argmax(-1)

        def plan(problem: NDArray[np.int64]) -> Answer:
            action = run(jnp.asarray((problem * problems.block).astype(np.int32)))
            # A stochastic simulation asks for a decision and a chance outcome and uses one: it counts as one.
            graphs = 1 + budget * (1 if problems.network is None or self.policy != "stochastic" else 3)
            return Answer(np.asarray(action), budget + 1, graphs, budget)

        return plan


class MctxModel(NamedTuple):
    """mctx's view of the problems; an embedding is (state, subgoals left)."""

    root: Callable
    step: Callable
    decide: Callable
    chance: Callable


def mctx_model(problems: Problems) -> MctxModel:
    """The same numbers and weights as VINE's models, in jax."""
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
