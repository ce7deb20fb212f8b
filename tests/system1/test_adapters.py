"""Policies of others as skills: LeRobot's ACT and Diffusion, and an openpi server, on tiny models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDataset
from system1.policies import MEAN, SPREAD, save_act
from system1.toy import SCHEMA, ToyWorld

from vine_vla.core.errors import VineError
from vine_vla.core.options import EpisodeOutcome, Outcome, Split, Subgoal
from vine_vla.core.protocols import DONE, Observation
from vine_vla.data import open_dataset
from vine_vla.data.export.crops import LAYOUT, CropLayout
from vine_vla.data.export.skills import export_joint
from vine_vla.system1.adapters.openpi import OpenpiSkill, read_actions
from vine_vla.system1.adapters.skills import (
    LeRobotSkill,
    camera_keys,
    policy_inputs,
)

REACH = Subgoal("reach", ("block_1",))
OTHER = Subgoal("leave", ("block_2",))


def test_a_lerobot_policy_executes_subgoals(checkpoint):
    skill, world = LeRobotSkill.load(checkpoint), ToyWorld(0)
    assert skill.cameras == {f"observation.images.{c}": c for c in SCHEMA.cameras}
    skill.start(REACH, "reach the red block", 0)
    first = skill.act(world.observe(), world.graph())
    assert first.actions.shape == (4, 3) and first.actions.dtype == np.float32 and first.execute == 4
    assert np.isfinite(first.actions).all() and first.done.tolist() == [1, 0, 0]
    second = skill.act(world.observe(), world.graph())
    assert not np.array_equal(first.actions, second.actions)  # the rest of the chunk
    third = skill.act(world.observe(), world.graph())
    np.testing.assert_array_equal(third.actions, first.actions)  # a new chunk of the same sight
    skill.start(REACH, "reach the red block", 0)
    np.testing.assert_array_equal(skill.act(world.observe(), world.graph()).actions, first.actions)
    skill.check()


def test_a_switch_drops_the_queue_and_changes_the_action(checkpoint):
    skill, world = LeRobotSkill.load(checkpoint), ToyWorld(0)
    skill.start(REACH, "reach", 0)
    old = [skill.act(world.observe(), world.graph()).actions for _ in range(2)][1]
    skill.start(OTHER, "leave", 0)
    new = skill.act(world.observe(), world.graph()).actions
    assert not np.array_equal(old, new)
    fresh = LeRobotSkill.load(checkpoint)
    fresh.start(OTHER, "leave", 0)
    np.testing.assert_array_equal(fresh.act(world.observe(), world.graph()).actions, new)


@pytest.mark.parametrize("images", ["whole", "windows"])
def test_a_joint_export_shows_what_the_policy_is_shown_at_run_time(toy, tmp_path, images):
    """The same numbers and pixels in the dataset and at run time, for subgoals and for the whole task."""
    summary = export_joint(toy, tmp_path / "joint", images=images, pixels=48, threads=1)
    clips = open_dataset(summary.out).demonstrations
    layout = CropLayout.from_json((summary.out / LAYOUT).read_text())
    config = PreTrainedConfig.from_pretrained(save_act(tmp_path / "act", environment=layout.width))
    cameras = {f"observation.images.{c}": c for c in SCHEMA.cameras}
    train = {d.episode_id: d for d in toy.demonstrations if d.split is Split.TRAIN}
    whole = [d.episode_id for d in train.values() if d.outcome is EpisodeOutcome.SUCCESS]
    segments = [s for d in train.values() for s in d.segments if s.outcome is Outcome.REACHED]
    assert len(clips) == len(whole) + len(segments) and set(whole) < {c.episode_id for c in clips}
    reader = LeRobotDataset("vine/joint", root=summary.out)
    for clip in clips:
        name, _, number = clip.episode_id.partition(".")
        source, subgoal, start = train[name], Subgoal("do_task", ()), 0
        if number:
            subgoal, start = source.segments[int(number)].subgoal, source.segments[int(number)].start
        images = {c: toy.images(source.episode_index, [start], c)[0] for c in toy.cameras}
        seen = Observation(images, toy.proprioception(source.episode_index)[start])
        shown = policy_inputs(config, cameras, layout, seen, source.graphs[start], subgoal)
        row = reader[int(reader.meta.episodes["dataset_from_index"][clip.episode_index])]
        assert row["task"] == (clip.instruction if number else source.instruction)
        for key, value in shown.items():
            np.testing.assert_allclose(value, row[key], atol=1.01 / 255, err_msg=key)
        verb = row["observation.environment_state"][: len(layout.verbs)]
        assert verb.sum() == (1 if number else 0)


def test_its_own_processors_stand_before_and_after_it(checkpoint):
    """State and actions are normalised with the statistics that were saved with the policy."""
    skill, world = LeRobotSkill.load(checkpoint), ToyWorld(0)
    skill.start(REACH, "reach", 0)
    seen = world.observe()
    found = skill.act(seen, world.graph()).actions
    sample = policy_inputs(skill.policy.config, skill.cameras, skill.layout, seen, world.graph(), REACH)
    batch = {key: value[None] for key, value in sample.items()}
    for key in (*skill.cameras, "observation.state"):
        batch[key] = (batch[key] - MEAN) / SPREAD
    with torch.no_grad():
        chunk = skill.policy.predict_action_chunk(batch)[0, :4] * SPREAD + MEAN
    np.testing.assert_allclose(found, chunk, atol=1e-5)


def test_a_policy_is_asked_again_when_its_queue_is_empty(checkpoint):
    """What it says by VINE's chunks is what it says by the step, if it is shown the same."""
    skill, world = LeRobotSkill.load(checkpoint), ToyWorld(0)
    skill.policy.config.n_action_steps = 6
    skill.start(REACH, "reach", 0)
    sights, found = [], []
    for count in (4, 2, 4, 2):
        sights += [(world.observe(), world.graph())] * count
        output = skill.act(*sights[-1])
        assert output.execute == len(output.actions) == count
        found += list(output.actions)
        for action in output.actions:
            world.step(np.clip(action, -0.05, 0.05))
    skill.start(REACH, "reach", 0)
    for sight, expected in zip(sights, found):
        sample = policy_inputs(skill.policy.config, skill.cameras, skill.layout, *sight, REACH)
        with torch.no_grad():
            action = skill._post(skill.policy.select_action(skill._pre(sample | {"task": "reach"})))
        np.testing.assert_allclose(action[0], expected, atol=1e-6)
    skill.policy.config.n_obs_steps = 2
    assert skill.horizon == 1  # it has to see every step


def test_a_policy_without_noise_has_no_spread_and_its_queue_stays(checkpoint):
    skill, world = LeRobotSkill.load(checkpoint), ToyWorld(0)
    skill.start(REACH, "reach", 0)
    with pytest.raises(VineError, match="has not acted yet"):
        skill.signals()
    alone = [skill.act(world.observe(), world.graph()).actions for _ in range(3)]
    skill.start(REACH, "reach", 0)
    for expected in alone:
        np.testing.assert_array_equal(skill.act(world.observe(), world.graph()).actions, expected)
        found = skill.signals()
        assert found.spread == pytest.approx(0, abs=1e-6) and np.isnan(found.distance)
    skill.policy.config.n_obs_steps = 2
    assert np.isnan(skill.signals().spread)


def test_changed_weights_are_noticed(checkpoint):
    skill = LeRobotSkill.load(checkpoint)
    with torch.no_grad():
        next(skill.policy.parameters()).add_(1e-3)
    with pytest.raises(VineError, match="weights of System 1 have changed"):
        skill.check()


def test_what_does_not_fit_is_told(checkpoint, tmp_path):
    world = ToyWorld(0)
    skill = LeRobotSkill.load(checkpoint)
    with pytest.raises(VineError, match="no subgoal has been started"):
        skill.act(world.observe(), world.graph())
    skill.start(REACH, "reach", 0)
    seen = world.observe()
    with pytest.raises(VineError, match="no image of wrist"):
        skill.act(seen._replace(images={"front": seen.images["front"]}), world.graph())
    with pytest.raises(VineError, match="state has 2 numbers, the policy was trained on 6"):
        skill.act(seen._replace(proprioception=np.zeros(2, np.float32)), world.graph())
    with pytest.raises(VineError, match="no LeRobot policy"):
        LeRobotSkill.load(tmp_path)
    assert camera_keys(["observation.images.cam_a"], {"front": "observation.images.cam_a"}, ("front",)) == {
        "observation.images.cam_a": "front"
    }
    with pytest.raises(VineError, match=r"--camera front=observation\.images\.cam_a"):
        camera_keys(["observation.images.cam_a"], None, ("front", "wrist"))


def test_without_its_layout_a_policy_that_reads_boxes_is_refused(checkpoint, tmp_path):
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    (bare / Path(LAYOUT).name).unlink()
    with pytest.raises(VineError, match="reads observation.environment_state"):
        LeRobotSkill.load(bare)
    (tmp_path / "layout.json").write_text((checkpoint / Path(LAYOUT).name).read_text())
    assert LeRobotSkill.load(bare, layout=tmp_path / "layout.json").layout is not None
    (tmp_path / "layout.json").write_text(json.dumps({"cameras": 3}))
    with pytest.raises(VineError, match="layout.json, field cameras"):
        LeRobotSkill.load(bare, layout=tmp_path / "layout.json")


class Ends:
    """A done signal that says done at the third look."""

    def start(self, subgoal, text, seed):
        self.looks = 0

    def done(self, observation, graph):
        self.looks += 1
        return np.array([0, 1, 0] if self.looks > 2 else [1, 0, 0], np.float32)


def test_a_done_signal_stands_beside_it(checkpoint):
    skill, world = LeRobotSkill.load(checkpoint, done=Ends()), ToyWorld(0)
    skill.start(REACH, "reach", 0)
    says = [skill.act(world.observe(), world.graph()).done[DONE] for _ in range(4)]
    assert says == [0, 0, 1, 1]


def test_an_openpi_server_is_told_the_sentence():
    asked = []

    def infer(message):
        asked.append(message)
        return {"actions": np.full((5, 3), 0.1), "policy_timing": {}}

    names = {"front": "observation/image", "wrist": "observation/wrist_image"}
    skill, world = OpenpiSkill(infer, names=names, execute=3, done=Ends()), ToyWorld(0)
    skill.start(REACH, "reach the red block", 0)
    output = skill.act(world.observe(), world.graph())
    assert output.actions.shape == (5, 3) and output.execute == 3
    assert asked[0]["prompt"] == "reach the red block" and asked[0]["reset"] is True
    assert asked[0]["observation/image"].dtype == np.uint8 and asked[0]["observation/state"].shape == (6,)
    skill.act(world.observe(), world.graph())
    assert "reset" not in asked[1]
    for bad in ({}, {"actions": np.zeros(3)}, {"actions": np.array([[np.nan]])}, {"actions": [["a"]]}):
        with pytest.raises(VineError, match="openpi server"):
            read_actions(bad)


def test_a_real_server_answers_and_a_missing_one_is_named():
    from serving.line_service import SeenWorld, running

    names = {"front": "observation/image"}
    with running() as port:
        url = f"ws://127.0.0.1:{port}"
        skill, world = OpenpiSkill.connect(url, names=names), SeenWorld()
        world.reset(0, 0)
        skill.start(Subgoal("insert", ("plug", "socket_1")), "plug it in", 0)
        for _ in range(60):
            output = skill.act(world.observe(), world.true_graph())
            for action in output.actions[: output.execute]:
                world.step(action)
            if world.is_success():
                break
        assert world.is_success()
        with pytest.raises(VineError, match="the server reports: vine: no prompt"):
            skill._infer({"observation/image": np.zeros((16, 80, 3), np.uint8), "reset": True}
                         | {"observation/state": np.zeros(3, np.float32)})  # fmt: skip
    with pytest.raises(VineError, match="no openpi server answers"):
        OpenpiSkill.connect("ws://127.0.0.1:9", names=names)
