"""Reach-avoid problems small enough to be solved exactly, and a planning model that knows them.

They are the reference of the tests here, of fitted Q-learning and of evaluation: P(goal before
failure) is known for every state, remaining subgoal budget and policy. A state stands in a scene graph
as the number `state` of an object, so packed graphs identify it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import Box, SceneGraph, SceneObject, Schema, Verb
from vine_vla.core.options import Subgoal
from vine_vla.core.packing import PackedGraphs, attribute_slots, pack
from vine_vla.core.protocols import DEAD, GOAL, REACHED, SLIPPED, Context, Expansion, Float, PruningRule

F64 = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class ReachAvoid:
    """A reach-avoid semi-Markov problem: S states, A subgoals. How long a subgoal takes plays no part.

    Args:
        p: probabilities of goal, reached, slipped, dead; sums to 1. [S, A, 4]
        next: state after reached and after slipped. [S, A, 2]
        applicable: which subgoals can be proposed. bool [S, A]
        prior: how likely a demonstrator chooses each; sums to 1 over the applicable ones. [S, A]
    """

    p: F64
    next: Int
    applicable: NDArray[np.bool_]
    prior: F64

    @property
    def states(self) -> int:
        return self.p.shape[0]

    @property
    def actions(self) -> int:
        return self.p.shape[1]


def random_problem(
    rng: np.random.Generator,
    *,
    states: int = 12,
    actions: int = 4,
    applicable: float = 0.8,
    concentration: Sequence[float] = (0.15, 0.8, 0.3, 0.3),
    slips: bool = True,
) -> ReachAvoid:
    """A random problem with chance outcomes and dead ends.

    Args:
        applicable: share of subgoals that can be proposed; every state has at least one.
        concentration: of the Dirichlet over goal, reached, slipped, dead.
        slips: False moves the slips' probability to dead.
    """
    shape = (states, actions)
    p = rng.dirichlet(concentration, shape)
    if not slips:
        p[..., DEAD] += p[..., SLIPPED]
        p[..., SLIPPED] = 0
    usable = rng.random(shape) < applicable
    usable[np.arange(states), rng.integers(actions, size=states)] = True
    prior = rng.dirichlet(np.ones(actions), states) * usable
    prior /= prior.sum(1, keepdims=True)
    return ReachAvoid(p, rng.integers(states, size=(*shape, 2)), usable, prior)


def q_values(problem: ReachAvoid, value: F64) -> F64:
    """Q of every state and subgoal when V afterwards is `value` [..., S]; -inf where not applicable."""
    after = value[..., problem.next]
    q = problem.p[..., GOAL] + (problem.p[..., REACHED : SLIPPED + 1] * after).sum(-1)
    return np.where(problem.applicable, q, -np.inf)


def value_iteration(problem: ReachAvoid, budget: int) -> F64:
    """V for every remaining budget 0 to `budget`: P(goal before failure) under the best subgoals.

    V at budget 0 is 0; with growing budget V rises to the least solution of the Bellman equation.

    Returns:
        [budget + 1, S]
    """
    value = np.zeros((budget + 1, problem.states))
    for left in range(1, budget + 1):
        value[left] = q_values(problem, value[left - 1]).max(1)
    return value


def policy_evaluation(problem: ReachAvoid, policy: F64, budget: int) -> F64:
    """V_mu for every remaining budget when subgoals are drawn from `policy` [S, A]. [budget + 1, S]"""
    value = np.zeros((budget + 1, problem.states))
    for left in range(1, budget + 1):
        q = np.where(problem.applicable, q_values(problem, value[left - 1]), 0.0)
        value[left] = (policy * q).sum(1)
    return value


class Step(NamedTuple):
    """One subgoal of a sampled episode; `outcome` is a place in `Expansion.p`."""

    state: int
    action: int
    outcome: int


def sample_episode(
    problem: ReachAvoid, policy: F64, start: int, budget: int, rng: np.random.Generator
) -> list[Step]:
    """An episode from `start` until goal, death or the end of the budget."""
    steps: list[Step] = []
    state = start
    for _ in range(budget):
        action = int(rng.choice(problem.actions, p=policy[state]))
        outcome = int(rng.choice(4, p=problem.p[state, action]))
        steps.append(Step(state, action, outcome))
        if outcome in (GOAL, DEAD):
            break
        state = int(problem.next[state, action, outcome - REACHED])
    return steps


def perturb(
    problem: ReachAvoid, members: int, samples: int, rng: np.random.Generator
) -> tuple[ReachAvoid, ...]:
    """The problem as `members` see it who have each watched every subgoal `samples` times; no bias."""
    counts = [rng.multinomial(samples, problem.p) for _ in range(members)]
    return tuple(replace(problem, p=c / samples) for c in counts)


def tabular_schema(actions: int) -> Schema:
    """The vocabulary of tabular scenes: a `system` with a state, `thing`s, a verb for each subgoal."""
    return Schema(
        classes=("system", "thing"),
        attributes={"state": ()},
        predicates=("near",),
        verbs=tuple(Verb(f"do_{a}", ("system",), f"do {a} with {{0}}") for a in range(actions)),
        cameras=("front", "wrist"),
    )


LeafValue = Literal["exact", "zero", "misleading"]


class TabularModel:
    """`PlanningModel` that knows a reach-avoid problem, by heart or with each member slightly wrong.

    Args:
        members: the problem as each member believes it to be; they share next states and proposals.
        leaf: value of next graphs: each member's own exact V at the remaining budget, 0, or noise
            that only a search to the end overcomes.
        rule: thresholds for pruning.
        support: how well data cover each subgoal, in [0, 1]; None: 1 throughout. [S, A]
        things: further objects in each scene, to give graphs a realistic size.
        budget: largest remaining budget of which exact values are kept.
    """

    def __init__(
        self,
        members: Sequence[ReachAvoid],
        *,
        leaf: LeafValue = "exact",
        rule: PruningRule | None = None,
        support: F64 | None = None,
        things: int = 0,
        budget: int = 32,
    ) -> None:
        first = members[0]
        self.members, self.things, self.calls = tuple(members), things, 0
        self._rule, self._schema = rule or PruningRule(), tabular_schema(first.actions)
        self._p = np.stack([m.p for m in members]).astype(np.float32)
        self._support = np.ones(first.prior.shape) if support is None else support
        self._value: Float
        if leaf == "exact":
            self._value = np.stack([value_iteration(m, budget) for m in members]).astype(np.float32)
        else:
            shape = (len(members), budget + 1, first.states)
            noise = np.random.default_rng(0).random(shape, np.float32)
            self._value = noise if leaf == "misleading" else np.zeros(shape, np.float32)
        self._subgoals = np.empty(first.actions, object)
        for a in range(first.actions):
            self._subgoals[a] = Subgoal(f"do_{a}", ("system",))
        self._slot = attribute_slots(self._schema)["state"].start

    @property
    def schema(self) -> Schema:
        return self._schema

    @property
    def pruning(self) -> PruningRule:
        return self._rule

    def graph(self, state: int) -> SceneGraph:
        """The scene that stands for `state`."""
        boxes = [Box(0.08 * i % 0.9, 0.1, 0.08 * i % 0.9 + 0.07, 0.3) for i in range(self.things)]
        things = [
            SceneObject(f"thing_{i}", "thing", {"front": box, "wrist": box}) for i, box in enumerate(boxes, 1)
        ]
        return SceneGraph((SceneObject("system", "system", {}, {"state": float(state)}), *things))

    def pack(self, states: Sequence[int], budget: int | Sequence[int]) -> PackedGraphs:
        """Scenes of several states as a batch [B]."""
        return pack([self.graph(s) for s in states], self._schema, budget=budget)

    def states_of(self, graphs: PackedGraphs) -> Int:
        """The states that graphs stand for; any batch shape."""
        return graphs.attributes[..., 0, self._slot].astype(np.int64)

    def expand(
        self, graphs: PackedGraphs, instructions: Sequence[str], k: int, context: Context | None = None
    ) -> Expansion:
        """The `k` applicable subgoals of highest prior with their outcomes; the instruction is ignored."""
        self.calls += 1
        problem = self.members[0]
        state = self.states_of(graphs)
        k = min(k, problem.actions)
        rank = np.where(problem.applicable[state], -problem.prior[state], np.inf)
        order = np.argsort(rank, axis=1, kind="stable")[:, :k]
        at = (state[:, None], order)
        left = np.maximum(graphs.budget[:, None, None] - 1, 0)
        prior = problem.prior[at].astype(np.float32)
        return self.answer(
            graphs, order, self._p[:, at[0], order], prior, self._value[:, left, problem.next[at]]
        )

    def answer(self, graphs: PackedGraphs, order: Int, p: Float, prior: Float, value: Float) -> Expansion:
        """An expansion with the subgoals in `order` [B, K] and what is believed of them.

        Args:
            p: [M, B, K, 4]. prior: [B, K]. value: of the next states. [M, B, K, 2]
        """
        problem, state = self.members[0], self.states_of(graphs)
        at = (state[:, None], order)
        mask = problem.applicable[at]
        shape = (*order.shape, 2)
        arrays = (a.repeat(2 * shape[1], 0).reshape(shape + a.shape[1:]) for a in graphs)
        following = PackedGraphs(*arrays)  # type: ignore[arg-type]
        following.attributes[..., 0, self._slot] = problem.next[at]
        following.budget[:] = np.maximum(graphs.budget[:, None, None] - 1, 0)
        return Expansion(
            subgoals=[
                row[:there]
                for row, there in zip(self._subgoals[order].tolist(), mask.sum(1).tolist(), strict=True)
            ],
            prior=np.where(mask, prior, 0).astype(np.float32),
            mask=mask,
            p=p,
            next=following,
            value=value,
            support=self._support[at].astype(np.float32),
        )
