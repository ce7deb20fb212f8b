"""Training as a user does it: by LeRobot's command with the plugin, and by `vine train system1`."""

from __future__ import annotations

import json
import math
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
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets import LeRobotDataset
from lerobot.policies import make_pre_post_processors
from system1.toy import SCHEMA

from vine_vla.core.errors import VineError
from vine_vla.data.export.crops import LAYOUT
from vine_vla.learning.schedule import warmup_cosine
from vine_vla.system1 import FlowSkill, System1Training, VineSkillConfig, check_weights, train_system1
from vine_vla.system1.adapters.skills import LeRobotSkill
from vine_vla.system1.policy_training import CHECKPOINT
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


def test_other_policies_are_trained_in_memory_with_lerobots_options(skills: Path, tmp_path: Path) -> None:
    """What LeRobot's commands load comes out; what has no part in it is refused in one line."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vine_vla.system1.policy_training", "--policy.type=act"]
    command += ["--policy.dim_model=32", "--policy.n_heads=2", "--policy.dim_feedforward=32"]
    command += ["--policy.pretrained_backbone_weights=null", "--policy.push_to_hub=false"]
    command += ["--policy.device=cpu", "--policy.chunk_size=8", "--policy.n_action_steps=4", "--steps=2"]
    command += [f"--dataset.repo_id=vine/{skills.name}", f"--dataset.root={skills}", "--batch_size=2"]
    command += [f"--output_dir={out}", "--dataset.video_backend=pyav"]
    refused = subprocess.run([*command, "--wandb.enable=true"], capture_output=True, text=True, timeout=220)
    assert refused.returncode == 2 and not out.exists()
    assert refused.stderr.endswith("--wandb.enable is not for training in memory: use lerobot-train\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0 and "act: 2 of 2" in done.stderr, done.stderr[-3000:]
    saved = out / "checkpoints/last/pretrained_model"
    assert LeRobotSkill.load(saved, layout=skills / LAYOUT).policy.name == "act"
    assert TrainPipelineConfig.from_pretrained(saved).steps == 2


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


def test_the_rate_rises_and_falls_by_half_a_cosine() -> None:
    rates = [warmup_cosine(step, 10, 2) for step in range(11)]
    assert rates[0] == pytest.approx(0.5) and rates[4] == pytest.approx(0.5 * (1 + math.cos(0.4 * math.pi)))
    assert rates[10] == pytest.approx(0.0) and warmup_cosine(20, 10, 2) == pytest.approx(0.0)
    assert max(rates) == rates[1]


def test_a_finished_run_is_kept_and_its_weights_are_checked(skills: Path, tmp_path: Path) -> None:
    config = System1Training(steps=4, batch_size=8)
    result = train_system1(skills, tmp_path / "run", config)
    assert result["steps"] == 4 and result["weights_sha256"] == check_weights(tmp_path / "run")
    assert train_system1(skills, tmp_path / "run", config) == result
    with pytest.raises(VineError, match="trained otherwise: steps was 4, now 5"):
        train_system1(skills, tmp_path / "run", System1Training(steps=5))
    more = System1Training(steps=2, batch_size=8, start=tmp_path / "run")
    further = train_system1(skills, tmp_path / "further", more)
    policy = VineSkillPolicy.from_pretrained(tmp_path / "further/policy", strict=True)
    assert int(policy.updates) == 6 and further["weights_sha256"] != result["weights_sha256"]
    weights = tmp_path / "run/policy/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(VineError, match="have changed"):
        check_weights(tmp_path / "run")


def test_lerobot_goes_on_with_what_was_trained(skills: Path, tmp_path: Path) -> None:
    """The folder is a checkpoint of LeRobot's: configuration of the training, processors, weights."""
    run = tmp_path / "run"
    train_system1(skills, run, System1Training(steps=2, batch_size=8))
    assert sorted(p.name for p in run.iterdir()) == ["metrics.jsonl", "policy", "system1.json"]
    cfg = TrainPipelineConfig.from_pretrained(run / "policy")
    assert cfg.steps == 2 and isinstance(cfg.policy, VineSkillConfig) and cfg.scheduler is not None
    loaded = make_pre_post_processors(cfg.policy, str(run / "policy"))
    assert [len(p.steps) > 0 for p in loaded] == [True, True]
    policy = VineSkillPolicy.from_pretrained(run / "policy", strict=True)
    assert int(policy.features.count) == 98


def test_a_killed_run_ends_as_one_that_was_not(skills: Path, tmp_path: Path) -> None:
    """To the last bit: weights, averaged weights and figures."""
    config = System1Training(steps=7, batch_size=8, save_every=3)

    class KilledError(Exception):
        pass

    def kill(what: str, step: int, steps: int) -> None:
        if step == 5:
            raise KilledError

    whole = train_system1(skills, tmp_path / "whole", config)
    with pytest.raises(KilledError):
        train_system1(skills, tmp_path / "killed", config, report=kill)
    assert [p.name for p in (tmp_path / "killed").iterdir()] == [CHECKPOINT]
    for change, line in (
        ({"steps": 6}, "steps was 7, now 6"),
        ({"batch_size": 4}, "batch_size was 8, now 4"),
        ({"learning_rate": 0.1}, "learning_rate was 0.001, now 0.1"),
    ):
        with pytest.raises(VineError, match=f"begun with other settings: {line}"):
            train_system1(skills, tmp_path / "killed", replace(config, **change))
    steps: list[int] = []
    again = train_system1(
        skills, tmp_path / "killed", config, report=lambda what, step, of: steps.append(step)
    )
    assert steps == [3, 4, 5, 6, 7] and again["weights_sha256"] == whole["weights_sha256"]
    other = System1Training(steps=7, batch_size=8, seed=1)
    assert train_system1(skills, tmp_path / "other", other)["weights_sha256"] != whole["weights_sha256"]


def test_bad_settings_and_no_dataset(tmp_path: Path) -> None:
    for name in ("steps", "batch_size", "save_every"):
        with pytest.raises(VineError, match=f"{name} is 0"):
            System1Training(**{name: 0})
    with pytest.raises(VineError, match="vine export skills"):
        train_system1(tmp_path, tmp_path / "run", System1Training(steps=1))


def test_runs_and_policies_of_an_earlier_format_are_refused(skills: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_system1(skills, run, System1Training(steps=1, batch_size=4))
    for path, what in ((run / "policy/config.json", "vine_skill policy"), (run / "system1.json", "System 1")):
        written = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in written.items() if k != "format"} | {"hue": 0.5}))
        with pytest.raises(VineError, match=f"a {what} of format 1, this version reads 2.*anew"):
            FlowSkill.load(run, SCHEMA) if path.name == "config.json" else check_weights(run)


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
    command += ["--steps", "200", "--batch-size", "8", "--threads", "1", "--save-every", "20"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 200
        while not (run / CHECKPOINT).exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert not (run / "system1.json").exists()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "system 1: 200 of 200" in done.stderr and "system 1: 0 of 200" not in done.stderr
    result = json.loads(done.stdout[done.stdout.index("{") :])
    assert result["steps"] == 200
    policy = VineSkillPolicy.from_pretrained(run / "policy", strict=True)
    assert int(policy.updates) == 200
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines][-1] == 200
