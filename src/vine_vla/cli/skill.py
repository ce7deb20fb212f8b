"""A policy of others as System 1: check that its actions depend on the subgoal, and import it into a run.

`check` exits with 0 when its actions change with the subgoal, for every kind of pair of subgoals, and with 1
and one line that says what to do when not. A policy is a checkpoint of LeRobot's, or the URL of an openpi
server (ws://host:port), which gets the subgoal's sentence as its prompt and, if it wants one, the key in
VINE_SKILL_API_KEY.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vine_vla.cli._options import Device
from vine_vla.core.errors import VineError


@dataclass(frozen=True)
class Check:
    """Options of `vine skill check`."""

    policy: tyro.conf.Positional[str]
    """Checkpoint of any LeRobot policy (pretrained_model), a run of `vine train system1`, or the URL of an
    openpi server (ws://host:port)."""
    dataset: tyro.conf.Positional[Path]
    """Demonstrations with scene graphs, or the skills dataset that the policy was trained on."""
    frames: int = 16
    """Frames that it is tried in."""
    subgoals: int = 6
    """Subgoals that are tried in each frame, at most."""
    steps: int = 8
    """Actions of a chunk that are compared."""
    least: float = 0.05
    """Change of the actions, in units of their spread, from which a policy counts as sensitive."""
    camera: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """ROLE=KEY: which image of the policy a camera is, e.g. --camera front=observation.images.cam_high; of a
    server also state=KEY. Default: by the last part of the key; openpi's own names."""
    layout: Path | None = None
    """vine_crops.json of the dataset that the policy was trained on; default: the one beside its config.json,
    else the dataset's."""
    seed: int = 0
    """Of the noise; the other noise is that of the next seed."""
    device: Device = None
    threads: int = 2
    """Threads of torch; 1 is faster on a machine that does other work."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Import:
    """Options of `vine skill import`."""

    policy: tyro.conf.Positional[str]
    """Checkpoint of any LeRobot policy (pretrained_model), or the URL of an openpi server (ws://host:port)."""
    dataset: tyro.conf.Positional[Path]
    """Demonstrations that it is to act in."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """RUN/system1; or RUN/flat, to be run alone on the instruction."""
    done: Path | None = None
    """Done head that was trained beside it (`vine train done`); without one a subgoal ends by its time-out
    and by the graph alone."""
    camera: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """ROLE=KEY: which image of the policy a camera is, see `vine skill check`."""
    layout: Path | None = None
    """vine_crops.json of the dataset that it was trained on; default: the one beside its config.json."""
    execute: int = 8
    """Actions of a server's chunk that are executed before it is asked again."""


Config = (
    Annotated[
        Check,
        tyro.conf.subcommand(
            name="check",
            description="Run it on the same frames under different subgoals, and under other noise.",
        ),
    ]
    | Annotated[
        Import,
        tyro.conf.subcommand(
            name="import", description="Make it the System 1 of a run, frozen, for vine eval and vine serve."
        ),
    ]
)


def run(config: Config) -> int:
    """Check or import."""
    return _import(config) if isinstance(config, Import) else _check(config)


def _import(config: Import) -> int:
    from lerobot.utils.import_utils import register_third_party_plugins

    from vine_vla.cli._options import read_keys
    from vine_vla.data import open_dataset
    from vine_vla.system1.adapters.importing import import_policy

    register_third_party_plugins()
    cameras = read_keys(config.camera, "--camera", "front=observation.images.cam_high")
    out = import_policy(
        config.policy,
        open_dataset(config.dataset),
        config.out,
        cameras=cameras,
        layout=config.layout,
        done=config.done,
        execute=config.execute,
    )
    if config.done is None:
        print(
            "vine: warning: no done head, so a subgoal ends by its time-out and by the graph alone",
            file=sys.stderr,
        )
    print(out)
    return 0


def _check(config: Check) -> int:
    """Ask the policy for every subgoal in every frame, print what changed, and judge."""
    import torch
    from lerobot.utils.import_utils import register_third_party_plugins

    from vine_vla.cli._options import read_keys
    from vine_vla.compute.progress import progress_bars
    from vine_vla.data import open_dataset
    from vine_vla.data.export.crops import LAYOUT
    from vine_vla.system1.adapters.loading import load_skill
    from vine_vla.system1.sensitivity import (
        action_spread,
        advice,
        change_lines,
        measure_sensitivity,
        situations,
    )

    for name, least in (("frames", 1), ("subgoals", 2), ("steps", 1), ("least", 0)):
        value = getattr(config, name)
        if value < least:
            raise VineError(f"{name} is {value}", where=f"--{name}", hint=f"give {least} or more")
    torch.set_num_threads(config.threads)
    register_third_party_plugins()
    dataset = open_dataset(config.dataset)
    cameras = read_keys(config.camera, "--camera", "front=observation.images.cam_high")
    skill, policy = load_skill(
        config.policy, dataset, cameras=cameras, layout=config.layout, device=config.device
    )
    tried = situations(dataset, config.frames, config.subgoals)
    if (dataset.root / LAYOUT).is_file():
        print(
            "vine: warning: the crops of an export show the recorded target whatever is asked for; "
            "with the demonstrations themselves they are cut anew",
            file=sys.stderr,
        )
    with progress_bars() as report:
        found = measure_sensitivity(
            skill,
            tried,
            action_spread(dataset),
            steps=config.steps,
            least=config.least,
            seed=config.seed,
            report=report,
        )
    verdict = "the policy's actions change with the subgoal" if found.sensitive else advice(found, policy)
    if config.json:
        pairs = [pair._asdict() for pair in found.pairs]
        result = {"sensitive": found.sensitive, "verdict": verdict, "situations": found.situations}
        print(json.dumps(result | {"pairs": pairs}, indent=2))
    else:
        print("\n".join(change_lines(found)))
        print(verdict)
    return 0 if found.sensitive else 1
