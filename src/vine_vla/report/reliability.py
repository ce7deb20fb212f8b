"""How good predicted probabilities are: reliability bins with bands over episodes, and scores beside what is attainable.

Rows of one episode are not independent, so bands and intervals resample whole episodes. "Attainable" is what
the same predictions would score if every one of them were exactly right: no predictor does better than that
at this n, and with few rows it is far from perfect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from vine_vla.report.charts import ReliabilityBin

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

ROWS_PER_BIN = 20
MAX_BINS = 10


@dataclass(frozen=True)
class Scores:
    """Scores of one set of predictions; NaN where one class is missing (AUROC) or there is too little.

    `*_attainable` is the mean over outcomes drawn from the predictions themselves; `auroc_low`, `auroc_high` and
    `ece_perfect_high` are 95 % bounds.
    """

    n: int
    episodes: int
    rate: float
    auroc: float
    auroc_low: float
    auroc_high: float
    auroc_attainable: float
    ece: float
    ece_attainable: float
    ece_perfect_high: float
    brier: float
    brier_attainable: float
    log_loss: float


def bin_edges(predicted: F64) -> F64:
    """Inner edges of bins with about equally many rows, at least `ROWS_PER_BIN` each. [bins - 1]"""
    count = int(np.clip(len(predicted) // ROWS_PER_BIN, 1, MAX_BINS))
    return np.unique(np.quantile(predicted, np.linspace(0, 1, count + 1)[1:-1]))


def reliability_bins(
    predicted: F64, happened: Bool, episode: NDArray[np.int64], *, resamples: int = 400, seed: int = 0
) -> list[ReliabilityBin]:
    """Observed share per bin of the prediction, with a 95 % band from resampled episodes.

    Args:
        predicted: in [0, 1]. [n]
        happened: whether it came true. [n]
        episode: which episode a row belongs to, 0 to E - 1. [n]
    """
    if not len(predicted):
        return []
    place = np.searchsorted(bin_edges(predicted), predicted, side="right")
    bins = int(place.max()) + 1
    episodes = int(episode.max()) + 1
    rows, wins = np.zeros((episodes, bins)), np.zeros((episodes, bins))
    np.add.at(rows, (episode, place), 1.0)
    np.add.at(wins, (episode, place), happened.astype(float))
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(episodes, np.full(episodes, 1 / episodes), size=resamples).astype(float)
    drawn_rows, drawn_wins = weights @ rows, weights @ wins
    found = []
    for b in np.flatnonzero(rows.sum(0)):
        there = drawn_rows[:, b] > 0
        share = drawn_wins[there, b] / drawn_rows[there, b]
        low, high = np.percentile(share, (2.5, 97.5)) if there.any() else (0.0, 1.0)
        inside = place == b
        found.append(
            ReliabilityBin(
                predicted=float(predicted[inside].mean()),
                observed=float(happened[inside].mean()),
                low=float(low),
                high=float(high),
                count=int(inside.sum()),
            )
        )
    return found


def expected_calibration_error(predicted: F64, happened: Bool) -> float:
    """Mean gap between prediction and observed share over the same adaptive bins, weighted by rows."""
    place = np.searchsorted(bin_edges(predicted), predicted, side="right")
    rows = np.bincount(place).astype(float)
    gap = np.bincount(place, predicted) - np.bincount(place, happened.astype(float))
    return float(np.abs(gap[rows > 0]).sum() / len(predicted))


def score(
    predicted: F64, happened: Bool, episode: NDArray[np.int64], *, resamples: int = 200, seed: int = 0
) -> Scores:
    """All scores of one set of predictions. Arguments as in `reliability_bins`."""
    rng = np.random.default_rng(seed)
    perfect = rng.random((resamples, len(predicted))) < predicted
    ece_perfect = [expected_calibration_error(predicted, row) for row in perfect]
    auroc = _auroc(predicted, happened)
    low, high = _over_episodes(_auroc, predicted, happened, episode, resamples, rng)
    clipped = np.clip(predicted, 1e-6, 1 - 1e-6)
    return Scores(
        n=len(predicted),
        episodes=len(np.unique(episode)),
        rate=float(happened.mean()),
        auroc=auroc,
        auroc_low=low,
        auroc_high=high,
        auroc_attainable=_mean([_auroc(predicted, row) for row in perfect]),
        ece=expected_calibration_error(predicted, happened),
        ece_attainable=float(np.mean(ece_perfect)),
        ece_perfect_high=float(np.quantile(ece_perfect, 0.95)),
        brier=float(brier_score_loss(happened, predicted)),
        brier_attainable=float((predicted * (1 - predicted)).mean()),
        log_loss=float(log_loss(happened, clipped, labels=[False, True])),
    )


def _auroc(predicted: F64, happened: Bool) -> float:
    return (
        float(roc_auc_score(happened, predicted)) if happened.any() and not happened.all() else float("nan")
    )


def _over_episodes(
    statistic: Callable[[F64, Bool], float],
    predicted: F64,
    happened: Bool,
    episode: NDArray[np.int64],
    resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """95 % percentile interval of a statistic when whole episodes are resampled."""
    order = np.argsort(episode, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(episode[order])) + 1)
    found = []
    for _ in range(resamples):
        drawn = np.concatenate([groups[g] for g in rng.integers(len(groups), size=len(groups))])
        found.append(statistic(predicted[drawn], happened[drawn]))
    kept = [value for value in found if not np.isnan(value)]
    if len(groups) < 2 or not kept:
        return float("nan"), float("nan")
    low, high = np.percentile(kept, (2.5, 97.5))
    return float(low), float(high)


def _mean(values: list[float]) -> float:
    kept = [value for value in values if not np.isnan(value)]
    return float(np.mean(kept)) if kept else float("nan")
