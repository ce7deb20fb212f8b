"""`vine train done`: options and work; `train.py` hands over to it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vine_vla.cli._options import Device
from vine_vla.system1.settings import DoneTraining


@dataclass(frozen=True)
class Done:
    """Options of `vine train done`."""

    dataset: tyro.conf.Positional[Path]
    """Skills dataset with crops, as `vine export skills` writes it."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the head; a killed run is resumed, a finished head is kept and evaluated again."""
    training: tyro.conf.OmitArgPrefixes[DoneTraining] = DoneTraining()
    """How it is trained."""
    every: int = 1
    """Frames between two decisions of the agent, as many as are executed of a chunk; for the figures."""
    threads: int = 2
    """Threads of torch; 1 is faster on a machine that does other work."""
    device: Device = None
    json: bool = False
    """Print the figures as JSON."""


def train_head(config: Done) -> int:
    """Train, show the figures on the held-out clips, and say where the head is."""
    import torch

    from vine_vla.agent import AgentConfig
    from vine_vla.compute.progress import progress_bars
    from vine_vla.system1 import Stopping, train_done

    agent = AgentConfig()
    stopping = Stopping(agent.done_threshold, agent.failed_threshold, agent.hysteresis, config.every)
    torch.set_num_threads(config.threads)
    with progress_bars() as report:
        found = train_done(
            config.dataset, config.out, config.training, stopping, device=config.device, report=report
        )
    if config.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(figure_lines(found["held_out"])), file=sys.stderr)
        print(config.out)
    return 0


def figure_lines(found: dict[str, Any]) -> list[str]:
    """The figures of held-out clips, for people."""
    recalls = ", ".join(f"{name} {_share(value)}" for name, value in found["recall"].items())
    lines = [
        f"on {found['clips']} clips of {found['episodes']} held-out episodes, {found['frames']} frames:",
        f"  accuracy {found['accuracy']:.3f} (always running: {found['always_running']:.3f}); "
        f"recall {recalls}",
    ]
    for end in ("done", "failed"):
        row = found[end]
        if not row["clips"]:
            lines.append(f"  {end:<7} no held-out clip ends so: nothing is known of it")
            continue
        error = row["error_frames"]
        shown = "-" if error["mean"] is None else f"{error['mean']:+.1f} (median {error['median']:+.1f})"
        rates = ", ".join(f"{n} {_share(row[n])}" for n in ("right", "premature", "confused", "missed"))
        lines.append(f"  {end:<7} {row['clips']:>4} clips: {rates}; frames from the end {shown}")
    if found["running"]["clips"]:
        row, alarm = found["running"], _share(found["running"]["premature"])
        lines.append(f"  running {row['clips']:>4} clips in which nothing ended: alarm {alarm}")
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
