"""A backend from outside the package: known by an entry point, trained, calibrated, evaluated and served."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from system1.policies import save_act

from vine_vla.data import open_dataset
from vine_vla.system1.adapters.importing import import_policy
from vine_vla.tasks.registry import find_task

VINE = [sys.executable, "-c", "import sys; from vine_vla.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def installed(repository, tmp_path_factory):
    """An environment in which the backend of `tabular_backend.py` is an installed package."""
    site = tmp_path_factory.mktemp("site")
    info = site / "vine_tabular-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vine-tabular\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[vine.backends]\ntabular = tabular_backend:BACKEND\n")
    path = [site, repository / "tests/system2", repository / "src"]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}


def vine(installed, *arguments, code=0):
    done = subprocess.run([*VINE, *map(str, arguments)], env=installed, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def run(installed, tmp_path_factory):
    """A run whose System 2 is tables, learned from 100 episodes of `line` by the commands."""
    folder = tmp_path_factory.mktemp("line")
    vine(installed, "collect", "--out", folder / "data", "--task", "line", "--episodes", 100, "--workers", 0)
    for failures in ("all", "withhold"):
        options = ("--backend", "tabular", "--smoothing", 0.3, "--failures", failures)
        vine(installed, "train", "system2", folder / "data", "-o", folder / "run/system2", *options)
    return folder / "run"


def test_it_is_trained_and_calibrated_from_outside(installed, run):
    metrics = json.loads((run / "system2/all/metrics.json").read_text())
    assert metrics["kind"] == "tabular" and metrics["config"]["smoothing"] == 0.3
    assert metrics["calibration"]["source"] == "demonstration" and metrics["calibration"]["segments"] >= 20
    assert metrics["outcomes"]["reach"]["count"] >= 20
    scale = json.loads((run / "system2/all/calibration.json").read_text())
    values = json.loads((run / "system2/all/model.json").read_text())["values"].values()
    assert scale["source"] == "demonstration" and scale["pruning"]["min_support"] == 0.05
    assert 0.05 < np.mean([v[0][-1] for v in values]) < 1
    assert "What the probability means" in (run / "system2/all/MODEL_CARD.md").read_text()
    again = vine(
        installed, "train", "system2", run.parent / "data", "-o", run / "system2",
        "--backend", "tabular", "--smoothing", 0.3,
    )  # fmt: skip
    assert "up to date" in again.stderr
    other = vine(installed, "train", "system2", run.parent / "data", "-o", run / "system2", code=2)
    assert "holds a System 2 of the kind 'tabular'" in other.stderr


def test_it_is_evaluated_against_itself_without_failures(installed, run):
    arms = ("vine", "imitate", "success-only")
    given = ("--task", "line", "--split", "seen", "--scenes", "0:20", "--workers", 0)
    oracles = ("--perception", "true", "--skill", "scripted", "--out", run / "results")
    vine(installed, "eval", run, "--arms", *arms, *given, *oracles)
    rows = pd.read_csv(run / "results/episodes.csv")
    assert rows.groupby("arm").size().to_dict() == dict.fromkeys(arms, 20)
    planned = rows[rows.arm == "vine"]
    assert planned.model_calls.min() >= 1 and planned.plan_p.between(0, 1).all()
    assert planned.plan_p.nunique() > 1 and planned.subgoals.max() >= 2


def test_it_explains_itself_and_plans_from_pictures(installed, run):
    told = json.loads(vine(installed, "explain", run, "--data", run.parent / "data", "--json").stdout)
    assert told["cases"] >= 20 and {"importance", "unknown", "decisions"} <= told.keys()
    answer = subprocess.run(
        [*VINE, "plan", run, "--dataset", run.parent / "data", "--json", "-o", run / "tree.json"],
        env=installed, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode in (0, 1) and json.loads(answer.stdout)["nodes"]


def test_it_is_served(installed, run, tmp_path):
    task = find_task("line")
    policy = save_act(tmp_path / "pretrained_model", state=len(task.state.names), cameras=tuple(task.cameras))
    import_policy(policy, open_dataset(run.parent / "data"), run / "system1")
    command = [
        *VINE,
        "serve",
        str(run),
        "--port",
        "0",
        "--hold",
        "still",
        "--device",
        "cpu",
        "--deadline",
        "20",
    ]
    server = subprocess.Popen(
        command, env=installed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        address = server.stdout.readline().strip()
        assert address.startswith("ws://"), server.stderr.read()[-3000:]
        world = task.simulation("seen")
        world.reset(0, 0)
        seen = world.observe()
        message = {"images": dict(seen.images), "state": seen.proprioception, "prompt": world.instruction}
        plan = WebsocketClientPolicy(host=f"{address}/plan").infer(message)
        assert plan["options"] and plan["model_calls"] >= 1
        reply = WebsocketClientPolicy(host=address).infer(message)
        assert reply["actions"].shape[1] == len(task.action.names) and np.isfinite(reply["actions"]).all()
    finally:
        server.terminate()
        assert server.wait(20) == 0
