"""Tasks behind gymnasium's interface. Importing this registers all of them, under their `env_id`.

import gymnasium, vine_vla.tasks.gym
env = gymnasium.make("vine/line-v0", split="seen")
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.protocols import Observation
from vine_vla.tasks.base import SceneLists
from vine_vla.tasks.registry import find_task, installed_tasks


class TaskEnv(gym.Env[dict[str, Any], NDArray[np.float32]]):
    """A task as a gymnasium environment.

    Observations: an image a camera role (uint8 [H, W, 3]), `proprioception` (float32 [P]), `instruction`.
    `reset(seed=..., options={"scene": number})`; without a scene the seed picks one of the dev scenes. The
    reward is 1 on the step that fulfils the task; one that cannot be fulfilled any more ends the episode too.
    `info` has the verdict, not the state.

    Args:
        task: name in the registry. split: appearance of the scenes; None: what demonstrations look like.
    """

    def __init__(self, task: str, split: str | None = None, render_mode: str | None = None) -> None:
        found = find_task(task)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": found.fps}
        self.render_mode = render_mode
        split = split or found.evaluation_splits[0]
        self.scenes = (found.split(split).lists or SceneLists()).dev
        self.simulation = found.simulation(split)
        self.front = found.schema.cameras[0]
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.'-"
        self.observation_space = gym.spaces.Dict(
            {
                **{role: gym.spaces.Box(0, 255, shape, np.uint8) for role, shape in found.cameras.items()},
                "proprioception": box_space(found.state.low, found.state.high),
                "instruction": gym.spaces.Text(200, charset=letters),
            }
        )
        self.action_space = box_space(found.action.low, found.action.high)

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
        drawn = self.scenes[int(np.random.default_rng(episode_seed).integers(len(self.scenes)))]
        number = drawn if scene is None else int(scene)
        observation = self.simulation.reset(number, episode_seed)
        return self._observation(observation), {"scene": number, "seed": episode_seed}

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated, info with `is_success`."""
        truncated = self.simulation.step(action)
        success, dead = self.simulation.is_success(), self.simulation.is_dead()
        info = {"is_success": success, "is_dead": dead}
        return self._observation(self.simulation.observe()), float(success), success or dead, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """The image of the first camera."""
        return self.simulation.observe().images[self.front] if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the renderer."""
        self.simulation.close()

    def _observation(self, observation: Observation) -> dict[str, Any]:
        return {
            **observation.images,
            "proprioception": observation.proprioception,
            "instruction": self.simulation.instruction,
        }


def box_space(low: tuple[float, ...], high: tuple[float, ...]) -> gym.spaces.Box:
    """The space of vectors within bounds."""
    return gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)


def register() -> None:
    """Make `gymnasium.make(env_id)` work for every task; no simulator is imported."""
    for task in installed_tasks():
        if task.env_id not in gym.registry:
            gym.register(task.env_id, entry_point="vine_vla.tasks.gym:TaskEnv", kwargs={"task": task.name})


register()
