"""The stage graph: done once, again with what depends on it, beside each other, stopped cleanly."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from compute import stage_jobs
from compute.test_executor import TESTS, alive, wait_until

from vine_vla.compute.stages import REPLACED, STAGES, Share, Stage, find_needs, run_stages
from vine_vla.core.errors import VineError


def graph(root: Path, first: str = "a", **more) -> list[Stage]:
    """`a` is read by `b` and `c`, both by `d`; `e` stands alone."""

    def stage(name: str, text: str, *reads: str) -> Stage:
        run = partial(stage_jobs.write, root, name, text, reads)
        return Stage(name.upper(), run, reads, (name,), {"text": text}, **more)

    return [
        stage("a", first),
        stage("b", "b", "a"),
        stage("c", "c", "a"),
        stage("d", "d", "b", "c"),
        stage("e", "e"),
    ]


def ran(root: Path) -> list[str]:
    """Which files were written since the last call."""
    file = root / "done.txt"
    names = [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []
    file.unlink(missing_ok=True)
    return names


@pytest.mark.parametrize("parallel", [0, 2])
def test_a_stage_is_done_once_and_again_with_what_depends_on_it(tmp_path, parallel):
    said: list[str] = []

    def run(**more) -> list[str]:
        said.clear()
        run_stages(graph(tmp_path, **more), tmp_path, parallel=parallel, say=said.append)
        return ran(tmp_path)

    names = run()
    assert sorted(names) == list("abcde") and names.index("d") > max(map(names.index, "abc"))
    assert (tmp_path / "d").read_text() == "d+b+a+c+a"
    assert run() == [] and said == [f"{name}: up to date" for name in "AEBCD"]
    assert sorted(run(first="other")) == list("abcd") and "E: up to date" in said
    assert (tmp_path / "d").read_text() == "d+b+other+c+other"
    replaced = {file.name: file.read_text() for file in (tmp_path / REPLACED).rglob("*") if file.is_file()}
    assert replaced == {"a": "a", "b": "b+a", "c": "c+a", "d": "d+b+a+c+a"}
    (tmp_path / "c").unlink()
    assert run(first="other") == ["c"]
    state = json.loads((tmp_path / STAGES / "D.json").read_text())
    assert set(state) == {"format", "key", "seconds"}


def test_outputs_that_grow_stay(tmp_path):
    for first in ("a", "more"):
        run_stages(graph(tmp_path, first, grows=True), tmp_path, parallel=0)
    assert not (tmp_path / REPLACED).exists() and (tmp_path / "b").read_text() == "b+more"


def test_independent_stages_run_beside_each_other_and_share_the_threads(tmp_path):
    stages = [
        Stage("one", partial(stage_jobs.meet, tmp_path, "first", "second"), (), ("first",)),
        Stage("two", partial(stage_jobs.meet, tmp_path, "second", "first"), (), ("second",)),
        Stage("three", partial(stage_jobs.write, tmp_path, "third", "x", ()), ("one", "second"), ("third",)),
    ]
    seconds = run_stages(stages, tmp_path, parallel=2, share=Share(threads=4))
    assert (tmp_path / "first").read_text() == (tmp_path / "second").read_text() == "2"
    assert (tmp_path / "done.txt").read_text().split()[:2] == ["third", "4"]
    assert set(seconds) == {"one", "two", "three"}
    assert (tmp_path / STAGES / "one.log").is_file()


def test_a_stage_may_have_workers(tmp_path):
    run_stages([Stage("pool", partial(stage_jobs.pooled, tmp_path), (), ("squares",))], tmp_path)
    assert (tmp_path / "squares").read_text() == "[0, 1, 4, 9]"


def test_a_failure_stops_the_rest_with_one_line_and_leaves_them_to_resume(tmp_path, capfd):
    stages = [
        Stage("long", partial(stage_jobs.sleep, tmp_path, "pid"), (), ("pid",)),
        Stage("bad", partial(stage_jobs.refuse, tmp_path, "pid"), (), ("never",)),
        Stage("after", partial(stage_jobs.write, tmp_path, "after", "x", ()), ("never",), ("after",)),
    ]
    said: list[str] = []
    with pytest.raises(VineError) as caught:
        run_stages(stages, tmp_path, say=said.append)
    assert str(caught.value) == "no such dataset (stage bad, demos): collect it"
    assert "\n" not in str(caught.value) and "long: stops, to be resumed" in said
    assert not alive(int((tmp_path / "pid").read_text())) and not (tmp_path / "after").exists()
    for name in ("long", "bad"):
        assert set(json.loads((tmp_path / STAGES / f"{name}.json").read_text())) == {
            "format",
            "begun",
            "seconds",
        }
    assert "long: sleeping: 0 of 1000" in capfd.readouterr().err
    with pytest.raises(VineError):
        run_stages(stages, tmp_path, say=said.append)
    assert any(line.startswith("long: resumes") for line in said) and not alive(
        int((tmp_path / "pid").read_text())
    )


def test_a_bug_is_told_in_one_line_with_the_traceback_in_the_log(tmp_path):
    with pytest.raises(VineError, match=r"stage x: ZeroDivisionError: a bug \(.*x.log\)"):
        run_stages([Stage("x", stage_jobs.crash)], tmp_path)
    assert "in crash" in (tmp_path / STAGES / "x.log").read_text()


def test_a_stage_that_has_not_made_its_output_is_not_done(tmp_path):
    for parallel in (0, 1):
        with pytest.raises(VineError, match="stage x has not made y"):
            run_stages([Stage("x", stage_jobs.nothing, (), ("y",))], tmp_path, parallel=parallel)
        assert "key" not in json.loads((tmp_path / STAGES / "x.json").read_text())


def test_a_malformed_graph_is_refused_before_anything_runs(tmp_path):
    def stage(name: str, inputs: tuple[str, ...], *outputs: str) -> Stage:
        return Stage(name, stage_jobs.crash, inputs, outputs)

    with pytest.raises(VineError, match="a and b both make x"):
        find_needs([stage("a", (), "x"), stage("b", (), "x")])
    with pytest.raises(VineError, match="the same name"):
        find_needs([stage("a", ()), stage("a", ())])
    with pytest.raises(VineError, match="a reads x, which no stage makes"):
        find_needs([stage("a", ("x",))])
    with pytest.raises(VineError, match="need each other"):
        run_stages([stage("a", ("y",), "x"), stage("b", ("x",), "y")], tmp_path)


def test_the_state_of_another_version_is_refused(tmp_path):
    (tmp_path / STAGES).mkdir()
    (tmp_path / STAGES / "collect.json").write_text('{"key": "abc", "seconds": 1.0}')
    with pytest.raises(VineError, match="another version of VINE.*another work folder"):
        run_stages(graph(tmp_path), tmp_path)
    assert ran(tmp_path) == []


DRIVER = """
import sys
from functools import partial
from pathlib import Path
from compute import stage_jobs
from vine_vla.compute.stages import Stage, run_stages

root = Path(sys.argv[1])
if __name__ == "__main__":
    names = ("one", "two")
    run_stages([Stage(n, partial(stage_jobs.sleep, root, n), (), (n,)) for n in names], root)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_stage_outlives_its_driver(tmp_path, how):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
    driver = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    files = [tmp_path / "one", tmp_path / "two"]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    pids = [int(file.read_text()) for file in files]
    driver.send_signal(how)
    driver.wait(30)
    deadline = time.monotonic() + 5
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for name in ("one", "two"):
        state = json.loads((tmp_path / STAGES / f"{name}.json").read_text())
        assert "begun" in state and (how == signal.SIGKILL or state["seconds"] > 0)
