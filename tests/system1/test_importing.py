"""A policy of others becomes a run's System 1: copied without pickles, frozen, its actions understood."""

import json
import shutil

import numpy as np
import pytest
from system1.toy import SCHEMA, ToyWorld

from vine_vla.cli import main
from vine_vla.core.errors import VineError
from vine_vla.core.options import Subgoal
from vine_vla.system1.adapters.importing import import_policy, load_run_skill, skill_actions
from vine_vla.system1.adapters.skills import LeRobotSkill

REACH = Subgoal("reach", ("block_1",))


def test_imported_from_the_command_line_it_acts_as_before(checkpoint, toy, tmp_path, capsys):
    out = tmp_path / "run/system1"
    checkpoint = shutil.copytree(checkpoint, tmp_path / "pretrained_model")
    (checkpoint / "optimizer.pkl").write_bytes(b"not for us")
    assert main(["skill", "import", str(checkpoint), str(toy.root), "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(out) and "no done head" in told.err
    assert not list(out.rglob("*.pkl"))
    skill, before, world = load_run_skill(out, SCHEMA), LeRobotSkill.load(checkpoint), ToyWorld(0)
    for one in (skill, before):
        one.start(REACH, "reach", 0)
    for _ in range(3):
        found = [one.act(world.observe(), world.graph()).actions for one in (skill, before)]
        np.testing.assert_array_equal(*found)
    kinds = skill_actions(out, skill)
    assert kinds.motions and kinds.switches == (2,) and len(kinds.low) == 3
    assert main(["skill", "import", str(checkpoint), str(toy.root), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_episodes_at_the_same_time_have_their_own_queues(checkpoint):
    first, world = LeRobotSkill.load(checkpoint), ToyWorld(0)
    second = first.another()
    assert second.weights == first.weights
    first.start(REACH, "reach", 0)
    alone = [first.act(world.observe(), world.graph()).actions for _ in range(4)]
    first.start(REACH, "reach", 0)
    mixed = [first.act(world.observe(), world.graph()).actions for _ in range(2)]
    second.start(Subgoal("leave", ("block_2",)), "leave", 1)
    second.act(world.observe(), world.graph())
    mixed += [first.act(world.observe(), world.graph()).actions for _ in range(2)]
    np.testing.assert_array_equal(alone, mixed)
    own, shared = (next(s.policy.parameters()).data_ptr() for s in (first, second))
    assert own == shared


def test_weights_that_changed_are_refused(checkpoint, toy, tmp_path):
    out = import_policy(checkpoint, toy, tmp_path / "system1")
    weights = out / "policy/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(VineError, match="weights have changed"):
        load_run_skill(out, SCHEMA)


def test_what_cannot_be_imported_leaves_nothing_behind(checkpoint, toy, tmp_path):
    wrong = shutil.copytree(checkpoint, tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    config["type"] = "nobody_knows"
    (wrong / "config.json").write_text(json.dumps(config))
    with pytest.raises(VineError, match="unknown type 'nobody_knows'"):
        import_policy(wrong, toy, tmp_path / "system1")
    with pytest.raises(VineError, match="no done head"):
        import_policy(checkpoint, toy, tmp_path / "system1", done=tmp_path)
    assert not (tmp_path / "system1").exists()
