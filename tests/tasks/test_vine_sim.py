"""The environment `vine_sim` as LeRobot makes it: scenes by seed, failures that end as episodes."""

import numpy as np
import pytest
from lerobot.envs import EnvConfig
from lerobot.utils.import_utils import register_third_party_plugins

from vine_vla.core.errors import VineError


@pytest.fixture(scope="module")
def config_class() -> type:
    register_third_party_plugins()
    return EnvConfig.get_choice_class("vine_sim")


def test_a_failed_episode_ends_and_says_so(config_class):
    """LeRobot keeps an episode when it has ended; one that never ends would be lost."""
    config = config_class(episode_length=3)
    envs = config.create_envs(1)["vine_sim"][0]
    try:
        seen, _ = envs.reset(seed=[7])
        assert set(seen["pixels"]) == {"front", "wrist"}
        assert seen["pixels"]["front"].shape == (1, 192, 192, 3) and seen["agent_pos"].shape == (1, 10)
        ends = []
        for _ in range(3):
            _, reward, terminated, truncated, info = envs.step(np.zeros((1, 5), np.float32))
            ends.append((bool(terminated[0]), bool(truncated[0]), float(reward[0])))
        assert ends == [(False, False, 0.0), (False, False, 0.0), (False, True, 0.0)]
        assert not info["final_info"]["is_success"][0]
    finally:
        envs.close()


def test_the_same_seed_is_the_same_scene(config_class):
    config = config_class(scenes="0:3")
    envs = config.create_envs(1)["vine_sim"][0]
    try:
        first, again, other = (envs.reset(seed=[seed])[0] for seed in (1, 1, 2))
        assert np.array_equal(first["agent_pos"], again["agent_pos"])
        assert np.array_equal(first["pixels"]["front"], again["pixels"]["front"])
        assert not np.array_equal(first["pixels"]["front"], other["pixels"]["front"])
    finally:
        envs.close()


def test_features_are_the_tasks(config_class):
    config = config_class(task="line")
    envs = config.create_envs(1)["vine_sim"][0]
    try:
        seen, _ = envs.reset(seed=[1])
        for name, feature in config.features.items():
            if name.startswith("pixels/"):
                assert seen["pixels"][name.removeprefix("pixels/")].shape == (1, *feature.shape)
        assert seen["agent_pos"].shape == (1, *config.features["agent_pos"].shape)
        assert envs.single_action_space.shape == tuple(config.features["action"].shape)
    finally:
        envs.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"task": "cook"}, "unknown task 'cook'"), ({"scenes": "400:402"}, "test"), ({"scenes": "x"}, "x")],
)
def test_what_is_wrong_is_told(config_class, options, message):
    with pytest.raises(VineError, match=message):
        config_class(**options).create_envs(1)
