"""The tree as the page draws it: every option once, the plan's path marked, cuts with their reasons."""

import pytest
from report.bench import DrawnWorld, make_model

from vine_vla.core.errors import VineError
from vine_vla.report import Decided, write_decision
from vine_vla.report import tree as drawing
from vine_vla.report.tree import root_options, tidy, tree_view
from vine_vla.search.config import SearchConfig
from vine_vla.search.planners import make_planner


@pytest.fixture(scope="module")
def plan():
    world = DrawnWorld()
    world.reset(405, 0)
    planner = make_planner("tree", make_model(), SearchConfig(expansions=40))
    return planner.plan(world.true_graph(), world.instruction, 5, seed=0)


def test_every_option_of_the_search_is_drawn_once(plan):
    nodes = tree_view(plan.tree, "t", "here")["nodes"]
    assert len(nodes) == 1 + sum(len(n["options"]) for n in plan.tree["nodes"])
    assert all(node["parent"] < i for i, node in enumerate(nodes) if i)
    assert all(nodes[node["parent"]]["depth"] == node["depth"] - 1 for node in nodes[1:])
    root = [n for n in nodes[1:] if n["parent"] == 0]
    assert [n["name"] for n in root] == [str(o.subgoal) for o in plan.options]
    assert [n["v"] for n in root] == pytest.approx([o.feasibility for o in plan.options], abs=1e-5)
    assert [n["visits"] for n in root] == [o.visits for o in plan.options]


def test_the_plan_is_the_marked_path(plan):
    nodes = tree_view(plan.tree, "t", "here")["nodes"]
    best = [i for i, node in enumerate(nodes) if node["best"]]
    assert [nodes[i]["name"] for i in best] == [str(s) for s in plan.subgoals]
    assert [nodes[i]["parent"] for i in best] == [0, *best[:-1]]


def test_cut_options_keep_their_reason_and_come_last(plan):
    nodes = tree_view(plan.tree, "t", "here")["nodes"]
    cut = [i for i, node in enumerate(nodes) if node["pruned"]]
    assert cut and all("is under" in nodes[i]["pruned"] and nodes[i]["short"] for i in cut)
    for i in cut:
        same = [
            j
            for j, n in enumerate(nodes)
            if j and (n["parent"], n["via"]) == (nodes[i]["parent"], nodes[i]["via"])
        ]
        assert all(nodes[j]["pruned"] for j in same if j > i)


def test_a_large_tree_keeps_its_root_and_its_plan(plan, monkeypatch):
    monkeypatch.setattr(drawing, "MAX_NODES", 7)
    nodes = tree_view(plan.tree, "t", "here")["nodes"]
    assert len(nodes) <= 8
    assert [n["name"] for n in nodes if n["best"]] == [str(s) for s in plan.subgoals]


def test_the_table_lists_the_options(plan, tmp_path):
    rows = root_options(plan.tree)
    assert rows[0].chosen and sum(row.chosen for row in rows) == 1
    table = write_decision(Decided("t", plan.tree, "here"), tmp_path / "page.html").read_text()
    for option in plan.options:
        assert f"{option.feasibility:.2f}" in table and option.text in table


def test_a_broken_tree_names_its_field(plan):
    with pytest.raises(VineError, match="nodes"):
        tree_view({**plan.tree, "nodes": "x"}, "t", "here")


def test_graphs_are_shortened_for_reading_only():
    assert tidy("a: b front[0.123456789 0.5 1e-05 0.7]") == "a: b front[0.123 0.5 1e-05 0.7]"
