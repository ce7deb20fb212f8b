"""How System 1 and done heads are trained: what a user may set. Light to import: the commands show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vine_vla.core.errors import VineError

SIGNAL_DRAWS = 8
"""Draws of a policy's noise over which the spread of its actions is taken (`SkillSignals`)."""


@dataclass(frozen=True)
class System1Training:
    """How System 1 is trained.

    Raises:
        VineError: a number is out of its range.
    """

    steps: int = 5000
    """Gradient steps, above 0. The default takes about five minutes on two idle cores."""
    batch_size: int = 64
    """Samples a step, above 0."""
    learning_rate: float = 1e-3
    """Peak of the cosine, above 0."""
    seed: int = 0
    """Of weights, order and noise."""
    save_every: int = 1000
    """Steps between checkpoints, from which a killed run is resumed; above 0."""
    imitate_all: bool = False
    """Imitate failed episodes too (the arm `flat-all`)."""
    start: Path | None = None
    """Folder of a trained System 1 to start from, for DAgger rounds; default: from scratch."""
    encoders: Path | None = None
    """Folder of a trained System 1 whose encoders are taken over, for policies that are shown more than one
    object; default: from scratch."""
    actions: Literal["auto", "motions", "positions"] = "auto"
    """What actions are: motions (steps or velocities, 0 stands still), positions (of joints or gripper), or
    auto: positions if most of them follow the state."""

    def __post_init__(self) -> None:
        _check_positive(self, ("steps", "batch_size", "learning_rate", "save_every"))


@dataclass(frozen=True)
class DoneTraining:
    """How a done head is trained.

    Raises:
        VineError: a number is out of its range.
    """

    steps: int = 2000
    """Gradient steps, above 0."""
    batch_size: int = 64
    """Frames a step, above 0."""
    learning_rate: float = 1e-3
    """Peak of the cosine, above 0."""
    weight_decay: float = 1e-3
    """Of AdamW."""
    width: int = 128
    """Of the hidden layers, above 0."""
    held_out: float = 0.2
    """Share of the source episodes, in (0, 1), that figures are taken on."""
    done_frames: int = 5
    """Frames at the end of a reached segment that count as done, above 0."""
    failed_frames: int = 5
    """Frames at the end of a slipped or dead segment that count as failed, above 0."""
    seed: int = 0
    """Of weights, held-out episodes, order and noise; at least 0."""
    save_every: int = 250
    """Steps between checkpoints, from which a killed run is resumed; above 0."""

    def __post_init__(self) -> None:
        _check_positive(
            self,
            ("steps", "batch_size", "learning_rate", "width", "done_frames", "failed_frames", "save_every"),
        )
        if self.seed < 0:
            raise VineError(f"seed is {self.seed}", where="--seed", hint="give 0 or more")
        if not 0 < self.held_out < 1:
            raise VineError(
                f"held_out is {self.held_out}",
                where="--held-out",
                hint="give a share between 0 and 1, e.g. 0.2",
            )


def _check_positive(settings: object, names: Sequence[str]) -> None:
    for name in names:
        if getattr(settings, name) <= 0:
            raise VineError(
                f"{name} is {getattr(settings, name)}",
                where=f"--{name.replace('_', '-')}",
                hint="give more than 0",
            )
