"""The done head: figures by hand, real training on the toy world, saving, and bad input."""

import json
import shutil

import numpy as np
import pytest
import torch
from system1.policies import save_act
from system1.toy import SCHEMA, ToyWorld, record_toy

from vine_vla.agent import AgentConfig
from vine_vla.cli import main
from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema, Verb
from vine_vla.core.options import Outcome, Subgoal
from vine_vla.core.protocols import DONE, FAILED, RUNNING
from vine_vla.data.export.crops import LAYOUT
from vine_vla.data.export.skills import export_skills
from vine_vla.data.sidecars.files import SEGMENTS
from vine_vla.system1 import DoneHead, DoneTraining, Stopping, train_done
from vine_vla.system1.adapters.skills import LeRobotSkill
from vine_vla.system1.done import training as done_training
from vine_vla.system1.done.figures import Decision, decide, figures
from vine_vla.system1.done.head import INFO, WEIGHTS, DoneNet
from vine_vla.system1.vine_skill.labels import IGNORED
from vine_vla.system1.vine_skill.waypoints import Clip

AGENT = Stopping(AgentConfig().done_threshold, AgentConfig().failed_threshold, AgentConfig().hysteresis)
REACH = Subgoal("reach", ("block_1",))


def says(classes: str) -> np.ndarray:
    """Probabilities of .9 for running, done, failed: one letter of r, d, f a frame."""
    found = np.full((len(classes), 3), 0.05, np.float32)
    found[np.arange(len(classes)), ["rdf".index(c) for c in classes]] = 0.9
    return found


def labelled(classes: str) -> np.ndarray:
    return np.array([{"r": RUNNING, "d": DONE, "f": FAILED, "-": IGNORED}[c] for c in classes])


def test_a_decision_takes_two_looks_in_a_row():
    assert decide(says("rrdrdd"), AGENT) == Decision(DONE, 5)
    assert decide(says("rrfffd"), AGENT) == Decision(FAILED, 3)
    assert decide(says("rdrdrd"), AGENT) is None
    assert decide(says("rdrdrd"), Stopping(0.5, 0.6, 1)) == Decision(DONE, 1)
    assert decide(says("rrdrdd"), Stopping(0.5, 0.6, 2, every=2)) == Decision(DONE, 4)
    assert decide(says("rrdd"), Stopping(2.0, 2.0, 1)) is None
    with pytest.raises(VineError, match="hysteresis is 0"):
        Stopping(0.5, 0.6, 0)


def test_figures_by_hand():
    cases = [  # labels, what the head says, how it is judged
        ("rrrrddd", "rrrrrdd"),  # done, right, in the last frame
        ("rrrrddd", "rrddddd"),  # done, premature by a frame before the label begins
        ("rrrrddd", "rrrrffr"),  # done, confused
        ("rrrrddd", "rrrrrrd"),  # done, missed
        ("rrrrfff", "rrrrfff"),  # failed, right, a frame early
        ("rrrr--", "rrrrdd"),  # running, of whose end nothing is known
        ("rrrrrr", "rrddrr"),  # running, a false alarm
    ]
    labels = labelled("".join(case[0] for case in cases))
    said = says("".join(case[1] for case in cases))
    ends = np.cumsum([len(case[0]) for case in cases])
    clips = [
        Clip(f"e{n}.00", int(end) - len(case[0]), int(end), None, Outcome.REACHED)
        for n, (case, end) in enumerate(zip(cases, ends, strict=True))
    ]
    found = figures(said, labels, clips, AGENT)
    quarter = dict.fromkeys(("right", "premature", "confused", "missed"), 0.25)
    assert found["done"] == {"clips": 4} | quarter | {
        "error_frames": {"mean": -1.5, "median": -1.5, "mean_absolute": 1.5}
    }
    assert found["failed"]["right"] == 1 and found["failed"]["error_frames"]["mean"] == -1
    assert found["running"] == {"clips": 2, "right": 0.5, "premature": 0.5, "confused": 0.0, "missed": 0.0}
    assert found["frames"] == 47 - 2 and found["always_running"] == pytest.approx(30 / 45, abs=1e-4)
    assert found["accuracy"] == pytest.approx((45 - 1 - 2 - 3 - 2 - 2) / 45, abs=1e-4)
    assert found["recall"]["failed"] == 1


@pytest.fixture(scope="module")
def skills(tmp_path_factory):
    """Fifteen episodes of two segments, some of which slip."""
    toy = record_toy(tmp_path_factory.mktemp("done"), episodes=16)
    return export_skills(toy, toy.root.parent / "skills", threads=1).out


@pytest.fixture(scope="module")
def trained(skills):
    """The head that a user gets from the command line, and its figures."""
    torch.set_num_threads(1)
    out = skills.parent / "head"
    options = ["--steps", "250", "--batch-size", "16", "--learning-rate", "2e-3", "--threads", "1"]
    assert main(["train", "done", str(skills), "--out", str(out), *options]) == 0
    return out, json.loads((out / "metrics.json").read_text())


def test_it_learns_and_says_how_well(trained):
    out, metrics = trained
    held = metrics["held_out"]
    assert held["episodes"] == 3 and held["clips"] == 6
    assert held["accuracy"] > 0.8 and held["always_running"] < 0.7
    assert held["done"]["right"] + held["done"]["premature"] > 0.7 and held["done"]["missed"] < 0.2
    assert abs(held["done"]["error_frames"]["mean"]) < 4
    assert metrics["stopping"] == {
        "done_threshold": 0.5,
        "failed_threshold": 0.6,
        "hysteresis": 2,
        "every": 1,
    }
    assert sorted(p.name for p in out.iterdir()) == [INFO, WEIGHTS, "metrics.json"]


def test_it_sees_at_run_time_what_it_saw_in_training(trained):
    """A hand that arrives and closes is done; one that has not set out is not."""
    head = DoneHead.load(trained[0], SCHEMA)
    right = 0
    for seed in range(300, 308):
        world = ToyWorld(seed)
        head.start(REACH, "reach", 0)
        before = head.done(world.observe(), world.graph())
        for _ in range(15):
            world.step(world.expert(0))
        after = head.done(world.observe(), world.graph())
        assert before.dtype == np.float32 and before.sum() == pytest.approx(1, abs=1e-5)
        right += int(before[RUNNING] > 0.5) + int(after[DONE] > 0.5)
    assert right >= 14


def test_it_stands_beside_a_policy_that_has_none(trained, skills, tmp_path):
    head, world = DoneHead.load(trained[0], SCHEMA), ToyWorld(0)
    policy = save_act(tmp_path / "act", environment=head.net.layout.width)
    skill = LeRobotSkill.load(policy, layout=skills / LAYOUT, done=head.another())
    for each in (head, skill):
        each.start(REACH, "reach the red block", 0)
    said = skill.act(world.observe(), world.graph()).done
    assert np.array_equal(said, head.done(world.observe(), world.graph())) and 0 < said[DONE] < 1


def test_saved_and_loaded_it_says_the_same(trained, tmp_path):
    world = ToyWorld(0)
    heads = [DoneHead.load(trained[0], SCHEMA) for _ in range(2)]
    heads.append(heads[0].another())
    for head in heads:
        head.start(REACH, "reach", 0)
    said = [head.done(world.observe(), world.graph()) for head in heads]
    assert np.array_equal(said[0], said[1]) and np.array_equal(said[0], said[2])
    heads[0].start(Subgoal("reach", ("block_2",)), "reach", 0)
    assert not np.array_equal(heads[0].done(world.observe(), world.graph()), said[0])


def test_a_finished_head_is_kept_and_judged_again(trained, skills, monkeypatch):
    out, metrics = trained
    config = DoneTraining(steps=250, batch_size=16, learning_rate=2e-3)
    monkeypatch.setattr(done_training, "_fit", None)
    again = train_done(skills, out, config, Stopping(0.5, 0.6, 2, every=3))
    assert again["held_out"]["accuracy"] == metrics["held_out"]["accuracy"]
    assert again["stopping"]["every"] == 3
    with pytest.raises(VineError, match="holds a done head trained otherwise"):
        train_done(skills, out, DoneTraining(steps=251), AGENT)


class KilledError(Exception):
    """What stands for a kill."""


def test_a_killed_training_goes_on_as_if_nothing_had_happened(skills, tmp_path):
    config = DoneTraining(steps=6, batch_size=4, save_every=2)
    whole = train_done(skills, tmp_path / "whole", config, AGENT)

    def kill(what: str, step: int, steps: int) -> None:
        if step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train_done(skills, tmp_path / "killed", config, AGENT, report=kill)
    assert [p.name for p in (tmp_path / "killed").iterdir()] == [done_training.CHECKPOINT]
    steps = []
    again = train_done(
        skills, tmp_path / "killed", config, AGENT, report=lambda what, step, of: steps.append((what, step))
    )
    assert again == whole and [step for what, step in steps if what == "done head"] == [4, 5, 6]
    weights = [(tmp_path / name / WEIGHTS).read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_what_does_not_fit_at_run_time_is_told(trained, tmp_path):
    out, _ = trained
    head, world = DoneHead.load(out, SCHEMA), ToyWorld(0)
    seen = world.observe()
    with pytest.raises(VineError, match="no subgoal has been started"):
        head.done(seen, world.graph())
    head.start(REACH, "reach", 0)
    with pytest.raises(VineError, match="needs front, wrist: the observation has front"):
        head.done(seen._replace(images={"front": seen.images["front"]}), world.graph())
    with pytest.raises(VineError, match="state has 2 numbers, the done head was trained on 6"):
        head.done(seen._replace(proprioception=np.zeros(2, np.float32)), world.graph())
    other = Schema(("block",), {}, (), (Verb("push", ("block",), "push {0}"),), ("top",))
    with pytest.raises(VineError, match="cameras front, wrist and verbs reach, leave.*top and verbs push"):
        DoneHead.load(out, other)
    with pytest.raises(VineError, match="no done head.*vine train done"):
        DoneHead.load(tmp_path, SCHEMA)
    with pytest.raises(VineError, match="no device 'cuda:99'|no device 'nowhere'"):
        DoneHead.load(out, SCHEMA, device="nowhere")


def test_a_damaged_head_is_refused(trained, tmp_path):
    for name, change, message in (
        (WEIGHTS, lambda data: data[:-1] + bytes([data[-1] ^ 1]), "weights have changed"),
        (INFO, lambda data: data[:40], "damaged JSON"),
        (INFO, lambda data: data.replace(b'"format": 1', b'"format": 9'), "not a done head of this version"),
        (INFO, lambda data: data.replace(b'"width"', b'"height"'), "damaged done head"),
    ):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(trained[0], copy)
        (copy / name).write_bytes(change((copy / name).read_bytes()))
        with pytest.raises(VineError, match=message):
            DoneHead.load(copy, SCHEMA)


def told(capsys, *arguments: object) -> str:
    """The one line on stderr of a command that is refused."""
    assert main(["train", "done", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_bad_input_is_one_line(skills, toy, flat, tmp_path, capsys):
    out = tmp_path / "out"
    assert "no LeRobot dataset" in told(capsys, tmp_path / "absent", "--out", out)
    assert "no crops" in told(capsys, toy.root, "--out", out)
    assert "whole episodes" in told(capsys, flat, "--out", out)
    copy = tmp_path / "copy"
    shutil.copytree(skills, copy)
    (copy / SEGMENTS).unlink()
    assert "has no segments" in told(capsys, copy, "--out", out)
    shutil.copy(skills / SEGMENTS, copy / SEGMENTS)
    layout = json.loads((copy / LAYOUT).read_text())
    (copy / LAYOUT).write_text(json.dumps(layout | {"cameras": ["front", "side"]}))
    line = told(capsys, copy, "--out", out)
    assert "observation.images.side [80, 80, 3]" in line and "observation.images.wrist [80, 80, 3]" in line
    assert "steps is 0" in told(capsys, skills, "--out", out, "--steps", 0)
    assert "held_out is 1.0" in told(capsys, skills, "--out", out, "--held-out", 1.0)
    assert "every is 0" in told(capsys, skills, "--out", out, "--every", 0)
    assert "no device 'nowhere'" in told(capsys, skills, "--out", out, "--device", "nowhere")
    assert not out.exists()


def test_one_episode_cannot_be_held_out(tmp_path, capsys):
    toy = record_toy(tmp_path, episodes=2)  # of which the last is for calibration
    single = export_skills(toy, tmp_path / "skills", threads=1).out
    assert "none can be held out" in told(capsys, single, "--out", tmp_path / "out")


def test_the_net_is_small_and_fits_small_windows(skills):
    layout = done_training._check_dataset(skills)
    assert sum(p.numel() for p in DoneNet(layout, 6).parameters()) < 500_000
