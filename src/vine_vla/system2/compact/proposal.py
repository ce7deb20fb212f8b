"""Proposals: which subgoal a successful demonstrator would choose, over all that fit the scene's classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vine_vla.core.packing import PackedGraphs
from vine_vla.learning.device import CPU, to_device, to_numpy
from vine_vla.system2.compact.features import Candidates, Encoder, Int
from vine_vla.system2.compact.fit import FitConfig, fit
from vine_vla.system2.compact.nets import SubgoalNet, SubgoalTensors
from vine_vla.system2.compact.outcome import noisy
from vine_vla.system2.segments import SegmentTable


def proposal_net(encoder: Encoder, width: int, generator: torch.Generator) -> SubgoalNet:
    """Untrained net with one member and one score for every (graph, subgoal)."""
    return SubgoalNet(
        1, encoder.token_width, encoder.context_width, encoder.arity, width, generator, heads={"score": 1}
    )


class Flat:
    """The candidates of B graphs in one list of N.

    Attributes: rows (graph of each) [N], verbs [N], args [N, A], place [B, Q] of each candidate in the
    list (-1 where padded).
    """

    def __init__(self, candidates: list[Candidates], arity: int) -> None:
        counts = [len(c.verbs) for c in candidates]
        self.rows: Int = np.repeat(np.arange(len(candidates)), counts)
        self.verbs: Int = (
            np.concatenate([c.verbs for c in candidates]) if candidates else np.zeros(0, np.int64)
        )
        self.args: Int = (
            np.concatenate([c.args for c in candidates]) if candidates else np.zeros((0, arity), np.int64)
        )
        self.place: Int = np.full((len(candidates), max([1, *counts])), -1, np.int64)
        start = 0
        for b, count in enumerate(counts):
            self.place[b, :count] = np.arange(start, start + count)
            start += count


def prior(net: SubgoalNet, inputs: SubgoalTensors, flat: Flat) -> NDArray[np.float64]:
    """Probability of every candidate from its features, 0 where padded; rows sum to 1. [B, Q]"""
    with torch.inference_mode():
        score = to_numpy(net.heads["score"](net(inputs)[0])[0, 0])
    padded = np.where(flat.place >= 0, score[flat.place] if len(score) else 0.0, -np.inf).astype(np.float64)
    top = padded.max(1, keepdims=True)
    weight = np.exp(padded - np.where(np.isfinite(top), top, 0.0))
    return weight / np.maximum(weight.sum(1, keepdims=True), 1e-12)


def train_proposal(
    encoder: Encoder,
    table: SegmentTable,
    *,
    width: int,
    config: FitConfig,
    noise: float,
    seed: int,
    device: torch.device = CPU,
    report: Callable[[float], None] | None = None,
) -> SubgoalNet:
    """Fit on segments: cross-entropy of the chosen subgoal among all candidates.

    Args:
        table: segments of the training episodes whose choices are to be imitated.
        Other arguments as in `train_outcome`.
    """
    rng = np.random.default_rng(seed)
    net = proposal_net(encoder, width, torch.Generator().manual_seed(seed)).to(device)
    candidates = encoder.candidates(table.graphs, {})
    flat = Flat(candidates, encoder.arity)
    taken = [c.subgoals.index(s) for c, s in zip(candidates, table.subgoals, strict=True)]
    chosen = to_device(np.array(taken, np.int64), device)
    place = to_device(flat.place, device)
    texts = encoder.texts(table.instructions)

    def features(graphs: PackedGraphs) -> SubgoalTensors:
        return SubgoalTensors(encoder.subgoal_inputs(graphs, flat.rows, flat.verbs, flat.args, texts), device)

    current = features(table.graphs)

    def redraw(epoch: int) -> None:
        nonlocal current
        if noise > 0:
            current = features(noisy(table.graphs, encoder, noise, rng))

    def loss(index: Tensor) -> Tensor:
        where = place[index]
        there = where >= 0
        score = torch.full(where.shape, -torch.inf, device=device)
        score[there] = net.heads["score"](net(current[where[there]])[0])[0, 0]
        return torch.nn.functional.cross_entropy(score, chosen[index], reduction="none")[None]

    fit(net, loss, np.ones((1, len(table)), np.float32), config, rng, each_epoch=redraw, report=report)
    return net
