"""LeRobot's configuration of the policy `vine`: the whole agent as one policy."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig


@PreTrainedConfig.register_subclass("vine")
@dataclass
class VineConfig(PreTrainedConfig):
    """System 2 plans, System 1 moves; made by `vine export policy`, trained by `vine train`, not by LeRobot.

    Args:
        planner, expansions, replanning: as `vine serve` has them.
        deadline: seconds that a planning call may take.
        max_steps, subgoal_steps: limits in actions, of an episode and of a subgoal.
        chunk_size: actions a decision; n_action_steps: the same, every action is executed.
        fps: actions a second.
        seed: of the noise of System 1; every episode and environment draws its own from it.
    """

    n_obs_steps: int = 1
    chunk_size: int = 2
    n_action_steps: int = 2
    planner: str = "tree"
    expansions: int = 64
    replanning: str = "on-failure"
    deadline: float = 10.0
    max_steps: int = 400
    subgoal_steps: int = 150
    fps: float = 10.0
    seed: int = 0
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(
            ("VISUAL", "STATE", "ENV", "ACTION"), NormalizationMode.IDENTITY
        )
    )

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig()

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        if not self.image_features:
            raise ValueError("vine needs at least one image feature (observation.images.*)")
        if self.action_feature is None:
            raise ValueError("vine needs the output feature `action`")
