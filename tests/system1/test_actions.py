"""What actions are: motions or positions, switches or joints, told from the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDatasetMetadata

from vine_vla.system1.adapters.action_kinds import default_units, state_places
from vine_vla.system1.vine_skill.configuration_vine_skill import VineSkillConfig
from vine_vla.system1.vine_skill.modeling_vine_skill import VineSkillPolicy


@pytest.fixture
def joints() -> np.ndarray:
    """Angles of three joints in rad, all within +-1. [N, 3]"""
    time = np.linspace(0, 12, 400)[:, None]
    return np.sin(time * np.array([1.0, 0.7, 1.3]) + np.array([0, 1, 2])).astype(np.float32) * 0.9


def test_joints_within_one_radian_are_no_switches(joints: np.ndarray) -> None:
    gripper = np.where(np.arange(len(joints)) % 90 < 40, 1.0, 0.0)[:, None].astype(np.float32)
    units = default_units(np.concatenate([joints, gripper, 1 - gripper * 2], 1))
    assert [unit > 0 for unit in units] == [True, True, True, False, False]


def test_positions_are_known_by_the_state_that_follows_them(joints: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    gripper = (rng.random((len(joints), 1)) > 0.5).astype(np.float32)
    ahead = np.concatenate([joints[2:], joints[-1:], joints[-1:]])
    commands = np.concatenate([ahead + rng.normal(0, 0.01, ahead.shape), gripper], 1).astype(np.float32)
    units = default_units(commands)
    assert state_places(joints[:, [2, 0, 1]], commands, units) == [1, 2, 0, -1]
    speeds = np.concatenate([np.diff(joints, axis=0, append=joints[-1:]) * 10, gripper], 1)
    assert state_places(joints, speeds, default_units(speeds)) == [-1] * 4
    assert state_places(None, commands, units) == [-1] * 4
    assert state_places(np.zeros_like(joints), commands, units) == [-1] * 4


def config_for(folder: Path, **settings: object) -> VineSkillConfig:
    from lerobot.policies import make_policy

    meta = LeRobotDatasetMetadata("vine/skills", root=folder)
    config = VineSkillConfig(device="cpu", push_to_hub=False, **settings)  # type: ignore[arg-type]
    policy = make_policy(config, ds_meta=meta)
    assert isinstance(policy, VineSkillPolicy)
    return policy.config


def test_a_policy_takes_actions_for_motions_unless_they_follow_the_state(skills: Path) -> None:
    config = config_for(skills)
    assert config.delta_actions is True and config.action_places == [-1, -1, -1]
    assert config_for(skills, delta_actions=False).delta_actions is False
    assert config_for(skills, action_places=[0, 1, -1]).delta_actions is False
