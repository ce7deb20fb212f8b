"""`vine skill check`: a policy that ignores its subgoal is named, a sensitive one passes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_pre_post_processors
from system1.policies import save_act
from system1.toy import SCHEMA, ToyWorld

from vine_vla.cli import main
from vine_vla.core.errors import VineError
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import SkillOutput
from vine_vla.data import open_dataset
from vine_vla.data.export.crops import LAYOUT, target_layout
from vine_vla.data.sidecars.files import GRAPHS
from vine_vla.system1 import VineSkillConfig
from vine_vla.system1.sensitivity import Situation, action_spread, measure_sensitivity, situations

TARGET = target_layout(SCHEMA, dict.fromkeys(SCHEMA.cameras, (96, 96)))


class LinearSkill:
    """So much of its action is the verb, so much the object, so much is noise."""

    def __init__(self, verb: float, thing: float, noise: float) -> None:
        self.weights = np.array([verb, thing, noise])

    def start(self, subgoal, text, seed):
        known = ["reach", "leave"].index(subgoal.verb), ["block_1", "block_2"].index(subgoal.args[0])
        self.value = float(self.weights @ [*known, np.random.default_rng(seed).normal()])

    def act(self, observation, graph):
        return SkillOutput(np.array([[self.value, 5.0]], np.float32), 1, np.array([1, 0, 0], np.float32))


@pytest.fixture(scope="module")
def views():
    found = []
    for seed in range(4):
        world = ToyWorld(seed)
        pairs = [(verb, f"block_{i}") for i in (1, 2) for verb in ("reach", "leave")]
        subgoals = tuple((Subgoal(verb, (block,)), f"{verb} it") for verb, block in pairs)
        found.append(Situation(world.observe(), world.graph(), subgoals))
    return found


def test_changes_are_measured_in_units_of_the_actions_spread(views):
    spread = np.array([2.0, np.inf], np.float32)  # the second action never changes
    found = measure_sensitivity(LinearSkill(1.0, 0.5, 0.0), views, spread, steps=3)
    changes = {pair.pair: pair for pair in found.pairs}
    assert changes["reach with other objects"].change == pytest.approx(0.25)
    assert changes["leave, reach"].count == 4 * 4
    assert changes["leave, reach"].change == pytest.approx((0.5 + 0.5 + 0.75 + 0.25) / 4)
    assert all(pair.noise == 0 and pair.sensitive for pair in found.pairs) and found.sensitive


@pytest.mark.parametrize(
    ("skill", "sensitive"),
    [
        (LinearSkill(1, 1, 0.1), {"leave, reach", "reach with other objects", "leave with other objects"}),
        (LinearSkill(1, 0, 0), {"leave, reach"}),
        (LinearSkill(0.05, 0.05, 1), set()),  # noise moves it more
        (LinearSkill(1e-3, 1e-3, 0), set()),  # hardly anything moves it
    ],
)
def test_what_moves_less_than_noise_does_not_count(skill, sensitive, views):
    found = measure_sensitivity(skill, views, np.array([1.0, np.inf], np.float32))
    assert {pair.pair for pair in found.pairs if pair.sensitive} == sensitive
    assert found.sensitive == (len(sensitive) == 3)


def test_situations_are_spread_and_have_several_verbs(toy, skills):
    for dataset in (toy, open_dataset(skills)):
        found = situations(dataset, 4, most=3)
        assert len(found) == 4
        for view in found:
            assert [s.verb for s, _ in view.subgoals] == ["reach", "leave", "reach"]
            assert {t for _, t in view.subgoals} <= {
                f"{verb} the {colour} block" for verb in ("reach", "leave") for colour in ("red", "blue")
            }
    assert len(situations(toy, 10_000)) == sum(
        frame < d.length for d in toy.demonstrations for frame in d.graphs
    )
    assert action_spread(toy).shape == (3,)


def check(capsys, *arguments: object) -> tuple[int, list[str], list[str]]:
    options = ["--frames", "3", "--steps", "4", "--threads", "1"]
    code = main(["skill", "check", *map(str, arguments), *options])
    told = capsys.readouterr()
    return code, told.out.strip().splitlines(), told.err.strip().splitlines()


def test_a_sensitive_policy_passes(toy, skills, tmp_path, capsys):
    """ACT with verb and boxes among its inputs, on demonstrations and on the export."""
    policy = save_act(tmp_path / "act", environment=TARGET.width)
    for dataset, layout in ((toy.root, ["--layout", skills / LAYOUT]), (skills, [])):
        code, out, _ = check(capsys, policy, dataset, *layout, "--least", 0.001)
        assert code == 0 and out[-1] == "the policy's actions change with the subgoal", out
        assert any(line.startswith("reach with other objects") for line in out)
        assert any(line.startswith("leave, reach") for line in out)
    code, out, _ = check(capsys, policy, skills, "--json", "--least", 0.001)
    found = json.loads("\n".join(out))
    assert code == 0 and found["sensitive"] and found["situations"] == 3
    assert all(pair["noise"] == 0 < pair["change"] for pair in found["pairs"])


def test_a_policy_that_reads_neither_is_named(toy, tmp_path, capsys):
    code, out, _ = check(capsys, save_act(tmp_path / "act"), toy.root)
    assert code == 1
    assert out[-1].startswith("the policy reads neither `task` nor `observation.environment_state`: train it")
    assert sum("insensitive" in line for line in out) == 3


def test_a_policy_that_reads_the_verb_alone_is_named(toy, tmp_path, capsys):
    """What an export of whole frames teaches: its vector holds the verb, and no boxes."""
    policy = save_act(tmp_path / "act", environment=len(SCHEMA.verbs))
    code, out, _ = check(capsys, policy, toy.root, "--least", 0.001)
    assert code == 1 and out[-1].startswith(
        "the policy is sensitive to the verb, not to the object (reach with other"
    )


def test_an_untrained_vine_skill_follows_its_noise(toy, skills, tmp_path, capsys):
    """On demonstrations as at run time, crops cut anew; on the export with the crops that it holds."""
    config = VineSkillConfig(device="cpu", width=32, blocks=1, encoder_dtype="float32", push_to_hub=False)
    meta = LeRobotDatasetMetadata("vine/x", root=skills)
    policy = make_policy(config, ds_meta=meta)
    run = tmp_path / "system1"
    policy.save_pretrained(run / "policy")
    for processor in make_pre_post_processors(policy.config, dataset_stats=meta.stats):
        processor.save_pretrained(run / "policy")
    for dataset, remark in ((toy.root, False), (skills, True)):
        code, out, err = check(capsys, run, dataset)
        assert code == 1
        assert out[-1].startswith("the policy may read environment_state, but hardly acts on it")
        assert any("warning: the crops of an export" in line for line in err) == remark


def refused(capsys, *arguments: object) -> str:
    code, _, err = check(capsys, *arguments)
    assert code == 2 and len(err) == 1, err
    return err[0]


def test_bad_input_is_one_line(toy, skills, tmp_path, capsys):
    policy = save_act(tmp_path / "act", environment=TARGET.width)
    assert "no LeRobot policy" in refused(capsys, tmp_path, toy.root)
    assert "no LeRobot dataset" in refused(capsys, policy, tmp_path / "absent")
    assert "no such file" in refused(capsys, policy, toy.root, "--layout", tmp_path / "absent.json")
    assert "is not NAME=KEY (--camera)" in refused(capsys, policy, toy.root, "--camera", "front")
    assert "subgoals is 1" in refused(capsys, policy, toy.root, "--subgoals", 1)
    assert "no device 'nowhere'" in refused(capsys, policy, skills, "--device", "nowhere")
    other = save_act(tmp_path / "other", cameras=("top",), state=9)
    line = refused(capsys, other, toy.root)
    assert "the policy has camera top, observation.state [9], action [3]" in line
    assert "the dataset has camera front, camera wrist, observation.state [6], action [3]" in line
    fits = ["--camera", "front=observation.images.top"]
    assert "camera front, observation.state [9]" in refused(capsys, other, toy.root, *fits)
    (other / "config.json").write_text(json.dumps({"type": "unheard_of"}))
    assert "unknown type 'unheard_of'" in refused(capsys, other, toy.root)


def test_a_dataset_without_graphs_is_refused(toy, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(toy.root, copy)
    (copy / GRAPHS).unlink()
    with pytest.raises(VineError, match="no frame has a scene graph|vine_graphs"):
        situations(open_dataset(copy), 4)


def test_a_layout_beside_the_policy_is_found(toy, tmp_path, capsys):
    policy = save_act(tmp_path / "act", environment=TARGET.width)
    line = refused(capsys, policy, toy.root)
    assert f"observation.environment_state [{TARGET.width}]" in line
    (policy / Path(LAYOUT).name).write_text(TARGET.to_json())
    assert check(capsys, policy, toy.root, "--least", 0.001)[0] == 0
