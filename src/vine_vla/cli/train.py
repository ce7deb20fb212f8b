"""Train System 1 (skills), a done head for a foreign policy, or System 2 on a dataset."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vine_vla.cli._options import Device
from vine_vla.cli._train_done import Done, train_head
from vine_vla.cli._train_system2 import System2, options_of, train_planner
from vine_vla.system2.backend import TrainingConfig


@dataclass(frozen=True)
class System1:
    """Options of `vine train system1`."""

    dataset: tyro.conf.Positional[Path]
    """LeRobot dataset, as `vine export skills` or `vine export flat` writes it."""
    out: Path
    """Folder of the run; a killed run is resumed, a finished one is kept."""
    minutes: float = 5.0
    """Budget by the clock, in minutes; 0: --steps alone."""
    steps: int = 0
    """Budget in gradient steps; 0: --minutes alone."""
    batch_size: int = 64
    """Samples a step."""
    learning_rate: float = 1e-3
    """Peak of the cosine."""
    seed: int = 0
    """Of weights, order and noise."""
    threads: int = 2
    """Threads of torch; 1 is faster on a machine that does other work."""
    save_every: int = 1000
    """Steps between checkpoints, from which a killed run is resumed."""
    imitate_all: bool = False
    """Imitate failed episodes too (the arm `flat-all`)."""
    actions: Literal["auto", "motions", "positions"] = "auto"
    """What actions are: motions (steps or velocities, 0 stands still), positions (of joints or hand), or
    auto: positions if most of them follow the state."""
    start: Path | None = None
    """Run of a trained System 1 to start from, for a round of corrections."""
    encoders: Path | None = None
    """Run of a trained System 1 whose encoders are taken over, for a flat policy of the same cameras."""
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
        tyro.conf.subcommand(name="system1", description="Train the skill policy with LeRobot's trainer."),
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
    from vine_vla.system1 import System1Training, train_system1

    result = train_system1(
        config.dataset,
        config.out,
        System1Training(
            minutes=config.minutes,
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            threads=config.threads,
            save_every=config.save_every,
            imitate_all=config.imitate_all,
            start=config.start,
            encoders=config.encoders,
            actions=config.actions,
            device=config.device,
        ),
    )
    if config.json:
        print(json.dumps(result, indent=2))
    else:
        pace = 1000 * result["seconds"] / max(1, result["steps"])
        print(
            f"{result['steps']} steps in {result['seconds'] / 60:.1f} min ({pace:.0f} ms a step); "
            f"actions are taken for {result.get('actions', 'motions')}",
            file=sys.stderr,
        )
        print(config.out / "policy")
    return 0
