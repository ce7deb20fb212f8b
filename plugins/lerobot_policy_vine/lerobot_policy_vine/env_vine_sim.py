"""The environment `vine_sim` for lerobot-eval and lerobot-train: VINE's simulated tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs import EnvConfig

from vine_vla.evaluation.final import check_scenes
from vine_vla.tasks.registry import DEFAULT_TASK, find_task
from vine_vla.tasks.scenes import parse_scenes


@EnvConfig.register_subclass("vine_sim")
@dataclass
class VineSimConfig(EnvConfig):
    """A simulated task as LeRobot's commands want it.

    Args:
        task: name in VINE's registry. split: appearance of the scenes; empty: that of the demonstrations.
        fps: actions a second; 0: the task's.
        scenes: numbers `FROM:TO`; an episode's seed picks one, so that the same seed is the same scene. Dev
            scenes only; test scenes belong to `vine eval --final`.
        episode_length: actions; 0: the task's limit.
    """

    task: str = DEFAULT_TASK
    fps: int = 0
    split: str = ""
    scenes: str = "0:200"
    episode_length: int = 0
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task = find_task(self.task)
        self.fps = self.fps or round(task.fps)
        self.split = self.split or task.evaluation_splits[0]
        self.episode_length = self.episode_length or task.max_steps
        self.features = self.features or {
            "action": PolicyFeature(FeatureType.ACTION, (len(task.action.names),)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (len(task.state.names),)),
            **{
                f"pixels/{role}": PolicyFeature(FeatureType.VISUAL, shape)
                for role, shape in task.cameras.items()
            },
        }
        self.features_map = self.features_map or {
            "action": "action",
            "agent_pos": "observation.state",
            **{f"pixels/{role}": f"observation.images.{role}" for role in task.cameras},
        }

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {}

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """The vector environments by suite and task number."""
        scenes = parse_scenes(self.scenes)
        check_scenes(scenes, find_task(self.task).lists(self.split), final=False)
        make: Callable[[], gym.Env[Any, Any]] = partial(
            VineSimEnv, self.task, self.split, scenes, self.episode_length
        )
        kind = gym.vector.AsyncVectorEnv if use_async_envs else gym.vector.SyncVectorEnv
        mode = gym.vector.AutoresetMode.SAME_STEP
        return {"vine_sim": {0: kind([make] * n_envs, autoreset_mode=mode)}}


class VineSimEnv(gym.Env[dict[str, Any], np.ndarray]):
    """A simulated task with LeRobot's names for what is observed.

    Args:
        task, split: as in `VineSimConfig`. scenes: numbers to draw from.
        episode_length: actions; then the episode is truncated, so that failures are not lost in recordings.
    """

    def __init__(self, task: str, split: str, scenes: tuple[int, ...], episode_length: int) -> None:
        from vine_vla.tasks.gym import box_space

        found = find_task(task)
        self.simulation = found.simulation(split)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(found.fps)}
        self.scenes, self.render_mode = scenes, "rgb_array"
        self._max_episode_steps = episode_length
        self._steps = 0
        self.task = task
        self._front = found.schema.cameras[0]
        images = {role: gym.spaces.Box(0, 255, shape, np.uint8) for role, shape in found.cameras.items()}
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Dict(images),
                "agent_pos": box_space(found.state.low, found.state.high),
            }
        )
        self.action_space = box_space(found.action.low, found.action.high)

    @property
    def task_description(self) -> str:
        """The instruction of the present scene."""
        return self.simulation.instruction

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The scene that the seed picks."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self.simulation.reset(self.scenes[number % len(self.scenes)], number)
        self._steps = 0
        return self._observation(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated, info with `is_success`."""
        self.simulation.step(action)
        self._steps += 1
        success, dead = self.simulation.is_success(), self.simulation.is_dead()
        truncated = self._steps >= self._max_episode_steps and not (success or dead)
        return self._observation(), float(success), success or dead, truncated, {"is_success": success}

    def render(self) -> np.ndarray:
        """The image of the first camera."""
        return self.simulation.observe().images[self._front]

    def close(self) -> None:
        """Free the renderer."""
        self.simulation.close()

    def _observation(self) -> dict[str, Any]:
        observation = self.simulation.observe()
        return {"pixels": dict(observation.images), "agent_pos": observation.proprioception}
