"""The policy: scaling, labels in the loss, gradients, saving, determinism, and that it learns."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_pre_post_processors
from system1.toy import SCHEMA, ToyWorld

from vine_vla.core.errors import VineError
from vine_vla.core.options import Subgoal
from vine_vla.system1 import FlatSkill, FlowSkill, VineSkillConfig, VineSkillPolicy
from vine_vla.system1.adapters.action_kinds import default_units
from vine_vla.system1.vine_skill.networks import SlotChoice


def make(root: Path, **changes: object) -> VineSkillPolicy:
    torch.manual_seed(0)
    config = VineSkillConfig(device="cpu", width=64, blocks=2, encoder_dtype="float32", **changes)
    policy = make_policy(config, ds_meta=LeRobotDatasetMetadata("vine/x", root=root))
    assert isinstance(policy, VineSkillPolicy)
    return policy


def batch_of(root: Path, policy: VineSkillPolicy, count: int = 32) -> dict:
    dataset = LeRobotDataset(
        "vine/x", root=root, delta_timestamps={"action": [i / 10 for i in range(policy.config.chunk_size)]}
    )
    items = [dataset[i] for i in np.linspace(0, len(dataset) - 1, count).astype(int)]
    return torch.utils.data.default_collate(items)


def train(policy: VineSkillPolicy, batch: dict, steps: int) -> list[float]:
    policy.train()
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    losses = []
    for _ in range(steps):
        loss, info = policy(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        policy.update()
        losses.append(info["flow_loss"])
    return losses


def test_scaling_round_trip_and_units(skills: Path) -> None:
    policy = make(skills)
    assert policy.config.action_units[:2] == pytest.approx(
        [0.4 * s for s in _deviation(skills)[:2]], rel=1e-4
    )
    assert policy.config.action_units[2] == 0.0, "the gripper is a switch"
    actions = torch.tensor([[0.08, -0.001, 1.0], [0.0, 0.02, -1.0]])
    scaled = policy.scale(actions)
    assert torch.equal(scaled[:, 2], actions[:, 2])
    assert torch.allclose(policy.unscale(scaled), actions, atol=1e-6)
    assert policy.unscale(torch.tensor([0.0, 0.0, 1.7]))[2] == 1.0


def _deviation(root: Path) -> np.ndarray:
    dataset = LeRobotDataset("vine/x", root=root)
    return np.stack(dataset.hf_dataset.with_format("numpy")["action"]).std(0)


def test_default_units_of_odd_columns() -> None:
    constant, wide = np.zeros(50), np.linspace(-3, 3, 50)
    units = default_units(np.stack([constant, wide], 1).astype(np.float32))
    assert units[0] == pytest.approx(1e-6) and units[1] == pytest.approx(0.4 * wide.std(), rel=1e-4)


def test_past_the_end_nothing_moves_and_the_gripper_holds(skills: Path) -> None:
    policy = make(skills)
    actions, padded = torch.ones(1, 4, 3), torch.tensor([[False, False, True, True]])
    assert policy._pad(actions, padded)[0].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 1]]
    policy.config.delta_actions = False
    assert torch.equal(policy._pad(actions, padded), actions)


def test_failed_segments_are_not_imitated(skills: Path) -> None:
    policy = make(skills).train()
    batch = batch_of(skills, policy, 40)
    torch.manual_seed(1)
    losses, _ = policy(batch | {"index": batch["index"]}, reduction="none")
    imitate = policy.imitate[batch["index"]] > 0
    assert not imitate.all() and imitate.any()
    policy.config.done_weight = 0.0
    torch.manual_seed(1)
    flow, _ = policy(batch, reduction="none")
    assert (flow[~imitate] == 0).all() and (flow[imitate] > 0).all() and (losses > 0).all()
    policy.config.imitate_all = True
    assert (policy(batch, reduction="none")[0] > 0).all()


def test_done_head_gives_no_gradient_to_the_trunk(skills: Path) -> None:
    policy = make(skills, waypoint_weight=0.0).train()
    batch = batch_of(skills, policy)
    policy.imitate.zero_()  # leaves the done head's loss alone
    loss, info = policy(batch)
    loss.backward()
    assert info["done_loss"] > 0
    moved = {n for n, p in policy.net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {n for n, _ in policy.net.named_parameters() if n.startswith("done.")}


def test_averaged_weights_follow_and_take_no_gradient(skills: Path) -> None:
    policy = make(skills)
    before = [p.clone() for p in policy.ema.parameters()]
    train(policy, batch_of(skills, policy, 8), 3)
    trained = list(policy.net.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.ema.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(trained, policy.ema.parameters(), strict=True))
    assert not any(p.requires_grad for p in policy.ema.parameters())


def test_augmentation_moves_crop_box_and_center_together(skills: Path) -> None:
    """The window that is cut is the one whose centre is told, pixel for pixel."""
    policy = make(skills, box_dropout=0.0, brightness_curve=0.0, colour_gain=0.0, channel_mixing=0.0)
    layout = policy.layout
    assert layout is not None
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(80.0), indexing="ij")
    picture = (torch.stack([x, y, y]) / 80).expand(64, 3, 80, 80)
    environment = torch.zeros(64, layout.width)
    environment[:, 2:] = torch.tensor([0.4, 0.4, 0.6, 0.6, 1.0, 0.5, 0.5]).repeat(2)
    crops, _, described = policy._object_crops([picture, picture], environment, augment=True)
    numbers = (described[:, 0, :-2].reshape(64, 1, 2, 6) + 2) / 4
    for camera in range(2):
        corner = 80 * crops[camera][:, 0, :2, 0, 0]
        told = (numbers[:, 0, camera, 4:] - 0.5) * 192 + 8
        assert torch.allclose(corner, told, atol=1e-3)
        assert corner.min() >= 0 and corner.max() <= 16 and corner.std() > 1
        center = (numbers[:, 0, camera, :2] + numbers[:, 0, camera, 2:4]) / 2
        drift = (center - 0.5) * 192
        assert 1.5 < drift.std() < 5, "1.5 px of 96 are 3 px of 192"
        assert ((corner - 8) - drift).abs().max() <= policy.config.shift + 8  # clipped at the border


def test_unseen_boxes_are_black_and_zero(skills: Path) -> None:
    policy = make(skills, box_dropout=1.0)
    layout = policy.layout
    assert layout is not None
    picture, environment = torch.ones(4, 3, 80, 80), torch.ones(4, layout.width)
    _, seen, numbers = policy._object_crops([picture, picture], environment, augment=True)
    assert all(not s.any() for s in seen) and numbers.shape == (4, 1, 14) and not numbers.any()


def test_unseen_crops_count_as_black(skills: Path) -> None:
    """Encoded once for all of them, with the same answer and the same gradient as one by one."""
    net = make(skills).net
    crops = [torch.rand(6, 1, 3, 64, 64) for _ in range(2)]
    seen = [torch.tensor([1, 0, 1, 1, 0, 0], dtype=torch.bool)[:, None], torch.zeros(6, 1, dtype=torch.bool)]
    numbers = torch.rand(6, 1, 14)
    vector = torch.rand(6, net.trunk[0].in_features - 2 * net.encoders[0].FEATURES - 14)
    black = [c * s[:, :, None, None, None] for c, s in zip(crops, seen, strict=True)]
    everything = [torch.ones_like(s) for s in seen]
    found = net.encode(crops, seen, numbers, vector)[0]
    wanted = net.encode(black, everything, numbers, vector)[0]
    assert torch.allclose(found, wanted, atol=1e-5)
    weights = list(net.encoders.parameters())
    gradients = [torch.autograd.grad(c.square().sum(), weights) for c in (found, wanted)]
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-3) for a, b in zip(*gradients, strict=True))


def test_learns_a_small_set(skills: Path) -> None:
    none = ("state_noise", "box_noise", "box_dropout", "brightness_curve", "colour_gain", "channel_mixing")
    exact = dict.fromkeys(none, 0.0) | {"shift": 0}
    policy = make(skills, **exact, learning_rate=3e-3)
    batch = batch_of(skills, policy, 24)
    losses = train(policy, batch, 250)
    assert np.mean(losses[-10:]) < 0.25 * np.mean(losses[:10])
    policy.eval()
    policy.ema.load_state_dict(policy.net.state_dict())
    chunk, done = policy.infer(batch)
    imitate = policy.imitate[batch["index"]] > 0
    wanted = policy._pad(batch["action"], batch["action_is_pad"])
    error = (chunk - wanted).abs()[imitate]
    assert error[..., :2].mean() < 0.015, "a step is up to 0.08"
    assert error[..., 2].mean() < 0.2
    assert (done.argmax(1) == policy.done_labels[batch["index"]]).float().mean() > 0.8
    known = policy.ahead_known[batch["index"]]
    with torch.no_grad():
        found = policy.net.waypoint(policy.net.encode(*policy._inputs(batch, policy.net, False))[0])
    assert known.any() and (found - policy.ahead[batch["index"]])[known].abs().mean() < 0.2, "asinh of cm"


@pytest.fixture(scope="module")
def saved(skills: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[VineSkillPolicy, Path]:
    policy, folder = make(skills), tmp_path_factory.mktemp("saved") / "policy"
    train(policy, batch_of(skills, policy, 8), 3)
    policy.save_pretrained(folder)
    pre, post = make_pre_post_processors(
        policy.config, dataset_stats=LeRobotDatasetMetadata("vine/x", root=skills).stats
    )
    pre.save_pretrained(folder)
    post.save_pretrained(folder)
    return policy.eval(), folder


def test_saved_and_loaded_policies_act_the_same(saved: tuple[VineSkillPolicy, Path], skills: Path) -> None:
    policy, folder = saved
    again = VineSkillPolicy.from_pretrained(folder, strict=True)
    batch, noise = batch_of(skills, policy, 6), torch.randn(6, 12, 3)
    for mine, other in zip(policy.infer(batch, noise), again.infer(batch, noise), strict=True):
        assert torch.equal(mine, other)
    assert (
        again.config.layout == policy.config.layout
        and again.config.action_units == policy.config.action_units
    )


def test_queue_is_dropped_on_a_switch(saved: tuple[VineSkillPolicy, Path], skills: Path) -> None:
    policy, _ = saved
    batch = batch_of(skills, policy, 2)
    torch.manual_seed(0)
    chunk = policy.predict_action_chunk(batch)
    torch.manual_seed(0)
    policy.reset()
    for i in range(policy.config.n_action_steps):
        assert torch.equal(policy.select_action(batch), chunk[:, i])
    assert not policy._action_queue
    policy.select_action(batch)
    policy.drop_queued_actions()
    assert not policy._action_queue


def test_skill_is_deterministic_and_fast(saved: tuple[VineSkillPolicy, Path]) -> None:
    _, folder = saved
    skill = FlowSkill.load(folder, SCHEMA)
    world, subgoal = ToyWorld(3), Subgoal("reach", ("block_1",))
    observation, graph = world.observe(), world.graph()

    def run(seed: int) -> list[np.ndarray]:
        skill.start(subgoal, "reach the red block", seed)
        return [skill.act(observation, graph).actions for _ in range(3)]

    first, same, other = run(5), run(5), run(6)
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[0], first[1])
    output = skill.act(observation, graph)
    assert output.actions.shape == (12, 3) and output.actions.dtype == np.float32
    assert output.execute == skill.policy.config.n_action_steps and output.done.sum() == pytest.approx(
        1, abs=1e-5
    )
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        skill.act(observation, graph)
        times.append(time.perf_counter() - begin)
    assert np.median(times) < 0.05  # 10 ms on an idle core


def test_signals_tell_strange_scenes_from_those_of_training(
    saved: tuple[VineSkillPolicy, Path], skills: Path, tmp_path: Path
) -> None:
    policy, folder = saved
    skill, world = FlowSkill.load(folder, SCHEMA), ToyWorld(3)
    with pytest.raises(VineError, match="has not acted yet"):
        skill.signals()
    skill.start(Subgoal("reach", ("block_1",)), "reach", 5)
    first = skill.act(world.observe(), world.graph())
    assert np.isnan(skill.signals().distance), "its statistics were never taken"
    batch = batch_of(skills, skill.policy, 60)
    skill.policy.fit_features([skill._pre(batch)])
    near = skill.policy.features.distance(skill.policy.encode(skill._pre(batch))[0])
    assert near.square().mean() == pytest.approx(1.0, abs=0.01)
    known = skill.signals()
    assert known.spread > 0 and known == skill.signals(), "asking changes nothing"
    strange = world.observe()
    strange = strange._replace(proprioception=strange.proprioception + 50)
    second = skill.act(strange, world.graph())
    assert skill.signals().distance > 2 * known.distance
    skill.start(Subgoal("reach", ("block_1",)), "reach", 5)
    assert np.array_equal(skill.act(world.observe(), world.graph()).actions, first.actions)
    assert np.array_equal(skill.act(strange, world.graph()).actions, second.actions)
    skill.policy.save_pretrained(tmp_path)
    again = VineSkillPolicy.from_pretrained(tmp_path, strict=True)
    assert torch.equal(again.features.whitening, skill.policy.features.whitening)


def test_skill_refuses_another_vocabulary_and_layout(
    saved: tuple[VineSkillPolicy, Path], tmp_path: Path
) -> None:
    from dataclasses import replace

    _, folder = saved
    with pytest.raises(VineError, match="verbs"):
        FlowSkill.load(folder, replace(SCHEMA, verbs=SCHEMA.verbs[:1]))
    with pytest.raises(VineError, match="scene layout"):
        FlatSkill.load(folder, SCHEMA)
    with pytest.raises(VineError, match="vine train system1"):
        FlowSkill.load(tmp_path, SCHEMA)


def test_flat_policy_reads_the_instruction(flat: Path, tmp_path: Path) -> None:
    policy = make(flat)
    assert policy.config.text and set(policy.config.vocabulary) >= {"fetch", "red", "blue", "block"}
    train(policy, batch_of(flat, policy, 8), 5)
    policy.eval().save_pretrained(tmp_path)
    pre, post = make_pre_post_processors(
        policy.config, dataset_stats=LeRobotDatasetMetadata("vine/x", root=flat).stats
    )
    pre.save_pretrained(tmp_path)
    post.save_pretrained(tmp_path)
    skill = FlatSkill.load(tmp_path, SCHEMA)
    world = ToyWorld(4)

    def act(text: str) -> np.ndarray:
        skill.start(Subgoal("episode", ()), text, 0)
        return skill.act(world.observe(), world.graph()).actions

    assert np.array_equal(act("fetch the red block"), act("please fetch the RED block"))
    assert not np.array_equal(act("fetch the red block"), act("fetch the blue block"))


def test_what_is_chosen_goes_with_the_object_not_with_its_slot() -> None:
    """But for what a slot means by its place: the first is a plug, the others are sockets."""
    choice = SlotChoice(3, 10, 4)
    torch.nn.init.zeros_(choice.place)
    known, vector, order = torch.rand(5, 3, 10), torch.rand(5, 4), [2, 0, 1]
    weights, summary = choice(known, vector)
    assert torch.allclose(weights.sum(1), torch.ones(5))
    moved, same = choice(known[:, order], vector)
    assert torch.allclose(moved, weights[:, order], atol=1e-6) and torch.allclose(same, summary, atol=1e-6)
    torch.nn.init.normal_(choice.place)
    assert not torch.allclose(choice(known[:, order], vector)[0], choice(known, vector)[0][:, order])


def test_encoders_are_taken_over(flat: Path, saved: tuple[VineSkillPolicy, Path], tmp_path: Path) -> None:
    """A policy that looks at several objects begins with the encoders of one that is shown its target."""
    skill, folder = saved
    policy = make(flat, encoders=str(folder))
    theirs, ours = skill.ema.encoders.state_dict(), policy.net.encoders.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    assert all(torch.equal(ours[name], v) for name, v in policy.ema.encoders.state_dict().items())
    policy.save_pretrained(tmp_path)
    config = VineSkillConfig.from_pretrained(tmp_path)
    config.encoders = str(tmp_path / "gone")  # loading does not ask where the encoders came from
    VineSkillPolicy.from_pretrained(tmp_path, config=config, strict=True)
    with pytest.raises(VineError, match="encoders do not fit"):
        make(flat, encoders=str(folder), crop_pixels=48)


SIZES = {"top": (60, 90), "left": (96, 96), "right": (33, 47), "wrist": (240, 320)}


@pytest.mark.parametrize("cameras", range(1, 5))
def test_any_lerobot_dataset_will_do(cameras: int, tmp_path: Path) -> None:
    """Without a crop layout whole images are used: one to four, each of its own size, with joint angles."""
    keys = {f"observation.images.{name}": size for name, size in list(SIZES.items())[:cameras]}
    features = {key: PolicyFeature(FeatureType.VISUAL, (3, *size)) for key, size in keys.items()}
    config = VineSkillConfig(
        device="cpu",
        width=32,
        blocks=1,
        input_features=features | {"observation.state": PolicyFeature(FeatureType.STATE, (7,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (8,))},
    )
    policy = VineSkillPolicy(config)
    batch = {key: torch.rand(3, 3, *size) for key, size in keys.items()}
    batch |= {"observation.state": torch.randn(3, 7), "action": torch.randn(3, 12, 8)}
    assert policy(batch)[0].isfinite()
    policy.save_pretrained(tmp_path)
    again = VineSkillPolicy.from_pretrained(tmp_path, strict=True).eval()
    noise = torch.randn(3, 12, 8)
    found = again.predict_action_chunk(batch, noise=noise)
    assert found.shape == (3, 12, 8)
    torch.testing.assert_close(found, policy.eval().predict_action_chunk(batch, noise=noise))
    for weights in again.ema.parameters():  # an untrained flow ignores its inputs: its last layer is 0
        torch.nn.init.normal_(weights, std=0.1)
    found = again.predict_action_chunk(batch, noise=noise)
    for key in keys:  # each camera counts
        changed = batch | {key: 1 - batch[key]}
        assert not torch.equal(again.predict_action_chunk(changed, noise=noise), found)
