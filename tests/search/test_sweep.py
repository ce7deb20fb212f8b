"""Quality against time: little time is greedy, enough time is the reference."""

import numpy as np
import pytest
from search.problems import ensemble, harsh_rule

from vine_vla import VineError
from vine_vla.search import GreedyPlanner, SearchConfig, TabularModel, random_problem
from vine_vla.search.sweep import sweep_time

PLAIN = SearchConfig(k=3, kappa=0, length_penalty=0, prune=False, stop=False)


def test_regret_falls_from_greedy_to_none():
    rng = np.random.default_rng(4)
    problem = random_problem(rng, states=40, actions=3, applicable=1.0)
    model = TabularModel([problem], leaf="misleading", budget=4)
    scenes = [(model.graph(state), "go") for state in range(20)]
    none, plenty = sweep_time(model, scenes, 4, PLAIN, limits=(1e-9, 60.0), reference=100_000)
    greedy = [GreedyPlanner(model, PLAIN).plan(graph, text, 4) for graph, text in scenes]
    assert none.expansions == 1
    assert none.feasibility == pytest.approx(np.mean([p.feasibility for p in greedy]))
    assert plenty.regret == pytest.approx(0, abs=1e-9)
    assert plenty.agreed == 1
    assert none.regret > 0.05
    assert none.agreed < 1
    assert plenty.expansions > none.expansions


def test_where_nothing_may_be_taken_there_is_no_plan_and_no_regret():
    base = ensemble(21, states=6, actions=3)
    model = TabularModel(base.members, rule=harsh_rule(base, tau=1.1))
    (row,) = sweep_time(model, [(model.graph(0), "go")], 3, SearchConfig(k=3), limits=(0.1,))
    assert (row.planned, row.feasibility, row.regret, row.agreed) == (0, 0, 0, 1)


def test_no_scenes_are_refused():
    model = ensemble(21, states=6, actions=3)
    with pytest.raises(VineError, match="no scene"):
        sweep_time(model, [], 3, PLAIN)
