"""VINE inside LeRobot, as a user would run it: LeRobot's own commands, offline, in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects

pytestmark = [pytest.mark.slow, pytest.mark.ecosystem, pytest.mark.timeout(1200)]

VINE = "import sys; from vine_vla.cli import main; sys.exit(main())"
QUIET = ["--policy.push_to_hub=false", "--policy.device=cpu", "--num_workers=0", "--env_eval_freq=0"]
QUIET += ["--persistent_workers=false", "--prefetch_factor=2", "--dataset.video_backend=pyav"]
SIM = ["--env.type=vine_sim", "--eval.batch_size=1", "--policy.device=cpu"]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=900)
    assert process.returncode == code, said[-4000:]
    return said


def vine(*arguments: str | Path) -> str:
    return finish(start("-c", VINE, *arguments))


def lerobot(script: str, *arguments: str | Path) -> str:
    return finish(start("-m", f"lerobot.scripts.{script}", *arguments))


@pytest.fixture(scope="module")
def demos(tmp_path_factory) -> Path:
    """A few real demonstrations of the simulated task, as videos."""
    out = tmp_path_factory.mktemp("data") / "demos"
    vine("collect", "--out", out, "--episodes", "6", "--workers", "2")
    return out


@pytest.fixture(scope="module")
def run(demos, tmp_path_factory) -> Path:
    """A run with both systems, trained for some seconds: nothing that could succeed."""
    folder = tmp_path_factory.mktemp("run") / "run"
    more = ["--perception-steps", "10", "--threads", "1"]
    vine("train", "system2", demos, "--out", folder / "system2", *more)
    vine("export", "skills", demos, folder.parent / "skills")
    steps = ["--steps", "4", "--batch-size", "8", "--threads", "1"]
    vine("train", "system1", folder.parent / "skills", "--out", folder / "system1", *steps)
    return folder


@pytest.fixture(scope="module")
def agent(run) -> Path:
    """The checkpoint of the whole agent, away from the run that it was made from."""
    out = run.parent / "agent"
    vine("export", "policy", run, out, "--max-steps", "30")
    moved = run.parent / "elsewhere/agent"
    moved.parent.mkdir()
    return Path(shutil.move(out, moved))


def test_lerobot_trains_vine_skill_is_killed_and_goes_on(demos, tmp_path):
    out = tmp_path / "out"
    first = start(
        *("-m", "lerobot.scripts.lerobot_train", "--policy.type=vine_skill", "--policy.width=32"),
        *("--dataset.repo_id=vine/demos", f"--dataset.root={demos}", f"--output_dir={out}"),
        *("--steps=500", "--save_freq=2", "--batch_size=2", "--log_freq=1", *QUIET),
    )
    deadline = time.monotonic() + 600
    while not (out / "checkpoints/000002/training_state/training_step.json").is_file():
        assert first.poll() is None and time.monotonic() < deadline, first.stdout.read()[-4000:]
        time.sleep(0.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    done = sorted(p.name for p in (out / "checkpoints").glob("0*"))
    config = out / "checkpoints/last/pretrained_model/train_config.json"
    target = int(done[-1]) + 3
    said = lerobot("lerobot_train", f"--config_path={config}", "--resume=true", f"--steps={target}")
    assert "step:1 " not in said  # it did not begin anew
    saved = out / f"checkpoints/{target:06d}/pretrained_model"
    assert (saved / "model.safetensors").is_file()
    evaluated = tmp_path / "eval"
    scene = ["--env.episode_length=12", "--eval.n_episodes=2"]
    lerobot("lerobot_eval", f"--policy.path={saved}", *SIM, *scene, f"--output_dir={evaluated}")
    info = json.loads((evaluated / "eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 2 and info["overall"]["pc_success"] == 0
    assert len(list(evaluated.rglob("*.mp4"))) == 2  # failed episodes are not lost


def test_lerobot_evaluates_the_whole_agent_from_its_directory(agent, tmp_path):
    scene = ["--env.split=unseen", "--env.episode_length=30", "--eval.n_episodes=2"]
    lerobot("lerobot_eval", f"--policy.path={agent}", *SIM, *scene, f"--output_dir={tmp_path}")
    info = json.loads((tmp_path / "eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 2 and np.isfinite(info["overall"]["avg_sum_reward"])


def test_what_would_be_uploaded_is_the_whole_checkpoint(agent, tmp_path, monkeypatch):
    """The three calls to the hub are the only ones that are not made."""
    import huggingface_hub
    import torch
    from lerobot.configs import PreTrainedConfig
    from lerobot.configs.default import DatasetConfig
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.utils.import_utils import register_third_party_plugins

    from vine_vla.serving.modeling_vine import VinePolicy

    register_third_party_plugins()
    uploaded = tmp_path / "uploaded"

    def keep(self, *, folder_path, allow_patterns, ignore_patterns, **_):
        names = [str(p.relative_to(folder_path)) for p in Path(folder_path).rglob("*") if p.is_file()]
        for name in filter_repo_objects(
            names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (uploaded / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path) / name, uploaded / name)
        return huggingface_hub.CommitInfo(
            commit_url="https://huggingface.co/me/agent/commit/0",
            commit_message="",
            commit_description="",
            oid="0",
        )

    url = huggingface_hub.RepoUrl("https://huggingface.co/me/agent")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, **_: url)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", keep)
    monkeypatch.setattr(huggingface_hub.ModelCard, "validate", lambda self, **_: None)
    policy = VinePolicy.from_pretrained(agent)
    policy.config.repo_id = "me/agent"
    cfg = TrainPipelineConfig(dataset=DatasetConfig(repo_id="vine/demos"), policy=policy.config)
    policy.push_model_to_hub(cfg)
    assert "lerobot" in (uploaded / "README.md").read_text()
    again = VinePolicy.from_pretrained(uploaded, config=PreTrainedConfig.from_pretrained(uploaded))
    for name, value in policy.state_dict().items():
        torch.testing.assert_close(value, again.state_dict()[name])
    assert again.served.metadata() | {"serves": ""} == policy.served.metadata() | {"serves": ""}
    assert policy.supports_text_generation()


SMALL = {
    "act": [
        *("--policy.chunk_size=8", "--policy.n_action_steps=4", "--policy.dim_model=32"),
        *("--policy.n_heads=2", "--policy.dim_feedforward=32", "--policy.pretrained_backbone_weights=null"),
    ],
    "diffusion": [
        *("--policy.horizon=8", "--policy.n_action_steps=4", "--policy.down_dims=[16,32]"),
        *("--policy.num_train_timesteps=4", "--policy.crop_ratio=1.0"),
        "--policy.pretrained_backbone_weights=null",
    ],
}


@pytest.mark.parametrize(
    ("kind", "images", "trainer"),
    [
        ("act", "whole", "lerobot.scripts.lerobot_train"),
        ("diffusion", "windows", "lerobot.scripts.lerobot_train"),
        ("act", "none", "vine_vla.system1.policy_training"),
    ],
)
def test_a_policy_of_lerobot_runs_alone_and_under_vine(kind, images, trainer, demos, run, tmp_path):
    """Trained by lerobot-train on the joint export, imported, and evaluated as `flat` and under VINE."""
    joint, out, both = tmp_path / "joint", tmp_path / "out", tmp_path / "run"
    vine("export", "joint", demos, joint, "--images", images, "--pixels", "64")
    said = finish(
        start(
            *("-m", trainer, f"--policy.type={kind}", *SMALL[kind], *QUIET),
            *("--dataset.repo_id=vine/joint", f"--dataset.root={joint}", f"--output_dir={out}"),
            *("--steps=2", "--batch_size=2", "--log_freq=1"),
        )
    )
    assert "step:2 " in said
    saved = out / "checkpoints/last/pretrained_model"
    seen = json.loads((saved / "config.json").read_text())["input_features"]
    assert ("observation.images.front" in seen) == (
        images != "none"
    ) and "observation.environment_state" in seen
    both.mkdir()
    shutil.copytree(run / "system2", both / "system2")
    layout = joint / "meta/vine_crops.json"
    for name in ("system1", "flat"):
        vine("skill", "import", saved, demos, "--out", both / name, "--layout", layout)
    results = tmp_path / "results"
    vine("eval", both, "--arms", "flat", "vine", "--scenes", "0:2", "--max-steps", "20", "--out", results)
    rows = (results / "episodes.csv").read_text().splitlines()
    assert len(rows) == 1 + 4
