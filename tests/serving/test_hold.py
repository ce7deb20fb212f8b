"""What is sent when there is nothing to do: no motion, or the place where the robot is; and how long."""

from dataclasses import replace

import numpy as np
import pytest
from serving.line_service import SeenWorld, make_served, message_of

from vine_vla import VineError
from vine_vla.serving import ObservationKeys
from vine_vla.serving.deadline import LATE
from vine_vla.serving.session import PATIENCE, Session


class LatePlanner:
    """Never answers in time."""

    def plan(self, graph, instruction, budget, seed, observation=None):
        return LATE


def first_reply(**changes):
    world = SeenWorld()
    world.reset(0, 0)
    served = make_served(planner=LatePlanner(), **changes)
    return Session(served, 0).infer(message_of(world)), world


def test_a_robot_moved_by_positions_stays_where_it_is_before_its_first_action():
    low, high = np.array([0, 0], np.float32), np.array([50, 2], np.float32)
    reply, world = first_reply(hold="repeat", places=(0, 1), action_low=low, action_high=high)
    assert reply["status"] == "holding"
    np.testing.assert_allclose(reply["actions"], [[world.hand, world.grip]] * 2)


def test_a_robot_moved_by_steps_stands_still():
    reply, _ = first_reply(hold="still", places=(0, 1))
    assert reply["status"] == "holding" and not reply["actions"].any()


@pytest.mark.parametrize(("switches", "expected"), [((-1,), [0, 0, 5]), ((0, 2), [3, 0, 5]), ((), [0, 0, 0])])
def test_standing_still_keeps_every_gripper(switches, expected):
    session = Session(make_served(switches=switches), 0)
    assert session._stopped(np.array([3, 4, 5], np.float32)).tolist() == expected


def test_metadata_say_what_a_client_of_another_robot_needs():
    told = make_served(keys=ObservationKeys(("front",), 3, {"state": "qpos"})).metadata()
    assert told["state"][0] == "qpos" and "prompt" in told["prompt"]
    assert told["hold"] == "still" and told["action_low"] == [-1.0, 0.0] and told["action_high"] == [1.0, 2.0]
    assert "observation.images.front" in told["cameras"]["front"]


def test_lerobots_own_keys_are_understood():
    world = SeenWorld()
    world.reset(0, 0)
    seen = world.observe()
    message = {
        "observation.images.front": seen.images["front"],
        "observation.state": seen.proprioception,
        "task": world.instruction,
    }
    assert Session(make_served(), 0).infer(message)["status"] == "acting"


def test_an_episode_in_which_nothing_is_executed_is_ended():
    served = make_served()
    served = replace(served, config=replace(served.config, max_steps=5))
    session = Session(served, 0)
    world = SeenWorld()
    world.reset(0, 0)
    idle = message_of(world) | {"executed": 0}
    for _ in range(PATIENCE * 5):
        assert session.infer(idle)["status"] == "acting"
    with pytest.raises(VineError, match="too few actions executed"):
        session.infer(idle)
    assert session.infer(idle)["status"] == "acting"  # another episode
