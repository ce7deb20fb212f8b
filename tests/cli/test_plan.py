"""`vine plan`: what it prints of a plan, and what it says to bad input."""

import json

import numpy as np
import pytest
from PIL import Image
from search.problems import Witness, ensemble, harsh_rule

from vine_vla import VineError
from vine_vla.cli._plan_text import plan_lines
from vine_vla.cli.plan import read_images, read_proprioception
from vine_vla.protocols import PlanStatus
from vine_vla.search import SearchConfig, TabularModel, TreePlanner


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
    assert f"cut ({len(cut)} of {len(plan.options)})" in text
    flat = " ".join(text.split())
    for option in cut:
        assert f"{option.text}: P(reach)" in flat
        assert f"nearest episodes: failed bad_{option.subgoal.verb}, bad_2" in flat
    assert f"{plan.expansions} expansions" in lines[-1]


def test_a_no_is_printed_as_a_no():
    plan, lines = made(1.1)
    assert plan.status is PlanStatus.INFEASIBLE
    text = "\n".join(lines)
    assert "infeasible: all 3 options are cut" in text
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


def test_the_robots_state_is_never_made_up(tmp_path):
    file = tmp_path / "state.json"
    file.write_text(json.dumps([0.5, -1, 2]))
    np.testing.assert_array_equal(read_proprioception(file), np.array([0.5, -1, 2], np.float32))
    with pytest.raises(VineError, match="state is missing"):
        read_proprioception(None)
    with pytest.raises(VineError, match="cannot read"):
        read_proprioception(tmp_path / "absent.json")
    for text in ('{"a": 1}', "[[1, 2]]", "[]", "[NaN]", '["x"]', "[1,"):
        file.write_text(text)
        with pytest.raises(VineError, match="list"):
            read_proprioception(file)
