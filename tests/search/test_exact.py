"""Search to the end equals value iteration; one step of it equals one Bellman backup."""

import numpy as np
import pytest
from search.problems import EXACT, ensemble, make_problem

from vine_vla.core.packing import pack
from vine_vla.core.protocols import DEAD, GOAL, REACHED, PlanStatus
from vine_vla.search import (
    ExhaustivePlanner,
    GreedyPlanner,
    ReachAvoid,
    SearchConfig,
    TabularModel,
    TreePlanner,
    perturb,
    policy_evaluation,
    sample_episode,
    value_iteration,
)
from vine_vla.search.tabular import q_values


def optimum(model: TabularModel, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """V* and Q* at `budget`, for probabilities as exact as the model's float32."""
    problem = model.members[0]
    rounded = ReachAvoid(model._p[0].astype(float), problem.next, problem.applicable, problem.prior)
    value = value_iteration(rounded, budget)
    return value[budget], q_values(rounded, value[budget - 1])


@pytest.mark.parametrize("kind", [TreePlanner, ExhaustivePlanner])
def test_search_to_the_end_equals_value_iteration_on_200_problems(kind):
    for seed in range(200):
        problem, budget = make_problem(seed)
        model = TabularModel([problem], leaf="misleading")
        config = SearchConfig(k=problem.actions, expansions=10_000, depth=budget, **EXACT)
        state = seed % problem.states
        plan = kind(model, config).plan(model.graph(state), "reach the goal", budget)
        value, q = optimum(model, budget)
        assert plan.tree["complete"]
        assert plan.status is PlanStatus.PLANNED
        assert plan.feasibility == pytest.approx(value[state], abs=1e-6)
        for option in plan.options:
            action = int(option.subgoal.verb.removeprefix("do_"))
            assert option.feasibility == pytest.approx(q[state, action], abs=1e-6)


def test_more_budget_than_needed_reaches_the_least_solution():
    problem, _ = make_problem(5, states=4, actions=2)
    value = value_iteration(problem, 200)
    assert (np.diff(value, axis=0) >= 0).all()
    assert np.abs(value[-1] - q_values(problem, value[-1]).max(1)).max() < 1e-9


def test_greedy_is_one_backup_of_the_models_values():
    for seed in range(50):
        problem, budget = make_problem(seed)
        model = TabularModel([problem], leaf="misleading")
        plan = GreedyPlanner(model, SearchConfig(k=problem.actions, **EXACT)).plan(model.graph(0), "", budget)
        q = q_values(problem, model._value[0, budget - 1].astype(float) * (budget > 1))[0]
        assert (plan.expansions, plan.model_calls, len(plan.subgoals)) == (1, 1, 1)
        assert plan.feasibility == pytest.approx(q.max(), abs=1e-6)
        assert plan.subgoals[0].verb == f"do_{q.argmax()}"


def test_with_exact_leaf_values_every_planner_finds_the_optimum():
    for seed in range(30):
        problem, budget = make_problem(seed)
        model = TabularModel([problem])
        config = SearchConfig(k=problem.actions, expansions=20, **EXACT)
        best = value_iteration(problem, budget)[budget, 0]
        for kind in (GreedyPlanner, TreePlanner, ExhaustivePlanner):
            plan = kind(model, config).plan(model.graph(0), "", budget)
            assert plan.feasibility == pytest.approx(best, abs=1e-5)


def test_a_slip_that_leads_where_reaching_leads_equals_a_deterministic_edge():
    """One-outcome chance equals deterministic: splitting an outcome in two equal ones changes nothing."""
    for seed in range(30):
        problem, budget = make_problem(seed, slips=False)
        p = problem.p.copy()
        p[..., 2] = 0.37 * p[..., 1]
        p[..., 1] *= 0.63
        following = problem.next.copy()
        following[..., 1] = following[..., 0]
        split = ReachAvoid(p, following, problem.applicable, problem.prior)
        config = SearchConfig(k=problem.actions, expansions=5000, depth=budget, **EXACT)
        plans = []
        for one in (problem, split):
            model = TabularModel([one], leaf="zero")
            plans.append(TreePlanner(model, config).plan(model.graph(1), "", budget))
        assert plans[0].feasibility == pytest.approx(plans[1].feasibility, abs=1e-6)


def test_each_half_of_the_members_backs_up_along_the_same_options():
    """The report equals policy evaluation of the reporting members along the choosing half's policy."""
    model = ensemble(3, members=4)
    budget = 4
    config = SearchConfig(k=4, expansions=10_000, depth=budget, **{**EXACT, "kappa": 0.3})
    plan = TreePlanner(model, config).plan(model.graph(2), "", budget)

    def expected(state: int, left: int) -> np.ndarray:
        """V of all members; options by mean minus kappa x spread of members 0 and 2. [M]"""
        if left == 0:
            return np.zeros(4)
        table = {}
        for a in np.flatnonzero(model.members[0].applicable[state]):
            p = model._p[:, state, a].astype(float)
            after = [expected(int(s), left - 1) for s in model.members[0].next[state, a]]
            table[a] = p[:, 0] + p[:, 1] * after[0] + p[:, 2] * after[1]
        return max(table.values(), key=lambda q: q[[0, 2]].mean() - 0.3 * q[[0, 2]].std())

    value = expected(2, budget)
    assert plan.feasibility == pytest.approx(value[[1, 3]].mean(), abs=1e-6)
    assert plan.spread == pytest.approx(value[[1, 3]].std(), abs=1e-6)
    assert plan.tree["members"] == {"choosing": [0, 2], "reporting": [1, 3]}


def test_the_split_takes_out_the_optimism_of_the_maximum():
    """Over many noisy ensembles the chosen plan's report has less bias than without the split."""
    bias = {True: [], False: []}
    for seed in range(300):
        even = (5, 0.01, 0.01, 5)  # options that are much alike, so that noise decides
        problem, _ = make_problem(seed, states=2, actions=6, applicable=1.0, concentration=even)
        model = TabularModel(perturb(problem, 2, 8, np.random.default_rng(seed + 10**6)))
        for split in bias:
            config = SearchConfig(k=6, expansions=1, split=split, **EXACT)
            plan = GreedyPlanner(model, config).plan(model.graph(0), "", 1)
            best = plan.options[0]
            bias[split].append(best.feasibility - problem.p[0, int(best.subgoal.verb[3:]), 0])
    error = np.std(bias[True]) / np.sqrt(300)
    assert np.mean(bias[False]) > 0.05
    assert abs(np.mean(bias[True])) < 4 * error < 0.05  # by chance beyond that: 1 in 10,000


def test_policy_evaluation_equals_sampled_episodes():
    problem, _ = make_problem(8, states=5, actions=3)
    rng = np.random.default_rng(0)
    policy = problem.prior
    wins = sum(sample_episode(problem, policy, 0, 6, rng)[-1].outcome == 0 for _ in range(4000))
    expected = policy_evaluation(problem, policy, 6)[6, 0]
    # Five standard deviations: fails by chance less than once in a million.
    assert abs(wins / 4000 - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000)
    assert expected <= value_iteration(problem, 6)[6, 0] + 1e-12


@pytest.mark.parametrize(("detour", "first"), [(0.915, 0), (0.95, 1)])
def test_a_longer_plan_must_gain_more_than_haste(detour, first):
    """From state 0 at once with .9, or over state 1; what is told is feasibility, without a cost."""
    p = np.zeros((2, 2, 4))
    p[0, 0, GOAL], p[0, 1, REACHED], p[1, :, GOAL] = 0.9, 1.0, detour
    p[..., DEAD] = 1 - p.sum(-1)
    problem = ReachAvoid(p, np.ones((2, 2, 2), np.int64), np.ones((2, 2), bool), np.full((2, 2), 0.5))
    model = TabularModel([problem])
    options = model.expand(pack([model.graph(0)], model.schema), [""], 2).subgoals[0]
    for expansions in (1, 8):  # unexpanded: one further subgoal is assumed
        config = SearchConfig(
            k=2, expansions=expansions, length_penalty=0.02, kappa=0.0, prune=False, stop=False
        )
        plan = TreePlanner(model, config).plan(model.graph(0), "", 3)
        assert plan.subgoals[0] == options[first]
        assert plan.feasibility == pytest.approx((0.9, detour)[first])
