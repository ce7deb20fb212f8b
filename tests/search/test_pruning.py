"""What is cut and why, what is not, and the two forms of "no"."""

import numpy as np
import pytest
from search.problems import EXACT, Witness, ensemble, harsh_rule

from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import PlanStatus, PruningRule, upper_reachable
from vine_vla.search import (
    ExhaustivePlanner,
    GreedyPlanner,
    ImitatePlanner,
    SearchConfig,
    TabularModel,
    TreePlanner,
    prune_options,
    random_problem,
    search,
)
from vine_vla.search.pruning import BELOW_TAU, KEPT, NO_PROPOSAL, support_gap

KINDS = [TreePlanner, GreedyPlanner, ExhaustivePlanner]
SMALL = SearchConfig(k=4, expansions=12, depth=2, evidence=9)


def with_rule(model: TabularModel, rule: PruningRule, support: np.ndarray | None = None) -> TabularModel:
    return TabularModel(model.members, rule=rule, support=support)


def test_an_option_is_cut_by_its_score_against_its_verbs_tau():
    p = np.array([[[[0.1, 0.2, 0.3, 0.4], [0.3, 0.3, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]]]])
    subgoals = [[Subgoal("insert", ("plug", "socket_1")), Subgoal("insert", ("plug",)), Subgoal("lift", ())]]
    mask = np.array([[True, True, True, False]])
    support = np.array([[1.0, 1.0, 1.0, 0.0]])
    codes, u = prune_options(p, support, mask, subgoals, PruningRule({"insert": 0.4}))
    np.testing.assert_allclose(u, upper_reachable(p, support, 0.0))
    assert codes.tolist() == [[BELOW_TAU, KEPT, KEPT, NO_PROPOSAL]]
    codes, _ = prune_options(p, support, mask, subgoals, PruningRule({"insert": 0.4}), prune=False)
    assert codes.tolist() == [[KEPT, KEPT, KEPT, NO_PROPOSAL]]
    rule = PruningRule({"insert": 0.4}, min_support=0.5)
    codes, u = prune_options(p, support * [[0.4, 1, 1, 0]], mask, subgoals, rule)
    assert codes.tolist() == [[KEPT, KEPT, KEPT, NO_PROPOSAL]]
    assert u[0, 0] == 1


def test_spread_between_members_saves_an_option():
    p = np.zeros((2, 1, 1, 4))
    p[:, 0, 0, 1] = 0.1, 0.5
    p[..., 3] = 1 - p[..., 1]
    codes, u = prune_options(
        p, np.ones((1, 1)), np.ones((1, 1), bool), [[Subgoal("a", ())]], PruningRule({"a": 0.45})
    )
    assert u[0, 0] == pytest.approx(0.5)
    assert codes[0, 0] == KEPT


@pytest.mark.parametrize("kind", KINDS)
def test_all_pruned_is_infeasible_with_reasons(kind):
    base = ensemble(1)
    model = with_rule(base, harsh_rule(base))
    plan = kind(model, SMALL, Witness()).plan(model.graph(0), "", 3)
    assert plan.status is PlanStatus.INFEASIBLE
    assert (plan.subgoals, plan.predicted, plan.feasibility) == ((), (), 0.0)
    assert plan.reason.startswith(f"all {len(plan.options)} options are pruned")
    for option in plan.options:
        assert f"under the 1.10 that {option.subgoal.verb} needs" in option.pruned
        assert (
            f"failed bad_{option.subgoal.verb}, bad_2; succeeded good_{option.subgoal.verb}" in option.pruned
        )
        assert "\n" not in option.pruned


def test_evidence_is_looked_up_for_the_least_bad_cuts_only():
    base = ensemble(1, applicable=1.0)
    model = with_rule(base, harsh_rule(base))
    config = SearchConfig(k=4, expansions=4, evidence=2)
    plan = TreePlanner(model, config, Witness()).plan(model.graph(0), "", 3)
    assert ["nearest" in o.pruned for o in plan.options] == [True, True, False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_all_unsupported_is_unsupported(kind):
    base = ensemble(1)
    rule = harsh_rule(base, min_support=0.5, tau_stop=0.05)
    model = with_rule(base, rule, support=np.zeros(base.members[0].prior.shape))
    plan = kind(model, SMALL).plan(model.graph(0), "", 3)
    assert plan.status is PlanStatus.UNSUPPORTED
    assert plan.subgoals == ()
    assert "poorly covered by the data" in plan.reason
    assert all(o.pruned is None and (o.lower, o.upper) == (0.0, 1.0) for o in plan.options)
    relaxed = kind(model, SearchConfig(k=4, expansions=12, depth=2, stop=False)).plan(model.graph(0), "", 3)
    assert relaxed.status is PlanStatus.PLANNED


@pytest.mark.parametrize("kind", KINDS)
def test_an_uncovered_option_loses_through_its_lower_bound(kind):
    base = ensemble(5)
    best = kind(base, SMALL).plan(base.graph(0), "", 3).options[0].subgoal
    support = np.ones(base.members[0].prior.shape)
    support[:, int(best.verb[3:])] = 0.1
    model = with_rule(base, harsh_rule(base, tau=0.001, min_support=0.5), support)
    plan = kind(model, SMALL).plan(model.graph(0), "", 3)
    found = {o.subgoal: o for o in plan.options}
    assert plan.options[0].subgoal != best
    assert found[best].pruned is None
    assert found[best].lower < found[best].feasibility < found[best].upper
    assert found[best].upper >= 0.8


def test_poor_support_deep_in_the_plan_widens_the_interval_at_the_root():
    base = ensemble(5, concentration=(0.3, 3, 0.3, 0.3))
    support = np.ones(base.members[0].prior.shape)
    support[1:] = 0.0  # only the root's own options are covered
    model = with_rule(base, PruningRule(min_support=0.5), support)
    narrow = TreePlanner(base, SMALL).plan(base.graph(0), "", 3).options[0]
    wide = {o.subgoal: o for o in TreePlanner(model, SMALL).plan(model.graph(0), "", 3).options}[
        narrow.subgoal
    ]
    assert wide.support == 1
    assert wide.upper - wide.lower > narrow.upper - narrow.lower + 0.2


def test_cut_options_are_last_and_never_chosen():
    for seed in range(30):
        base = ensemble(seed)
        model = with_rule(base, harsh_rule(base, tau=0.5))
        plan = TreePlanner(model, SMALL).plan(model.graph(seed % 9), "", 3)
        cut = [o.pruned is not None for o in plan.options]
        assert cut == sorted(cut)
        names = {str(o.subgoal) for o in plan.options if o.pruned}
        assert all(str(s) not in names for s in plan.subgoals[:1])
        for o in plan.options:
            if o.pruned:
                assert o.visits == 0


def test_interior_options_are_cut_too_and_a_dead_end_is_worth_0():
    """Cutting everything in one state turns it into a dead end for those that lead there."""
    problem = random_problem(np.random.default_rng(2), states=3, actions=2, applicable=1.0)
    p = np.zeros((3, 2, 4))
    p[0] = [[0.0, 1.0, 0.0, 0.0], [0.3, 0.0, 0.0, 0.7]]
    p[1] = [[0.5, 0.0, 0.0, 0.5], [0.4, 0.0, 0.0, 0.6]]
    p[2] = p[1]
    problem = type(problem)(p, np.ones((3, 2, 2), np.int64), problem.applicable, problem.prior)
    config = SearchConfig(k=2, expansions=10, **(EXACT | {"prune": True}))
    rule = PruningRule({"do_0": 0.6, "do_1": 0.29})
    found = search(model := TabularModel([problem], rule=rule), model.pack([0], 3), [""], config)
    assert found.tree.nodes.value[0, 0, 1, 0] == pytest.approx(0.4)  # do_0, then do_1; do_0 is cut in state 1
    rule = PruningRule({"do_0": 0.6, "do_1": 0.45})
    found = search(model := TabularModel([problem], rule=rule), model.pack([0], 3), [""], config)
    assert found.tree.nodes.best[0, 1] == -1
    assert found.tree.nodes.value[0, 0, 1, 0] == 0.0  # do_1 is cut everywhere, and state 1 is a dead end
    plan = TreePlanner(model, config).plan(model.graph(0), "", 3)
    assert plan.status is PlanStatus.INFEASIBLE
    assert "no option has a chance" in plan.reason


def test_imitation_ignores_values_and_thresholds():
    base = ensemble(1)
    model = with_rule(base, harsh_rule(base, tau_stop=0.99))
    plan = ImitatePlanner(model, SMALL).plan(model.graph(0), "", 3)
    assert plan.status is PlanStatus.PLANNED
    assert all(o.pruned is None for o in plan.options)
    state = np.where(base.members[0].applicable[0], base.members[0].prior[0], -1)
    assert plan.subgoals[0].verb == f"do_{state.argmax()}"


def test_no_proposals_is_infeasible():
    problem = random_problem(np.random.default_rng(0), states=2, actions=2)
    problem.applicable[0] = False
    model = TabularModel([problem])
    for kind in (*KINDS, ImitatePlanner):
        plan = kind(model, SearchConfig(k=2)).plan(model.graph(0), "", 3)
        assert (plan.status, plan.reason) == (
            PlanStatus.INFEASIBLE,
            "the model proposes no subgoal here",
        )


def test_support_gap_runs_from_covered_to_not_at_all():
    support = np.array([0.0, 0.25, 0.5, 1.0], np.float32)
    np.testing.assert_allclose(support_gap(support, 0.5), [1, 0.5, 0, 0])
    np.testing.assert_allclose(support_gap(support, 0.0), 0)
