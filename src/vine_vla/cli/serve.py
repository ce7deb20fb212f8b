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
from typing import Annotated, Literal

import tyro

from vine_vla.cli._options import Device, read_keys
from vine_vla.core.errors import VineError
from vine_vla.serving.config import AgentSettings, ListenConfig, ServeConfig


@dataclass(frozen=True)
class Config:
    """Options of `vine serve`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run with System 1 and System 2."""
    listen: Annotated[ListenConfig, tyro.conf.OmitArgPrefixes] = ListenConfig()
    agent: Annotated[AgentSettings, tyro.conf.OmitArgPrefixes] = AgentSettings()
    variant: str | None = None
    """Which planning model of the run; default: all, if it was trained."""
    hold: Literal["still", "repeat"] | None = None
    """What to send when there is nothing to do: zero motion, or the last action again; default: zero motion
    if actions are motions."""
    key: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=KEY: where clients' messages hold a camera role, `state` or `prompt`, besides openpi's own keys,
    e.g. --key front=observation/top."""
    device: Device = None


def run(config: Config) -> int:
    """Load, listen until SIGTERM or Ctrl-C, answer what is under way, and end."""
    server = ServeConfig(**vars(config.listen), api_key=os.environ.get("VINE_API_KEY") or None)
    keys = read_keys(config.key)
    try:
        from vine_vla.serving.server import PolicyServer
    except ImportError as error:
        raise VineError(f"{error.name} is missing", hint="pip install 'vine-vla[serving]'") from error
    import torch

    from vine_vla.serving.load import load_agent

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="vine: %(message)s")
    torch.set_num_threads(1)  # many clients share the processors better than one request's threads do
    served = load_agent(
        config.run,
        config.agent,
        variant=config.variant,
        device=config.device,
        keys=keys,
        hold=config.hold,
    )

    def ready(port: int) -> None:
        print(f"ws://{server.host}:{port}", flush=True)

    asyncio.run(PolicyServer(served, server).run(ready))
    return 0
