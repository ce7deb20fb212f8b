"""Intervals, paired tests and power: what a table of success rates has to say beside the rates.

The scene is the unit: whole scenes are resampled and permuted, seeds are averaged within a scene
first. Everything that scipy and statsmodels have is theirs; this file only brings rows into shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from vine_vla.core.errors import VineError

MIN_COVERAGE = 0.95
"""Share of the attempted scenes that both arms must have scored before a verdict is given."""

CLAIM_SEEDS = 3
"""Training seeds that must show the same sign before a difference is claimed."""

NEEDED = ("scene", "arm", "training_seed", "success")


class Interval(NamedTuple):
    """An estimate with its confidence interval, and the number of independent units behind it."""

    estimate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Success rate with Wilson's interval; [0, 1] when n is 0."""
    if not 0 <= successes <= n:
        raise VineError(f"{successes} successes in {n} episodes", hint="count successes among the episodes")
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0, 0)
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return Interval(successes / n, float(low), float(high), n)


def scene_bootstrap(
    values: NDArray[np.float64], *, level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Interval:
    """Mean over scenes with a percentile bootstrap interval; `values` [n] holds one number a scene.

    When all scenes agree the bootstrap cannot spread and the interval is the point itself.
    """
    values = np.asarray(values, float)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < 2 or np.ptp(values) == 0:
        return Interval(mean, mean, mean, len(values))
    result = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        method="percentile",
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Interval(mean, float(interval.low), float(interval.high), len(values))


def sign_flip(
    a: NDArray[np.float64], b: NDArray[np.float64], *, resamples: int = 9999, seed: int = 0
) -> float:
    """Two-sided p of the paired difference of means: the two arms of a scene are swapped at random.

    Exact when 2^n <= `resamples`. Scenes on which the arms agree cannot move the statistic.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if len(a) == 0 or np.array_equal(a, b):
        return 1.0
    result = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def exact_mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Exact two-sided McNemar p for two arms' successes on the same scenes, [n] each."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    return float(mcnemar(table, exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(list(p_values), method="holm")[1]]


def minimum_detectable_effect(
    differences: NDArray[np.float64], *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest true mean difference that n paired scenes of this spread find with `power`.

    Arms that agree on every scene seen may still differ on the next one, so the variance is taken to
    be at least that of a single discordant scene, 1/n.
    """
    n = len(differences)
    if n < 3:
        return float("inf")
    spread = np.sqrt(max(float(np.var(differences, ddof=1)), 1.0 / n))
    return float(TTestPower().solve_power(nobs=n, alpha=alpha, power=power) * spread)


@dataclass(frozen=True)
class Comparison:
    """Two arms on the same scenes.

    Args:
        a, b: names of the arms; differences are a minus b.
        scenes: scenes scored in both arms (the n of everything below).
        coverage: scored / attempted scenes.
        rate_a, rate_b: success rates over those scenes, with scene-bootstrap intervals.
        difference: mean paired difference with its scene-bootstrap interval.
        p_value: sign-flip permutation over scenes, two-sided.
        mcnemar: training seed -> exact McNemar p; empty when scenes were repeated with several policy seeds.
        seed_differences: training seed -> difference of the success rates.
        wins, losses, ties: scenes on which a is better, worse, equal (mean over seeds).
        mde: minimum detectable effect at 80 % power.
        resolved: whether scenes alone do not explain the difference: p below the level, enough coverage.
        claim: whether it may be claimed: resolved, with the same sign in at least `CLAIM_SEEDS` seeds.
        same_sign: training seeds whose difference has the sign of the mean.
        verdict: one line for people that says which of these it is.
    """

    a: str
    b: str
    scenes: int
    coverage: float
    rate_a: Interval
    rate_b: Interval
    difference: Interval
    p_value: float
    mcnemar: Mapping[int, float]
    seed_differences: Mapping[int, float]
    wins: int
    losses: int
    ties: int
    mde: float
    resolved: bool
    claim: bool
    same_sign: int
    verdict: str
    notes: tuple[str, ...] = field(default=())

    @property
    def standing(self) -> str:
        """How far a resolved difference reaches, in words; empty where none is resolved."""
        return _standing(len(self.seed_differences), self.same_sign) if self.resolved else ""

    def to_json(self) -> dict[str, object]:
        data = {k: v for k, v in self.__dict__.items() if not isinstance(v, (Interval, Mapping))}
        for name in ("rate_a", "rate_b", "difference"):
            data[name] = list(getattr(self, name)[:3])
        for name in ("mcnemar", "seed_differences"):
            data[name] = {str(seed): value for seed, value in getattr(self, name).items()}
        return data | {"standing": self.standing, "notes": list(self.notes)}


def compare(
    rows: pd.DataFrame,
    a: str,
    b: str,
    *,
    attempted: Sequence[int] | None = None,
    alpha: float = 0.05,
    resamples: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Arm `a` against arm `b`, paired by scene; refuses a verdict below 95 % coverage.

    Args:
        rows: one row an episode, columns scene, arm, training_seed, success (1, 0, or missing when the
            episode could not be scored), policy_seed if scenes were repeated. One task and split; `arm` holds
            the labels given as a and b.
        attempted: the scenes planned beforehand; default: every scene that either arm has a row for.
        alpha: level of the verdict.

    Raises:
        VineError: a column or an arm is missing, or an arm has two rows for a scene and seed.
    """
    missing = [name for name in NEEDED if name not in rows]
    if missing:
        raise VineError(f"no column {missing[0]!r} in the rows", hint=f"needed: {', '.join(NEEDED)}")
    tables = {name: _by_scene(rows, name) for name in (a, b)}
    seeds = sorted(set(tables[a].columns) | set(tables[b].columns))
    planned = sorted(set(attempted) if attempted is not None else {*tables[a].index, *tables[b].index})
    both = [t.reindex(index=planned, columns=seeds) for t in (tables[a], tables[b])]
    scored = both[0].notna().all(axis=1) & both[1].notna().all(axis=1)
    coverage = float(scored.mean()) if len(planned) else 0.0
    x, y = (t[scored].to_numpy(float) for t in both)
    mean_x, mean_y = x.mean(1), y.mean(1)
    d = mean_x - mean_y
    notes = []
    n = int(scored.sum())
    trained = np.array([training for training, _ in seeds], int)
    once = len(set(trained)) == len(trained)  # one policy seed for each training seed
    if 0 < n < 6:
        notes.append(f"{n} scenes cannot reach p < {alpha} whatever happens")
    p_value = sign_flip(mean_x, mean_y, resamples=resamples, seed=seed)
    per_seed = {
        int(s): float((x - y)[:, trained == s].mean()) if n else 0.0 for s in sorted(set(trained.tolist()))
    }
    difference = scene_bootstrap(d, resamples=resamples, seed=seed)
    mde = minimum_detectable_effect(d, alpha=alpha)
    same_sign = sum(v * difference.estimate > 0 for v in per_seed.values())
    resolved = coverage >= MIN_COVERAGE and p_value < alpha
    if coverage < MIN_COVERAGE:
        verdict = f"no verdict: only {coverage:.0%} of the scenes are scored in both arms"
    elif resolved:
        better, worse = (a, b) if difference.estimate > 0 else (b, a)
        verdict = f"{better} is better than {worse} by {abs(difference.estimate):.3f}; "
        verdict += _standing(len(per_seed), same_sign)
    elif mde > 1:
        verdict = f"no difference shown; {n} scenes are too few to find any with 80 % power"
    else:
        verdict = f"no difference shown; {mde:.3f} would have been found with 80 % power"
    return Comparison(
        a=a,
        b=b,
        scenes=n,
        coverage=coverage,
        rate_a=scene_bootstrap(mean_x, resamples=resamples, seed=seed),
        rate_b=scene_bootstrap(mean_y, resamples=resamples, seed=seed),
        difference=difference,
        p_value=p_value,
        mcnemar={s: exact_mcnemar(x[:, i] > 0, y[:, i] > 0) for i, s in enumerate(trained.tolist())}
        if n and once
        else {},
        seed_differences=per_seed,
        wins=int((d > 0).sum()),
        losses=int((d < 0).sum()),
        ties=int((d == 0).sum()),
        mde=mde,
        resolved=resolved,
        claim=resolved and _is_claim(len(per_seed), same_sign),
        same_sign=same_sign,
        verdict=verdict,
        notes=tuple(notes),
    )


def _is_claim(seeds: int, same_sign: int) -> bool:
    """Whether a resolved difference may be claimed of trainings, not of these weights alone."""
    return same_sign == seeds >= CLAIM_SEEDS


def _standing(seeds: int, same_sign: int) -> str:
    if _is_claim(seeds, same_sign):
        return f"claim: same sign in {same_sign} of {seeds} training seeds"
    if seeds == 1:
        return "resolved over scenes, one training seed: no claim over trainings"
    if same_sign < seeds:
        return f"resolved over scenes, same sign in only {same_sign} of {seeds} training seeds: no claim"
    return f"resolved over scenes, {seeds} training seeds where a claim needs {CLAIM_SEEDS}: no claim"


def _by_scene(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Success [scenes, (training seed, policy seed)] of one arm."""
    own = rows[rows["arm"] == arm]
    if own.empty:
        known = ", ".join(sorted(rows["arm"].astype(str).unique()))
        raise VineError(f"no episodes of arm {arm!r}", hint=f"arms in the rows: {known}")
    if "policy_seed" not in own:
        own = own.assign(policy_seed=0)
    twice = own.duplicated(["scene", "training_seed", "policy_seed"])
    if twice.any():
        scene = own[twice]["scene"].iloc[0]
        raise VineError(f"arm {arm!r} ran scene {scene} twice with the same seeds")
    table = own.assign(success=pd.to_numeric(own["success"])).pivot(
        index="scene", columns=["training_seed", "policy_seed"], values="success"
    )
    return table


def summarise(rows: pd.DataFrame, *, resamples: int = 9999) -> pd.DataFrame:
    """One row an arm: n, success rate with interval, stops, dead ends, times.

    Wilson's interval with one episode a scene; with several training seeds the episodes of a scene
    are not independent, so scenes are resampled.
    """
    found = []
    for arm, own in rows.groupby("arm", sort=False):
        scored = own[pd.to_numeric(own["success"]).notna()]
        success = pd.to_numeric(scored["success"]).astype(float)
        if scored["scene"].duplicated().any():
            interval = scene_bootstrap(
                success.groupby(scored["scene"]).mean().to_numpy(), resamples=resamples
            )
        else:
            interval = wilson(int(success.sum()), len(scored))
        found.append(
            {
                "arm": arm,
                "episodes": len(scored),
                "scenes": scored["scene"].nunique(),
                "success": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "dead": float((scored["outcome"] == "dead").mean()),
                "stopped": float((scored["outcome"] == "stopped").mean()),
                "subgoals": float(scored["subgoals"].mean()),
                "replans": float(scored["replans"].mean()),
                "steps": float(scored["steps"].median()),
                "plan_seconds": float(scored["plan_seconds"].median()),
                "plan_p": float(scored["plan_p"].mean()),
            }
        )
    return pd.DataFrame(found)
