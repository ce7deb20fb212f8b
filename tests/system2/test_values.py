"""V_mu is policy evaluation, V is value iteration, on problems with known values; successes alone mislead.

The problems have slips, dead ends, cut-off episodes and a subgoal budget. Episodes are sampled, so the
tolerances hold the sampling error of 2,000 episodes and the nets' own; seeds are fixed.
"""

import numpy as np
import pytest
from system2.conftest import QUICK
from system2.worlds import TabularWorld

from vine_vla import pack
from vine_vla.search.tabular import policy_evaluation, random_problem, value_iteration
from vine_vla.system2 import Failures
from vine_vla.system2.compact import OutcomeConfig, train_outcomes
from vine_vla.system2.compact.fit import FitConfig
from vine_vla.system2.uncertainty.values import backed_up, lambda_returns

TABULAR = OutcomeConfig(
    noise=0.0,
    shift=0.0,
    members=4,
    width=32,
    dynamics_width=32,
    proposal_width=24,
    value_width=24,
    prior_floor=0.0,
    min_support=0.02,
    outcome=FitConfig(epochs=12, least_steps=500, batch=256),
    dynamics=FitConfig(epochs=12, least_steps=800, rate=6e-3, batch=256),
    proposal=FitConfig(epochs=1, least_steps=20),
    value=FitConfig(epochs=30, least_steps=240, batch=64),
    value_mu=FitConfig(epochs=10, least_steps=150),
)
TEXT = "reach the goal"


def learned(seed, failures=Failures.KEEP):
    from dataclasses import replace

    problem = random_problem(
        np.random.default_rng(seed), states=8, actions=3, concentration=(0.15, 0.8, 0.3, 0.3)
    )
    world = TabularWorld.of(problem)
    policy = problem.applicable / problem.applicable.sum(1, keepdims=True)
    demonstrations = world.demonstrations(2000, policy, 6, seed, censored=0.1)
    model = train_outcomes(demonstrations, world.schema, replace(TABULAR, failures=failures))
    graphs = pack([world.graph(s) for s in range(8)], world.schema, budget=model.budget)
    best, mu = model.feasibility(graphs, [TEXT] * 8)
    exact = value_iteration(problem, model.budget)[model.budget]
    return best.mean(0), mu, exact, policy_evaluation(problem, policy, 6)[6]


def check_values(*seeds):
    """On the mean over problems; the error on single ones is from .03 to .09 with these settings."""
    best, mu, exact, evaluated = map(np.concatenate, zip(*map(learned, seeds), strict=True))
    assert np.abs(best - exact).mean() < 0.08
    assert abs((best - exact).mean()) < 0.06
    assert np.abs(mu - evaluated).mean() < 0.05
    # The two are different things, and are not mixed up.
    assert exact.mean() - evaluated.mean() > 0.1
    assert best.mean() - mu.mean() > 0.1


def check_successes_alone(seed):
    best, mu, exact, evaluated = learned(seed, Failures.WITHHOLD)
    assert (best - exact).mean() > 0.1
    assert (mu - evaluated).mean() > 0.1


def test_values_are_right_and_from_successes_alone_too_high():
    check_values(0, 1)
    check_successes_alone(1)


@pytest.mark.slow
def test_values_on_more_problems():
    check_values(0, 1, 2, 3, 4)
    for seed in range(1, 5):
        check_successes_alone(seed)


def test_backup_by_hand():
    p = np.array([[[0.2, 0.5, 0.1, 0.2], [0.3, 0.0, 0.0, 0.7]]], np.float32)
    after = np.array([[[0.8, 0.4], [1.0, 1.0]]], np.float32)
    q, v = backed_up(p, np.array([[0, 1, -1], [-1, -1, -1]]), after)
    np.testing.assert_allclose(q[0], [0.2 + 0.4 + 0.04, 0.3], atol=1e-6)
    np.testing.assert_allclose(v[0], [0.64, 0.0], atol=1e-6)  # no supported option: no way to the goal


def test_the_other_half_of_the_members_chooses():
    """A maximum over pure noise is not optimistic: on equal options the mean stays that of one option."""
    rng = np.random.default_rng(0)
    n, k, members = 4000, 6, 4
    goal = rng.uniform(0.3, 0.7, (members, n * k)).astype(np.float32)
    p = np.stack([goal, 0 * goal, 0 * goal, 1 - goal], -1)
    _, v = backed_up(p, np.arange(n * k).reshape(n, k), np.zeros((members, n * k, 2), np.float32))
    assert abs(v.mean() - 0.5) < 0.005
    assert goal.reshape(members, n, k).max(-1).mean() > 0.6  # what each for itself would claim


def test_lambda_returns_by_hand():
    episode = np.array([0, 0, 0, 1])
    last = np.array([False, False, True, True])
    now = np.array([0.1, 0.2, 0.6, 0.5], np.float32)
    returns, usable = lambda_returns(episode, last, np.array([1, 1, 1, -1]), now, np.array([0.9, 0.3]), 0.5)
    # 1 at the end; before it half of the next V, half of the next return; unknown ends in its last V
    np.testing.assert_allclose(returns, [0.5 * 0.2 + 0.5 * (0.5 * 0.6 + 0.5), 0.5 * 0.6 + 0.5, 1.0, 0.3])
    assert usable.tolist() == [True, True, True, False]


def test_diagnostic_value_tells_hopeful_from_hopeless(sides):
    """QUICK nets on the world with sides: more free sides, more feasible."""
    from system2.worlds import SIDES, sides_scene

    _, model = sides
    rng = np.random.default_rng(21)
    scenes = [sides_scene(rng) for _ in range(300)]
    graphs = pack([g for g, _ in scenes], SIDES, budget=model.budget, objects=9)
    best, mu = model.feasibility(graphs, ["put the part into a slot"] * 300)
    share = np.array([np.mean(list(good.values())) for _, good in scenes])
    assert np.corrcoef(mu, share)[0, 1] > 0.5
    hopeful, hopeless = best.mean(0)[share > 0.7], best.mean(0)[share < 0.3]
    assert len(hopeful) > 20 and len(hopeless) > 10
    assert hopeful.mean() > hopeless.mean() + 0.1
    assert QUICK.members == model.members
