"""The policy `vine` as LeRobot drives it: a batch of environments, each with an episode of its own.

The agent is the tests' line robot; its real weights are loaded by the tests of the ecosystem.
"""

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from serving.line_client import SeenWorld
from serving.line_service import make_served

from vine_vla.core.errors import VineError
from vine_vla.serving import modeling_vine
from vine_vla.serving.configuration_vine import VineConfig
from vine_vla.serving.modeling_vine import VinePolicy


@pytest.fixture
def policy(monkeypatch, tmp_path) -> VinePolicy:
    monkeypatch.setattr(modeling_vine, "load_agent", lambda run, *_: make_served())
    config = VineConfig(
        device="cpu",
        push_to_hub=False,
        input_features={
            "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, 16, 80)),
            "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
    )
    return VinePolicy(config, run=tmp_path).eval()


def batch_of(worlds: list[SeenWorld], **more) -> dict:
    """What LeRobot's preprocessor hands over: floats in [0, 1], channels first."""
    seen = [world.observe() for world in worlds]
    pictures = torch.from_numpy(np.stack([s.images["front"] for s in seen]))
    return {
        "observation.images.front": pictures.permute(0, 3, 1, 2) / 255,
        "observation.state": torch.from_numpy(np.stack([s.proprioception for s in seen])),
        "task": [world.instruction for world in worlds],
        **more,
    }


def fresh(scenes: range) -> list[SeenWorld]:
    worlds = [SeenWorld() for _ in scenes]
    for world, scene in zip(worlds, scenes, strict=True):
        world.reset(scene, 0)
    return worlds


def solve(policy: VinePolicy, worlds: list[SeenWorld], steps: int = 60) -> bool:
    for _ in range(steps):
        actions = policy.select_action(batch_of(worlds))
        assert actions.shape == (len(worlds), 2) and bool(actions.isfinite().all())
        for world, action in zip(worlds, actions.numpy(), strict=True):
            if not world.is_success():  # others go on; LeRobot does not step what has ended
                world.step(action)
    return all(world.is_success() for world in worlds)


def test_every_environment_has_a_state_of_its_own(policy):
    worlds = fresh(range(6))
    assert len({tuple(w.sockets.values()) for w in worlds}) > 3
    assert solve(policy, worlds)
    plans = {tuple(reply["plan"]) for reply in policy.last_replies}
    assert len(plans) > 1  # not one environment's plan for all
    policy.reset()
    assert solve(policy, fresh(range(10, 13)))  # fewer environments, new episodes


def test_without_reset_the_old_episode_goes_on(policy):
    """What the test above could not see if `reset` did nothing."""
    assert solve(policy, fresh(range(3)))
    worlds = fresh(range(10, 13))
    assert not solve(policy, worlds)


def test_a_chunk_is_what_select_action_hands_out(policy):
    worlds = fresh(range(2))
    chunk = policy.predict_action_chunk(batch_of(worlds))
    assert chunk.shape == (2, 2, 2) and chunk.dtype == torch.float32
    policy.reset()
    handed = torch.stack([policy.select_action(batch_of(worlds)) for _ in range(2)], 1)
    torch.testing.assert_close(handed, chunk)


def test_the_next_subtask_is_a_sentence(policy):
    assert policy.supports_text_generation()
    world = fresh(range(1))
    assert policy.generate_text(batch_of(world)).startswith("grasp")
    free = SeenWorld()
    free.reset(0, 0)
    free.grip, free.plug, free.hand = 1, 5, 5  # held: what comes next is another subgoal
    assert policy.generate_text(batch_of([free])).startswith("insert")


def test_a_missing_camera_is_told_with_what_there_is(policy):
    batch = batch_of(fresh(range(1)))
    batch["observation.images.top"] = batch.pop("observation.images.front")
    with pytest.raises(
        VineError, match=r"no observation.images.front \(observation has .*images.top"
    ) as told:
        policy.select_action(batch)
    assert "rename" in str(told.value) and "\n" not in str(told.value)


def test_there_is_nothing_to_train(policy):
    with pytest.raises(VineError, match="vine train"):
        policy.forward(batch_of(fresh(range(1))))
    with pytest.raises(VineError, match="no weights to start from"):
        VinePolicy(policy.config)
