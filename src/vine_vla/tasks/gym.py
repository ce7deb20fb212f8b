"""`vine/PlugInsertion-v0`: the task behind gymnasium's interface."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.protocols import Observation
from vine_vla.tasks.plug.cameras import ROLES, SIZE
from vine_vla.tasks.plug.task import ACTION_LIMIT, PlugInsertion

ENV_ID = "vine/PlugInsertion-v0"


class PlugInsertionEnv(gym.Env[dict[str, Any], NDArray[np.float32]]):
    """Observations: `front` and `wrist` (uint8 [192, 192, 3]), `proprioception` (float32 [10]),
    `instruction`.

    `reset(seed=..., options={"scene": number})`; without a scene the seed picks one of the dev scenes. The
    reward is 1 on the step that fulfils the task; a fallen plug ends the episode too. `info` has the
    verdict, not the state.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, split: str = "seen", size: int = SIZE, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.task = PlugInsertion(split, size=size)
        image = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.'-"
        self.observation_space = gym.spaces.Dict(
            {
                **dict.fromkeys(ROLES, image),
                "proprioception": gym.spaces.Box(-np.inf, np.inf, (10,), np.float32),
                "instruction": gym.spaces.Text(200, charset=letters),
            }
        )
        limit = ACTION_LIMIT.astype(np.float32)
        self.action_space = gym.spaces.Box(-limit, limit, (5,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start a scene; `options["scene"]` is its number."""
        super().reset(seed=seed)
        unknown = set(options or {}) - {"scene"}
        if unknown:
            raise VineError(f"unknown reset options {sorted(unknown)}", hint="known: scene")
        episode_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        scene = (options or {}).get("scene")
        number = int(np.random.default_rng(episode_seed).integers(200)) if scene is None else int(scene)
        observation = self.task.reset(number, episode_seed)
        return self._observation(observation), {"scene": number, "seed": episode_seed}

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated, info with `is_success`."""
        truncated = self.task.step(action)
        success, dead = self.task.is_success(), self.task.is_dead()
        info = {"is_success": success, "is_dead": dead}
        return self._observation(self.task.observe()), float(success), success or dead, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """The front image."""
        return self.task.cameras.render()[ROLES[0]] if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the renderer."""
        self.task.close()

    def _observation(self, observation: Observation) -> dict[str, Any]:
        return {
            **observation.images,
            "proprioception": observation.proprioception,
            "instruction": self.task.instruction,
        }


def register() -> None:
    """Make `gymnasium.make("vine/PlugInsertion-v0")` work."""
    if ENV_ID not in gym.registry:
        gym.register(ENV_ID, entry_point="vine_vla.tasks.gym:PlugInsertionEnv")
