"""How System 1 and done heads are trained: what a user may set. Light to import: the commands show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vine_vla.core.errors import VineError


@dataclass(frozen=True)
class System1Training:
    """How System 1 is trained.

    Args:
        steps: gradient steps. The default takes about five minutes on two idle cores.
        batch_size: samples a step.
        learning_rate: peak of the cosine.
        seed: of weights, order and noise.
        save_every: steps between checkpoints, from which a killed run is resumed.
        imitate_all: imitate failed episodes too (`flat-all`).
        start: folder of a trained System 1 to start from, for DAgger rounds; None: from scratch.
        encoders: folder of a trained System 1 whose encoders are taken over, for policies that are shown more
            than one object; None: from scratch.
        actions: `motions` (steps or velocities, 0 stands still), `positions` (of joints or gripper), or
            `auto`: positions if most of them follow the state.

    Raises:
        VineError: a number is out of its range.
    """

    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    save_every: int = 1000
    imitate_all: bool = False
    start: Path | None = None
    encoders: Path | None = None
    actions: Literal["auto", "motions", "positions"] = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "save_every"):
            if getattr(self, name) <= 0:
                raise VineError(f"{name} is {getattr(self, name)}", hint="give more than 0")


@dataclass(frozen=True)
class DoneTraining:
    """How a done head is trained.

    Args:
        steps: gradient steps.
        batch_size: frames a step.
        learning_rate: peak of the cosine.
        weight_decay: of AdamW.
        width: of the hidden layers.
        held_out: share of the source episodes, in (0, 1), that figures are taken on.
        done_frames: frames at the end of a reached segment that count as done.
        failed_frames: frames at the end of a slipped or dead segment that count as failed.
        seed: of weights, held-out episodes, order and noise.
        save_every: steps between checkpoints, from which a killed run is resumed.

    Raises:
        VineError: a number is out of its range.
    """

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    width: int = 128
    held_out: float = 0.2
    done_frames: int = 5
    failed_frames: int = 5
    seed: int = 0
    save_every: int = 250

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "width", "done_frames", "failed_frames"):
            if getattr(self, name) <= 0:
                raise VineError(f"{name} is {getattr(self, name)}", hint="give more than 0")
        if self.seed < 0:
            raise VineError(f"seed is {self.seed}", hint="give 0 or more")
        if not 0 < self.held_out < 1:
            raise VineError(f"held_out is {self.held_out}", hint="give a share between 0 and 1, e.g. 0.2")
