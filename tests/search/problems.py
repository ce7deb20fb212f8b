"""Random problems and odd models for the tests of search."""

from collections.abc import Sequence

import numpy as np

from vine_vla.core.packing import PackedGraphs
from vine_vla.core.protocols import Context, Expansion, Neighbours, PruningRule
from vine_vla.search import ReachAvoid, TabularModel, perturb, random_problem

EXACT = {"length_penalty": 0.0, "kappa": 0.0, "prune": False, "stop": False, "min_outcome": 0.0}
"""Settings under which a search to the end is exact."""


def make_problem(seed: int, **options) -> tuple[ReachAvoid, int]:
    """A problem of random size and a budget that can be searched to the end."""
    rng = np.random.default_rng(seed)
    options.setdefault("states", int(rng.integers(3, 12)))
    options.setdefault("actions", int(rng.integers(1, 5)))
    return random_problem(rng, **options), int(rng.integers(1, 5))


def ensemble(seed: int, members: int = 4, samples: int = 15, **options) -> TabularModel:
    """A model whose members disagree."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, **{"states": 9, "actions": 4, **options})
    return TabularModel(perturb(problem, members, samples, rng))


class Permuted:
    """A model that gives another model's proposals in another order (the padding stays last)."""

    def __init__(self, model: TabularModel, seed: int) -> None:
        self.model, self.rng = model, np.random.default_rng(seed)
        self.schema, self.pruning = model.schema, model.pruning

    def expand(
        self, graphs: PackedGraphs, instructions: Sequence[str], k: int, context: Context | None = None
    ) -> Expansion:
        out = self.model.expand(graphs, instructions, k)
        order = np.tile(np.arange(out.mask.shape[1]), (len(out.mask), 1))
        for row, names in zip(order, out.subgoals, strict=True):
            row[: len(names)] = self.rng.permutation(len(names))
        b = np.arange(len(order))[:, None]
        names = [[s[i] for i in o[: len(s)]] for s, o in zip(out.subgoals, order, strict=True)]
        return Expansion(
            names,
            out.prior[b, order],
            out.mask[b, order],
            out.p[:, b, order],
            out.next.select((b, order)),
            out.value[:, b, order],
            out.support[b, order],
        )


class Witness:
    """Evidence that names episodes after the subgoal asked for."""

    def nearest(self, graph, subgoal, count: int = 3) -> Neighbours:
        return Neighbours((f"good_{subgoal.verb}",), (f"bad_{subgoal.verb}", "bad_2"))


def harsh_rule(model: TabularModel, tau: float = 1.1, **options) -> PruningRule:
    """A rule that cuts every covered option."""
    return PruningRule({verb.name: tau for verb in model.schema.verbs}, **options)
