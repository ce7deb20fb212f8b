"""Train System 1 (skills), a done head for a foreign policy, or System 2 on a dataset."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vine_vla.cli._options import Device, Threads
from vine_vla.system1.settings import DoneTraining, System1Training
from vine_vla.system2.backend import TrainingConfig
from vine_vla.system2.registry import find_backend


@dataclass(frozen=True, kw_only=True)
class _Training:
    threads: Threads = 2
    device: Device = None
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True, kw_only=True)
class System1(_Training):
    """Options of `vine train system1`."""

    dataset: tyro.conf.Positional[Path]
    """LeRobot dataset, as `vine export skills` or `vine export flat` writes it."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the run; a killed run is resumed, a finished one is kept."""
    training: tyro.conf.OmitArgPrefixes[System1Training] = System1Training()


@dataclass(frozen=True, kw_only=True)
class System2[Settings: TrainingConfig](_Training):
    """Options of `vine train system2`; `Settings` are those of the backend."""

    dataset: tyro.conf.Positional[Path]
    """LeRobot dataset with segments, scene graphs and boxes."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of System 2, RUN/system2; further variants go into the same one and share what can be shared."""
    settings: Annotated[Settings, tyro.conf.arg(name=""), tyro.conf.EnumChoicesFromValues]
    backend: str = "compact"
    """Kind of planning model, of this package or an installed one; `vine train system2 --backend NAME --help`
    lists its options."""


@dataclass(frozen=True, kw_only=True)
class Done(_Training):
    """Options of `vine train done`."""

    dataset: tyro.conf.Positional[Path]
    """Skills dataset with crops, as `vine export skills` writes it."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the head; a killed run is resumed, a finished head is kept and evaluated again."""
    training: tyro.conf.OmitArgPrefixes[DoneTraining] = DoneTraining()
    every: int = 1
    """Frames between two decisions of the agent, as many as are executed of a chunk; for the figures."""


@dataclass(frozen=True)
class Check:
    """Options of `vine train check`."""

    run: tyro.conf.Positional[Path]
    """Folder that `vine train system1` wrote."""


def _named(kind: Any, name: str, about: str) -> Any:
    return Annotated[kind, tyro.conf.subcommand(name=name, description=about)]


def config_type(arguments: Sequence[str]) -> Any:
    """The sub-commands; the options of `system2` are those of the backend that `arguments` name.

    Raises:
        VineError: there is no such backend.
    """
    backend = "compact"
    for place, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option == "--backend":
            backend = value if equals else next(iter(arguments[place + 1 :]), backend)
    settings: Any = find_backend(backend).config
    return (
        _named(System1, "system1", "Train the skill policy, for a number of steps.")
        | _named(
            System2[settings],
            "system2",
            "Train perception, proposals, outcomes and values; a variant a call.",
        )
        | _named(Done, "done", "Train a done head for a policy that has none (ACT, SmolVLA, pi0, ...).")
        | _named(Check, "check", "Check that System 1's weights are as trained.")
    )


def run(config: System1 | System2[Any] | Done | Check) -> int:
    """Train, show the figures, and say where the result is."""
    if isinstance(config, Check):
        from vine_vla.system1 import check_weights

        print(check_weights(config.run))
        return 0
    started = time.monotonic()
    if isinstance(config, System1):
        where, result, lines = _train_system1(config)
    elif isinstance(config, System2):
        where, result, lines = _train_system2(config)
    else:
        where, result, lines = _train_done(config)
    if config.json:
        print(json.dumps(result, indent=2))
    else:
        print(*lines, f"{time.monotonic() - started:.0f} s", sep="\n", file=sys.stderr)
        print(where)
    return 0


def _train_system1(config: System1) -> tuple[Path, dict[str, Any], list[str]]:
    """The folder of the result, what is known of it, and that in lines."""
    import torch

    from vine_vla.compute.progress import progress_bars
    from vine_vla.system1 import train_system1

    torch.set_num_threads(config.threads)
    with progress_bars() as report:
        result = train_system1(
            config.dataset, config.out, config.training, device=config.device, report=report
        )
    told = f"{result['steps']} steps; actions are taken for {result['actions']}"
    return config.out / "policy", result, [told]


def _train_system2(config: System2[Any]) -> tuple[Path, dict[str, Any], list[str]]:
    from vine_vla.data import open_dataset

    dataset = open_dataset(config.dataset)  # first: bad input is told at once
    import torch

    from vine_vla.compute.progress import progress_bars
    from vine_vla.system2 import train_backend
    from vine_vla.system2.card import metric_lines
    from vine_vla.system2.folder import METRICS, read_json

    torch.set_num_threads(config.threads)
    backend = find_backend(config.backend)
    with progress_bars() as report:
        folder = train_backend(
            backend, dataset, config.out, config.settings, device=config.device, report=report
        )
    metrics = read_json(folder / METRICS)
    warnings = [f"vine: warning: {warning}" for warning in metrics.get("warnings", ())]
    return folder, metrics, [*metric_lines(metrics), *warnings]


def _train_done(config: Done) -> tuple[Path, dict[str, Any], list[str]]:
    import torch

    from vine_vla.agent import AgentConfig
    from vine_vla.compute.progress import progress_bars
    from vine_vla.system1 import Stopping, train_done
    from vine_vla.system1.done.figures import figure_lines

    agent = AgentConfig()
    stopping = Stopping(agent.done_threshold, agent.failed_threshold, agent.hysteresis, config.every)
    torch.set_num_threads(config.threads)
    with progress_bars() as report:
        result = train_done(
            config.dataset, config.out, config.training, stopping, device=config.device, report=report
        )
    return config.out, result, figure_lines(result["held_out"])
