"""An openpi server as System 1, by the commands: checked, imported into a run, run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from system1.toy import SCHEMA, ToyWorld

from vine_vla.cli import main
from vine_vla.core.options import Subgoal
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.system1 import check_weights
from vine_vla.system1.adapters.importing import load_run_skill, skill_actions
from vine_vla.tasks.registry import find_task

SERVER = Path(__file__).parent / "openpi_server.py"


@contextmanager
def serving(size: int = 3) -> Iterator[str]:
    command = [sys.executable, str(SERVER), str(size)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        yield f"ws://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_server_is_checked_imported_and_run(toy: DemoDataset, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run/system1"
    with serving() as url:
        options = ["--frames", "2", "--steps", "4", "--json"]
        assert main(["skill", "check", url, str(toy.root), *options]) == 0
        assert json.loads(capsys.readouterr().out)["sensitive"]
        command = ["skill", "import", url, str(toy.root), "--out", str(out), "--execute", "4"]
        assert main(command) == 0
        assert "no done head" in capsys.readouterr().err
        assert [p.name for p in out.iterdir()] == ["system1.json"] and check_weights(out)
        skill, world = load_run_skill(out, SCHEMA), ToyWorld(0)
        other = skill.another()
        for one, block in ((skill, 1), (other, 2)):
            one.start(Subgoal("reach", (f"block_{block}",)), f"reach block {block}", 0)
        first, second = (one.act(world.observe(), world.graph()) for one in (skill, other))
        assert first.actions.shape == (10, 3) and first.execute == 4 == skill.horizon
        assert not np.array_equal(first.actions, second.actions)
        kinds = skill_actions(out, skill)
        assert kinds.motions and kinds.switches == (2,)
    assert main(["skill", "check", url, str(toy.root)]) == 2
    line = capsys.readouterr().err.strip().splitlines()
    assert len(line) == 1 and "no openpi server answers" in line[0]


def test_a_server_of_another_robot_is_refused(toy: DemoDataset, tmp_path: Path, capsys) -> None:
    out = tmp_path / "system1"
    with serving(7) as url:
        assert main(["skill", "import", url, str(toy.root), "--out", str(out)]) == 2
    assert "actions of 7 numbers, the dataset's have 3" in capsys.readouterr().err
    assert not out.exists()


def test_a_server_moves_the_robot_of_an_evaluation(tmp_path: Path, capsys) -> None:
    """The right plan on true graphs, so that nothing learned but the server is asked."""
    run, out = tmp_path / "run", tmp_path / "results"
    run.mkdir()
    task = find_task("line")
    with serving(len(task.action.names)) as url:
        command = [
            "eval",
            str(run),
            "--task",
            "line",
            "--arms",
            "oracle-plan",
            "--perception",
            "true",
            "--skill",
            url,
        ]
        more = ["--scenes", "0:2", "--max-steps", "20", "--workers", "0", "--signals", "--out", str(out)]
        assert main([*command, *more]) == 0
    rows = (out / "episodes.csv").read_text().splitlines()
    assert len(rows) == 1 + 2
    assert main([*command, *more, "--out", str(tmp_path / "again")]) == 2
    assert "no openpi server answers" in capsys.readouterr().err
