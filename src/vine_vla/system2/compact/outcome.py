"""Outcome nets: p(goal, reached, slipped, dead | graph, subgoal), an ensemble on bootstrapped episodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vine_vla.core.packing import PackedGraphs
from vine_vla.learning.device import CPU, to_device
from vine_vla.system2.compact.features import Encoder, SubgoalInputs, jitter, move_cameras
from vine_vla.system2.compact.fit import FitConfig, bootstrap, fit
from vine_vla.system2.compact.hypotheses import categorical, likeliest
from vine_vla.system2.compact.nets import SubgoalNet, SubgoalTensors
from vine_vla.system2.compact.rules import derive_packed
from vine_vla.system2.segments import SegmentTable

OUTCOMES = 4
DROPOUT = 0.1


def outcome_net(encoder: Encoder, members: int, width: int, generator: torch.Generator) -> SubgoalNet:
    """Untrained ensemble."""
    return SubgoalNet(
        members,
        encoder.token_width,
        encoder.context_width,
        encoder.arity,
        width,
        generator,
        heads={"outcome": OUTCOMES},
    )


def outcome_logits(net: SubgoalNet, inputs: SubgoalTensors, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """Logits [M, N, 4], and the vectors they are read from [M, N, d]."""
    pair, _ = net(inputs, dropout)
    return net.heads["outcome"](pair).mT, pair.mT


def table_inputs(encoder: Encoder, table: SegmentTable, graphs: PackedGraphs | None = None) -> SubgoalInputs:
    """Features of every segment's (graph, subgoal); `graphs` instead of the table's own if given.

    Of graphs that perception doubts the likeliest scene's.
    """
    rows = np.arange(len(table))
    texts = encoder.texts(table.instructions)
    seen = likeliest(graphs or table.graphs, categorical(encoder.schema))
    return encoder.subgoal_inputs(seen, rows, table.verbs, table.args, texts)


def noisy(graphs: PackedGraphs, encoder: Encoder, sigma: float, rng: np.random.Generator) -> PackedGraphs:
    """`graphs` as a detector might see them: boxes off by `sigma`, relations derived from those boxes."""
    moved = jitter(graphs, sigma, rng)
    return moved if sigma <= 0 else moved._replace(relations=derive_packed(moved, encoder.schema))


def train_outcome(
    encoder: Encoder,
    table: SegmentTable,
    *,
    members: int,
    width: int,
    config: FitConfig,
    noise: float,
    seed: int,
    device: torch.device = CPU,
    shift: float = 0.0,
    report: Callable[[float], None] | None = None,
) -> SubgoalNet:
    """Fit the ensemble by log-loss on every segment with a known outcome.

    Args:
        table: decided segments of training episodes.
        members, width: M and d. config: see `FitConfig`.
        noise: standard deviation of box corners, image shares, drawn anew for every epoch.
        shift: of the cameras, see `move_cameras`; the zoom goes with it.
        seed: of weights, bootstrap, order and noise. device: where the nets are trained, and stay.
    """
    rng = np.random.default_rng(seed)
    net = outcome_net(encoder, members, width, torch.Generator().manual_seed(seed)).to(device)
    target = to_device(table.outcome, device)
    clean = SubgoalTensors(table_inputs(encoder, table), device)
    current = clean
    dropout_seed = int(rng.integers(2**31))

    def redraw(epoch: int) -> None:
        nonlocal current
        if noise > 0 or shift > 0:
            graphs = move_cameras(table.graphs, shift, shift / 2, rng)
            graphs = noisy(graphs, encoder, noise, rng)
            current = SubgoalTensors(table_inputs(encoder, table, graphs), device)

    def loss(index: Tensor) -> Tensor:
        return _log_loss(outcome_logits(net, current[index], DROPOUT)[0], target[index])

    def held_out() -> Tensor:
        return _log_loss(outcome_logits(net, clean)[0], target)

    weights = bootstrap(table.episode, members, rng)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(dropout_seed)
        fit(net, loss, weights, config, rng, each_epoch=redraw, held_out=held_out, report=report)
    return net


def _log_loss(logits: Tensor, target: Tensor) -> Tensor:
    members, n, classes = logits.shape
    flat = F.cross_entropy(
        logits.reshape(-1, classes), target.expand(members, n).reshape(-1), reduction="none"
    )
    return flat.reshape(members, n)
