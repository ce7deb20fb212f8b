"""How an agent is served: what a user may set. Light to import: the commands show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vine_vla.core.errors import VineError

if TYPE_CHECKING:
    from vine_vla.system1.adapters.openpi_wire import WireLimits

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class AgentSettings:
    """How the agent plans and acts.

    Raises:
        VineError: the deadline is not above 0.
    """

    planner: Literal["tree", "greedy", "exhaustive", "imitate"] = "tree"
    """How to search."""
    expansions: int = 64
    """Nodes that the search expands."""
    replanning: Literal["never", "on-failure", "fixed", "uncertainty"] = "on-failure"
    """When to plan again."""
    deadline: float = 0.5
    """Time for one planning call, in seconds, above 0; after it the last valid plan goes on, or the robot is
    held."""
    max_steps: int = 400
    """Actions of an episode, at least 1."""
    subgoal_steps: int = 150
    """Actions of a subgoal, at least 1; more is a time-out."""
    fps: float = 10.0
    """Actions a second that are executed."""

    def __post_init__(self) -> None:
        if self.deadline <= 0:
            raise VineError(f"deadline is {self.deadline}", where="--deadline", hint="give seconds above 0")


@dataclass(frozen=True)
class ListenConfig:
    """Where the server listens and what it takes.

    Raises:
        VineError: a number is out of its range.
    """

    host: str = "127.0.0.1"
    """Address to listen on; another than the loopback needs VINE_API_KEY."""
    port: int = 8000
    """Port, 0 to 65535; 0 takes a free one and prints it."""
    threads: int = 4
    """Requests worked on at once."""
    connections: int = 64
    """Clients at once; others are turned away."""
    sessions: int = 256
    """Episodes kept for clients that name them (`episode_id`); the least recently used go first."""
    idle: float = 600.0
    """Time after which a named episode is forgotten, in seconds."""
    rate: float = 100.0
    """Requests a second of one client, in the long run."""
    burst: int = 100
    """Requests of one client at once."""
    megabytes: float = 32.0
    """Size of a message at most."""
    record: Path | None = None
    """Dataset folder: every episode is staged for it, in FOLDER.staging, outcome unknown."""
    drain: float = 10.0
    """Time that running requests get at the end, in seconds."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise VineError(f"port is {self.port}", where="--port", hint="give 0 to 65535")
        for name in ("threads", "connections", "sessions", "idle", "rate", "burst", "megabytes", "drain"):
            if getattr(self, name) <= 0:
                raise VineError(
                    f"{name} is {getattr(self, name)}", where=f"--{name}", hint="it must be above 0"
                )

    @property
    def limits(self) -> WireLimits:
        """What a message may hold."""
        from vine_vla.system1.adapters.openpi_wire import WireLimits

        size = int(self.megabytes * 2**20)
        return WireLimits(message_bytes=size, array_bytes=size)


@dataclass(frozen=True)
class ServeConfig(ListenConfig):
    """What a server needs to know.

    Args:
        api_key: clients must send `Authorization: Api-Key KEY`; needed when not on the loopback.

    Raises:
        VineError: no key on an open address, or a number is out of its range.
    """

    api_key: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.host not in LOOPBACK and not self.api_key:
            raise VineError(
                f"{self.host} can be reached from elsewhere and there is no API key",
                hint="set VINE_API_KEY (clients send Authorization: Api-Key KEY), or listen on 127.0.0.1",
            )
