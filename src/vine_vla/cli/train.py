"""Train System 1 (skills), a done head for a foreign policy, or System 2 on a dataset."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vine_vla.cli._options import Device
from vine_vla.cli._train_done import Done, train_head
from vine_vla.cli._train_system2 import System2, options_of, train_planner
from vine_vla.system1.settings import System1Training
from vine_vla.system2.backend import TrainingConfig


@dataclass(frozen=True)
class System1:
    """Options of `vine train system1`."""

    dataset: tyro.conf.Positional[Path]
    """LeRobot dataset, as `vine export skills` or `vine export flat` writes it."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the run; a killed run is resumed, a finished one is kept."""
    training: tyro.conf.OmitArgPrefixes[System1Training] = System1Training()
    """How it is trained."""
    threads: int = 2
    """Threads of torch; 1 is faster on a machine that does other work."""
    device: Device = None
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Check:
    """Options of `vine train check`."""

    run: tyro.conf.Positional[Path]
    """Folder that `vine train system1` wrote."""


SYSTEM2 = "Train perception, proposals, outcomes and values; a variant a call."

Config = (
    Annotated[
        System1,
        tyro.conf.subcommand(name="system1", description="Train the skill policy, for a number of steps."),
    ]
    | Annotated[
        System2[TrainingConfig],
        tyro.conf.subcommand(name="system2", description=SYSTEM2),
    ]
    | Annotated[
        Done,
        tyro.conf.subcommand(
            name="done", description="Train a done head for a policy that has none (ACT, SmolVLA, pi0, ...)."
        ),
    ]
    | Annotated[
        Check,
        tyro.conf.subcommand(name="check", description="Check that System 1's weights are as trained."),
    ]
)


def config_type(arguments: Sequence[str]) -> Any:
    """What `vine train ARGUMENTS` can be given: a backend brings options of its own."""
    if arguments[:1] != ["system2"]:
        return Config
    return (
        Annotated[options_of(arguments[1:]), tyro.conf.subcommand(name="system2", description=SYSTEM2)]
        | Annotated[Check, tyro.conf.subcommand(name="check")]
    )


def run(config: Config) -> int:
    """Train, and say where the result is."""
    if isinstance(config, Check):
        return check(config)
    if isinstance(config, System2):
        return train_planner(config)
    if isinstance(config, Done):
        return train_head(config)
    return train_skills(config)


def check(config: Check) -> int:
    """`vine train check`: the hash of the weights against the one stored with them."""
    from vine_vla.system1 import check_weights

    print(check_weights(config.run))
    return 0


def train_skills(config: System1) -> int:
    """`vine train system1`."""
    import torch

    from vine_vla.compute.progress import progress_bars
    from vine_vla.system1 import train_system1

    torch.set_num_threads(config.threads)
    with progress_bars() as report:
        result = train_system1(
            config.dataset, config.out, config.training, device=config.device, report=report
        )
    if config.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{result['steps']} steps; actions are taken for {result['actions']}", file=sys.stderr)
        print(config.out / "policy")
    return 0
