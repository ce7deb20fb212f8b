"""The boundary to planning models that are learned: what every System 2 owes the rest, whatever is inside.

A *kind* of backend (`BackendKind`) trains and loads; what it loads is a `Backend`. The run folder holds the
kind's name (`system2.folder`), so that no command but training has to name one. Another package registers
its own (`system2.registry`). A backend whose outcome probabilities are raw gets calibration, pruning
thresholds, metrics and a model card from outside (`system2.training`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Box, Schema
from vine_vla.core.options import Demonstration
from vine_vla.core.protocols import Evidence, Float, Perceiver, PlanningModel
from vine_vla.system2.segments import Failures, SegmentTable

Report = Callable[[str, float], None]
"""Receives the name of the stage and the share of it that is done, in [0, 1]."""


def silent(stage: str, share: float) -> None:
    """A `Report` that says nothing."""


class TrainingData(Protocol):
    """The part of a dataset that a System 2 learns from; `data.DemoDataset` is one."""

    @property
    def schema(self) -> Schema: ...

    @property
    def demonstrations(self) -> tuple[Demonstration, ...]: ...

    def images(
        self, episode_index: int, frames: Sequence[int] | None, camera_role: str
    ) -> NDArray[np.uint8]: ...

    def proprioception(self, episode_index: int) -> Float: ...

    def boxes(self, episode_index: int) -> Mapping[int, Mapping[str, Mapping[str, Box]]]: ...


@dataclass(frozen=True)
class TrainingConfig:
    """What every kind of backend is asked for when it is trained; a kind's own settings subclass it."""

    failures: Failures = Failures.KEEP
    """Which episodes the nets may see: all; successful ones, their slips kept (withhold) or removed
    (withhold-slips); or as many successful ones as --episodes (withhold-matched)."""
    episodes: int | None = None
    """Use this many episodes; default: all."""
    alpha: float = 0.1
    """Share of plans that pruning may rob of a reachable option, in (0, 1)."""
    tau_stop: float = 0.0
    """Stop as `unsupported` when the best plan's lower bound is less, in [0, 1]; 0: never."""
    seed: int = 0
    """Of weights, bootstrap, order and noise."""

    def __post_init__(self) -> None:
        check_between(self, "alpha", 0, 1)


def check_between(config: object, name: str, low: float, high: float) -> None:
    """Raises VineError unless the setting `name` lies between the two, exclusive."""
    value = getattr(config, name)
    if not low < value < high:
        raise VineError(
            f"{name} is {value}", where=f"--{name.replace('_', '-')}", hint=f"above {low}, under {high}"
        )


@dataclass(frozen=True)
class StateSpec:
    """Proprioception as a backend's perception expects it.

    Args:
        mean: of the training data; its length is that of the state.
    """

    mean: tuple[float, ...]

    @property
    def size(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class BackendInfo:
    """What a trained System 2 says of itself.

    Args:
        kind: name in the registry. schema: vocabulary.
        variant: which failures the planning model saw (`Failures`), or a name of the kind's own.
        state: what perception expects; None: there is no perception, it was trained on scene graphs alone.
        budget: subgoals that an episode may spend.
        subgoals_a_plan: median of the successful demonstrations.
        provenance: revision, date and package versions of the training.
    """

    kind: str
    schema: Schema
    variant: str
    state: StateSpec | None
    budget: int
    subgoals_a_plan: float = 1.0
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Backend(PlanningModel, Perceiver, Evidence, Protocol):
    """A trained System 2: one perception, and the planning model of one variant.

    `perceive` raises VineError where `info.state` is None. Optional sides: `Prepares` and `LearnsValues`.
    """

    @property
    def info(self) -> BackendInfo: ...

    @property
    def weights(self) -> str:
        """Hash of what perceives, "" without: tells what came of this perception."""
        ...

    def variants(self) -> Sequence[str]:
        """Names of the variants that its folder holds."""
        ...

    def variant(self, name: str) -> Backend:
        """The same perception with the planning model of another variant; VineError if there is none."""
        ...

    def save(self, folder: Path, variant: str | None = None) -> None:
        """Write a folder that `load` reads: what is shared, and this variant, under another name if given."""
        ...


class LearnsValues(Protocol):
    """Optional side of a backend that is calibrated from outside: V follows the calibrated outcomes."""

    def learn_values(self, model: PlanningModel, table: SegmentTable) -> Backend:
        """The same backend with V learned anew from the outcomes that `model` gives.

        Args:
            model: the backend, calibrated. table: training segments (see `uncertainty.values`).
        """
        ...


class Train(Protocol):
    def __call__(
        self, dataset: TrainingData, out: Path, config: Any, *, device: str | None, report: Report
    ) -> Path:
        """Train one variant into the System 2 folder `out`; returns the variant's folder.

        Other variants in it stay, what they share is checked and reused, and a killed training resumes.
        """
        ...


class Load(Protocol):
    def __call__(self, folder: Path, variant: str, *, device: str | None) -> Backend:
        """The variant of the System 2 in `folder`; VineError if its files are damaged or missing."""
        ...


class Calibrate(Protocol):
    def __call__(
        self,
        folder: Path,
        name: str,
        probes: SegmentTable,
        demonstrations: Sequence[Demonstration],
        *,
        device: str | None,
    ) -> Path:
        """Write the variant `name` once more as `NAME-executed`, calibrated on executed `probes`."""
        ...


@dataclass(frozen=True)
class BackendKind:
    """A kind of backend, as the registry knows it.

    Args:
        name: what run folders and `--backend` call it. about: one line for people.
        config: frozen dataclass of its settings, a subclass of `TrainingConfig` that can be made without
            arguments; its fields and their docstrings are the options of `vine train system2`.
        train, load: see there.
        calibrate: execution calibration of a kind that calibrates itself; None: its probabilities are raw,
            and it is calibrated from outside.
    """

    name: str
    about: str
    config: type[TrainingConfig]
    train: Train
    load: Load
    calibrate: Calibrate | None = None
