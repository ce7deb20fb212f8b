"""Pruning: which options are pruned before anything moves, and why.

An option is pruned when its score u, the upper bound of P(goal or reached) over the members, is under
its verb's conformal threshold tau. Options that the data do not cover are never pruned: their intervals
widen towards [0, 1] instead, and they lose through the lower bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import GOAL, REACHED, Float, Neighbours, PruningRule, upper_reachable

KEPT, NO_PROPOSAL, BELOW_TAU = range(3)
"""Why an option may not be taken. `NO_PROPOSAL` marks padding."""

REASON_CODES = ("kept", "no_proposal", "below_tau")
"""Names of the codes, as traces write them."""


def prune_options(
    p: Float,
    support: Float,
    mask: NDArray[np.bool_],
    subgoals: Sequence[Sequence[Subgoal]],
    rule: PruningRule,
    *,
    prune: bool = True,
) -> tuple[NDArray[np.int8], Float]:
    """The reason code and the score u of every option.

    Args:
        p: outcome probabilities. [M, B, K, 4]
        support: in [0, 1]. [B, K]
        mask: True where there is a proposal. [B, K]
        subgoals: the proposals, in the order of the columns. `[B][<= K]`
        rule: thresholds of the model.
        prune: False prunes nothing.

    Returns:
        codes, int8 [B, K]; u in [0, 1], float32 [B, K].
    """
    u = upper_reachable(p, support, rule.min_support)
    codes = np.where(mask, np.int8(KEPT), np.int8(NO_PROPOSAL))
    if prune and rule.tau:
        tau = np.full(mask.shape, -np.inf)
        for b, row in enumerate(subgoals):
            tau[b, : len(row)] = [rule.tau.get(s.verb, -np.inf) for s in row]
        covered = support >= rule.min_support
        codes[mask & covered & (u < tau)] = BELOW_TAU
    return codes, u


def support_gap(support: Float, min_support: float) -> NDArray[np.float64]:
    """How far an option is from being covered: 0 with enough support, 1 with none. Same shape."""
    if min_support <= 0:
        return np.zeros(support.shape)
    return np.clip(1.0 - support.astype(np.float64) / min_support, 0.0, 1.0)


def explain_pruning(
    subgoal: Subgoal, p: Float, u: float, rule: PruningRule, nearest: Neighbours | None = None
) -> str:
    """One line for people: what was pruned, on which probability and spread, and on which episodes.

    Args:
        subgoal: the option.
        p: outcome probabilities of its members. [M, 4]
        u: its score.
        rule: thresholds of the model.
        nearest: the recorded episodes behind the judgement, if the model can name them.
    """
    reach = p[:, GOAL] + p[:, REACHED]
    line = (
        f"P(reach) {reach.mean():.2f} (spread {reach.std():.2f}, upper bound {u:.2f}) is under "
        f"the {rule.tau[subgoal.verb]:.2f} that {subgoal.verb} needs"
    )
    if nearest is not None and (nearest.failed or nearest.succeeded):
        failed = ", ".join(nearest.failed) or "none"
        succeeded = ", ".join(nearest.succeeded) or "none"
        line += f"; nearest episodes: failed {failed}; succeeded {succeeded}"
    return line
