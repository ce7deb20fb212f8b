"""What must hold of any search: order, independence, monotonicity, budgets, exact bookkeeping."""

import dataclasses
import json

import numpy as np
import pytest
from search.problems import EXACT, Permuted, ensemble, make_problem

from vine_vla import VineError
from vine_vla.core.protocols import DEAD, PlanStatus
from vine_vla.search import (
    ExhaustivePlanner,
    GreedyPlanner,
    ImitatePlanner,
    SearchConfig,
    TabularModel,
    TreePlanner,
    make_planner,
    perturb,
    puct,
    random_problem,
    search,
)
from vine_vla.search import engine as engine_module
from vine_vla.search.backup import back_up_all
from vine_vla.search.tree import UNEXPANDED


def ranking(plan) -> list:
    return [(str(o.subgoal), o.feasibility, o.lower, o.upper, o.visits) for o in plan.options]


def test_raising_an_edges_failure_never_raises_the_roots_value():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        model = ensemble(seed, members=1 + 3 * (seed % 2))
        config = SearchConfig(k=4, expansions=40, **EXACT)
        found = search(model, model.pack([0], 4), [""], config)
        tree, outputs = found.tree, found.outputs
        before = tree.nodes.value[0, 0, 1, tree.choosing].mean()
        for _ in range(10):
            row, option, outcome = rng.integers(len(outputs)), rng.integers(4), rng.integers(3)
            moved = outputs.table.p[row, :, option, outcome] * rng.random()
            outputs.table.p[row, :, option, outcome] -= moved
            outputs.table.p[row, :, option, DEAD] += moved
            back_up_all(tree, outputs)
            after = tree.nodes.value[0, 0, 1, tree.choosing].mean()
            assert after <= before + 1e-12
            before = after


def test_backing_up_a_finished_tree_again_changes_nothing():
    model = ensemble(1)
    found = search(model, model.pack([0, 1, 2], 4), [""] * 3, SearchConfig(k=4, expansions=30))
    old = found.tree.nodes.q.copy()
    back_up_all(found.tree, found.outputs)
    np.testing.assert_array_equal(found.tree.nodes.q, old)


@pytest.mark.parametrize("kind", [TreePlanner, GreedyPlanner, ExhaustivePlanner, ImitatePlanner])
def test_permuting_the_proposals_changes_nothing(kind):
    for seed in range(20):
        model = ensemble(seed)
        config = SearchConfig(k=4, expansions=25, depth=3)
        plans = [
            kind(m, config).plan(model.graph(seed % 9), "", 4)
            for m in (model, Permuted(model, seed), Permuted(model, seed + 99))
        ]
        assert ranking(plans[0]) == ranking(plans[1]) == ranking(plans[2])
        assert plans[0].tree == plans[1].tree


def test_ties_go_to_the_first_text():
    problem = random_problem(np.random.default_rng(0), states=3, actions=4, applicable=1.0)
    p = np.broadcast_to(problem.p[:1, :1], problem.p.shape).copy()
    following = np.broadcast_to(problem.next[:1, :1], problem.next.shape).copy()
    equal = dataclasses.replace(problem, p=p, next=following, prior=np.full((3, 4), 0.25))
    model = Permuted(TabularModel([equal]), 7)
    for kind in (TreePlanner, GreedyPlanner, ExhaustivePlanner, ImitatePlanner):
        plan = kind(model, SearchConfig(k=4, expansions=9, depth=2)).plan(model.model.graph(0), "", 3)
        assert [o.subgoal.verb for o in plan.options] == ["do_0", "do_1", "do_2", "do_3"]


def test_problems_of_a_batch_are_independent():
    """Each answer is the one it gets alone."""
    model = ensemble(2, states=30)
    planner = TreePlanner(model, SearchConfig(k=4, expansions=30, leaves=4))
    budgets = [4, 1, 3, 0, 5, 4, 2]
    many = planner.plan_many([model.graph(s) for s in range(7)], [""] * 7, budgets)
    for state, budget in enumerate(budgets):
        alone = planner.plan(model.graph(state), "", budget)
        assert ranking(many[state]) == ranking(alone)
        assert many[state].subgoals == alone.subgoals
        assert many[state].tree["nodes"] == alone.tree["nodes"]


def test_budget_of_no_expansions_gives_the_prior():
    model = ensemble(4)
    plan = TreePlanner(model, SearchConfig(k=4, expansions=0)).plan(model.graph(3), "", 4)
    priors = [o.prior for o in plan.options]
    assert priors == sorted(priors, reverse=True)
    assert plan.model_calls == 1
    assert plan.subgoals == (plan.options[0].subgoal,)


def test_subgoal_budget_0_is_failure():
    model = ensemble(4)
    for name in ("tree", "greedy", "exhaustive", "imitate"):
        plan = make_planner(name, model).plan(model.graph(3), "", 0)
        assert (plan.status, plan.feasibility, plan.subgoals) == (PlanStatus.INFEASIBLE, 0.0, ())
        assert "budget is used up" in plan.reason
    assert model.calls == 0


def test_virtual_visits_are_removed_exactly(monkeypatch):
    """They act within a round, are 0 between rounds, and never touch a value."""
    model = ensemble(6, states=40)
    seen = []
    real = engine_module.release

    def spy(tree, paths):
        seen.append(int(tree.nodes.virtual.sum()))
        kept = (tree.nodes.visits.copy(), tree.nodes.q.copy(), tree.nodes.below.copy())
        real(tree, paths)
        assert not tree.nodes.virtual.any()
        for old, new in zip(kept, (tree.nodes.visits, tree.nodes.q, tree.nodes.below), strict=True):
            np.testing.assert_array_equal(old, new)

    monkeypatch.setattr(engine_module, "release", spy)
    for leaves in (1, 3, 8):
        seen.clear()
        found = search(
            model, model.pack([0, 5], 5), [""] * 2, SearchConfig(k=4, expansions=50, leaves=leaves)
        )
        tree = found.tree
        assert max(seen) >= leaves
        assert not tree.nodes.virtual.any()
        assert (tree.nodes.visits[:, 0].sum((1, 2)) == tree.nodes.used - 1).all()
        for b in range(2):
            for n in range(1, int(tree.nodes.used[b])):
                slot = (b, tree.nodes.parent[b, n], tree.nodes.option[b, n], tree.nodes.outcome[b, n])
                assert tree.nodes.visits[slot] == 1 + tree.nodes.visits[b, n].sum()
                assert tree.nodes.frontier[slot] == tree.nodes.frontier[b, n].sum()
            open_slots = (tree.nodes.children[b] == UNEXPANDED).sum()
            assert tree.nodes.frontier[b, 0].sum() == open_slots


def test_leaves_of_a_round_differ_and_fill_one_call():
    model = ensemble(6, states=200, applicable=1.0, concentration=(1, 8, 8, 1))
    batches = []
    real = model.expand
    model.expand = lambda graphs, texts, k: (batches.append(len(graphs.budget)), real(graphs, texts, k))[1]
    plan = TreePlanner(model, SearchConfig(k=4, expansions=33, leaves=8)).plan(model.graph(0), "", 6)
    assert plan.expansions == 33
    assert plan.model_calls == len(batches) == 5
    assert batches[0] == 1
    assert sum(batches) + plan.tree["cache_hits"] == 33


def test_equal_graphs_share_model_outputs_and_give_identical_results():
    """Without the cache every leaf costs a judgement; the answer is the same."""
    model = ensemble(7, states=4)
    config = SearchConfig(k=4, expansions=60, leaves=6)
    cached = search(model, model.pack([0], 5), [""], config)

    class Uncached(engine_module.Outputs):
        def look_up(self, graphs, instructions):
            self._rows.clear()
            parts = [
                super(Uncached, self).look_up(graphs.select(np.array([i])), [text])
                for i, text in enumerate(instructions)
                if self._rows.clear() is None
            ]
            return np.concatenate(parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "Outputs", Uncached)
        plain = search(model, model.pack([0], 5), [""], config)
    assert cached.outputs.hits > 20
    assert len(plain.outputs) == 60 > len(cached.outputs)
    np.testing.assert_array_equal(cached.tree.nodes.q, plain.tree.nodes.q)
    np.testing.assert_array_equal(cached.tree.nodes.children, plain.tree.nodes.children)


def test_instructions_do_not_share_outputs():
    model = ensemble(7, states=4)
    found = search(model, model.pack([0, 0], 3), ["a", "b"], SearchConfig(k=4, expansions=1))
    assert len(found.outputs) == 2


def test_same_answer_every_time_and_for_every_seed():
    model = ensemble(9)
    planner = TreePlanner(model, SearchConfig(k=4, expansions=40))
    first = planner.plan(model.graph(0), "", 4, seed=0)
    for seed in (0, 1, 17):
        again = planner.plan(model.graph(0), "", 4, seed=seed)
        assert again.tree == first.tree
        assert ranking(again) == ranking(first)


class Watch:
    """A clock that only the model moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_anytime_ends_in_time():
    model, watch = ensemble(9, states=300), Watch()
    real = model.expand

    def slow(graphs, texts, k):
        watch.now += 0.010
        return real(graphs, texts, k)

    model.expand = slow
    for seconds, rounds in ((0.001, 1), (0.010, 1), (0.035, 3), (0.0501, 5)):
        watch.now = 0.0
        config = SearchConfig(k=4, expansions=10_000, leaves=4, seconds=seconds)
        found = search(model, model.pack([0], 8), [""], config, clock=watch)
        assert len(found.rounds) == rounds
        assert watch.now <= max(seconds, 0.010) + 1e-9


def test_anytime_in_real_time():
    model = ensemble(9, states=3000, actions=6)
    config = SearchConfig(k=6, expansions=100_000, depth=20, seconds=0.2)
    plan = TreePlanner(model, dataclasses.replace(config, trace=1)).plan(model.graph(0), "", 20)
    assert plan.status is PlanStatus.PLANNED
    assert 1 < plan.expansions < 100_000
    assert plan.seconds < 2.0  # the search itself ends at 0.2; the slack is for a busy machine


def test_more_expansions_bring_the_value_nearer():
    """With worthless leaf values the error falls with the budget, on average."""
    errors = {1: [], 8: [], 64: [], 512: []}
    for seed in range(25):
        problem, _ = make_problem(seed, states=8, actions=3)
        model = TabularModel([problem], leaf="zero")
        exact = ExhaustivePlanner(model, SearchConfig(k=3, depth=4, **EXACT)).plan(model.graph(0), "", 4)
        for expansions in errors:
            config = SearchConfig(k=3, expansions=expansions, depth=4, **EXACT)
            plan = TreePlanner(model, config).plan(model.graph(0), "", 4)
            errors[expansions].append(exact.feasibility - plan.feasibility)
    means = [np.mean(e) for e in errors.values()]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.1
    assert abs(means[-1]) < 1e-6


def test_principal_variation_follows_reached_and_predicts_graphs():
    model = ensemble(11, states=30, members=2)
    plan = TreePlanner(model, SearchConfig(k=4, expansions=64)).plan(model.graph(0), "", 5)
    assert len(plan.subgoals) == len(plan.predicted) >= 1
    state = 0
    for subgoal, graph in zip(plan.subgoals, plan.predicted, strict=True):
        state = int(model.members[0].next[state, int(subgoal.verb[3:]), 0])
        assert graph["system"].attributes["state"] == state


def test_exhaustive_says_when_it_stopped_early():
    model = ensemble(12, states=300)
    plan = ExhaustivePlanner(model, SearchConfig(k=4), limit=100).plan(model.graph(0), "", 6)
    assert plan.expansions == 100
    assert plan.tree["complete"] is False
    assert "stopped at 100" in plan.reason


def test_another_rule_can_be_injected():
    model = ensemble(13, states=200)
    config = SearchConfig(k=4, expansions=20)
    widest = search(model, model.pack([0], 5), [""], config, rule=lambda s, p, n, c: -n.astype(float))
    best = search(model, model.pack([0], 5), [""], config, rule=puct)
    spent = widest.tree.nodes.visits[0, 0].sum(-1)[widest.tree.nodes.score[0, 0] > -np.inf]
    assert np.ptp(spent) <= 1
    assert np.ptp(best.tree.nodes.visits[0, 0].sum(-1)) > 1


@pytest.mark.parametrize("field", ["p", "value", "support", "prior", "mask"])
def test_a_broken_model_is_named(field):
    model = ensemble(14)
    real = model.expand

    def broken(graphs, texts, k):
        out = real(graphs, texts, k)
        if field == "mask":
            return out._replace(mask=~out.mask)
        if field == "prior":
            return out._replace(prior=out.prior[:, :-1])
        bad = getattr(out, field).copy()
        bad[...] = np.nan
        return out._replace(**{field: bad})

    model.expand = broken
    with pytest.raises(VineError, match="planning model, expand"):
        TreePlanner(model, SearchConfig(k=4)).plan(model.graph(0), "", 3)


def test_bad_settings_are_named():
    with pytest.raises(VineError, match="leaves is 0"):
        SearchConfig(leaves=0)
    with pytest.raises(VineError, match="seconds"):
        SearchConfig(seconds=0)
    with pytest.raises(VineError, match="known planners: tree, greedy"):
        make_planner("best", ensemble(0))


def test_plans_are_json_ready():
    model = TabularModel(perturb(make_problem(3)[0], 3, 10, np.random.default_rng(0)), things=3)
    plan = TreePlanner(model, SearchConfig()).plan(model.graph(0), "go", 3)
    assert json.loads(json.dumps(plan.tree, allow_nan=False)) == plan.tree
