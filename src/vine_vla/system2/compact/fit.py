"""One training loop for all nets: bootstrap over episodes, AdamW with a cosine, best epoch a member."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vine_vla.learning.device import to_device

Loss = Callable[[Tensor], Tensor]
"""Rows int64 [b] -> loss of each member and row, [M, b]."""


@dataclass(frozen=True)
class FitConfig:
    """How one net is fitted.

    Args:
        epochs: passes over the data. batch: rows a step. rate: highest learning rate.
        decay: weight decay. warm_up: steps until the rate is highest.
        least_steps: repeat epochs until this many steps, so that small data are learned too.
    """

    epochs: int = 40
    batch: int = 128
    rate: float = 3e-3
    decay: float = 1e-3
    warm_up: int = 20
    least_steps: int = 300

    def rounds(self, rows: int) -> int:
        """Epochs that are really run on this many rows."""
        steps = max(1, math.ceil(rows / self.batch))
        return max(self.epochs, math.ceil(self.least_steps / steps))

    def with_effort(self, share: float) -> FitConfig:
        """The same with `share` of the steps."""
        return replace(
            self, epochs=max(1, round(share * self.epochs)), least_steps=round(share * self.least_steps)
        )


def bootstrap(episode: NDArray[np.int64], members: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """How often each member sees each row: episodes drawn with replacement, rows follow. [M, N]

    The first member of an ensemble of one sees everything once.
    """
    names, place = np.unique(episode, return_inverse=True)
    if members == 1:
        return np.ones((1, len(episode)), np.float32)
    counts = np.stack(
        [np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)) for _ in range(members)]
    )
    return counts[:, place].astype(np.float32)


def fit(
    net: nn.Module,
    loss: Loss,
    weights: NDArray[np.float32],
    config: FitConfig,
    rng: np.random.Generator,
    *,
    each_epoch: Callable[[int], None] | None = None,
    held_out: Callable[[], Tensor] | None = None,
    report: Callable[[float], None] | None = None,
) -> None:
    """Fit `net` in place.

    Args:
        net: members' weights stacked along the first axis of every parameter.
        loss: loss a member and row.
        weights: weight a member and row; rows that weigh nothing for a member are its out-of-bag rows. [M, N]
        config: see `FitConfig`. rng: order of the rows.
        each_epoch: called with the epoch before it, e.g. to draw new noise.
        held_out: loss a member and row without noise, [M, N]; if given, every member keeps the weights of
            the epoch in which its out-of-bag loss was least.
        report: told the share of the work done, in [0, 1].
    """
    device = next(net.parameters()).device
    w = to_device(weights, device)
    members, rows = w.shape
    decayed = [p for p in net.parameters() if p.dim() > 2]
    plain = [p for p in net.parameters() if p.dim() <= 2]
    groups = [{"params": decayed, "weight_decay": config.decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.rate)
    rounds = config.rounds(rows)
    total = rounds * math.ceil(rows / config.batch)
    best = torch.full((members,), torch.inf, device=device)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    outside = (w == 0).float()
    step = 0
    for epoch in range(rounds):
        if each_epoch:
            each_epoch(epoch)
        order = to_device(rng.permutation(rows), device)
        for index in order.split(config.batch):
            rate = config.rate * min(1.0, (step + 1) / config.warm_up)
            rate *= 0.5 * (1 + math.cos(math.pi * step / total))
            for group in optimizer.param_groups:
                group["lr"] = rate
            share = w[:, index]
            value = (loss(index) * share).sum(1) / max(1.0, float(len(index)))
            optimizer.zero_grad(set_to_none=True)
            value.sum().backward()
            _clip(net.parameters(), members, 5.0)
            optimizer.step()
            step += 1
        if held_out and bool((outside.sum(1) >= 10).all()):
            with torch.no_grad():
                current = (held_out() * outside).sum(1) / outside.sum(1)
            better = current < best
            best = torch.where(better, current, best)
            for name, value in net.state_dict().items():
                kept[name][better] = value[better]
        if report:
            report((epoch + 1) / rounds)
    if bool(torch.isfinite(best).all()):
        net.load_state_dict(kept)


def _clip(parameters: Iterable[nn.Parameter], members: int, limit: float) -> None:
    """Clip the gradient of every member on its own, so that members do not touch each other."""
    grads = [p.grad for p in parameters if p.grad is not None]
    square = torch.zeros(members, device=grads[0].device)
    for g in grads:
        square += g.reshape(members, -1).pow(2).sum(1)
    scale = (limit / (square.sqrt() + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(scale.reshape(members, *[1] * (g.dim() - 1)))
