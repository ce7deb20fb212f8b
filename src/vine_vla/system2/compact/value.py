"""The nets behind the two values (`uncertainty.values`): one that holds `V` for all members and budgets, and
one of `V_mu`.

States of `V` are the recorded graphs, in failed and successful episodes alike, and the graphs that the model
imagines after each of their subgoals. A level is survival through b hazards, so that V never falls with the
budget; the members differ by their targets.
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
from vine_vla.core.protocols import Float, Int
from vine_vla.learning.device import CPU, to_device, to_numpy
from vine_vla.system2.compact.features import Encoder
from vine_vla.system2.compact.fit import FitConfig, fit
from vine_vla.system2.compact.nets import GraphNet, GraphTensors
from vine_vla.system2.compact.words import Texts
from vine_vla.system2.segments import SegmentTable
from vine_vla.system2.uncertainty.values import lambda_returns, raise_values

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
            inputs = GraphTensors(
                encoder.graph_inputs(graphs.select(part), texts.select(part), features), net.device
            )
            found.append(-torch.expm1(levels_of(net, inputs, members)))
        all_levels = torch.cat(found, 1)
    return to_numpy(F.pad(all_levels, (1, 0)))


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


def train_value(
    encoder: Encoder,
    model: OptionModel,
    *,
    members: int,
    width: int,
    levels: int,
    config: FitConfig,
    seed: int,
    device: torch.device = CPU,
    report: Callable[[float], None] | None = None,
) -> GraphNet:
    """Fit V_1 .. V_levels, level by level.

    Args:
        model: see `OptionModel`. levels: highest budget.
        config: `epochs` are those of one level.
    """
    rng = np.random.default_rng(seed)
    net = value_net(encoder, members, width, levels, torch.Generator().manual_seed(seed)).to(device)
    inputs = GraphTensors(encoder.graph_inputs(model.states, model.texts), device)
    next_graphs = model.next.reshape(-1)
    next_texts = model.texts.select(np.repeat(model.rows, 2))
    weights = np.ones((1, len(model.states.budget)), np.float32)

    def value_after(budget: int) -> Float:
        return values(net, encoder, next_graphs, next_texts, members)[..., budget].reshape(members, -1, 2)

    def fit_level(level: int, targets: Float) -> None:
        wanted = to_device(targets, device)

        def loss(index: Tensor) -> Tensor:
            log_miss = levels_of(net, inputs[index], members)[..., :level].clamp(max=-1e-5)
            want = wanted[:, index, :level]
            log_hit = torch.log1p(-log_miss.exp())
            return -(want * log_hit + (1 - want) * log_miss).sum(-1).mean(0, keepdim=True)

        def done(share: float) -> None:
            if report:
                report((level - 1 + share) / levels)

        fit(net, loss, weights, config, rng, report=done)

    raise_values(model.p, model.place, levels, value_after, fit_level)
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
    device: torch.device = CPU,
) -> GraphNet:
    """Fit V_mu on the recorded graphs by lambda-returns.

    Args:
        table: segments of training episodes, censored ones included.
        trace: lambda in [0, 1]; 1 is Monte Carlo. rounds: times the returns are computed anew.

    The return of an episode of unknown outcome ends in V_mu of its last graph, not in a guess.
    """
    rng = np.random.default_rng(seed)
    net = value_net(encoder, 1, width, 1, torch.Generator().manual_seed(seed)).to(device)
    inputs = GraphTensors(encoder.graph_inputs(table.graphs, encoder.texts(table.instructions)), device)
    last = _last_of_episode(table.episode)
    known = table.success[table.episode]
    ends = table.where(last)
    end_texts = encoder.texts(ends.instructions)
    for index in range(rounds):
        first = index == 0
        now = values(net, encoder, table.graphs, encoder.texts(table.instructions), 1)[0, :, 1]
        end_value = values(net, encoder, ends.after, end_texts, 1)[0, :, 1]
        target, usable = lambda_returns(table.episode, last, known, now, end_value, 1.0 if first else trace)
        want = to_device(target.astype(np.float32), device)
        weights = (usable if first else np.ones(len(table), bool)).astype(np.float32)[None]

        def loss(index: Tensor, want: Tensor = want) -> Tensor:
            log_miss = levels_of(net, inputs[index], 1)[..., 0].clamp(max=-1e-5)
            return -(want[index] * torch.log1p(-log_miss.exp()) + (1 - want[index]) * log_miss)

        fit(net, loss, weights, config, rng)
    return net


def _last_of_episode(episode: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.append(episode[1:] != episode[:-1], True) if len(episode) else np.zeros(0, bool)
