"""Learning of the two values on outcomes alone, for any backend: it brings what maps a graph to V.

`V`, P(G before F) if the best subgoal is taken from here: finite-horizon fitted backups in the learned option
model. With b subgoals left,

    Q_b(n, e) = p(goal) + p(reached) V_{b-1}(n'_reached) + p(slipped) V_{b-1}(n'_slipped),  V_0 = 0,
    V_b(n)    = Q_b at the best supported e,

raised level by level from b = 1, which gives the least solution. Each member backs up its own Q. The subgoal
is chosen by the members of the other half, since a maximum over one's own noise is optimistic.

`V_mu`, P(G before F) if the demonstrators go on: lambda-returns of the recorded episodes with
`V(n_T) := y_T`. A diagnostic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.packing import PackedGraphs, concatenate
from vine_vla.core.protocols import (
    AFTER_REACHED,
    AFTER_SLIPPED,
    GOAL,
    REACHED,
    SLIPPED,
    Float,
    Int,
    PlanningModel,
)

BATCH = 256
"""Graphs a call of `expand`."""


class Options(NamedTuple):
    """The supported options of S graphs as a planning model gives them.

    Args:
        place: options of each graph, -1 where padded. [S, Q]
        rows: graph of each of N options. [N]
        p: outcome probabilities. [M, N, 4]
        next: graphs after reached and after slipped. [N, 2]
    """

    place: Int
    rows: Int
    p: Float
    next: PackedGraphs


def options_of(model: PlanningModel, graphs: PackedGraphs, instructions: Sequence[str], k: int) -> Options:
    """At most `k` options of each of S graphs, S at least 1, that the data cover."""
    places, rows, chances, after, start = [], [], [], [], 0
    for first in range(0, len(graphs.budget), BATCH):
        part = slice(first, first + BATCH)
        answer = model.expand(graphs.select(part), list(instructions[part]), k)
        taken = answer.mask & (answer.support >= model.pruning.min_support)
        place = np.full((len(taken), k), -1, np.int64)
        place[:, : taken.shape[1]][taken] = start + np.arange(taken.sum())
        places.append(place)
        rows.append(np.nonzero(taken)[0] + first)
        chances.append(answer.p[:, taken])
        after.append(PackedGraphs(*(array[taken] for array in answer.next)))
        start += int(taken.sum())
    return Options(
        np.concatenate(places), np.concatenate(rows), np.concatenate(chances, 1), concatenate(after)
    )


def backed_up(p: Float, place: Int, next_value: Float) -> tuple[Float, Float]:
    """Q of N options [M, N], and V of S graphs [M, S].

    Args:
        p: outcome probabilities. [M, N, 4]. place: see `Options`. [S, Q]
        next_value: V after reached and after slipped. [M, N, 2]
    """
    q = (
        p[..., GOAL]
        + p[..., REACHED] * next_value[..., AFTER_REACHED]
        + p[..., SLIPPED] * next_value[..., AFTER_SLIPPED]
    )
    members = len(q)
    there = place >= 0
    padded = np.where(there, q[:, np.maximum(place, 0)], -np.inf)  # [M, S, Q]
    half = members // 2
    chooser = np.empty((members, len(there)), np.int64)
    if half == 0:
        chooser[:] = padded.mean(0).argmax(-1)
    else:
        chooser[:half] = padded[half:].mean(0).argmax(-1)
        chooser[half:] = padded[:half].mean(0).argmax(-1)
    best = np.take_along_axis(padded, chooser[..., None], 2)[..., 0]
    return q, np.where(there.any(-1), best, 0.0)


def raise_values(
    p: Float,
    place: Int,
    levels: int,
    value_after: Callable[[int], Float],
    fit: Callable[[int, Float], None],
) -> None:
    """Raise V level by level, each from what has been fitted of the level below.

    Args:
        p: outcome probabilities of N options. [M, N, 4]. place: see `Options`. [S, Q]
        levels: highest budget.
        value_after: budget b >= 1 -> V_b after reached and after slipped of each option, as fitted. [M, N, 2]
        fit: receives the level b that is new, and the targets V_1 .. V_levels of the S graphs, of which
            those up to b hold. [M, S, levels]
    """
    members, options = p.shape[:2]
    targets = np.zeros((members, len(place), levels), np.float32)
    for level in range(1, levels + 1):
        after = np.zeros((members, options, 2), np.float32)
        if level > 1 and options:
            after = value_after(level - 1)
        targets[..., level - 1] = backed_up(p, place, after)[1]
        # More budget never hurts; estimates of two levels may cross by noise.
        if level > 1:
            np.maximum(targets[..., level - 1], targets[..., level - 2], out=targets[..., level - 1])
        fit(level, targets)


def lambda_returns(
    episode: Int, last: NDArray[np.bool_], known: Int, now: Float, end_value: Float, trace: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Lambda-returns of every segment's start, and whether they end in a known outcome. [N], [N]

    Args:
        episode: of each segment, in order. [N]. last: whether it is its episode's last. [N]
        known: 1 success, 0 failure, -1 not known, of its episode. [N]
        now: V_mu at its start. [N]. end_value: V_mu at each episode's end. [E]
        trace: lambda in [0, 1]; 1 is Monte Carlo.
    """
    target, usable = np.zeros(len(episode)), known >= 0
    end = len(end_value)
    for i in range(len(episode) - 1, -1, -1):
        if last[i]:
            end -= 1
            target[i] = known[i] if known[i] >= 0 else end_value[end]
        else:
            target[i] = (1 - trace) * now[i + 1] + trace * target[i + 1]
    return target, usable
