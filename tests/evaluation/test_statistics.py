"""Statistics against hand-computed values, and their error rates by simulation."""

import numpy as np
import pandas as pd
import pytest

from vine_vla.core.errors import VineError
from vine_vla.evaluation.statistics import (
    compare,
    exact_mcnemar,
    holm,
    minimum_detectable_effect,
    scene_bootstrap,
    sign_flip,
    summarise,
    wilson,
)


def rows(successes, scenes=None):
    """`successes`: arm -> [seeds][scenes] of 0, 1 or nan."""
    found = []
    for arm, table in successes.items():
        for seed, line in enumerate(np.atleast_2d(table)):
            for scene, value in enumerate(line):
                found.append(
                    {"scene": scene if scenes is None else scenes[scene], "arm": arm}
                    | {"training_seed": seed, "success": value}
                )
    return pd.DataFrame(found)


def test_wilson_is_the_published_interval():
    # 12 of 45, worked by hand: centre (p + z^2/2n)/(1 + z^2/n), z = 1.959964.
    z, n, p = 1.959964, 45, 12 / 45
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = wilson(12, 45)
    assert found.low == pytest.approx(centre - half, abs=1e-6)
    assert found.high == pytest.approx(centre + half, abs=1e-6)
    assert wilson(0, 10).low == 0 and wilson(0, 10).high == pytest.approx(0.2775, abs=1e-3)
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    with pytest.raises(VineError):
        wilson(3, 2)


def test_sign_flip_is_exact_for_few_scenes():
    # Five wins, no loss: of 2^5 sign patterns two are as extreme, p = 2/32.
    assert sign_flip(np.ones(5), np.zeros(5)) == pytest.approx(2 / 32)
    # Three wins, one loss, two ties: |sum| >= 2 in 2 * (C(4,0) + C(4,1)) = 10 of 16 patterns.
    a, b = np.array([1, 1, 1, 0, 1, 0]), np.array([0, 0, 0, 1, 1, 0])
    assert sign_flip(a, b) == pytest.approx(10 / 16)
    assert sign_flip(a, a) == 1.0


def test_mcnemar_is_the_exact_binomial():
    a = np.array([True] * 8 + [False] * 2 + [True] * 5)
    b = np.array([False] * 8 + [True] * 2 + [True] * 5)
    # 8 against 2 discordant: 2 * P(X <= 2), X ~ B(10, 1/2) = 2 * 56 / 1024.
    assert exact_mcnemar(a, b) == pytest.approx(2 * 56 / 1024)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_minimum_detectable_effect_has_its_power():
    rng = np.random.default_rng(0)
    d = rng.choice([-1, 0, 1], p=[0.2, 0.5, 0.3], size=200).astype(float)
    effect = minimum_detectable_effect(d)
    # Normal approximation: (1.96 + 0.84) * sd / sqrt(n).
    assert effect == pytest.approx(2.80 * d.std(ddof=1) / np.sqrt(200), rel=0.02)
    assert minimum_detectable_effect(np.zeros(100)) > 0.02
    assert minimum_detectable_effect(np.zeros(2)) == float("inf")


def test_bootstrap_interval_covers():
    """Covers the true mean in 95 % of 200 draws; below 180 or above 199 by chance in < 1 of 1000."""
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        sample = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=100)
        found = scene_bootstrap(sample, resamples=499, seed=seed)
        hits += found.low <= 0.2 <= found.high
    assert 180 <= hits <= 199


def test_false_alarms_stay_under_the_level():
    """Equal arms: p < .05 in at most 5 % of 300 draws; more than 26 by chance in < 1 of 1000."""
    rng = np.random.default_rng(2)
    alarms = 0
    for seed in range(300):
        scene = rng.uniform(0.2, 0.9, 40)  # shared difficulty, so the pairs are dependent
        a, b = (rng.uniform(size=40) < scene).astype(float), (rng.uniform(size=40) < scene).astype(float)
        alarms += sign_flip(a, b, resamples=499, seed=seed) < 0.05
    assert alarms <= 26


def test_compare_counts_and_claims():
    a, b = np.ones((2, 20)), np.zeros((2, 20))
    b[:, :8] = 1
    found = compare(rows({"vine": a, "success-only": b}), "vine", "success-only")
    assert (found.wins, found.losses, found.ties) == (12, 0, 8)
    assert found.difference.estimate == pytest.approx(0.6)
    assert found.p_value == pytest.approx(2 / 2**12, abs=2e-3)
    assert found.mcnemar == {0: pytest.approx(2 / 2**12), 1: pytest.approx(2 / 2**12)}
    assert found.resolved and not found.claim and "vine is better" in found.verdict
    assert found.standing == "resolved over scenes, 2 training seeds where a claim needs 3: no claim"
    mirrored = compare(rows({"vine": a, "success-only": b}), "success-only", "vine")
    assert mirrored.difference.estimate == -found.difference.estimate
    assert mirrored.resolved and "vine is better" in mirrored.verdict


@pytest.mark.parametrize(
    ("seeds", "standing"),
    [
        (1, "resolved over scenes, one training seed: no claim over trainings"),
        (2, "resolved over scenes, 2 training seeds where a claim needs 3: no claim"),
        (3, "claim: same sign in 3 of 3 training seeds"),
        (4, "claim: same sign in 4 of 4 training seeds"),
    ],
)
def test_a_claim_needs_three_training_seeds(seeds, standing):
    found = compare(rows({"x": np.ones((seeds, 40)), "y": np.zeros((seeds, 40))}), "x", "y")
    assert found.resolved and found.claim == (seeds >= 3)
    told = found.to_json()
    assert told["standing"] == found.standing == standing and found.verdict.endswith(standing)
    assert (told["resolved"], told["claim"], told["same_sign"]) == (True, seeds >= 3, seeds)


@pytest.mark.parametrize("seeds", [2, 3])
def test_compare_needs_every_seed_to_agree(seeds):
    a, b = np.ones((seeds, 40)), np.zeros((seeds, 40))
    a[1], b[1] = 0, 0
    a[1, :2], b[1, 2:5] = 1, 1  # the second seed sees b ahead by one scene
    found = compare(rows({"x": a, "y": b}), "x", "y")
    assert found.resolved and not found.claim and found.same_sign == seeds - 1
    assert f"same sign in only {seeds - 1} of {seeds} training seeds: no claim" in found.verdict


def test_repeated_scenes_are_averaged_first():
    a, b = np.ones((1, 10)), np.zeros((1, 10))
    table = pd.concat([rows({"x": a, "y": b}).assign(policy_seed=p) for p in (0, 1)])
    found = compare(table, "x", "y")
    assert found.scenes == 10 and found.wins == 10 and found.mcnemar == {}
    assert found.p_value == pytest.approx(2 / 2**10) and found.seed_differences == {0: 1.0}


def test_compare_refuses_below_full_coverage():
    a, b = np.ones((1, 20)), np.zeros((1, 20))
    b[0, :2] = np.nan
    found = compare(rows({"x": a, "y": b}), "x", "y")
    assert found.coverage == pytest.approx(0.9) and not found.claim and "no verdict" in found.verdict
    # Scenes that were planned and never ran count as missing as well.
    planned = compare(rows({"x": a[:, 2:], "y": b[:, 2:]}), "x", "y", attempted=range(30))
    assert planned.coverage == pytest.approx(0.6) and "no verdict" in planned.verdict


def test_null_result_states_what_it_could_have_found():
    rng = np.random.default_rng(3)
    a = (rng.uniform(size=(1, 60)) < 0.5).astype(float)
    found = compare(rows({"x": a, "y": a.copy()}), "x", "y")
    assert not found.claim and found.p_value == 1.0
    assert f"{found.mde:.3f}" in found.verdict and found.mde > 0.03


def test_three_scenes_show_nothing():
    found = compare(rows({"x": [[1, 1, 1]], "y": [[0, 0, 0]]}), "x", "y")
    assert not found.claim and found.p_value == pytest.approx(0.25) and "too few" in found.verdict
    assert found.notes == ("3 scenes cannot reach p < 0.05 whatever happens",)


def test_compare_names_what_is_wrong():
    table = rows({"x": np.ones((1, 5))})
    with pytest.raises(VineError, match="no episodes of arm 'y'.*x"):
        compare(table, "x", "y")
    with pytest.raises(VineError, match="no column 'success'"):
        compare(table.drop(columns="success"), "x", "x")
    with pytest.raises(VineError, match="twice"):
        compare(pd.concat([table, table]), "x", "x")


def test_summary_takes_wilson_or_scenes():
    table = rows({"x": [[1, 1, 0, 1]], "y": [[1, 0, 0, 1], [1, 0, 1, 1]]})
    for name in ("subgoals", "replans", "steps", "plan_seconds", "plan_p"):
        table[name] = 1.0
    table["outcome"] = np.where(table["success"] > 0, "success", "dead")
    found = summarise(table).set_index("arm")
    assert found.loc["x", "low"] == pytest.approx(wilson(3, 4).low)
    assert found.loc["y", "success"] == pytest.approx(5 / 8) and found.loc["y", "scenes"] == 4
    assert found.loc["x", "dead"] == pytest.approx(1 / 4)
