"""The tree as JSON: golden trees, round trip, and clear errors for files that are none."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
from core.strategies import SCHEMA, graphs
from hypothesis import given, settings
from search.problems import EXACT, ensemble, harsh_rule

from vine_vla import VineError, pack, unpack
from vine_vla.core.text import parse_graph
from vine_vla.search import (
    ExhaustivePlanner,
    GreedyPlanner,
    ImitatePlanner,
    SearchConfig,
    TabularModel,
    TreePlanner,
    load_trace,
    save_trace,
    validate_trace,
)
from vine_vla.search.packed_text import packed_texts

GOLDEN = Path(__file__).parent / "golden"


def example(name: str) -> dict:
    """The tree of one small decision."""
    base = ensemble(21, states=6, actions=3)
    support = np.ones(base.members[0].prior.shape)
    support[:, 2] = 0.2
    pruned = TabularModel(base.members, rule=harsh_rule(base, tau=0.75, min_support=0.5), support=support)
    config = SearchConfig(k=3, expansions=7, leaves=2, depth=3)
    planner, model, budget = {
        "tree": (TreePlanner, base, 3),
        "pruned": (TreePlanner, pruned, 3),
        "greedy": (GreedyPlanner, base, 2),
        "exhaustive": (ExhaustivePlanner, base, 2),
        "imitate": (ImitatePlanner, base, 2),
        "budget_0": (TreePlanner, base, 0),
    }[name]
    return dict(planner(model, config).plan(model.graph(0), "reach the goal", budget).tree)


NAMES = ("tree", "pruned", "greedy", "exhaustive", "imitate", "budget_0")


@pytest.mark.parametrize("name", NAMES)
def test_trees_are_the_golden_ones(name):
    """Set VINE_WRITE_GOLDEN=1 to write them anew, then look at the difference."""
    trace, path = example(name), GOLDEN / f"{name}.json"
    if os.environ.get("VINE_WRITE_GOLDEN"):
        save_trace(path, trace)
    assert_close(load_trace(path), trace)


def assert_close(golden, found, where: str = "tree") -> None:
    if isinstance(golden, dict):
        assert golden.keys() == found.keys(), where
        for key in golden:
            assert_close(golden[key], found[key], f"{where}.{key}")
    elif isinstance(golden, list):
        assert len(golden) == len(found), where
        for place, (a, b) in enumerate(zip(golden, found, strict=True)):
            assert_close(a, b, f"{where}[{place}]")
    elif isinstance(golden, float):
        assert found == pytest.approx(golden, abs=2e-5), where
    else:
        assert found == golden, where


@pytest.mark.parametrize("name", NAMES)
def test_trace_round_trip(name, tmp_path):
    trace = example(name)
    save_trace(tmp_path / "new" / "tree.json", trace)
    assert load_trace(tmp_path / "new" / "tree.json") == trace
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["tree.json"]
    for node in trace["nodes"]:
        parse_graph(node["graph"])


def test_the_trace_tells_what_the_plan_tells():
    model = ensemble(21)
    plan = TreePlanner(model, SearchConfig(k=4, expansions=20)).plan(model.graph(0), "go", 4)
    root = plan.tree["nodes"][0]
    by_name = {o["subgoal"]: o for o in root["options"]}
    for option in plan.options:
        told = by_name[str(option.subgoal)]
        assert told["feasibility"] == pytest.approx(option.feasibility, abs=1e-6)
        assert (told["visits"], told["text"]) == (option.visits, option.text)
    node, option = plan.tree["variation"][0]
    assert (node, root["options"][option]["subgoal"]) == (0, str(plan.subgoals[0]))
    assert root["value"] == pytest.approx(plan.feasibility, abs=1e-6)
    for node in plan.tree["nodes"]:
        if node["best"] is not None:
            assert node["options"][node["best"]]["feasibility"] == node["value"]


def test_a_short_trace_keeps_the_principal_variation():
    model = ensemble(11, states=30, concentration=(0.2, 4, 0.2, 0.2), members=2)
    settings_ = {"k": 4, "expansions": 64, **EXACT}
    full = TreePlanner(model, SearchConfig(**settings_)).plan(model.graph(0), "", 5)
    short = TreePlanner(model, SearchConfig(trace=1, **settings_)).plan(model.graph(0), "", 5)
    assert len(full.subgoals) > 2
    assert len(short.tree["nodes"]) == len(full.subgoals)
    validate_trace(short.tree)
    told = [short.tree["nodes"][n]["options"][k]["subgoal"] for n, k in short.tree["variation"]]
    assert told == [str(s) for s in full.subgoals]


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_packed_graphs_print_like_unpacked_ones(graph):
    packed = pack([graph], SCHEMA)
    told, expected = parse_graph(packed_texts(packed, SCHEMA)[0]), unpack(packed, SCHEMA)[0]
    assert told.relations == expected.relations
    for a, b in zip(told.objects, expected.objects, strict=True):
        assert (a.id, a.cls, list(a.boxes), list(a.attributes)) == (
            b.id,
            b.cls,
            list(b.boxes),
            list(b.attributes),
        )
        for camera in a.boxes:
            assert a.boxes[camera] == pytest.approx(b.boxes[camera], abs=1e-4)
        for name, value in a.attributes.items():
            assert value == (
                b.attributes[name] if isinstance(value, str) else pytest.approx(b.attributes[name], abs=1e-4)
            )


def broken(change) -> dict:
    trace = copy.deepcopy(example("tree"))
    change(trace)
    return trace


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(kind="x"), "not a search tree"),
        (lambda t: t.update(version=9), "version 9 is not 1"),
        (lambda t: t.pop("reason"), "field reason is missing"),
        (lambda t: t["nodes"][1].pop("graph"), r"field graph is missing .*nodes\[1\]"),
        (lambda t: t["nodes"][2].update(id=5), "out of order"),
        (lambda t: t["nodes"][0]["options"][1].update(prior="high"), r"options\[1\]"),
        (lambda t: t["nodes"][0]["options"][0]["p"].update(goal=0.9), "do not sum to 1"),
        (
            lambda t: t["nodes"][0]["options"][0].update(lower=0.99, upper=0.99),
            "does not cover the feasibility",
        ),
        (lambda t: t["nodes"][0]["options"][0]["children"].update(reached=99), "does not point back"),
    ],
)
def test_a_broken_tree_is_named(change, message, tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(broken(change)))
    with pytest.raises(VineError, match=message) as caught:
        load_trace(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_trees(tmp_path):
    with pytest.raises(VineError, match="cannot read"):
        load_trace(tmp_path / "absent.json")
    (tmp_path / "half.json").write_text('{"kind": ')
    with pytest.raises(VineError, match="not JSON"):
        load_trace(tmp_path / "half.json")
