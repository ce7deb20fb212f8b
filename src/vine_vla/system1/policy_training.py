"""Training a LeRobot policy on frames in memory: LeRobot's configuration, batches and files, VINE's loop.

    python -m vine_vla.system1.policy_training --policy.type=act --dataset.root=path/to/joint ...

takes the options of `lerobot-train` and gives its policies the same batches in the same order; a small policy
on a CPU otherwise waits longer for its data than it computes. What it has no part for (several GPUs, videos,
evaluation while training, the hub) is `lerobot-train`'s work, and refused here.
"""

# No `from __future__ import annotations`: LeRobot's parser reads the type of `train`'s argument.

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import batched
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lerobot.common.train_utils import get_step_checkpoint_dir, save_checkpoint, update_last_checkpoint
from lerobot.configs import parser
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets import EpisodeAwareSampler, LeRobotDatasetMetadata, compute_sampler_state
from lerobot.datasets.factory import IMAGENET_STATS, resolve_delta_timestamps
from lerobot.optim.factory import make_optimizer_and_scheduler
from lerobot.policies import PreTrainedPolicy, make_policy, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot.utils.random_utils import set_seed
from lerobot.utils.utils import init_logging
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vine_vla.compute.progress import Report, progress_bars
from vine_vla.core.errors import VineError
from vine_vla.learning.loop import Checkpoint, LoopConfig, train_module
from vine_vla.system1.vine_skill.memory import FramesInMemory

CHECKPOINT = "training.safetensors"
"""What a killed run resumes from, in its folder."""


class TrainedPolicy(NamedTuple):
    """A trained policy with its processors, what trained it, and the frames it learned from."""

    policy: PreTrainedPolicy
    preprocessor: Any
    postprocessor: Any
    optimizer: Optimizer
    scheduler: LRScheduler | None
    frames: FramesInMemory

    def save(self, folder: Path, cfg: TrainPipelineConfig) -> None:
        """Write what LeRobot's commands load: policy, processors and the configuration of the training."""
        for part in (self.policy, cfg, self.preprocessor, self.postprocessor):
            part.save_pretrained(folder)


def train_policy(
    cfg: TrainPipelineConfig,
    checkpoint: Checkpoint,
    *,
    what: str,
    log: Callable[[int, Mapping[str, float]], object] | None = None,
    report: Report | None = None,
) -> TrainedPolicy:
    """Train the policy of a configuration; resumes from `checkpoint` if it is of this very run.

    Args:
        cfg: with policy, device, optimizer and scheduler set, as `cfg.validate()` leaves it.
        what, log, report: as in `train_module`.

    Raises:
        VineError: the dataset does not fit into memory's ways, or the loss is no number.
    """
    assert cfg.policy is not None and cfg.optimizer is not None
    meta = LeRobotDatasetMetadata(cfg.dataset.repo_id, root=cfg.dataset.root)
    if cfg.dataset.use_imagenet_stats:
        for key in meta.camera_keys:
            meta.stats[key] |= {name: torch.tensor(value) for name, value in IMAGENET_STATS.items()}
    frames = FramesInMemory(meta, resolve_delta_timestamps(cfg.policy, meta))
    seed = cfg.seed or 0
    set_seed(seed)
    policy = make_policy(cfg.policy, ds_meta=meta)
    preprocessor, postprocessor = make_pre_post_processors(cfg.policy, dataset_stats=meta.stats)
    optimizer, scheduler = make_optimizer_and_scheduler(cfg, policy)

    def batches(first: int) -> Iterator[dict[str, Any]]:
        sampler = EpisodeAwareSampler(
            meta.episodes["dataset_from_index"],
            meta.episodes["dataset_to_index"],
            drop_n_last_frames=getattr(cfg.policy, "drop_n_last_frames", 0),
            shuffle=True,
            seed=seed,
        )
        sampler.load_state_dict(compute_sampler_state(first, len(sampler), cfg.batch_size, 1))
        while True:
            for rows in batched(sampler, cfg.batch_size):
                yield preprocessor(frames.batch(rows))

    def loss(batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, float]]:
        value, found = policy.forward(batch)
        return value, {k: float(v) for k, v in (found or {}).items() if isinstance(v, (int, float))}

    train_module(
        policy,
        batches,
        loss,
        optimizer,
        scheduler,
        LoopConfig(
            steps=cfg.steps,
            seed=seed,
            clip=cfg.optimizer.grad_clip_norm or float("inf"),
            log_every=cfg.log_freq,
            save_every=cfg.save_freq,
            precision=torch.bfloat16 if getattr(cfg.policy, "use_amp", False) else torch.float32,
        ),
        checkpoint,
        what=what,
        after_step=getattr(policy, "update", None),
        log=log,
        report=report,
    )
    return TrainedPolicy(policy, preprocessor, postprocessor, optimizer, scheduler, frames)


REFUSED = (
    *("dataset.episodes", "dataset.streaming", "dataset.image_transforms.enable", "resume"),
    *("wandb.enable", "peft", "sample_weighting", "env", "policy.push_to_hub", "policy.pretrained_path"),
)
"""Options of `lerobot-train` that have no part here."""


def _check(cfg: TrainPipelineConfig) -> None:
    for name in REFUSED:
        value: Any = cfg
        for part in name.split("."):
            value = getattr(value, part, None)
        if value:
            raise VineError(f"--{name} is not for training in memory", hint="use lerobot-train")


@parser.wrap()
def train(cfg: TrainPipelineConfig) -> None:
    """Train with the options of `lerobot-train`, into the folders that it writes."""
    init_logging()
    _check(cfg)
    out = cfg.output_dir
    if out is None:
        raise VineError("no folder for the run", where="--output_dir", hint="give one")
    if (out / "checkpoints").exists():
        raise VineError("holds a finished run", where=str(out), hint="choose another folder or remove it")
    cfg.output_dir = None  # `validate` refuses a folder that exists, and a killed run's does
    cfg.validate()
    cfg.output_dir = out
    checkpoint = Checkpoint(out / CHECKPOINT, {"options": str(cfg.to_dict())})

    def log(step: int, figures: Mapping[str, float]) -> None:
        logging.info(f"step:{step} " + " ".join(f"{n}:{value:.3g}" for n, value in figures.items()))

    with progress_bars() as report:
        done = train_policy(cfg, checkpoint, what=cfg.policy.type, log=log, report=report)
    folder = get_step_checkpoint_dir(out, cfg.steps, cfg.steps)
    save_checkpoint(
        folder,
        cfg.steps,
        cfg,
        done.policy,
        done.optimizer,
        done.scheduler,
        done.preprocessor,
        done.postprocessor,
        num_processes=1,
        batch_size=cfg.batch_size,
    )
    update_last_checkpoint(folder)
    checkpoint.path.unlink(missing_ok=True)


if __name__ == "__main__":
    register_third_party_plugins()
    try:
        train()
    except VineError as error:
        sys.stderr.write(f"vine: error: {error}\n")
        sys.exit(2)
