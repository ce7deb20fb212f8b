"""How good predicted probabilities are, beside what a perfect predictor would get at the same n.

A perfect predictor does not have ECE 0 on a finite sample, nor AUROC 1 on chance events; both are
computed here, so that a number is never read alone. Uncertainty is over episodes (scenes): probes of
one scene are not independent.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from vine_vla.core.errors import VineError

F64 = NDArray[np.float64]
BINS = 10
CLIP = 1e-3
"""Log-loss takes predictions no nearer to 0 and 1 than this."""


def bins_of(predicted: F64, bins: int = BINS) -> NDArray[np.int64]:
    """Bin of each prediction, 0 to `bins` - 1: as many in each as ties allow. [n]"""
    order = np.argsort(predicted, kind="stable")
    place = np.empty(len(predicted), np.int64)
    place[order] = np.arange(len(predicted)) * bins // max(len(predicted), 1)
    # Equal predictions belong to one bin, or the bins would depend on the order of the rows.
    values, inverse = np.unique(predicted, return_inverse=True)
    first = np.full(len(values), bins, np.int64)
    np.minimum.at(first, inverse, place)
    return first[inverse]


def calibration_error(predicted: F64, reached: F64, bins: int = BINS) -> float:
    """Expected calibration error with adaptive bins, in [0, 1]; NaN without rows."""
    if not len(predicted):
        return float("nan")
    place = bins_of(predicted, bins)
    gap = np.bincount(place, predicted - reached, minlength=bins)
    return float(np.abs(gap).sum() / len(predicted))


def perfect_calibration_error(
    predicted: F64, bins: int = BINS, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and 95 % quantile of the ECE if every prediction were the true probability (Monte Carlo)."""
    rng = np.random.default_rng(seed)
    place = bins_of(predicted, bins)
    onehot = np.eye(bins)[place]
    outcomes = rng.uniform(size=(draws, len(predicted))) < predicted
    errors = np.abs((predicted - outcomes) @ onehot).sum(1) / max(len(predicted), 1)
    return float(errors.mean()), float(np.quantile(errors, 0.95))


@dataclass(frozen=True)
class Scores:
    """Scores of n predictions; NaN where they do not exist (one class only).

    Args:
        base: share that was reached. ece: adaptive, 10 bins; ece_perfect and ece_perfect_95 of a
            perfect predictor with the same predictions. auroc_low, auroc_high: bootstrap over groups.
        brier_base: Brier score of always predicting the base rate.
    """

    n: int
    base: float
    auroc: float
    auroc_low: float
    auroc_high: float
    brier: float
    brier_base: float
    log_loss: float
    ece: float
    ece_perfect: float
    ece_perfect_95: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def auroc(predicted: F64, reached: F64) -> float:
    """Area under the ROC curve; NaN when all outcomes are equal."""
    if len(reached) == 0 or reached.min() == reached.max():
        return float("nan")
    return float(roc_auc_score(reached, predicted))


def score(
    predicted: F64, reached: F64, groups: NDArray[np.int64], *, resamples: int = 300, seed: int = 0
) -> Scores:
    """All scores of predictions [n] of outcomes [n] (0 or 1); `groups` [n] are the scenes.

    Raises:
        VineError: a prediction is no probability, or there are none.
    """
    predicted, reached = np.asarray(predicted, float), np.asarray(reached, float)
    if not len(predicted) or not ((predicted >= 0) & (predicted <= 1)).all():
        raise VineError(
            "no predictions, or one outside [0, 1]", hint="give P(goal or reached) of every probe"
        )
    clipped = np.clip(predicted, CLIP, 1 - CLIP)
    perfect, perfect_95 = perfect_calibration_error(predicted, seed=seed)
    spread = _bootstrap_auroc(predicted, reached, groups, resamples, seed)
    return Scores(
        n=len(predicted),
        base=float(reached.mean()),
        auroc=auroc(predicted, reached),
        auroc_low=float(np.quantile(spread, 0.025)) if len(spread) else float("nan"),
        auroc_high=float(np.quantile(spread, 0.975)) if len(spread) else float("nan"),
        brier=float(brier_score_loss(reached, predicted)),
        brier_base=float(reached.mean() * (1 - reached.mean())),
        log_loss=float(log_loss(reached, clipped, labels=[0, 1])),
        ece=calibration_error(predicted, reached),
        ece_perfect=perfect,
        ece_perfect_95=perfect_95,
    )


def _bootstrap_auroc(
    predicted: F64, reached: F64, groups: NDArray[np.int64], resamples: int, seed: int
) -> F64:
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    found = []
    for _ in range(resamples if len(members) > 1 else 0):
        index = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        found.append(auroc(predicted[index], reached[index]))
    values: F64 = np.array([value for value in found if not np.isnan(value)], np.float64)
    return values


def reliability(
    predicted: F64,
    reached: F64,
    groups: NDArray[np.int64],
    *,
    bins: int = BINS,
    resamples: int = 300,
    seed: int = 0,
) -> pd.DataFrame:
    """A row a bin: n, mean prediction, share reached, its 95 % interval from a bootstrap over `groups`."""
    rng = np.random.default_rng(seed)
    place = bins_of(predicted, bins)
    names, group = np.unique(groups, return_inverse=True)
    # Sums per (group, bin): a resample of groups is then a weighted sum.
    hits, counts = np.zeros((len(names), bins)), np.zeros((len(names), bins))
    np.add.at(hits, (group, place), reached)
    np.add.at(counts, (group, place), 1)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = (weights @ hits) / (weights @ counts)
    rows = []
    for b in range(bins):
        inside = place == b
        if not inside.any():
            continue
        known = rates[:, b][~np.isnan(rates[:, b])]
        rows.append(
            {
                "bin": b,
                "n": int(inside.sum()),
                "predicted": float(predicted[inside].mean()),
                "reached": float(reached[inside].mean()),
                "low": float(np.quantile(known, 0.025)),
                "high": float(np.quantile(known, 0.975)),
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Ceiling:
    """What AUROC the true probabilities themselves reach, from probes that were repeated.

    Args:
        probes, repeats: how many.
        plug_in: AUROC of the observed shares against the same outcomes: too high, they have seen them.
        left_out: of the shares of the other repeats against the one left out: too low, they are noisy.
        spread: standard deviation of the shares beyond what chance alone would give.
    """

    probes: int
    repeats: int
    plug_in: float
    left_out: float
    spread: float

    def share(self, found: float) -> tuple[float, float]:
        """Share of the way from 0.5 to the ceiling that an AUROC covers, by either estimate."""
        return (found - 0.5) / (self.plug_in - 0.5), (found - 0.5) / (self.left_out - 0.5)


def ceiling(outcomes: F64) -> Ceiling:
    """AUROC that true probabilities reach, from repeated probes; `outcomes` [probes, repeats] of 0 or 1."""
    outcomes = np.asarray(outcomes, float)
    n, repeats = outcomes.shape
    if repeats < 2:
        raise VineError("probes were not repeated", hint="repeat each at least twice")
    share = outcomes.mean(1)
    others = (outcomes.sum(1, keepdims=True) - outcomes) / (repeats - 1)
    chance = float((share * (1 - share)).mean()) / (repeats - 1)
    return Ceiling(
        probes=n,
        repeats=repeats,
        plug_in=auroc(np.repeat(share, repeats), outcomes.ravel()),
        left_out=auroc(others.ravel(), outcomes.ravel()),
        spread=float(np.sqrt(max(share.var() - chance, 0.0))),
    )


def score_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Scores of `feasibility.csv` rows: one row overall and one a verb, for each arm and source."""
    found = []
    for (arm, source), own in rows.groupby(["arm", "source"], sort=False):
        verbs = own["subgoal"].str.split("(").str[0]
        for verb in ["all", *sorted(verbs.unique())]:
            part = own if verb == "all" else own[verbs == verb]
            scores = score(
                part["predicted"].to_numpy(float), part["reached"].to_numpy(float), part["scene"].to_numpy()
            )
            found.append({"arm": arm, "source": source, "verb": verb, **scores.to_json()})
    return pd.DataFrame(found)
