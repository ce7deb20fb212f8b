"""Calibration: outcome logits scaled so that the members' mean probability is right on held-out data.

Four candidates of growing freedom (nothing, one temperature, temperature and bias, the same a verb)
are compared by cross-validation over episodes; the best is fitted on all. With few data that is often
`nothing`, and then it stays nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vine_vla.core.protocols import Float, Int

FOLDS = 5
LEAST_SEGMENTS = 20
"""Held-out segments under which nothing is fitted."""
LEAST_PER_VERB = 40
RIDGE = 0.02
KINDS = ("none", "temperature", "vector", "verb")


@dataclass(frozen=True)
class Calibration:
    """Logits become logits / temperature + bias, by verb.

    Args:
        kind: which of `KINDS` won. source: `none`, `demonstration` or `execution`.
        temperature: float32 [V]. bias: float32 [V, 4]. count: segments it was fitted on.
    """

    kind: str
    source: str
    temperature: Float
    bias: Float
    count: int = 0

    @classmethod
    def identity(cls, verbs: int) -> Calibration:
        return cls("none", "none", np.ones(verbs, np.float32), np.zeros((verbs, 4), np.float32))

    def apply(self, logits: Float, verbs: Int) -> Float:
        """Calibrated probabilities of members' logits [M, N, 4]. float32 [M, N, 4]"""
        z = logits / self.temperature[verbs][:, None] + self.bias[verbs]
        z = z - z.max(-1, keepdims=True)
        weight = np.exp(z.astype(np.float64))
        return (weight / weight.sum(-1, keepdims=True)).astype(np.float32)


def log_loss(p: Float, outcome: Int) -> float:
    """Mean negative log of the members' mean probability of what happened. p [M, N, 4], outcome [N]"""
    if not len(outcome):
        return float("nan")
    mean = p.mean(0)[np.arange(len(outcome)), outcome]
    return float(-np.log(np.maximum(mean, 1e-9)).mean())


def fit_calibration(
    logits: Float, verbs: Int, outcome: Int, episode: NDArray[np.int64], verb_count: int, source: str
) -> Calibration:
    """The best of the four kinds on decided held-out segments.

    Args:
        logits: of the members. [M, N, 4]. verbs, outcome, episode: [N]. verb_count: V.
        source: what the segments are, for the record.
    """
    if len(outcome) < LEAST_SEGMENTS:
        return Calibration.identity(verb_count)
    folds = _folds(episode)
    losses = {}
    for kind in KINDS:
        total = 0.0
        for fold in range(FOLDS):
            inside, outside = folds != fold, folds == fold
            if not outside.any() or not inside.any():
                continue
            found = _fit(kind, logits[:, inside], verbs[inside], outcome[inside], verb_count, source)
            total += (
                log_loss(found.apply(logits[:, outside], verbs[outside]), outcome[outside]) * outside.sum()
            )
        losses[kind] = total / len(outcome)
    # More freedom has to earn its place by more than noise of the comparison.
    best = min(KINDS, key=lambda kind: losses[kind] + 0.001 * KINDS.index(kind))
    return _fit(best, logits, verbs, outcome, verb_count, source)


def cross_calibrated(
    logits: Float, verbs: Int, outcome: Int, episode: NDArray[np.int64], verb_count: int
) -> Float:
    """Probabilities of each segment by a calibration that did not see its episode. [M, N, 4]"""
    folds = _folds(episode)
    p = np.empty(logits.shape, np.float32)
    for fold in range(FOLDS):
        inside, outside = folds != fold, folds == fold
        if outside.any():
            found = fit_calibration(
                logits[:, inside], verbs[inside], outcome[inside], episode[inside], verb_count, "cross"
            )
            p[:, outside] = found.apply(logits[:, outside], verbs[outside])
    return p


def _folds(episode: NDArray[np.int64]) -> NDArray[np.int64]:
    names, place = np.unique(episode, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(names))
    return order[place] % FOLDS


def _fit(kind: str, logits: Float, verbs: Int, outcome: Int, verb_count: int, source: str) -> Calibration:
    if kind == "none":
        found = Calibration.identity(verb_count)
        return Calibration("none", source, found.temperature, found.bias, len(outcome))
    z = torch.from_numpy(np.ascontiguousarray(logits)).double()
    target = torch.from_numpy(np.ascontiguousarray(outcome))
    verb = torch.from_numpy(np.ascontiguousarray(verbs))
    seen = torch.bincount(verb, minlength=verb_count) >= LEAST_PER_VERB
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    own_t = torch.zeros(verb_count, dtype=torch.float64, requires_grad=True)
    own_bias = torch.zeros((verb_count, 4), dtype=torch.float64, requires_grad=True)
    free = {"temperature": [log_t], "vector": [log_t, bias], "verb": [log_t, bias, own_t, own_bias]}[kind]

    def current() -> tuple[Tensor, Tensor]:
        gate = seen.double()
        return (log_t + own_t * gate).exp(), bias + own_bias * gate[:, None]

    def objective() -> Tensor:
        t, b = current()
        log_p = (z / t[verb][:, None] + b[verb]).log_softmax(-1)
        mean = torch.logsumexp(log_p, 0) - np.log(len(z))
        loss = -mean[torch.arange(len(target)), target].mean()
        # The ridge weighs like a few observations, so it fades with the data.
        penalty = sum((p**2).sum() for p in free)
        return loss + RIDGE * penalty * min(1.0, 50 / len(target))

    optimizer = torch.optim.LBFGS(free, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        t, b = current()
    return Calibration(
        kind, source, t.clamp(0.05, 20).numpy().astype(np.float32), b.numpy().astype(np.float32), len(target)
    )
