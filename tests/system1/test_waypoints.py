"""Waypoints in hindsight, against poses worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vine_vla.core.options import Outcome
from vine_vla.system1.vine_skill.waypoints import POSE_NAMES, UNITS, Clip, find_pose, waypoints

POSE = [0, 1, 2, 3, 4]


def straight(count: int, yaw: float = np.pi / 2) -> np.ndarray:
    """States of a hand that moves a decimetre a frame along x, turned by `yaw`."""
    states = np.zeros((count, 5), np.float32)
    states[:, 0] = 0.1 * np.arange(count)
    states[:, 3:] = np.cos(yaw), np.sin(yaw)
    return states


def grips(*signs: int) -> np.ndarray:
    return np.array(signs, np.float32)[:, None]


def test_last_switch_then_the_end_seen_from_the_hand() -> None:
    """The hand opens at frame 1, closes at 4 and ends at 6; the world's x is its -y."""
    clip = Clip("e.00", 0, 7, "grasp", Outcome.REACHED)
    found = waypoints(straight(8), grips(1, -1, -1, -1, 1, 1, 1, 1), [clip], POSE, [0])
    offsets = np.sinh(found.ahead) * UNITS
    assert found.known.tolist() == [True] * 7 + [False]
    assert offsets[:7, 1] == pytest.approx([-0.4, -0.3, -0.2, -0.1, -0.2, -0.1, 0.0], abs=1e-5)
    assert np.abs(offsets[:, [0, 2, 3]]).max() < 1e-5 and not offsets[7].any()


def test_who_was_corrected_learns_where_the_expert_went() -> None:
    clips = [
        Clip("e.00", 0, 3, ("insert", "a"), Outcome.CENSORED),
        Clip("e.01", 3, 6, ("insert", "a"), Outcome.REACHED),
        Clip("f.00", 6, 8, ("insert", "a"), Outcome.CENSORED),
        Clip("f.01", 8, 9, ("insert", "b"), Outcome.REACHED),
        Clip("g.00", 9, 10, ("insert", "a"), Outcome.DEAD),
    ]
    found = waypoints(straight(10, 0.0), grips(*[1] * 5, *[-1] * 5), clips, POSE, [0])
    offsets = np.sinh(found.ahead) * UNITS
    assert found.known.tolist() == [True] * 6 + [False, False, True, False]
    assert offsets[:6, 0] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], abs=1e-5)


def test_turns_take_the_short_way() -> None:
    states = np.concatenate([straight(1, 3.0), straight(1, -3.0)])
    found = waypoints(states, grips(1, -1), [Clip("e", 0, 2, 0, Outcome.REACHED)], POSE, [0])
    assert np.sinh(found.ahead[0, 3]) * UNITS[3] == pytest.approx(2 * np.pi - 6.0, abs=1e-5)


def test_pose_is_found_by_name() -> None:
    assert find_pose(["width", *POSE_NAMES]) == [1, 2, 3, 4, 5]
    assert find_pose(["x", "y", "z"]) == [] and find_pose(None) == []


def test_whole_episodes_head_for_the_next_switch() -> None:
    """The hand closes at frame 2 and opens at 5; before, somebody who was corrected held it open."""
    clips = [
        Clip("e", 0, 1, ("episode", ()), Outcome.CENSORED, whole=True),
        Clip("e", 1, 8, ("episode", ()), Outcome.REACHED, whole=True),
    ]
    found = waypoints(straight(8, 0.0), grips(-1, -1, 1, 1, 1, -1, -1, -1), clips, POSE, [0])
    offsets = np.sinh(found.ahead) * UNITS
    assert found.known.all()
    assert offsets[:, 0] == pytest.approx([0.2, 0.1, 0.3, 0.2, 0.1, 0.2, 0.1, 0.0], abs=1e-5)
