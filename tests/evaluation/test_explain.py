"""What feasibility rests on is found where it is known; decisions that change; undecided scenes."""

import gzip
import json

import numpy as np
import pytest
from agent.line_world import BLOCKED_LUCK, LineModel, LineWorld, _grasped

from vine_vla.core.errors import VineError
from vine_vla.core.options import Split, Subgoal
from vine_vla.evaluation.explain import (
    Case,
    cases_of_episodes,
    cases_of_probes,
    changed_decisions,
    disagreements,
    explain,
    importance,
    predict,
)
from vine_vla.evaluation.probes.run import ExecutedProbe
from vine_vla.search import SearchConfig, TabularModel, perturb, random_problem

CONFIG = SearchConfig(expansions=24, evidence=0, trace=1)


def line_cases(count, held="long"):
    rng = np.random.default_rng(0)
    cases = []
    for scene in range(count):
        world = LineWorld()
        world.reset(scene, 0)
        start = world.true_graph()
        grasp = Subgoal(f"grasp_{held}", ("plug",))
        cases.append(Case(f"scene {scene}", start, grasp, "plug it in", 6, True, True))
        graph = _grasped(start, held)
        for name, (_, side) in world.sockets.items():
            fits = (held == "long") == (side == "free")
            reached = fits or rng.random() < BLOCKED_LUCK
            insert = Subgoal("insert", ("plug", name))
            cases.append(Case(f"scene {scene}", graph, insert, "plug it in", 5, reached, False))
    return cases


def test_the_socket_that_is_blocked_is_found():
    table = importance(LineModel(), line_cases(60), np.random.default_rng(0))
    insert = table[table["verb"] == "insert"]
    assert insert.iloc[0]["feature"] == "socket.side" and insert.iloc[0]["importance"] > 0.1
    effects = insert[insert["feature"] == "socket.side"].set_index("value")["effect"]
    assert effects["blocked"] < -0.2 < 0 < effects["free"]
    others = insert[insert["feature"] != "socket.side"]
    assert (others["importance"].abs() < 1e-9).all() and (others["effect"].abs() < 1e-9).all()
    # A blind model rests on nothing.
    blind = importance(LineModel(blind=True), line_cases(60), np.random.default_rng(0))
    assert (blind["importance"].abs() < 1e-9).all()


def test_predictions_are_those_of_the_model():
    cases = line_cases(10)
    p = predict(LineModel(), cases)
    wanted = [
        1.0
        if c.subgoal.verb != "insert" or c.graph[c.subgoal.args[1]].attributes["side"] == "free"
        else BLOCKED_LUCK
        for c in cases
    ]
    assert p == pytest.approx(wanted)
    other = Case("x", cases[0].graph, Subgoal("insert", ("plug", "socket_1")), "plug it in", 6, True, True)
    assert np.isnan(predict(LineModel(), [other])[0])  # nobody proposes it with an empty hand


def test_decisions_that_failures_change():
    cases = line_cases(40)
    table = changed_decisions(LineModel(), LineModel(blind=True), cases, CONFIG)
    # Blind to failures both grasps look alike: it changes where all sockets need the short one.
    assert 3 < len(table) < 30
    assert set(table["with_failures"]) == {"grasp_short(plug)"}
    assert (table["regret"] > 0.5).all() and table["regret"].is_monotonic_decreasing
    assert changed_decisions(LineModel(), LineModel(), cases, CONFIG).empty


def test_scenes_that_the_members_disagree_on_come_first():
    rng = np.random.default_rng(3)
    problem = random_problem(rng, states=30, actions=4, applicable=1.0)
    vague = TabularModel(perturb(problem, 6, 4, rng))
    sure = TabularModel((problem,) * 6)
    cases = [
        Case(f"state {s}", vague.graph(s), Subgoal("do_0", ("system",)), "go", 4, True, True)
        for s in range(30)
    ]
    table = disagreements(vague, cases, CONFIG)
    assert len(table) == 30 and table["entropy"].is_monotonic_decreasing
    assert table["entropy"].iloc[0] > 1 and table["stake"].iloc[0] > 0.05
    assert (disagreements(sure, cases, CONFIG)["entropy"] == 0).all()


def test_cases_come_from_probes_and_held_out_episodes():
    world = LineWorld()
    world.reset(0, 0)
    probe = ExecutedProbe(
        7, 0, 1, 5, world.true_graph(), Subgoal("grasp_long", ("plug",)), "plug it in", ("dead", "goal")
    )
    (case,) = cases_of_probes([probe])
    assert case.source == "scene 7" and not case.reached and not case.first and case.budget == 5

    from system2.worlds import sides_demonstrations

    class Source:
        demonstrations = sides_demonstrations(30)

    cases = cases_of_episodes(Source(), budget=4)
    held_out = [d for d in Source.demonstrations if d.split is not Split.TRAIN]
    assert {c.source for c in cases} == {d.episode_id for d in held_out}
    assert len(cases) == sum(len(d.segments) for d in held_out)
    assert all(c.budget == 4 for c in cases if c.first)


def test_all_tables_at_once():
    found = explain(LineModel(), LineModel(blind=True), line_cases(20), config=CONFIG)
    assert set(found) == {"importance", "unknown", "decisions"}
    assert "decisions" not in explain(LineModel(), None, line_cases(12), config=CONFIG)


def test_bad_sources_are_named(tmp_path):
    from vine_vla.cli.explain import Config, read_cases

    with pytest.raises(VineError, match="either --data"):
        read_cases(Config(tmp_path), 4)
    broken = tmp_path / "probes.jsonl.gz"
    for content in (b"not gzip", gzip.compress(b"{}"), gzip.compress(json.dumps([1]).encode())):
        broken.write_bytes(content)
        with pytest.raises(VineError, match="cannot read the probes"):
            read_cases(Config(tmp_path, probes=broken), 4)
