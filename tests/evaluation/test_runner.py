"""The paired runner: the same rows however it is run, killed, resumed or extended."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from agent.line_world import SCHEMA, LineModel, LineSkill, LineWorld
from evaluation.line_builder import LineBuilder

from vine_vla.agent import AgentConfig, Streams, run_episode
from vine_vla.core.errors import VineError
from vine_vla.core.text import describe
from vine_vla.evaluation.episodes import EPISODE_COLUMNS, FEASIBILITY_COLUMNS
from vine_vla.evaluation.final import check_scenes, record_final
from vine_vla.evaluation.oracles import OracleValuePlanner
from vine_vla.evaluation.runner import Schedule, choose_scenes, evaluate
from vine_vla.evaluation.statistics import compare
from vine_vla.evaluation.world import TruePerceiver
from vine_vla.report import load_results, load_trace, trace_files
from vine_vla.search.planners import make_planner
from vine_vla.search.trace import validate_trace
from vine_vla.storage.json import RowLog
from vine_vla.storage.tables import read_table, write_table
from vine_vla.tasks.base import SceneLists
from vine_vla.tasks.scenes import parse_scenes

ARMS = ("vine", "success-only", "imitate")


def stable(table):
    return table.drop(columns="plan_seconds").reset_index(drop=True)


def labelled(table):
    return table.assign(arm=table["arm"] + table["variant"].map(lambda v: f" ({v})" if v else ""))


def test_rows_do_not_depend_on_processes_or_order(tmp_path):
    schedule = Schedule(tuple(range(6)), ARMS)
    here = evaluate(LineBuilder(), schedule, tmp_path / "a", workers=0, progress=False)
    pooled = evaluate(LineBuilder(), schedule, tmp_path / "b", workers=2, progress=False)
    pd.testing.assert_frame_equal(stable(here), stable(pooled))
    assert len(here) == 18 and not (tmp_path / "a" / "parts").exists()
    stored = pd.read_csv(tmp_path / "a" / "episodes.csv")
    assert tuple(stored.columns) == EPISODE_COLUMNS
    assert tuple(pd.read_csv(tmp_path / "a" / "feasibility.csv").columns) == FEASIBILITY_COLUMNS


def test_failures_pay_and_the_tables_say_so(tmp_path):
    rows = evaluate(
        LineBuilder(clumsy=0.0), Schedule(tuple(range(60)), ARMS), tmp_path, workers=0, progress=False
    )
    found = compare(labelled(rows), "vine", "success-only", attempted=range(60))
    assert found.difference.estimate > 0.1 and found.losses == 0
    assert found.resolved and not found.claim  # one training seed
    executed = pd.read_csv(tmp_path / "feasibility.csv")
    vine = executed[executed["arm"] == "vine"]
    assert (vine["predicted"] == 1).all() and (vine["reached"] == 1).all()
    blind = executed[(executed["arm"] == "success-only") & executed["subgoal"].str.startswith("insert")]
    assert (blind["predicted"] == 1).all() and blind["reached"].mean() < 0.9


def test_the_report_reads_what_the_runner_writes(tmp_path):
    evaluate(LineBuilder(), Schedule(tuple(range(20)), ARMS, keep=2), tmp_path, workers=0, progress=False)
    results = load_results(tmp_path)
    assert set(results.labels) == set(ARMS) and len(results.episodes) == 60
    files = trace_files(tmp_path)
    assert 3 <= len({f.name.split("_")[0] for f in files}) <= 8 and len(files) < 30
    for file in files:
        trace = load_trace(file, tmp_path)
        assert trace.frames and Path(trace.frames[0].images["front"]).is_file()
        assert trace.decisions and trace.decisions[0].tree["kind"] == "vine-search-tree"
        assert all(e.result in ("reached", "slipped", "dead") for e in trace.executed)
        if trace.label == "vine":
            assert all(e.predicted is not None for e in trace.executed)


def test_a_finished_run_is_not_run_again_and_can_be_extended(tmp_path):
    schedule = Schedule(tuple(range(4)), ("vine",))
    first = evaluate(LineBuilder(), schedule, tmp_path, workers=0, progress=False)
    stamp = (tmp_path / "episodes.csv").read_bytes()
    again = evaluate(LineBuilder(), schedule, tmp_path, workers=0, progress=False)
    pd.testing.assert_frame_equal(stable(first), stable(again), check_dtype=False)
    assert (tmp_path / "episodes.csv").read_bytes() == stamp
    more = Schedule(tuple(range(6)), ("vine", "imitate"))
    evaluate(LineBuilder(), more, tmp_path, workers=0, progress=False)
    both = read_table(tmp_path / "episodes.csv")
    assert len(both) == 12 and not both.duplicated(["scene", "arm"]).any()
    fresh = evaluate(LineBuilder(), more, tmp_path / "fresh", workers=0, progress=False)
    assert len(read_table(tmp_path / "feasibility.csv")) == len(
        read_table(tmp_path / "fresh/feasibility.csv")
    )
    assert fresh["success"].tolist() == both["success"].tolist()


def test_other_settings_are_refused(tmp_path):
    evaluate(LineBuilder(), Schedule((0,), ("vine",)), tmp_path, workers=0, progress=False)
    with pytest.raises(VineError, match="begun with another `clumsy`"):
        evaluate(LineBuilder(clumsy=0.3), Schedule((1,), ("vine",)), tmp_path, workers=0, progress=False)


def test_killed_and_started_again(tmp_path, repository):
    """kill -9 in the middle: rows on disk stay, nobody lives on, the second start does only the rest."""
    script = (
        "import sys; from pathlib import Path\n"
        "from evaluation.line_builder import LineBuilder\n"
        "from vine_vla.evaluation.runner import Schedule, evaluate\n"
        "if __name__ == '__main__':\n"
        "    evaluate(LineBuilder(slow=True), Schedule(tuple(range(60)), ('vine', 'success-only')),"
        " Path(sys.argv[1]), workers=2, progress=False)\n"
    )
    file = tmp_path / "run.py"
    file.write_text(script)
    out = tmp_path / "out"
    paths = os.pathsep.join([str(repository / "src"), str(repository / "tests")])
    process = subprocess.Popen(
        [sys.executable, str(file), str(out)], env=os.environ | {"PYTHONPATH": paths}, start_new_session=True
    )
    log = out / "parts" / "episodes.jsonl"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (log.is_file() and log.read_bytes().count(b"\n") > 10):
        time.sleep(0.02)
    group = process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline and _alive(group):
        time.sleep(0.05)
    assert not _alive(group), "workers outlived their parent"
    before = log.read_bytes().count(b"\n")
    assert 10 < before < 120 and not (out / "episodes.csv").exists()
    with open(log, "ab") as cut:
        cut.write(b'{"row": {"scene": 5')  # a line that the kill cut off
    schedule = Schedule(tuple(range(60)), ("vine", "success-only"))
    rows = evaluate(LineBuilder(), schedule, out, workers=0, progress=False)
    whole = evaluate(LineBuilder(), schedule, tmp_path / "whole", workers=0, progress=False)
    pd.testing.assert_frame_equal(stable(rows), stable(whole))


def _alive(group: int) -> bool:
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def test_best_of_k_is_never_worse(tmp_path):
    rows = evaluate(
        LineBuilder(clumsy=0.0), Schedule(tuple(range(20)), ("vine", "best-of-K")), tmp_path, workers=0,
        progress=False,
    )  # fmt: skip
    won = rows.pivot(index="scene", columns="arm", values="success")
    assert (won["best-of-K"] >= won["vine"]).all()


def test_scene_choice_prefers_what_tells_most():
    rows = pd.DataFrame(
        [
            {"scene": s, "arm": arm, "variant": "", "success": value}
            for arm, values in {"vine": [1, 1, 0, 0, 1, 1, 1], "success-only": [0, 1, 1, 0, 1, 0, 0]}.items()
            for s, value in enumerate(values)
        ]
    )
    assert choose_scenes(rows, 2) == [0, 1, 2, 3, 4, 5]
    assert choose_scenes(rows[rows["arm"] == "vine"], 1) == [0, 1, 2, 3]


def test_test_scenes_are_guarded(tmp_path):
    lists = SceneLists()
    check_scenes([0, 199], lists, final=False)
    check_scenes([400, 999], lists, final=True)
    check_scenes([200, 399], lists, final=False, calibration=True)
    for scenes, final, words in (
        ([10, 400], False, "--final"),
        ([5], True, "400 to 999"),
        ([250], False, "199"),
    ):
        with pytest.raises(VineError, match=words):
            check_scenes(scenes, lists, final=final)
    log = tmp_path / "final_runs.csv"
    for arm in ("vine", "flat"):
        record_final(log, task="plug", split="unseen", scenes=range(400, 700), arms=[arm], out=tmp_path / "x")
    table = pd.read_csv(log)
    assert table["arms"].tolist() == ["vine", "flat"] and table["scenes"].tolist() == [300, 300]
    assert table["revision"].notna().all() and table["date"].str.endswith("Z").all()


def test_files(tmp_path):
    assert parse_scenes("0:4") == (0, 1, 2, 3) and parse_scenes("7,1:3") == (7, 1, 2)
    for bad in ("", "a", "3:1", "1,1", "-1"):
        with pytest.raises(VineError):
            parse_scenes(bad)
    small = pd.DataFrame({"a": [1.5]})
    big = pd.DataFrame({"a": range(200_000), "b": "some text"})
    assert write_table(tmp_path / "t.csv", small).name == "t.csv"
    assert write_table(tmp_path / "t.csv", big).name == "t.csv.gz" and not (tmp_path / "t.csv").exists()
    assert len(read_table(tmp_path / "t.csv")) == 200_000
    log = RowLog(tmp_path / "log.jsonl")
    log.append({"x": 1})
    log.close()
    with open(tmp_path / "log.jsonl", "ab") as out:
        out.write(b'{"x": 2')
    again = RowLog(tmp_path / "log.jsonl")
    again.append({"x": 3})
    again.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["x"] for line in lines] == [1, 3]


def test_oracle_value_finds_the_way_and_leaves_the_world_as_it_was():
    world, skill = LineWorld(), LineSkill()
    eyes, wording = TruePerceiver(world), partial(describe, schema=SCHEMA)
    config = AgentConfig(max_steps=100, subgoal_steps=40)
    blind = LineModel(blind=True)
    otherwise = make_planner("imitate", blind)
    wins = 0
    for scene in range(20):
        world.reset(scene, 0)
        oracle = OracleValuePlanner(world, blind, eyes, skill, wording, config, otherwise)
        before = world.save_state()
        plan = oracle.plan(world.true_graph(), world.instruction, 6, seed=1)
        assert world.save_state() == before and plan.feasibility > 0
        validate_trace(dict(plan.tree))
        record = run_episode(world, eyes, oracle, skill, config, Streams.spawn(scene), wording=wording)
        assert len(record.executions) <= 3
        wins += world.is_success()
    assert wins >= 18  # four lucky roll-outs past a blocked side are rare
