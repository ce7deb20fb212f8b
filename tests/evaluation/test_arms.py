"""Arms, run directories and gates on the real task; nothing here is trained."""

import json

import numpy as np
import pandas as pd
import pytest

from studies.gates import GraphBuilder
from vine_vla.cli import main
from vine_vla.core.errors import VineError
from vine_vla.core.options import Outcome, Subgoal
from vine_vla.evaluation.arms import ARMS, find_arm
from vine_vla.evaluation.build import Reworded, RunBuilder
from vine_vla.evaluation.oracles import RightPlanner
from vine_vla.evaluation.runner import Schedule, evaluate
from vine_vla.evaluation.verdicts import best_of, summary
from vine_vla.evaluation.world import WHOLE_TASK, true_outcome
from vine_vla.search import SearchConfig, TabularModel, TreePlanner, random_problem
from vine_vla.system2 import EXECUTED, Failures
from vine_vla.tasks.plug import TASK
from vine_vla.tasks.plug.scenes import INSTRUCTIONS
from vine_vla.tasks.plug.task import PlugInsertion


def test_a_reworded_planner_is_told_other_words():
    model = TabularModel([random_problem(np.random.default_rng(0), actions=3)])
    planner = TreePlanner(model, SearchConfig(k=3))
    graph = model.graph(0)
    plan = Reworded(planner, "in other words").plan(graph, "as the scene says", 3, seed=0)
    assert plan.tree["instruction"] == "in other words"
    assert plan.options == planner.plan(graph, "in other words", 3).options
    assert find_arm("vine:trained-words").trained_words and TASK.instructions == INSTRUCTIONS["seen"]


def test_every_arm_of_the_design_is_there():
    names = {arm.name for arm in ARMS.values()}
    assert names >= {
        "flat",
        "flat-all",
        "imitate",
        "imitate-all",
        "success-only",
        "greedy",
        "vine",
        "best-of-K",
    }
    assert names >= {"oracle-perception", "oracle-value", "oracle-skill"}
    assert find_arm("success-only:slips-removed").label == "success-only (slips-removed)"
    with pytest.raises(VineError, match="unknown arm 'vines'.*known arms: flat"):
        find_arm("vines")


def test_every_model_of_an_arm_is_one_that_training_makes():
    known = {f.value for f in Failures} | {"imitate-all"} | {f.value + EXECUTED for f in Failures}
    assert {arm.model for arm in ARMS.values() if arm.model} <= known


def test_missing_parts_are_named(tmp_path):
    builder = RunBuilder(task="plug", split="unseen", runs=(str(tmp_path / "none"),))
    with pytest.raises(VineError, match="no such run directory.*none"):
        builder.check(("vine",))
    (tmp_path / "run" / "system2").mkdir(parents=True)
    builder = RunBuilder(task="plug", split="unseen", runs=(str(tmp_path / "run"),))
    with pytest.raises(VineError, match="'vine' needs system1"):
        builder.check(("vine",))
    with pytest.raises(VineError, match="'flat' needs flat"):
        builder.check(("flat",))
    scripted = RunBuilder(task="plug", split="unseen", runs=(str(tmp_path / "run"),), skill="scripted")
    scripted.check(("vine",))
    with pytest.raises(VineError, match="unknown task 'plugs'"):
        RunBuilder(task="plugs", split="unseen", runs=())
    with pytest.raises(VineError, match="unknown split 'unsene'.*known: demo"):
        RunBuilder(task="plug", split="unsene", runs=())
    with pytest.raises(VineError, match="stream for demonstrations"):
        RunBuilder(task="plug", split="demo", runs=())
    scripted.check(("always-short-clear", "random"))
    with pytest.raises(VineError, match="no arm 'always-shrot'.*always-short-nearest"):
        scripted.check(("always-shrot",))


def test_the_right_plan_with_expert_hands_succeeds(tmp_path):
    """Good cells are seated in at least .95: 2 or more failures in 8 scenes have probability < .06."""
    builder = GraphBuilder(models={}, facts={}, task="plug", split="unseen")
    schedule = Schedule(tuple(range(8)), ("oracle-plan",))
    rows = evaluate(builder, schedule, tmp_path, workers=0, traces=False, progress=False)
    assert rows["success"].sum() >= 6
    won = rows[rows["success"] == 1]
    assert (won["subgoals"] >= 2).all() and won["steps"].between(60, 300).all()
    with pytest.raises(VineError, match="no planning model"):
        builder.build("flat", 0, builder.open_task())


def test_a_plug_held_the_wrong_way_is_put_back():
    task = PlugInsertion("unseen", render=False)
    scene = next(n for n in range(60) if _only(task, n) is not None)
    right = _only(task, scene)
    wrong = {"grasp_long": "grasp_short", "grasp_short": "grasp_long"}[right]
    skill = TASK.skill(task, 0.0)
    skill.start(Subgoal(wrong, ("plug",)), "", 0)
    while (output := skill.act(task.observe(), task.true_graph())).done[0] == 1:
        task.step(output.actions[0])
    assert task.true_graph()["plug"].attributes["grasp"] == wrong.removeprefix("grasp_")
    plan = RightPlanner(task, TASK.oracle).plan(task.true_graph(), task.instruction, 4, seed=0)
    assert [s.verb for s in plan.subgoals] == ["put_back", right, "insert"]


def test_the_whole_task_of_a_flat_policy_is_reached_when_the_goal_is():
    task = PlugInsertion("unseen", render=False)
    task.reset(0, 0)
    assert true_outcome(task, WHOLE_TASK) is Outcome.SLIPPED
    skill = TASK.skill(task, 0.0)
    for subgoal in (
        RightPlanner(task, TASK.oracle).plan(task.true_graph(), task.instruction, 4, seed=0).subgoals
    ):
        skill.start(subgoal, "", 0)
        while (output := skill.act(task.observe(), task.true_graph())).done[0] == 1:
            task.step(output.actions[0])
    assert task.is_success() and true_outcome(task, WHOLE_TASK) is Outcome.REACHED


def _only(task, scene):
    """The grasp of all right plans of a scene, if it is the same in all."""
    task.reset(scene, 0)
    verbs = {plan[0].verb for plan in task.oracle_plans()}
    return verbs.pop() if len(verbs) == 1 else None


def test_summary_takes_the_best_success_only():
    wins = {
        ("vine", ""): 9,
        ("success-only", ""): 4,
        ("success-only", "slips-removed"): 6,
        ("imitate", ""): 5,
    }
    common = {"training_seed": 0, "policy_seed": 0, "outcome": "dead", "subgoals": 2, "replans": 0}
    rows = pd.DataFrame(
        [
            {"scene": s, "arm": arm, "variant": variant, "success": int(s < n)}
            | common
            | {"steps": 100, "plan_seconds": 0.01, "plan_p": 0.5}
            for (arm, variant), n in wins.items()
            for s in range(10)
        ]
    )
    assert best_of(rows, "success-only") == "success-only (slips-removed)"
    found = summary(rows, attempted=range(10))
    first = found["comparisons"][0]
    assert first["b"] == "success-only (slips-removed)" and first["wins"] == 3 and first["losses"] == 0
    assert len(found["comparisons"]) == 3 and all(c["p_holm"] >= c["p_value"] for c in found["comparisons"])
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/none"], "no such run directory"),
        (["runs/none", "--scenes", "400:410"], "--final"),
        (["runs/none", "--scenes", "0:10", "--final"], "400 to 999"),
        (["runs/none", "--arms", "vines"], "unknown arm"),
        (["runs/none", "--scenes", "a"], "not a list of scenes"),
    ],
)
def test_vine_eval_says_what_is_wrong(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "\n" not in error.strip()
    assert not list(tmp_path.iterdir())
