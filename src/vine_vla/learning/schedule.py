"""A training budget in steps or minutes: one scheduler for both, a cosine over what is left.

LeRobot's trainer counts steps. On shared machines whose speed varies by 2x a budget in steps is no
budget in minutes, so the learning rate follows the larger of both shares used, and the run ends when
either is spent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lerobot.optim import LRSchedulerConfig, OptimizerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

LONGEST_STEP = 30.0
"""Seconds; a longer gap between two steps (a suspended process) is not training time."""


class BudgetSpentError(Exception):
    """Raised out of the trainer's loop one step after the last checkpoint of a run by the clock."""


class ClockCosine(LRScheduler):
    """Linear warm-up, then half a cosine to 0 over the larger share of steps and minutes used.

    Args:
        optimizer: whose rate is set.
        warmup: steps of the warm-up.
        steps: budget in steps.
        seconds: budget in seconds of training; infinite without one.
        on_step: called with the number of steps done and the share of the budget used, after each step.

    Seconds used are part of the state, so that a resumed run goes on with what was left.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int,
        steps: int,
        seconds: float = math.inf,
        on_step: Callable[[int, float], None] | None = None,
    ) -> None:
        self.warmup, self.steps, self.seconds, self.used = warmup, steps, seconds, 0.0
        self._on_step = on_step
        self._last: float | None = None
        super().__init__(optimizer)

    @property
    def share(self) -> float:
        """Share of the budget used, 0 to 1."""
        return min(1.0, max(self.last_epoch / max(1, self.steps), self.used / self.seconds))

    def get_lr(self) -> list[float]:
        rise = min(1.0, (self.last_epoch + 1) / max(1, self.warmup))
        return [rate * rise * 0.5 * (1 + math.cos(math.pi * self.share)) for rate in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        now = time.monotonic()
        if self._last is not None:
            self.used += min(now - self._last, LONGEST_STEP)
        if getattr(self, "_step_count", 0) >= 1:  # the constructor of the base class also calls step()
            self._last = now
        super().step()
        if self._on_step is not None and self.last_epoch > 0:
            self._on_step(self.last_epoch, self.share)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds; JSON-ready, since LeRobot keeps schedulers as JSON."""
        return {"last_epoch": self.last_epoch, "used": self.used, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__dict__.update(state_dict)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr()):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


@LRSchedulerConfig.register_subclass("vine_clock_cosine")
@dataclass
class ClockCosineConfig(LRSchedulerConfig):
    """Builds `ClockCosine`; `minutes` 0 means that only steps count."""

    num_warmup_steps: int | None = 100
    minutes: float = 0.0

    def build(self, optimizer: Optimizer, num_training_steps: int) -> ClockCosine:
        seconds = 60 * self.minutes if self.minutes > 0 else math.inf
        watch = getattr(self, "on_step", None)  # set by a run that ends by the clock; never part of the file
        return ClockCosine(optimizer, self.num_warmup_steps or 0, num_training_steps, seconds, watch)


@OptimizerConfig.register_subclass("vine_adamw")
@dataclass
class FusedAdamWConfig(OptimizerConfig):
    """AdamW in its fused form: 2 instead of 20 ms a step for two million parameters on one thread."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 1e-3
    grad_clip_norm: float = 1.0

    def build(self, params: Any) -> Optimizer:
        settings = asdict(self)
        settings.pop("grad_clip_norm")
        return torch.optim.AdamW(params, fused=True, **settings)
