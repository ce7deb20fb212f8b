"""`vine plan`: what it prints of a plan, and what it says to bad input."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from search.problems import Witness, ensemble, harsh_rule
from system2.pictures import PictureSource

from vine_vla import VineError
from vine_vla.cli import main
from vine_vla.cli.plan import Config, observe
from vine_vla.core.graph import Schema
from vine_vla.core.protocols import PlanStatus
from vine_vla.data import open_dataset
from vine_vla.data.observations import read_frames, read_images, read_proprioception
from vine_vla.search import SearchConfig, TabularModel, TreePlanner, load_trace
from vine_vla.search.plan_text import plan_lines
from vine_vla.system2.compact import OutcomeConfig, PerceptionConfig, System2Config, train_system2
from vine_vla.system2.compact.fit import FitConfig


def made(tau: float, **rule):
    base = ensemble(21, states=6, actions=3)
    model = TabularModel(base.members, rule=harsh_rule(base, tau=tau, **rule))
    plan = TreePlanner(model, SearchConfig(k=3), Witness()).plan(model.graph(0), "go", 3)
    return plan, plan_lines(model.graph(0), plan)


def test_a_plan_is_printed_with_scene_options_and_cuts():
    plan, lines = made(0.75)
    text = "\n".join(lines)
    assert plan.status is PlanStatus.PLANNED
    assert "system: system {state=0.0}" in text
    assert f"  1. {plan.subgoals[0]}  do 0 with the system" in lines
    kept, cut = [[o for o in plan.options if (o.pruned is None) == k] for k in (True, False)]
    assert kept and cut
    for option in kept:
        assert any(
            line.startswith(option.text) and f"{option.feasibility:.2f}  [{option.lower:.2f}" in line
            for line in lines
        )
    assert f"pruned ({len(cut)} of {len(plan.options)})" in text
    flat = " ".join(text.split())
    for option in cut:
        assert f"{option.text}: P(reach)" in flat
        assert f"nearest episodes: failed bad_{option.subgoal.verb}, bad_2" in flat
    assert f"{plan.expansions} expansions" in lines[-1]


def test_a_no_is_printed_as_a_no():
    plan, lines = made(1.1)
    assert plan.status is PlanStatus.INFEASIBLE
    text = "\n".join(lines)
    assert "infeasible: all 3 options are pruned" in text
    assert "\nplan\n" not in text


def test_images_are_read_by_camera(tmp_path):
    schema = ensemble(0).schema
    for camera in schema.cameras:
        Image.new("RGBA", (8, 6), (10, 20, 30, 255)).save(tmp_path / f"{camera}.png")
    pairs = tuple(f"{camera}={tmp_path / camera}.png" for camera in schema.cameras)
    images = read_images(pairs, schema)
    assert list(images) == list(schema.cameras)
    assert images["front"].shape == (6, 8, 3)
    assert images["front"][0, 0].tolist() == [10, 20, 30]
    for bad, message in (
        (pairs[1:], "no image of front"),
        ((*pairs, pairs[0]), "given twice"),
        (("top=a.png",), "names no camera"),
        (("front",), "names no camera"),
        ((f"front={tmp_path / 'absent.png'}",), "cannot read the image"),
    ):
        with pytest.raises(VineError, match=message):
            read_images(bad, schema)


def test_the_robots_state_is_a_flat_list(tmp_path):
    file = tmp_path / "state.json"
    file.write_text(json.dumps([0.5, -1, 2]))
    np.testing.assert_array_equal(read_proprioception(file), np.array([0.5, -1, 2], np.float32))
    with pytest.raises(VineError, match="cannot read"):
        read_proprioception(tmp_path / "absent.json")
    for text in ('{"a": 1}', "[[1, 2]]", "[]", "[NaN]", '["x"]', "[1,"):
        file.write_text(text)
        with pytest.raises(VineError, match="list"):
            read_proprioception(file)


def test_a_frame_of_a_dataset_stands_in_for_images():
    schema = Schema(("cup",), {}, (), (), ("top",))
    excerpt = Path(__file__).parents[1] / "data/cr5_excerpt"
    ((seen, instruction),) = read_frames(excerpt, schema, [1], 3)
    dataset = open_dataset(excerpt)
    np.testing.assert_array_equal(seen.images["top"], dataset.images(1, [3], "top")[0])
    np.testing.assert_array_equal(seen.proprioception, dataset.proprioception(1)[3])
    assert instruction == "put the USB stick on the book"
    for episode, frame, message in ((2, 3, "episode 2 of 2"), (1, 182, "frame 182 of 182")):
        with pytest.raises(VineError, match=message):
            read_frames(excerpt, schema, [episode], frame)
    with pytest.raises(VineError, match="no camera 'front'"):
        read_frames(excerpt, Schema(("cup",), {}, (), (), ("front",)), [1], 3)


def test_frames_of_several_episodes():
    excerpt = Path(__file__).parents[1] / "data/cr5_excerpt"
    schema = Schema(("cup",), {}, (), (), ("top",))
    both = read_frames(excerpt, schema, range(2), 0)
    assert not np.array_equal(both[0][0].images["top"], both[1][0].images["top"])
    with pytest.raises(VineError, match="episode 2 of 2"):
        read_frames(excerpt, schema, range(3), 0)


def test_the_words_given_come_before_the_datasets():
    excerpt = Path(__file__).parents[1] / "data/cr5_excerpt"
    model = SimpleNamespace(schema=Schema(("cup",), {}, (), (), ("top",)))
    config = Config(excerpt, dataset=excerpt, episode=1, frame=3)
    assert observe(config, model)[0][1] == "put the USB stick on the book"
    assert observe(replace(config, instruction="wait"), model)[0][1] == "wait"
    with pytest.raises(VineError, match="neither --image nor"):
        replace(config, image=("top=a.png",))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose System 2 has learned a little from pictures, and two images of a scene with the state."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("run")
    source = PictureSource(16, length=4)
    quick = FitConfig(epochs=2, least_steps=20)
    outcomes = OutcomeConfig(
        **{"members": 2, "width": 16, "dynamics_width": 16, "proposal_width": 16, "value_width": 16},
        **{"states": 60, "outcome": quick, "dynamics": quick, "proposal": quick},
        **{"value": FitConfig(epochs=1, least_steps=5, batch=32), "value_mu": quick},
    )
    config = System2Config(
        outcomes, PerceptionConfig(steps=30, batch=8, width=16), calibrate_on_perceived=False
    )
    train_system2(source, run / "system2", config)
    images, state, _ = source.views[0][0]
    for camera, image in images.items():
        Image.fromarray(image).save(run / f"{camera}.png")
    (run / "state.json").write_text(json.dumps([float(v) for v in state]))
    return run


def arguments(run, out, *more):
    images = [f"--image={camera}={run / camera}.png" for camera in ("front", "wrist")]
    return ["plan", str(run), *images, "--instruction", "put the brick on a plate", "--out", str(out), *more]


@pytest.mark.parametrize("planner", ["tree", "greedy", "exhaustive", "imitate"])
def test_vine_plan_from_images_to_tree(trained, planner, tmp_path, capsys):
    out = tmp_path / "tree.json"
    state = str(trained / "state.json")
    code = main(arguments(trained, out, "--planner", planner, "--proprioception", state))
    told = capsys.readouterr()
    tree = load_trace(out)
    assert code == (0 if tree["status"] == "planned" else 1)
    assert tree["planner"] == planner
    assert told.out.startswith("scene graph\n")
    assert f"{tree['status']}: " in told.out
    assert "gripper: gripper" in tree["nodes"][0]["graph"]
    assert "remark" not in told.err
    for option in tree["nodes"][0]["options"]:
        assert option["text"].startswith("put the ")
        assert option["text"] in told.out


def test_vine_plan_without_a_state_says_so(trained, tmp_path, capsys):
    main(arguments(trained, tmp_path / "tree.json", "--json"))
    told = capsys.readouterr()
    assert "mean state of the training data" in told.err
    assert json.loads(told.out) == load_trace(tmp_path / "tree.json")


def test_vine_plan_without_budget_is_infeasible(trained, tmp_path, capsys):
    assert main(arguments(trained, tmp_path / "tree.json", "--budget", "0")) == 1
    assert "infeasible: the subgoal budget is used up" in capsys.readouterr().out


def test_vine_plan_sweeps_the_time(trained, tmp_path, capsys):
    out = tmp_path / "sweep.csv"
    assert main(arguments(trained, out, "--sweep", "1", "--budget", "2")) == 0
    rows = pd.read_csv(out)
    assert rows["limit"].tolist() == [0.005, 0.02, 0.05, 0.2, 1.0]
    assert (rows["expansions"].diff().dropna() >= 0).all()
    assert "regret" in capsys.readouterr().out
    assert not (tmp_path / "tree.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--sweep", "2"), "sweep is 2 (--sweep): with --image it is 1"),
        (("--variant", "withhold"), "no variant 'withhold'"),
        (("--budget", "-1"), "budget is -1"),
        (("--expansions", "-3"), "expansions is -3"),
        (("--image", "front=again.png"), "given twice"),
        (("--proprioception", "absent.json"), "cannot read the state"),
    ],
)
def test_vine_plan_says_what_is_wrong(trained, more, message, tmp_path, capsys):
    assert main(arguments(trained, tmp_path / "tree.json", *more)) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 or "remark" in told[0]
    assert message in told[-1]
    assert not (tmp_path / "tree.json").exists()


def test_vine_plan_of_a_folder_without_a_run(tmp_path, capsys):
    assert main(arguments(tmp_path, tmp_path / "tree.json")) == 2
    assert "system2" in capsys.readouterr().err
