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

CAMERAS = ("front", "wrist")
STATE, ACTION = 10, 5


@EnvConfig.register_subclass("vine_sim")
@dataclass
class VineSimConfig(EnvConfig):
    """PlugInsertion as LeRobot's commands want it.

    Args:
        task: `plug`. split: look of the scenes, `seen` or `unseen`.
        scenes: numbers `FROM:TO`; an episode's seed picks one, so that the same seed is the same scene. 0:200
            are dev scenes; test scenes belong to `vine eval --final`.
        size: side of the images in pixels. episode_length: actions.
    """

    task: str = "plug"
    fps: int = 10
    split: str = "seen"
    scenes: str = "0:200"
    size: int = 192
    episode_length: int = 400
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images = {
            f"pixels/{c}": PolicyFeature(FeatureType.VISUAL, (self.size, self.size, 3)) for c in CAMERAS
        }
        self.features = self.features or {
            "action": PolicyFeature(FeatureType.ACTION, (ACTION,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (STATE,)),
            **images,
        }
        self.features_map = self.features_map or {
            "action": "action",
            "agent_pos": "observation.state",
            **{f"pixels/{c}": f"observation.images.{c}" for c in CAMERAS},
        }

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {}

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """The vector environments by suite and task number."""
        from vine_vla.core.errors import VineError
        from vine_vla.evaluation.final import check_scenes
        from vine_vla.tasks.scenes import parse_scenes

        if self.task != "plug":
            raise VineError(f"unknown task {self.task!r}", hint="known: plug")
        scenes = parse_scenes(self.scenes)
        check_scenes(scenes, final=False)
        make: Callable[[], gym.Env[Any, Any]] = partial(
            VineSimEnv, self.split, scenes, self.size, self.episode_length
        )
        kind = gym.vector.AsyncVectorEnv if use_async_envs else gym.vector.SyncVectorEnv
        mode = gym.vector.AutoresetMode.SAME_STEP
        return {"vine_sim": {0: kind([make] * n_envs, autoreset_mode=mode)}}


class VineSimEnv(gym.Env[dict[str, Any], np.ndarray]):
    """PlugInsertion with LeRobot's names for what is seen.

    Args:
        scenes: numbers to draw from. episode_length: actions; then the episode is truncated, so that failures
            are not lost in recordings.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, split: str, scenes: tuple[int, ...], size: int, episode_length: int) -> None:
        from vine_vla.tasks.plug.task import ACTION_LIMIT, PlugInsertion

        self.plug = PlugInsertion(split, size=size)
        self.scenes, self.render_mode = scenes, "rgb_array"
        self._max_episode_steps = episode_length
        self._steps = 0
        self.task = "plug"
        image = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Dict(dict.fromkeys(CAMERAS, image)),
                "agent_pos": gym.spaces.Box(-np.inf, np.inf, (STATE,), np.float32),
            }
        )
        limit = ACTION_LIMIT.astype(np.float32)
        self.action_space = gym.spaces.Box(-limit, limit, (ACTION,), np.float32)

    @property
    def task_description(self) -> str:
        """The instruction of the present scene."""
        return self.plug.instruction

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The scene that the seed picks."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self.plug.reset(self.scenes[number % len(self.scenes)], number)
        self._steps = 0
        return self._observation(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated, info with `is_success`."""
        self.plug.step(action)
        self._steps += 1
        success, dead = self.plug.is_success(), self.plug.is_dead()
        truncated = self._steps >= self._max_episode_steps and not (success or dead)
        return self._observation(), float(success), success or dead, truncated, {"is_success": success}

    def render(self) -> np.ndarray:
        """The front image."""
        return self.plug.cameras.render()[CAMERAS[0]]

    def close(self) -> None:
        """Free the renderer."""
        self.plug.close()

    def _observation(self) -> dict[str, Any]:
        seen = self.plug.observe()
        return {"pixels": dict(seen.images), "agent_pos": seen.proprioception}
