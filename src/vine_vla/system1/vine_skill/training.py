"""Training System 1 with LeRobot's own trainer, under a budget of minutes or steps, resumable.

The trainer runs in this process. Three things of it are replaced while it runs: its dataset class by the
one that holds frames in memory, its progress bar by one over the budget, and how it finds the checkpoint
to resume (it would parse this process's command line). A run by the clock ends by telling the trainer,
in the step in which the budget is spent, that this step is the last: it then writes its final checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import datasets
import torch
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.scripts import lerobot_train
from lerobot.utils.logging_utils import MetricsTracker
from tqdm import tqdm

from vine_vla.core.errors import VineError
from vine_vla.learning.device import usable_device
from vine_vla.learning.schedule import BudgetSpentError, ClockCosineConfig
from vine_vla.storage.files import folder_in_the_making
from vine_vla.storage.json import read_json, write_json
from vine_vla.storage.provenance import revision
from vine_vla.storage.settings import differing, keep_settings
from vine_vla.system1.vetting import read_config, vet_policy
from vine_vla.system1.vine_skill.configuration_vine_skill import VineSkillConfig
from vine_vla.system1.vine_skill.memory import InMemoryDataset
from vine_vla.system1.vine_skill.weights import POLICY_FOLDER, RUN_FILE, file_hashes, read_run, weights_hash

TRAINER = "trainer"
"""Folder of LeRobot's trainer within a run; its checkpoints are what a killed run resumes from."""

SETTINGS = "settings.json"
"""What a run was begun with; a killed one is resumed with the same alone."""

_MANY_STEPS = 10_000_000


@dataclass(frozen=True)
class System1Training:
    """How System 1 is trained.

    Args:
        minutes: budget by the clock; 0: `steps` alone.
        steps: budget in steps; 0: `minutes` alone.
        batch_size: samples a step.
        learning_rate: peak of the cosine.
        seed: of weights, order and noise.
        threads: of torch; leave at 1 on a machine that does other work, spinning threads wait for it.
        save_every: steps between checkpoints.
        imitate_all: imitate failed episodes too (`flat-all`).
        start: folder of a trained System 1 to start from, for corrections; None: from scratch.
        encoders: folder of a trained System 1 whose encoders are taken over, for policies that look at more
            than one object; None: from scratch.
        actions: `motions` (steps, velocities: 0 is to stand still), `positions`, or `auto`: positions if most
            of them follow the state.
        device: `cpu`, `cuda`, ...; None: `cuda` if there is one.
    """

    minutes: float = 5.0
    steps: int = 0
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    threads: int = 2
    save_every: int = 1000
    imitate_all: bool = False
    start: Path | None = None
    encoders: Path | None = None
    actions: Literal["auto", "motions", "positions"] = "auto"
    device: str | None = None

    def __post_init__(self) -> None:
        if self.minutes <= 0 and self.steps <= 0:
            raise VineError("no budget", hint="give --minutes or --steps")
        if self.batch_size < 1 or self.save_every < 1:
            raise VineError(
                f"batch_size {self.batch_size}, save_every {self.save_every}", hint="give 1 or more of each"
            )


def train_system1(dataset: Path, out: Path, config: System1Training) -> dict[str, Any]:
    """Train the policy `vine_skill` on an exported dataset; resumes what was killed, keeps what is done.

    Args:
        dataset: LeRobot dataset, as `vine export skills` writes it.
        out: folder of the run: `policy/` (LeRobot's format), `system1.json`, `metrics.jsonl`, `trainer/`.

    Returns:
        The contents of `system1.json`.

    Raises:
        VineError: no dataset, or `out` holds a run with other settings; names the one that differs.
    """
    if not (dataset / "meta/info.json").is_file():
        raise VineError("no LeRobot dataset", where=str(dataset), hint="make one with `vine export skills`")
    device = _device(config.device)
    settings = _settings(dataset, config)
    if (out / RUN_FILE).is_file():
        done = read_run(out)
        difference = differing(done.get("settings", {}), settings)
        if difference is None:
            return done
        raise VineError(
            f"holds a System 1 trained otherwise: {difference}",
            where=str(out),
            hint="choose another folder or remove it",
        )
    trainer = out / TRAINER
    checkpoint = _last_checkpoint(trainer)
    if checkpoint is None:
        shutil.rmtree(trainer, ignore_errors=True)
        cfg = _fresh(dataset, trainer, config)
        (out / SETTINGS).unlink(missing_ok=True)  # of a run that was killed before it had anything to keep
    else:
        cfg = _resumed(checkpoint, trainer)
    hint = "give the same settings again, choose another folder or remove it"
    keep_settings(out / SETTINGS, settings, hint=hint)
    assert cfg.policy is not None
    cfg.policy.device = device
    out.mkdir(parents=True, exist_ok=True)
    with _trainer_around(cfg, out, config) as run, suppress(BudgetSpentError):
        lerobot_train.train(cfg)
    return _finish(out, trainer, settings, run)


def _device(name: str | None) -> str:
    return str(usable_device(name))


def _settings(dataset: Path, config: System1Training) -> dict[str, Any]:
    """What makes two runs the same run; threads and device do not."""
    found = {k: v for k, v in asdict(config).items() if k not in ("threads", "save_every", "device")}
    if config.actions == "auto":
        del found["actions"]  # as runs of before this setting have it
    export = dataset / "meta/vine_export.json"
    found["data"] = (
        json.loads(export.read_text(encoding="utf-8")) if export.is_file() else str(dataset.resolve())
    )
    for name, folder in (("start", config.start), ("encoders", config.encoders)):
        found[name] = weights_hash(folder / POLICY_FOLDER) if folder else None
    return found


def _fresh(dataset: Path, trainer: Path, config: System1Training) -> TrainPipelineConfig:
    policy = VineSkillConfig(
        push_to_hub=False,
        learning_rate=config.learning_rate,
        imitate_all=config.imitate_all,
        encoders=str(config.encoders / POLICY_FOLDER) if config.encoders else "",
        delta_actions=None if config.actions == "auto" else config.actions == "motions",
    )
    if config.start is not None:
        policy = read_config(config.start / POLICY_FOLDER)
        assert isinstance(policy, VineSkillConfig)
        policy.learning_rate, policy.push_to_hub = config.learning_rate, False
        policy.pretrained_path = config.start / POLICY_FOLDER
    cfg = TrainPipelineConfig(
        dataset=DatasetConfig(
            repo_id=f"vine/{dataset.name}", root=str(dataset), use_imagenet_stats=False, video_backend="pyav"
        ),
        policy=policy,
        output_dir=trainer,
        seed=config.seed,
        batch_size=config.batch_size,
        steps=config.steps or _MANY_STEPS,
        num_workers=0,
        persistent_workers=False,
        dataloader_multiprocessing_context=None,
        log_freq=100,
        save_freq=config.save_every,
        env_eval_freq=0,
        use_policy_training_preset=False,
        optimizer=policy.get_optimizer_preset(),
        scheduler=replace(policy.get_scheduler_preset(), minutes=config.minutes),
    )
    return cfg


def _resumed(checkpoint: Path, trainer: Path) -> TrainPipelineConfig:
    folder = checkpoint / "pretrained_model"
    vet_policy(folder)
    _refuse_elsewhere(folder / "train_config.json")
    cfg = TrainPipelineConfig.from_pretrained(folder)
    cfg.resume, cfg.checkpoint_path, cfg.output_dir = True, checkpoint, trainer
    assert cfg.policy is not None
    cfg.policy.pretrained_path = folder
    return cfg


ELSEWHERE = (
    *("env", "reward_model", "peft", "save_checkpoint_to_hub"),
    *("policy.push_to_hub", "wandb.enable", "job.target"),
)
"""Fields of a trainer's configuration by which LeRobot imports an environment, uploads, or runs elsewhere."""


def _refuse_elsewhere(path: Path) -> None:
    """Raises VineError if the trainer would import an environment, upload, or run on another machine."""
    anew = "remove the trainer folder to begin anew"
    told = read_json(path, hint=anew)
    for name in ELSEWHERE:
        value = told
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value:
            raise VineError(
                f"{name} is set, which `vine train system1` never does", where=str(path), hint=anew
            )


def _last_checkpoint(trainer: Path) -> Path | None:
    """The newest checkpoint that was written whole: the trainer links it last."""
    link = trainer / "checkpoints" / "last"
    if link.exists():
        return link.resolve()
    found = sorted((trainer / "checkpoints").glob("[0-9]*"))
    return found[-2] if len(found) > 1 else None  # killed between removing the link and setting it


@dataclass
class _Run:
    """What is known of a run when it ends."""

    steps: int = 0
    metrics: dict[str, float] | None = None


@contextmanager
def _trainer_around(cfg: TrainPipelineConfig, out: Path, config: System1Training) -> Iterator[_Run]:
    """Everything that the trainer is given beside its configuration, and taken back afterwards."""
    run, threads, cache = _Run(), torch.get_num_threads(), out / ".cache"
    bar = tqdm(
        total=100.0,
        desc="system 1",
        unit="%",
        bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
        mininterval=5.0,
    )
    scheduler = cfg.scheduler
    assert isinstance(scheduler, ClockCosineConfig)

    def on_step(step: int, share: float) -> None:
        if step > cfg.steps:
            raise BudgetSpentError
        run.steps = step
        bar.update(100 * share - bar.n)
        if step % cfg.log_freq == 0:
            _remove_old_checkpoints(out / TRAINER)
            if run.metrics:
                bar.set_postfix(
                    {k: f"{run.metrics[k]:.3f}" for k in ("flow_loss", "waypoint_loss", "done_loss")}
                )
        if share >= 1.0:
            cfg.steps = step

    def keep(record: logging.LogRecord) -> bool:
        if isinstance(record.msg, MetricsTracker):
            run.metrics = {k: v for k, v in record.msg.to_dict().items() if isinstance(v, (int, float))}
            with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": run.steps} | run.metrics) + "\n")
        return record.levelno >= logging.WARNING

    scheduler.on_step = on_step  # type: ignore[attr-defined]
    cfg._resolve_pretrained_from_cli = lambda: None  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addFilter(keep)
    torch.set_num_threads(config.threads)
    quiet = lambda *a, **k: tqdm(*a, **(k | {"disable": True}))  # noqa: E731
    try:
        with (
            patch("lerobot.datasets.factory.LeRobotDataset", InMemoryDataset),
            patch.object(lerobot_train, "tqdm", quiet),
            patch.object(datasets.config, "HF_DATASETS_CACHE", cache),
        ):
            yield run
    finally:
        bar.close()
        root.removeFilter(keep)
        torch.set_num_threads(threads)
        shutil.rmtree(cache, ignore_errors=True)


def _remove_old_checkpoints(trainer: Path, keep: int = 2) -> None:
    for folder in sorted((trainer / "checkpoints").glob("[0-9]*"))[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)


def _finish(out: Path, trainer: Path, settings: dict[str, Any], run: _Run) -> dict[str, Any]:
    checkpoint = _last_checkpoint(trainer)
    assert checkpoint is not None
    with folder_in_the_making(out / POLICY_FOLDER) as folder:
        shutil.copytree(checkpoint / "pretrained_model", folder)
    _remove_old_checkpoints(trainer, keep=1)
    state = json.loads((checkpoint / "training_state/scheduler_state.json").read_text(encoding="utf-8"))
    metrics = run.metrics or {}
    saved = json.loads((out / POLICY_FOLDER / "config.json").read_text(encoding="utf-8"))
    result = {
        "weights_sha256": weights_hash(out / POLICY_FOLDER),
        "files_sha256": file_hashes(out),
        "settings": settings,
        "steps": state["last_epoch"],
        "seconds": state["used"],
        "actions": "motions" if saved["delta_actions"] else "positions",
        "metrics": {k: v for k, v in metrics.items() if math.isfinite(v)},
        "revision": revision(),
        "versions": {name: metadata.version(name) for name in ("lerobot", "torch", "numpy")},
    }
    write_json(out / RUN_FILE, result)
    return result
