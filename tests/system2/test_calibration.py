"""Calibration lowers log-loss on held-out data; conformal thresholds keep their promise; support falls."""

import numpy as np
import pytest
from scipy.stats import betabinom

from vine_vla.core.protocols import REACHED, upper_reachable
from vine_vla.system2.uncertainty.calibration import Calibration, cross_calibrated, fit_calibration, log_loss
from vine_vla.system2.uncertainty.conformal import pruning_rule, threshold
from vine_vla.system2.uncertainty.metrics import binary_scores, expected_calibration_error
from vine_vla.system2.uncertainty.support import Support


def overconfident(n, rng, members=4, scale=3.0, verbs=2):
    """Logits whose right temperature is `scale`, and outcomes drawn from the right probabilities."""
    true = rng.normal(0, 1.2, (n, 4))
    p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    outcome = np.array([rng.choice(4, p=row) for row in p])
    logits = (scale * (true + rng.normal(0, 0.1, (members, n, 4)))).astype(np.float32)
    return logits, rng.integers(0, verbs, n), outcome, np.arange(n) // 2


def test_calibration_lowers_log_loss_on_held_out_data():
    rng = np.random.default_rng(0)
    fitted = fit_calibration(*overconfident(300, rng), 2, "demonstration")
    logits, verbs, outcome, _ = overconfident(2000, rng)
    before = log_loss(Calibration.identity(2).apply(logits, verbs), outcome)
    after = log_loss(fitted.apply(logits, verbs), outcome)
    assert fitted.kind != "none" and after < before - 0.1
    assert fitted.temperature == pytest.approx([3, 3], rel=0.35)


def test_calibrated_already_stays_as_it_is_or_close():
    rng = np.random.default_rng(1)
    fitted = fit_calibration(*overconfident(400, rng, scale=1.0), 2, "demonstration")
    logits, verbs, outcome, _ = overconfident(2000, rng, scale=1.0)
    before = log_loss(Calibration.identity(2).apply(logits, verbs), outcome)
    assert log_loss(fitted.apply(logits, verbs), outcome) < before + 0.01


def test_a_verb_of_its_own_gets_its_own_scale():
    rng = np.random.default_rng(2)

    def draw(n):
        a, b = overconfident(n, rng, scale=1.0, verbs=1), overconfident(n, rng, scale=5.0, verbs=1)
        logits = np.concatenate([a[0], b[0]], 1)
        return logits, np.repeat([0, 1], n), np.concatenate([a[2], b[2]]), np.arange(2 * n)

    fitted = fit_calibration(*draw(400), 2, "demonstration")
    assert fitted.kind == "verb"
    assert fitted.temperature[1] > 2.5 * fitted.temperature[0]


def test_few_data_change_nothing():
    rng = np.random.default_rng(3)
    assert fit_calibration(*overconfident(10, rng), 2, "demonstration").kind == "none"


def test_probabilities_sum_to_one_and_cross_calibration_covers_all():
    rng = np.random.default_rng(4)
    logits, verbs, outcome, episode = overconfident(100, rng)
    p = cross_calibrated(logits, verbs, outcome, episode, 2)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)
    assert p.shape == logits.shape


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_conformal_coverage(alpha):
    """False cuts among fresh reached options follow the Beta-binomial law of split conformal.

    With k = floor(alpha (n + 1)) the number cut of m is BetaBinomial(m, k, n + 1 - k). Over 400 draws the
    mean's standard error is known; the test is off by chance in about 1 of 10,000 runs (4 sigma, fixed seed).
    """
    rng = np.random.default_rng(5)
    n, m, draws = 60, 50, 400
    cut = []
    for _ in range(draws):
        tau = threshold(rng.beta(4, 2, n).astype(np.float32), alpha)
        cut.append((rng.beta(4, 2, m).astype(np.float32) < tau).sum())
    k = int(np.floor(alpha * (n + 1)))
    law = betabinom(m, k, n + 1 - k)
    assert law.mean() / m <= alpha
    assert abs(np.mean(cut) - law.mean()) < 4 * law.std() / np.sqrt(draws)


def test_too_few_options_give_no_threshold():
    assert threshold(np.full(8, 0.9, np.float32), 0.1) is None
    assert threshold(np.linspace(0.1, 0.9, 9).astype(np.float32), 0.1) == pytest.approx(0.1)


def test_rule_uses_reached_and_covered_options_of_each_verb():
    rng = np.random.default_rng(6)
    n, names = 400, ("a", "b", "rare")
    verbs = np.where(np.arange(n) < 4, 2, rng.integers(0, 2, n))
    p = rng.dirichlet(np.ones(4), (3, n)).astype(np.float32)
    support = rng.random(n).astype(np.float32)
    outcome = rng.integers(0, 4, n)
    rule = pruning_rule(
        names, p, support, verbs, outcome, alpha=0.2, subgoals_a_plan=2, min_support=0.3, tau_stop=0.0
    )
    assert set(rule.tau) == {"a", "b"}
    u = upper_reachable(p, support, 0.3)
    for v, name in enumerate(names[:2]):
        reached = (outcome <= REACHED) & (verbs == v)
        assert (u[reached] < rule.tau[name]).mean() <= 0.1


def test_scores_on_a_known_case():
    p, y = np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 1, 1, 1])
    found = binary_scores(p, y)
    assert found["brier"] == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    assert found["auroc"] == pytest.approx(5 / 6)
    assert expected_calibration_error(p, y, bins=2) == pytest.approx((0.4 + 0.1) / 2)


def tiny_support():
    points = np.random.default_rng(7).normal(0, 1, (100, 3)).astype(np.float32)
    together = np.zeros((2, 3, 3), np.float32)
    together[0] = 50
    together[0, 1, 2] = together[0, 2, 1] = 0  # these two never held together
    held_out = np.sort(np.random.default_rng(8).gamma(4, 0.3, 60)).astype(np.float32)
    axes = np.eye(3, dtype=np.float32)
    return Support(np.zeros(3, np.float32), axes, points, np.zeros(100, np.int64), 0.1, held_out, together)


def test_support_falls_with_distance_and_disagreement():
    support = tiny_support()
    steps = np.linspace(0, 30, 40)
    far = np.stack([steps, np.zeros(40), np.zeros(40)], 1).astype(np.float32)
    verbs, bits = np.zeros(40, np.int64), np.tile([True, False, True], (40, 1))
    along = support.of(far, verbs, np.zeros(40, np.float32), bits)
    tail = along[steps > 3]
    assert (np.diff(tail) <= 0).all() and along[0] > 0.3 and tail[-1] < 1e-3
    same = np.zeros((40, 3), np.float32)
    by_spread = support.of(same, verbs, np.linspace(0, 0.4, 40).astype(np.float32), bits)
    assert (np.diff(by_spread) <= 1e-7).all() and by_spread[-1] < 0.1 < by_spread[0]


def test_support_of_the_never_seen_is_zero():
    support = tiny_support()
    point, spread = np.zeros((1, 3), np.float32), np.zeros(1, np.float32)
    never_together = np.array([[False, True, True]])
    assert support.of(point, np.array([0]), spread, never_together)[0] == 0
    assert (
        support.of(point, np.array([1]), spread, np.array([[True, False, True]]))[0] == 0
    )  # verb never seen


def test_no_threshold_is_higher_than_asked():
    """Where all options are certain the quantile is 1, and what is merely likely would be cut."""
    p = np.zeros((2, 50, 4), np.float32)
    p[..., 0] = 1
    sure = {"alpha": 0.2, "subgoals_a_plan": 1, "min_support": 0.0, "tau_stop": 0.0}
    verbs = outcome = np.zeros(50, np.int64)
    support = np.ones(50, np.float32)
    assert pruning_rule(("a",), p, support, verbs, outcome, **sure).tau["a"] == 1.0
    assert pruning_rule(("a",), p, support, verbs, outcome, **sure, max_tau=0.5).tau["a"] == 0.5
