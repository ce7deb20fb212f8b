"""Training as a user does it: by LeRobot's command with the plugin, and by `vine train system1`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset

from vine_vla.core.errors import VineError
from vine_vla.learning.schedule import ClockCosine
from vine_vla.system1 import System1Training, check_weights, train_system1
from vine_vla.system1.vine_skill.modeling_vine_skill import VineSkillPolicy

TRAIN = "import sys; from vine_vla.cli import main; sys.exit(main(sys.argv[1:]))"


def plugin_path(repository: Path, folder: Path) -> str:
    """A search path on which the plugin stands as if it were installed, under the name that it declares."""
    source = repository / "plugins/lerobot_policy_vine"
    name = tomllib.loads((source / "pyproject.toml").read_text())["project"]["name"]
    info = folder / f"{name}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    return os.pathsep.join([str(folder), str(source), str(repository / "src")])


def test_lerobot_train_finds_and_trains_the_policy(repository: Path, skills: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lerobot.scripts.lerobot_train", "--policy.type=vine_skill"]
    command += [f"--dataset.repo_id=vine/{skills.name}", f"--dataset.root={skills}", f"--output_dir={out}"]
    command += ["--steps=3", "--batch_size=8", "--num_workers=0", "--log_freq=1", "--env_eval_freq=0"]
    command += ["--policy.push_to_hub=false", "--policy.device=cpu", "--policy.width=32"]
    command += ["--dataset.video_backend=pyav", "--persistent_workers=false", "--prefetch_factor=2"]
    environment = os.environ | {"PYTHONPATH": plugin_path(repository, tmp_path / "site")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = out / "checkpoints/last/pretrained_model"
    policy = VineSkillPolicy.from_pretrained(saved, strict=True)
    assert int(policy.updates) == 3 and policy.config.width == 32 and policy.config.layout
    assert "flow_loss" in done.stderr + done.stdout


@pytest.mark.slow
def test_lerobot_train_takes_four_cameras_and_joints(repository: Path, tmp_path: Path) -> None:
    """A dataset that VINE has never seen: made by LeRobot alone, cameras of different sizes, joint angles."""
    sizes = {"top": (60, 90), "left": (96, 96), "right": (40, 48), "wrist": (120, 160)}
    names = [f"joint_{i}" for i in range(6)]
    images = {
        f"observation.images.{c}": {
            "dtype": "image",
            "shape": (*s, 3),
            "names": ["height", "width", "channels"],
        }
        for c, s in sizes.items()
    }
    joints = {"dtype": "float32", "shape": (6,), "names": names}
    root, out = tmp_path / "robot", tmp_path / "out"
    made = LeRobotDataset.create(
        "me/robot", 10, images | {"observation.state": joints, "action": joints}, root, use_videos=False
    )
    rng = np.random.default_rng(0)
    for _ in range(2):
        angles = rng.normal(size=6).astype(np.float32)
        for _ in range(15):
            step = rng.normal(0, 0.05, 6).astype(np.float32)
            frame = {
                f"observation.images.{c}": rng.integers(0, 256, (*s, 3), np.uint8) for c, s in sizes.items()
            }
            made.add_frame(frame | {"observation.state": angles, "action": angles + step, "task": "wave"})
            angles = angles + step
        made.save_episode()
    made.finalize()
    command = [sys.executable, "-m", "lerobot.scripts.lerobot_train", "--policy.type=vine_skill"]
    command += ["--dataset.repo_id=me/robot", f"--dataset.root={root}", f"--output_dir={out}"]
    command += ["--steps=2", "--batch_size=4", "--num_workers=0", "--log_freq=1", "--env_eval_freq=0"]
    command += ["--policy.push_to_hub=false", "--policy.device=cpu", "--policy.width=32"]
    command += ["--persistent_workers=false", "--prefetch_factor=2"]
    environment = os.environ | {"PYTHONPATH": plugin_path(repository, tmp_path / "site")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    policy = VineSkillPolicy.from_pretrained(out / "checkpoints/last/pretrained_model", strict=True)
    assert len(policy.config.image_features) == 4 and not policy.config.delta_actions  # joints follow


def test_clock_follows_the_larger_share() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    seen: list[tuple[int, float]] = []
    clock = ClockCosine(optimizer, 2, 10, 100.0, lambda step, share: seen.append((step, share)))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    for _ in range(4):
        optimizer.step()
        clock.step()
    assert seen[-1][0] == 4 and clock.share == pytest.approx(0.4)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(
        0.5 * (1 + torch.cos(torch.tensor(0.4 * 3.14159265)))
    )
    clock.used = 80.0
    assert clock.share == pytest.approx(0.8)
    state = json.loads(json.dumps(clock.state_dict()))
    again = ClockCosine(torch.optim.SGD([parameter], lr=1.0), 2, 10, 100.0)
    again.load_state_dict(state)
    assert again.share == pytest.approx(0.8) and again.last_epoch == 4
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(again.get_lr()[0])
    clock.used = 1000.0
    assert clock.share == 1.0 and clock.get_lr() == [pytest.approx(0.0)]


def test_a_finished_run_is_kept_and_its_weights_are_checked(skills: Path, tmp_path: Path) -> None:
    config = System1Training(minutes=0, steps=4, batch_size=8, threads=1)
    result = train_system1(skills, tmp_path / "run", config)
    assert result["steps"] == 4 and result["weights_sha256"] == check_weights(tmp_path / "run")
    assert train_system1(skills, tmp_path / "run", config) == result
    with pytest.raises(VineError, match="trained otherwise: steps was 4, now 5"):
        train_system1(skills, tmp_path / "run", System1Training(minutes=0, steps=5, threads=1))
    more = System1Training(minutes=0, steps=2, batch_size=8, threads=1, start=tmp_path / "run")
    further = train_system1(skills, tmp_path / "further", more)
    policy = VineSkillPolicy.from_pretrained(tmp_path / "further/policy", strict=True)
    assert int(policy.updates) == 6 and further["weights_sha256"] != result["weights_sha256"]
    weights = tmp_path / "run/policy/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(VineError, match="have changed"):
        check_weights(tmp_path / "run")


def test_a_killed_run_is_not_resumed_with_other_settings(skills: Path, tmp_path: Path) -> None:
    config = System1Training(minutes=0, steps=4, batch_size=8, threads=1)
    first = train_system1(skills, tmp_path / "run", config)
    (tmp_path / "run/system1.json").unlink()  # as if killed after its last checkpoint
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    for change, line in (
        ({"steps": 6}, "steps was 4, now 6"),
        ({"batch_size": 4}, "batch_size was 8, now 4"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"learning_rate": 0.1}, "learning_rate was 0.001, now 0.1"),
    ):
        with pytest.raises(VineError, match=f"begun with other settings: {line}"):
            train_system1(skills, tmp_path / "run", replace(config, **change))
        assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
    again = train_system1(skills, tmp_path / "run", config)
    assert again["weights_sha256"] == first["weights_sha256"] and again["settings"] == first["settings"]


def test_budget_by_the_clock(skills: Path, tmp_path: Path) -> None:
    result = train_system1(skills, tmp_path / "run", System1Training(minutes=0.05, batch_size=8, threads=1))
    assert 2.5 < result["seconds"] < 8 and result["steps"] >= 2
    policy = VineSkillPolicy.from_pretrained(tmp_path / "run/policy", strict=True)
    assert int(policy.updates) == result["steps"]
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")] == []


def test_no_budget_and_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(VineError, match="no budget"):
        System1Training(minutes=0, steps=0)
    with pytest.raises(VineError, match="vine export skills"):
        train_system1(tmp_path, tmp_path / "run", System1Training(steps=1))


def test_no_such_device(skills: Path, tmp_path: Path) -> None:
    command = ["train", "system1", str(skills), "--out", str(tmp_path / "run"), "--device", "cuda:99"]
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *command], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("vine: error: no device 'cuda:99': ")
    assert done.stderr.endswith("(--device): give --device cpu\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_run_goes_on(skills: Path, tmp_path: Path) -> None:
    """Killed after a checkpoint, the run ends with the steps that it was given, and says so."""
    run = tmp_path / "run"
    command = [sys.executable, "-c", TRAIN, "train", "system1", str(skills), "--out", str(run)]
    command += [
        "--minutes",
        "0",
        "--steps",
        "200",
        "--batch-size",
        "8",
        "--threads",
        "1",
        "--save-every",
        "20",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 200
        while not (run / "trainer/checkpoints/last").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert not (run / "system1.json").exists()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout[done.stdout.index("{") :])
    assert result["steps"] == 200
    policy = VineSkillPolicy.from_pretrained(run / "policy", strict=True)
    assert int(policy.updates) == 200
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines][-1] == 200
