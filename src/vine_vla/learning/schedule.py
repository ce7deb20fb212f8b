"""Learning rates: linear warm-up, then half a cosine to 0."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Learning rate of a step relative to its peak, in [0, 1].

    Args:
        step: 0 for the first one.
        steps: of the whole training; from then on the rate is 0.
        warmup: steps of the linear rise.
    """
    rise = min(1.0, (step + 1) / max(1, warmup))
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))


def cosine_schedule(optimizer: Optimizer, steps: int, warmup: int) -> LambdaLR:
    """`warmup_cosine` as a scheduler; the optimizer's rates are its peaks."""
    return LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, warmup))
