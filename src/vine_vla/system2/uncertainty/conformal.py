"""Conformal pruning thresholds: at most alpha' of the options that would be reached are cut.

Split conformal with the finite-sample correction. Among n *reached* calibration options of a verb
with scores u, tau is the k-th smallest, k = floor(alpha' (n + 1)): a new exchangeable reached option
falls under it with probability at most k / (n + 1) <= alpha'. With k = 0 there are too few options for
the promise, and the verb gets no threshold. alpha' = alpha / (median subgoals of a successful
demonstration), so that alpha holds for a plan (a union bound over its subgoals).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vine_vla.core.protocols import GOAL, REACHED, Float, Int, PruningRule, upper_reachable


def threshold(scores: Float, alpha: float) -> float | None:
    """tau for scores u of reached options [n], or None where n is too small; cut what is under tau.

    Args:
        scores: of exchangeable calibration options that were reached. alpha: share in (0, 1).
    """
    k = int(np.floor(alpha * (len(scores) + 1) + 1e-9))
    return None if k < 1 else float(np.sort(scores)[k - 1])


def pruning_rule(
    verb_names: Sequence[str],
    p: Float,
    support: Float,
    verbs: Int,
    outcome: Int,
    *,
    alpha: float,
    subgoals_a_plan: float,
    min_support: float,
    tau_stop: float,
    max_tau: float = 1.0,
) -> PruningRule:
    """Thresholds from calibration options.

    Args:
        verb_names: V names. p: calibrated probabilities [M, N, 4]. support: [N].
        verbs, outcome: of the options. [N]
        alpha: per plan. subgoals_a_plan: median of successful demonstrations.
        min_support, tau_stop: see `PruningRule`.
        max_tau: no threshold is higher; cutting less keeps the promise. Where nearly all options are certain,
            the quantile is 1 and would cut what is merely likely.
    """
    reached = (outcome == GOAL) | (outcome == REACHED)
    # Covered options alone set tau: uncovered ones are never cut, so the promise holds over both together.
    u = upper_reachable(p, support, min_support) if len(outcome) else np.zeros(0, np.float32)
    tau = {}
    for index, name in enumerate(verb_names):
        covered = reached & (verbs == index) & (support >= min_support)
        found = threshold(u[covered], alpha / max(subgoals_a_plan, 1.0))
        if found is not None:
            tau[name] = min(found, max_tau)
    return PruningRule(tau, alpha, tau_stop, min_support)
