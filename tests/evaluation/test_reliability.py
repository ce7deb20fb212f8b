"""Calibration scores against hand-computed values, and perfect predictors against their own bounds."""

import numpy as np
import pandas as pd
import pytest

from vine_vla.core.errors import VineError
from vine_vla.evaluation.probes.reliability import (
    bins_of,
    calibration_error,
    ceiling,
    perfect_calibration_error,
    reliability,
    score,
    score_table,
)


def draw(n, seed, sharp=2.0):
    rng = np.random.default_rng(seed)
    p = rng.beta(1 / sharp, 1 / sharp, n)
    return p, (rng.uniform(size=n) < p).astype(float), rng.integers(0, max(n // 4, 1), n)


def test_calibration_error_by_hand():
    p = np.array([0.1, 0.1, 0.9, 0.9])
    # Two bins: .1 against 1/2 and .9 against 1: (.4 * 2 + .1 * 2) / 4.
    assert calibration_error(p, np.array([0, 1, 1, 1.0]), 2) == pytest.approx(0.25)
    assert calibration_error(np.full(10, 0.3), np.r_[np.ones(3), np.zeros(7)]) == pytest.approx(0)


def test_bins_hold_equal_numbers_and_keep_ties_together():
    place = bins_of(np.linspace(0, 1, 100), 10)
    assert np.bincount(place).tolist() == [10] * 10
    tied = np.r_[np.full(50, 0.5), np.linspace(0.6, 1, 50)]
    order = np.random.default_rng(0).permutation(100)
    assert len(set(bins_of(tied, 10)[:50])) == 1
    assert (bins_of(tied[order], 10) == bins_of(tied, 10)[order]).all()


def test_a_perfect_predictor_meets_its_own_expectation():
    """ECE over the 95 % bound in at most 12 of 100 perfect samples: more has probability < 1 of 1000."""
    over = 0
    for seed in range(100):
        p, y, _ = draw(300, seed)
        mean, bound = perfect_calibration_error(p, draws=200, seed=seed)
        assert 0 < mean < bound
        over += calibration_error(p, y) > bound
    assert over <= 13


def test_overconfidence_is_found():
    p, y, groups = draw(1000, 0)
    sharp = np.clip(0.5 + 2.0 * (p - 0.5), 0.01, 0.99)
    good, bad = score(p, y, groups), score(sharp, y, groups)
    assert bad.ece > bad.ece_perfect + 0.05 > good.ece_perfect
    assert good.ece < good.ece_perfect + 0.03 and good.brier < bad.brier < 0.25
    assert good.auroc_low < good.auroc < good.auroc_high


def test_ceiling_brackets_the_truth():
    rng = np.random.default_rng(1)
    p = rng.beta(0.6, 0.6, 4000)
    truth_y = rng.uniform(size=4000) < p
    from sklearn.metrics import roc_auc_score

    truth = roc_auc_score(truth_y, p)
    found = ceiling((rng.uniform(size=(400, 8)) < p[:400, None]).astype(float))
    assert found.left_out < truth < found.plug_in and found.plug_in - found.left_out < 0.12
    assert found.spread == pytest.approx(p.std(), abs=0.04)
    shares = found.share(truth)
    assert shares[0] < 1 < shares[1]
    with pytest.raises(VineError, match="not repeated"):
        ceiling(np.ones((5, 1)))


def test_reliability_intervals_are_over_scenes():
    p, y, _ = draw(400, 3)
    independent = reliability(p, y, np.arange(400))
    lumped = reliability(np.repeat(p[:100], 4), np.repeat(y[:100], 4), np.repeat(np.arange(100), 4))
    assert independent["n"].sum() == lumped["n"].sum() == 400
    width = [(t["high"] - t["low"]).mean() for t in (independent, lumped)]
    assert width[1] > 1.5 * width[0]  # four copies of a scene are not four scenes


def test_scores_by_verb():
    p, y, groups = draw(200, 4)
    rows = pd.DataFrame({"arm": "vine", "source": "probe", "scene": groups, "predicted": p, "reached": y})
    rows["subgoal"] = np.where(np.arange(200) < 120, "insert(plug, socket_1)", "put_back(plug)")
    found = score_table(rows).set_index("verb")
    assert found.loc["all", "n"] == 200 and found.loc["insert", "n"] == 120
    with pytest.raises(VineError):
        score(np.array([1.2]), np.array([1.0]), np.array([0]))
