"""What a user may set for all arms of an evaluation alike. Light to import: the command shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vine_vla.core.errors import VineError
from vine_vla.system1.vine_skill.weights import is_url


@dataclass(frozen=True)
class ArmSettings:
    """Limits and overrides, the same for every arm.

    Raises:
        VineError: a number is out of its range.
    """

    perception: Literal["learned", "true"] | None = None
    """Overrides the arms' perception: `true` gives everyone the simulator's graphs."""
    skill: str | None = None
    """Overrides the arms' System 1: `learned`, `scripted` (the expert executes), or ws://host:port, an openpi
    server."""
    max_steps: int | None = None
    """Limit of an episode in robot actions, at least 1; default: the task's."""
    subgoal_steps: int | None = None
    """Limit of a subgoal in robot actions, at least 1; default: the task's."""
    scripted_scale: float = 0.3
    """Noise scale of the scripted expert, at least 0: 0 perfect, 1 ordinary."""

    def __post_init__(self) -> None:
        if self.skill not in (None, "learned", "scripted") and not is_url(self.skill):
            raise VineError(
                f"no skill {self.skill!r}",
                where="--skill",
                hint="give learned, scripted, or the URL of an openpi server (ws://host:port)",
            )
        for name, least in (("max_steps", 1), ("subgoal_steps", 1), ("scripted_scale", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise VineError(
                    f"{name} is {value}",
                    where=f"--{name.replace('_', '-')}",
                    hint=f"give {least} or more",
                )
