"""LeRobot's own SmolVLA as System 1: a vision-language-action model that is told the subgoal in words."""

import json
from pathlib import Path

import numpy as np
import pytest
from system1.policies import save_smolvla
from system1.toy import SCHEMA, ToyWorld

from vine_vla.cli import main
from vine_vla.core.options import Subgoal
from vine_vla.system1.adapters.importing import import_policy, load_run_skill
from vine_vla.system1.adapters.skills import LeRobotSkill

REACH, LEAVE = Subgoal("reach", ("block_1",)), Subgoal("leave", ("block_1",))


@pytest.fixture(scope="module")
def smolvla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_smolvla(tmp_path_factory.mktemp("smolvla") / "pretrained_model")


def test_its_action_changes_with_the_text_and_a_switch_drops_the_queue(smolvla):
    skill, world = LeRobotSkill.load(smolvla), ToyWorld(0)
    assert skill.policy.name == "smolvla" and skill.layout is None and skill.horizon == 4

    def act(subgoal, text, seed=0):
        skill.start(subgoal, text, seed)
        return skill.act(world.observe(), world.graph()).actions

    red = act(REACH, "reach the red block")
    assert red.shape == (4, 3) and np.isfinite(red).all()
    np.testing.assert_array_equal(act(LEAVE, "reach the red block"), red)  # it reads the text, nothing else
    assert np.abs(act(REACH, "leave the blue block") - red).max() > 1e-4
    assert np.abs(act(REACH, "reach the red block", seed=1) - red).max() > 1e-4  # its noise
    # A queue that was not used up is dropped with the subgoal that it was for.
    skill.start(LEAVE, "leave the blue block", 0)
    skill.act(world.observe(), world.graph())
    assert len(skill.policy._queues["action"]) == 4
    np.testing.assert_array_equal(act(REACH, "reach the red block"), red)
    found = skill.signals()
    assert found.spread > 1e-3 and found == skill.signals() and np.isnan(found.distance)
    np.testing.assert_array_equal(act(REACH, "reach the red block"), red)
    skill.check()


def test_imported_it_acts_as_before(smolvla, toy, tmp_path):
    out = import_policy(smolvla, toy, tmp_path / "system1")
    skill, before, world = load_run_skill(out, SCHEMA), LeRobotSkill.load(smolvla), ToyWorld(0)
    found = []
    for one in (skill, before):
        one.start(REACH, "reach the red block", 0)
        found.append(one.act(world.observe(), world.graph()).actions)
    np.testing.assert_array_equal(*found)


def test_the_check_says_whether_it_is_sensitive(smolvla, toy, capsys):
    options = ["--frames", "3", "--steps", "4", "--threads", "1", "--least", "1e-6", "--json"]
    code = main(["skill", "check", str(smolvla), str(toy.root), *options])
    pairs = {pair["pair"]: pair for pair in json.loads(capsys.readouterr().out)["pairs"]}
    assert code in (0, 1)  # whether words move untrained weights more than noise does is chance
    assert pairs["leave, reach"]["change"] > 1e-3 and pairs["leave, reach"]["noise"] > 0
