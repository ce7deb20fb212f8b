"""The training loop: gradient steps over batches, checkpoints, and a resumed run that equals a whole one.

The noise of a step is drawn from torch's generator, seeded by the run's seed and the step's number, and
batches are a function of the step too. A run that was killed and resumed therefore ends with the same
weights, bit for bit (on the same device and number of threads). Budgets are steps, never minutes: the
machine's speed is no part of a result.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vine_vla.compute.progress import Report
from vine_vla.core.errors import VineError
from vine_vla.storage.files import write_atomically
from vine_vla.storage.settings import differing

Losses = tuple[Tensor, Mapping[str, float]]
"""What is minimised, a scalar, and figures to log."""


@dataclass(frozen=True)
class LoopConfig:
    """How long a module is trained, and how often it is written down.

    Args:
        steps: gradient steps.
        seed: of the noise of every step.
        clip: largest norm of the gradient; inf: it is not clipped.
        log_every: steps whose figures are averaged into one line of the log.
        save_every: steps between two checkpoints.
        precision: `float32`, or a type that the forward pass is autocast to.
    """

    steps: int
    seed: int = 0
    clip: float = math.inf
    log_every: int = 100
    save_every: int = 1000
    precision: torch.dtype = torch.float32


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is written down and by what it is known.

    Args:
        path: safetensors file of weights, moments, step and settings; removed by the caller when all is done.
        settings: everything that makes two runs the same run, as JSON values.
    """

    path: Path
    settings: Mapping[str, Any]


def train_module[Batch](
    module: nn.Module,
    batches: Callable[[int], Iterable[Batch]],
    loss: Callable[[Batch], Losses],
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    config: LoopConfig,
    checkpoint: Checkpoint,
    *,
    what: str,
    after_step: Callable[[], object] | None = None,
    log: Callable[[int, Mapping[str, float]], object] | None = None,
    report: Report | None = None,
) -> None:
    """Train `module` in place; resumes from the checkpoint if there is one of this very run.

    Args:
        module: with everything that a resumed run needs among its parameters and buffers.
        batches: the batches from a step on, as many as are asked for.
        loss: forward pass on one batch; draws from torch's generator, which is left seeded.
        scheduler: stepped after every step; None: a constant rate.
        what: what is learned, for the progress.
        after_step: called after every gradient step, e.g. to average weights.
        log: called every `log_every` steps with the step and the means of the figures since.
        report: called with `what`, steps done and steps.

    Raises:
        VineError: the checkpoint is of a run with other settings, or the loss is no number.
    """
    first = _resume(checkpoint, module, optimizer, scheduler)
    device = next(module.parameters()).device
    if report is not None:
        report(what, first, config.steps)
    module.train()
    figures: dict[str, list[float]] = defaultdict(list)
    begin, stream = time.perf_counter(), iter(batches(first))
    for step in range(first, config.steps):
        torch.manual_seed(int(np.random.SeedSequence([config.seed, step]).generate_state(1)[0]))
        batch = next(stream)
        with torch.autocast(device.type, config.precision, enabled=config.precision != torch.float32):
            value, found = loss(batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        norm = float(nn.utils.clip_grad_norm_(module.parameters(), config.clip))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if after_step is not None:
            after_step()
        for name, number in {"loss": value.item(), "grad_norm": norm, **found}.items():
            figures[name].append(number)
        done = step + 1
        if not math.isfinite(figures["loss"][-1]):
            raise VineError(f"the loss of {what} is no number in step {done}", hint="lower the learning rate")
        if report is not None:
            report(what, done, config.steps)
        if log is not None and (done % config.log_every == 0 or done == config.steps):
            taken = (time.perf_counter() - begin) / len(figures["loss"])
            means = {name: float(np.mean(values)) for name, values in figures.items()}
            log(done, means | {"seconds_per_step": taken})
            figures.clear()
            begin = time.perf_counter()
        if done % config.save_every == 0 and done < config.steps:
            _save(checkpoint, module, optimizer, scheduler, done)


def adamw(parameters: Any, rate: float, decay: float, **more: Any) -> torch.optim.AdamW:
    """AdamW in its fused form: 2 instead of 20 ms a step for two million parameters on one thread."""
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True, **more)


def _save(
    checkpoint: Checkpoint, module: nn.Module, optimizer: Optimizer, scheduler: LRScheduler | None, step: int
) -> None:
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    # A copy each: safetensors refuses tensors that share memory.
    kept = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    about = {"step": str(step), "settings": json.dumps(checkpoint.settings)}
    if scheduler is not None:
        about["scheduler"] = json.dumps(scheduler.state_dict())
    write_atomically(checkpoint.path, lambda path: save_file(kept, path, about))


def _resume(
    checkpoint: Checkpoint, module: nn.Module, optimizer: Optimizer, scheduler: LRScheduler | None
) -> int:
    """Put back what `_save` wrote; returns the step to resume with, 0 if nothing is there."""
    if not checkpoint.path.is_file():
        return 0
    try:
        with safe_open(checkpoint.path, "pt") as file:
            about = file.metadata() or {}
            now = json.loads(json.dumps(checkpoint.settings))
            if difference := differing(json.loads(about["settings"]), now):
                raise VineError(
                    f"begun with other settings: {difference}",
                    where=str(checkpoint.path),
                    hint="give the same settings again, choose another folder or remove it",
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, KeyError, ValueError):
        return 0  # damaged: nothing is lost but time
    module.load_state_dict(_below("module.", tensors))
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, value in _below("optimizer.", tensors).items():
        number, _, kind = name.partition(".")
        state[int(number)][kind] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(state), "param_groups": groups})
    if scheduler is not None:
        scheduler.load_state_dict(json.loads(about["scheduler"]))
        for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
    return int(about["step"])


def _below(stem: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(stem): value for name, value in tensors.items() if name.startswith(stem)}
