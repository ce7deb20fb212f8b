"""Serve an agent to any openpi client: observations in, actions and the plan behind them out.

The websocket endpoint `/` acts, `/plan` answers with a plan alone, GET `/healthz` with OK. Needs the extra
`serving`. Listens on the loopback; elsewhere only with an API key in the variable VINE_API_KEY.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from vine_vla.cli._options import Device, read_keys
from vine_vla.core.errors import VineError


@dataclass(frozen=True)
class Config:
    """Options of `vine serve`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run with System 1 and System 2."""
    host: str = "127.0.0.1"
    """Address to listen on; another than the loopback needs VINE_API_KEY."""
    port: int = 8000
    """Port; 0 takes a free one and prints it."""
    planner: Literal["tree", "greedy", "exhaustive", "imitate"] = "tree"
    """How to search."""
    variant: str | None = None
    """Which planning model of the run; default: all, if it was trained."""
    replanning: Literal["never", "on-failure", "fixed", "uncertainty"] = "on-failure"
    """When to plan again."""
    deadline: float = 0.5
    """Time for one planning call, in seconds; after it the last valid plan goes on, or the robot is held."""
    expansions: int = 64
    """Nodes that the search expands."""
    fps: float = 10.0
    """Actions a second that clients execute; for recordings."""
    max_steps: int = 400
    """Actions of an episode."""
    subgoal_steps: int = 150
    """Actions of a subgoal; more is a time-out."""
    hold: Literal["still", "repeat"] | None = None
    """What to send when there is nothing to do: zero motion, or the last action again; default: zero motion
    if actions are motions."""
    key: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=KEY: where clients' messages hold a camera role, `state` or `prompt`, besides openpi's own keys,
    e.g. --key front=observation/top."""
    record: Path | None = None
    """Dataset folder: every episode is staged for it, in FOLDER.staging, outcome unknown."""
    device: Device = None
    threads: int = 4
    """Requests worked on at once."""
    connections: int = 64
    """Clients at once."""
    rate: float = 100.0
    """Requests a second of one client, in the long run."""
    megabytes: float = 32.0
    """Size of a message at most."""


def run(config: Config) -> int:
    """Load, listen until SIGTERM or Ctrl-C, answer what is under way, and end."""
    try:
        from vine_vla.serving.server import PolicyServer, ServeConfig
        from vine_vla.system1.adapters.openpi_wire import WireLimits
    except ImportError as error:
        raise VineError(f"{error.name} is missing", hint="pip install 'vine-vla[serving]'") from error
    import torch

    from vine_vla.serving.load import load_agent

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="vine: %(message)s")
    size = int(config.megabytes * 2**20)
    listening = ServeConfig(
        host=config.host,
        port=config.port,
        api_key=os.environ.get("VINE_API_KEY") or None,
        threads=config.threads,
        connections=config.connections,
        rate=config.rate,
        limits=WireLimits(message_bytes=size, array_bytes=size),
        record=config.record,
    )
    if config.deadline <= 0:
        raise VineError(f"deadline is {config.deadline}", where="--deadline", hint="give seconds above 0")
    torch.set_num_threads(1)  # many clients share the processors better than one request's threads do
    served = load_agent(
        config.run,
        planner=config.planner,
        expansions=config.expansions,
        replanning=config.replanning,
        max_steps=config.max_steps,
        subgoal_steps=config.subgoal_steps,
        variant=config.variant,
        device=config.device,
        deadline=config.deadline,
        keys=read_keys(config.key),
        fps=config.fps,
        hold=config.hold,
    )

    def ready(port: int) -> None:
        print(f"ws://{config.host}:{port}", flush=True)

    asyncio.run(PolicyServer(served, listening).run(ready))
    return 0
