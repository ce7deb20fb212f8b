"""Studies do not rot: each is run as a command, on the task without physics where it runs one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import tyro

from studies.gates import graph_demonstrations
from studies.right_plan import verb_table
from studies.study import run_jobs
from vine_vla.core.errors import VineError
from vine_vla.core.options import EpisodeOutcome, Outcome
from vine_vla.data.record.staging import read_staged, staged_path
from vine_vla.tasks.collect import CollectConfig, assemble_episodes, record_operator
from vine_vla.tasks.registry import find_task

ROOT = Path(__file__).parents[2]
STUDIES = sorted(f.stem for f in (ROOT / "studies").glob("*.py") if f.stem not in ("study", "__init__"))


def study(name, *arguments, code=0):
    """Run a study as its docstring says; its standard output."""
    command = [sys.executable, "-m", f"studies.{name}", *map(str, arguments)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_its_command_on_top(name):
    text = (ROOT / "studies" / f"{name}.py").read_text()
    assert f"python -m studies.{name}" in text.split('"""')[1]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_says_what_it_takes(name, capsys):
    module = import_module(f"studies.{name}")
    with pytest.raises(SystemExit) as ended:
        tyro.cli(getattr(module, "G1" if name == "gates" else "Config"), args=["--help"])
    assert ended.value.code == 0 and "--out" in capsys.readouterr().out


def test_a_bad_input_is_one_line(tmp_path):
    words = study("right_plan", tmp_path / "none", "--task", "line", code=2)
    assert words.startswith("right_plan: error: no such run directory") and words.count("\n") == 1


def test_the_right_plan_of_the_scripted_expert(tmp_path):
    (tmp_path / "run").mkdir()
    out = tmp_path / "out"
    common = ("--task", "line", "--skill", "scripted", "--scenes", "0:6", "--workers", "0", "--needed", "0")
    study("right_plan", tmp_path / "run", *common, "--work", tmp_path / "work", "--out", out)
    figures, rows = json.loads((out / "g2.json").read_text()), pd.read_csv(out / "g2_subgoals.csv")
    assert figures["open"] and len(pd.read_csv(out / "g2.csv")) == 6
    assert figures["settings"]["scenes"] == "0:6" and str(tmp_path) not in json.dumps(figures)
    assert sum(v["n"] for v in figures["verbs"].values()) == len(rows) >= 12
    late = rows[(rows["verdict"] == "done") & (rows["reached"] == 1)]
    assert len(late) and (late["delay"] >= 0).all()


def test_verbs_by_hand():
    rows = pd.DataFrame(
        {"verb": "put", "reached": [1, 0, 1, 1], "verdict": ["done", "done", "failed", "timeout"]}
    ).assign(delay=[4, None, 2, 9])
    found = verb_table(rows)["put"]
    assert (found["n"], found["reached"][0], found["false_done"][0]) == (4, 0.75, 0.25)
    assert found["false_failed"][0] == found["missed_done"][0] == 0.25
    assert found["done_delay_steps"] == {"median": 4.0, "p90": 4.0}


def test_demonstrations_without_images_are_those_with_them(tmp_path):
    plain = CollectConfig(tmp_path / "plain", "line", episodes=4, graph_every=0, images=False)
    found = graph_demonstrations(plain, workers=0)
    assert graph_demonstrations(replace(plain, episodes=2), workers=0) == found[:2]
    drawn = replace(plain, out=tmp_path / "drawn", images=True)
    simulation = find_task("line").simulation("demo")
    for number, d in enumerate(found):
        record_operator(simulation, drawn, number)
        whole = read_staged(staged_path(drawn.staging, drawn.episode_id(number))).demonstration
        assert replace(d, episode_index=-1) == whole
        if d.outcome is not EpisodeOutcome.SUCCESS:
            assert d.segments[-1].outcome in (Outcome.DEAD, Outcome.REACHED)
    with pytest.raises(VineError, match="without images"):
        assemble_episodes(plain, tmp_path / "data", [plain.episode_id(0)])
    with pytest.raises(VineError, match="begun with other settings: images"):
        graph_demonstrations(replace(plain, images=True), workers=0)


def _doubling():
    return lambda job: 2 * job


def test_jobs_are_resumed_and_keep_their_order(tmp_path):
    file, common = tmp_path / "jobs.jsonl", {"workers": 0, "name": "jobs", "progress": False}
    assert run_jobs(file, _doubling, {"b": 2, "a": 1}, settings={"x": 1}, **common) == [4, 2]

    def forbidden():
        raise AssertionError("nothing is missing")

    assert run_jobs(file, forbidden, {"a": 1, "b": 2}, settings={"x": 1}, **common) == [2, 4]
    with pytest.raises(VineError, match="x was 1, now 2"):
        run_jobs(file, _doubling, {"a": 1}, settings={"x": 2}, **common)


def test_optimism_of_a_few_problems(tmp_path):
    study("optimism", *["--ks", "2", "--depths", "1", "--problems", "2", "--starts", "2", "--out"], tmp_path)
    table = pd.read_csv(tmp_path / "optimism.csv")
    assert table["split"].tolist() == [True, False] and table["bias"].abs().max() < 1
    assert (tmp_path / "optimism.png").is_file()


@pytest.mark.slow
def test_what_failures_teach_on_few_episodes(tmp_path):
    arguments = "g1 --task line --demonstrations 40 --scenes 0:4 --arms vine success-only"
    command = [sys.executable, "-m", "studies.gates", *arguments.split()]
    done = subprocess.run(
        [*command, "--work", tmp_path / "work", "--out", tmp_path], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]
    figures = json.loads((tmp_path / "g1.json").read_text())
    assert {arm["arm"] for arm in figures["arms"]} == {"vine", "success-only"}
