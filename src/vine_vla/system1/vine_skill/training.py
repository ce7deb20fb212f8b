"""Training System 1: the policy `vine_skill` on an exported dataset, resumable, for a number of steps.

What is written is a LeRobot checkpoint, for `lerobot-eval --policy.path` and `lerobot-train --policy.path`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig

from vine_vla.compute.progress import Report
from vine_vla.core.errors import VineError
from vine_vla.learning.device import usable_device
from vine_vla.learning.loop import Checkpoint
from vine_vla.storage.files import folder_in_the_making
from vine_vla.storage.json import write_json
from vine_vla.storage.provenance import revision
from vine_vla.storage.settings import differing
from vine_vla.system1.policy_training import CHECKPOINT, train_policy
from vine_vla.system1.settings import System1Training
from vine_vla.system1.vetting import read_config
from vine_vla.system1.vine_skill.configuration_vine_skill import VineSkillConfig
from vine_vla.system1.vine_skill.modeling_vine_skill import VineSkillPolicy
from vine_vla.system1.vine_skill.weights import (
    POLICY_FOLDER,
    RUN_FILE,
    RUN_FORMAT,
    file_hashes,
    read_run,
    weights_hash,
)

METRICS = "metrics.jsonl"


def train_system1(
    dataset: Path,
    out: Path,
    config: System1Training,
    *,
    device: str | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train the policy `vine_skill` on an exported dataset; resumes what was killed, keeps what is done.

    Args:
        dataset: LeRobot dataset, as `vine export skills` or `vine export flat` writes it.
        out: folder of the run: `policy/` (LeRobot's format), `system1.json`, `metrics.jsonl`.
        device: see `usable_device`. report: called with `system 1`, steps done and steps.

    Returns:
        The contents of `system1.json`.

    Raises:
        VineError: no dataset, no such device, or `out` holds a run with other settings; names the one that
            differs.
    """
    if not (dataset / "meta/info.json").is_file():
        raise VineError("no LeRobot dataset", where=str(dataset), hint="make one with `vine export skills`")
    place = usable_device(device)
    settings = _settings(dataset, config)
    if (out / RUN_FILE).is_file():
        found = read_run(out)
        difference = differing(found.get("settings", {}), settings)
        if difference is None:
            return found
        raise VineError(
            f"holds a System 1 trained otherwise: {difference}",
            where=str(out),
            hint="choose another folder or remove it",
        )
    out.mkdir(parents=True, exist_ok=True)
    cfg = _pipeline(dataset, config, str(place))
    rows: list[dict[str, float]] = []

    def log(step: int, figures: Mapping[str, float]) -> None:
        rows.append({"step": step} | dict(figures))
        with (out / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")

    begin = time.monotonic()
    checkpoint = Checkpoint(out / CHECKPOINT, settings)
    done = train_policy(cfg, checkpoint, what="system 1", log=log, report=report)
    assert isinstance(done.policy, VineSkillPolicy)
    done.policy.fit_features(done.preprocessor(done.frames.batch(part)) for part in _spread(done.frames))
    with folder_in_the_making(out / POLICY_FOLDER) as folder:
        done.save(folder, cfg)
    result = {
        "format": RUN_FORMAT,
        "weights_sha256": weights_hash(out / POLICY_FOLDER),
        "files_sha256": file_hashes(out),
        "settings": settings,
        "steps": config.steps,
        "seconds": time.monotonic() - begin,
        "actions": "motions" if done.policy.config.delta_actions else "positions",
        "metrics": {name: value for name, value in rows[-1].items() if name != "step"} if rows else {},
        "revision": revision(),
        "versions": {name: metadata.version(name) for name in ("lerobot", "torch", "numpy")},
    }
    write_json(out / RUN_FILE, result)
    checkpoint.path.unlink(missing_ok=True)
    return result


def _spread(frames: Any, count: int = 2048, at_once: int = 64) -> list[list[int]]:
    """Batches of at most `count` rows, spread evenly over the dataset."""
    rows = torch.linspace(0, len(frames) - 1, min(count, len(frames))).long().tolist()
    return [rows[start : start + at_once] for start in range(0, len(rows), at_once)]


def _settings(dataset: Path, config: System1Training) -> dict[str, Any]:
    """What makes two runs the same run."""
    found = {k: v for k, v in asdict(config).items() if k != "save_every"}
    export = dataset / "meta/vine_export.json"
    found["data"] = (
        json.loads(export.read_text(encoding="utf-8")) if export.is_file() else str(dataset.resolve())
    )
    for name, folder in (("start", config.start), ("encoders", config.encoders)):
        found[name] = weights_hash(folder / POLICY_FOLDER) if folder else None
    return found


def _pipeline(dataset: Path, config: System1Training, device: str) -> TrainPipelineConfig:
    """The training as LeRobot's configuration has it; saved with the policy."""
    if config.start is not None:
        policy = read_config(config.start / POLICY_FOLDER)
        if not isinstance(policy, VineSkillConfig):
            raise VineError(f"a policy of type {policy.type}, not vine_skill", where=str(config.start))
        policy.pretrained_path = config.start / POLICY_FOLDER
    else:
        policy = VineSkillConfig(
            imitate_all=config.imitate_all,
            encoders=str(config.encoders / POLICY_FOLDER) if config.encoders else "",
            delta_actions=None if config.actions == "auto" else config.actions == "motions",
        )
    policy.device, policy.push_to_hub, policy.learning_rate = device, False, config.learning_rate
    return TrainPipelineConfig(
        dataset=DatasetConfig(
            repo_id=f"vine/{dataset.name}", root=str(dataset), use_imagenet_stats=False, video_backend="pyav"
        ),
        policy=policy,
        seed=config.seed,
        batch_size=config.batch_size,
        steps=config.steps,
        save_freq=config.save_every,
        log_freq=100,
        env_eval_freq=0,
        optimizer=policy.get_optimizer_preset(),
        scheduler=policy.get_scheduler_preset(),
    )
