"""What a user sets when the compact backend is trained: the options of `vine train system2`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vine_vla.system2.backend import TrainingConfig, check_between

if TYPE_CHECKING:
    from vine_vla.system2.compact.training import System2Config


@dataclass(frozen=True)
class CompactConfig(TrainingConfig):
    """Settings of the compact backend; `plain` has all that can be set."""

    graphs_only: bool = False
    """Train without perception, on the annotated scene graphs alone: minutes become seconds."""
    members: int = 6
    """Ensemble members."""
    perception_steps: int = 900
    """Gradient steps of perception."""
    frames: int = 10000
    """Annotated frames that perception learns from, at most."""
    learn_from_perceived: bool = False
    """Let the outcome nets learn from perceived graphs too, beside the annotated ones."""
    effort: float = 1.0
    """Share of the usual work of learning, perception apart: gradient steps, graphs for value learning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between(self, "members", 0, 1000)
        check_between(self, "perception_steps", 0, 10**7)
        check_between(self, "effort", 0, 10)

    def plain(self) -> System2Config:
        """The settings of every part."""
        from vine_vla.system2.compact.config import OutcomeConfig
        from vine_vla.system2.compact.perception_training import PerceptionConfig
        from vine_vla.system2.compact.training import System2Config

        outcomes = OutcomeConfig(
            failures=self.failures,
            episodes=self.episodes,
            members=self.members,
            alpha=self.alpha,
            tau_stop=self.tau_stop,
            seed=self.seed,
        ).with_effort(self.effort)
        perception = PerceptionConfig(steps=self.perception_steps, frames=self.frames, seed=self.seed)
        return System2Config(
            outcomes,
            None if self.graphs_only else perception,
            learn_from_perceived=self.learn_from_perceived,
        )
