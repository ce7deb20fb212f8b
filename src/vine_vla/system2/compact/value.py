"""The two values, never mixed.

`V`, P(G before F) if the best subgoal is taken from here: finite-horizon fitted backups in the learned
option model. With b subgoals left,

    Q_b(n, e) = p(goal) + p(reached) V_{b-1}(n'_reached) + p(slipped) V_{b-1}(n'_slipped),  V_0 = 0,
    V_b(n)    = Q_b at the best supported e,

raised level by level from b = 1, which gives the least solution. Each member backs up its own Q. The
subgoal is chosen by the members of the other half, since a maximum over one's own noise is optimistic.
States are the recorded graphs, in failed and successful episodes alike, and the graphs that the model
imagines after each of their subgoals. One net holds all members and levels, a level as survival through
b hazards, so that V never falls with the budget; the members differ by their targets.

`V_mu`, P(G before F) if the demonstrators go on: lambda-returns of the recorded episodes with
`V(n_T) := y_T`. A diagnostic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vine_vla.core.packing import PackedGraphs
from vine_vla.core.protocols import AFTER_REACHED, AFTER_SLIPPED, GOAL, REACHED, SLIPPED
from vine_vla.system2.compact.features import Encoder, Float, Int
from vine_vla.system2.compact.fit import FitConfig, fit
from vine_vla.system2.compact.nets import GraphNet, GraphTensors
from vine_vla.system2.compact.segments import SegmentTable
from vine_vla.system2.compact.words import Texts

CHUNK = 64
"""Graphs a pass when many are evaluated: what their pairs of objects need then fits a core's cache."""


def value_net(
    encoder: Encoder, members: int, width: int, levels: int, generator: torch.Generator
) -> GraphNet:
    """Untrained net with a hazard a member and level, low at first: values are approached from below."""
    return GraphNet(
        1,
        encoder.base_width,
        encoder.pair_width,
        encoder.vocabulary.width,
        width,
        generator,
        outputs=members * levels,
        bias=-2.0,
    )


def levels_of(net: GraphNet, inputs: GraphTensors, members: int) -> Tensor:
    """log(1 - V_b) for b = 1 .. levels, falling with b. [M, N, levels]"""
    raw = net(inputs)[0]
    hazards = raw.reshape(members, len(raw) // members, raw.shape[-1])
    return -F.softplus(hazards).cumsum(1).mT


def values(
    net: GraphNet,
    encoder: Encoder,
    graphs: PackedGraphs,
    texts: Texts,
    members: int,
    base: Float | None = None,
) -> Float:
    """V_b of N graphs for every budget b = 0 .. levels. float32 [M, N, levels + 1]"""
    found = []
    with torch.inference_mode():
        for start in range(0, max(len(graphs.budget), 1), CHUNK):
            part = slice(start, start + CHUNK)
            features = None if base is None else base[..., part]
            inputs = GraphTensors(encoder.graph_inputs(graphs.select(part), texts.select(part), features))
            found.append(-torch.expm1(levels_of(net, inputs, members)))
        all_levels = torch.cat(found, 1)
    return F.pad(all_levels, (1, 0)).numpy()


def at_budget(levels: Float, budget: NDArray[np.integer]) -> Float:
    """V at each graph's own budget; budgets above the highest level count as the highest. [M, N]"""
    place = np.clip(budget.astype(np.int64), 0, levels.shape[-1] - 1)
    return np.take_along_axis(levels, np.broadcast_to(place[None, :, None], (*levels.shape[:2], 1)), 2)[
        ..., 0
    ]


@dataclass(frozen=True)
class OptionModel:
    """The learned option model on S states, as value learning needs it.

    Args:
        states: graphs. [S]. texts: their instructions.
        rows: state of each of N options. [N]
        place: options of each state, -1 where padded; only supported ones. [S, Q]
        p: calibrated outcome probabilities. [M, N, 4]
        next: graphs after reached and after slipped. [N, 2]
    """

    states: PackedGraphs
    texts: Texts
    rows: Int
    place: Int
    p: Float
    next: PackedGraphs


def backed_up(model: OptionModel, next_value: Float) -> tuple[Float, Float]:
    """Q of the options [M, N], and V of the states [M, S], from V of the next graphs [M, N, 2]."""
    p = model.p
    q = (
        p[..., GOAL]
        + p[..., REACHED] * next_value[..., AFTER_REACHED]
        + p[..., SLIPPED] * next_value[..., AFTER_SLIPPED]
    )
    members = len(q)
    there = model.place >= 0
    padded = np.where(there, q[:, np.maximum(model.place, 0)], -np.inf)  # [M, S, Q]
    half = members // 2
    chooser = np.empty((members, len(there)), np.int64)
    if half == 0:
        chooser[:] = padded.mean(0).argmax(-1)
    else:
        chooser[:half] = padded[half:].mean(0).argmax(-1)
        chooser[half:] = padded[:half].mean(0).argmax(-1)
    best = np.take_along_axis(padded, chooser[..., None], 2)[..., 0]
    return q, np.where(there.any(-1), best, 0.0)


def train_value(
    encoder: Encoder,
    model: OptionModel,
    *,
    members: int,
    width: int,
    levels: int,
    config: FitConfig,
    seed: int,
    report: Callable[[float], None] | None = None,
) -> GraphNet:
    """Fit V_1 .. V_levels, level by level.

    Args:
        model: see `OptionModel`. levels: highest budget.
        config: `epochs` are those of one level.
    """
    rng = np.random.default_rng(seed)
    net = value_net(encoder, members, width, levels, torch.Generator().manual_seed(seed))
    inputs = GraphTensors(encoder.graph_inputs(model.states, model.texts))
    next_graphs = model.next.reshape(-1)
    next_texts = model.texts.select(np.repeat(model.rows, 2))
    count = len(model.states.budget)
    targets = torch.zeros(members, count, levels)
    weights = np.ones((1, count), np.float32)
    for level in range(1, levels + 1):
        after = np.zeros((members, len(model.rows), 2), np.float32)
        if level > 1 and len(model.rows):
            found = values(net, encoder, next_graphs, next_texts, members)
            after = found[..., level - 1].reshape(members, -1, 2)
        targets[..., level - 1] = torch.from_numpy(backed_up(model, after)[1].astype(np.float32))
        # More budget never hurts; estimates of two levels may cross by noise.
        if level > 1:
            targets[..., level - 1] = torch.maximum(targets[..., level - 1], targets[..., level - 2])
        done = level

        def loss(index: Tensor, done: int = done) -> Tensor:
            log_miss = levels_of(net, inputs[index], members)[..., :done].clamp(max=-1e-5)
            want = targets[:, index, :done]
            log_hit = torch.log1p(-log_miss.exp())
            return -(want * log_hit + (1 - want) * log_miss).sum(-1).mean(0, keepdim=True)

        def told(share: float, level: int = level) -> None:
            if report:
                report((level - 1 + share) / levels)

        fit(net, loss, weights, config, rng, report=told)
    return net


def train_value_mu(
    encoder: Encoder,
    table: SegmentTable,
    *,
    width: int,
    config: FitConfig,
    trace: float,
    rounds: int,
    seed: int,
) -> GraphNet:
    """Fit V_mu on the recorded graphs by lambda-returns.

    Args:
        table: segments of training episodes, censored ones included.
        trace: lambda in [0, 1]; 1 is Monte Carlo. rounds: times the returns are computed anew.

    The return of an episode of unknown outcome ends in V_mu of its last graph, not in a guess.
    """
    rng = np.random.default_rng(seed)
    net = value_net(encoder, 1, width, 1, torch.Generator().manual_seed(seed))
    inputs = GraphTensors(encoder.graph_inputs(table.graphs, encoder.texts(table.instructions)))
    last = _last_of_episode(table.episode)
    known = table.success[table.episode]
    ends = table.where(last)
    end_texts = encoder.texts(ends.instructions)
    for index in range(rounds):
        first = index == 0
        now = values(net, encoder, table.graphs, encoder.texts(table.instructions), 1)[0, :, 1]
        end_value = values(net, encoder, ends.after, end_texts, 1)[0, :, 1]
        target, usable = _returns(table.episode, last, known, now, end_value, 1.0 if first else trace)
        want = torch.from_numpy(target.astype(np.float32))
        weights = (usable if first else np.ones(len(table), bool)).astype(np.float32)[None]

        def loss(index: Tensor, want: Tensor = want) -> Tensor:
            log_miss = levels_of(net, inputs[index], 1)[..., 0].clamp(max=-1e-5)
            return -(want[index] * torch.log1p(-log_miss.exp()) + (1 - want[index]) * log_miss)

        fit(net, loss, weights, config, rng)
    return net


def _last_of_episode(episode: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.append(episode[1:] != episode[:-1], True) if len(episode) else np.zeros(0, bool)


def _returns(
    episode: NDArray[np.int64],
    last: NDArray[np.bool_],
    known: NDArray[np.int64],
    now: Float,
    end_value: Float,
    trace: float,
) -> tuple[Float, NDArray[np.bool_]]:
    """Lambda-returns of every segment's start, and whether they end in a known outcome. [N], [N]"""
    target, usable = np.zeros(len(episode)), known >= 0
    end = len(end_value)
    for i in range(len(episode) - 1, -1, -1):
        if last[i]:
            end -= 1
            target[i] = known[i] if known[i] >= 0 else end_value[end]
        else:
            target[i] = (1 - trace) * now[i + 1] + trace * target[i + 1]
    return target, usable
