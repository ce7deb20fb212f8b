"""Time of a batch: LeRobot's own loader against the one in memory, beside the gradient step.

    python benchmarks/system1_loader.py EXPORT [--batches 20] [--threads 1]

EXPORT is a dataset of `vine export skills`. Prints milliseconds a batch of 64, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.policies import make_policy
from torch.utils.data import DataLoader

from vine_vla.system1 import VineSkillConfig
from vine_vla.system1.vine_skill.memory import FramesInMemory


def median_ms(work: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export", type=Path)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, float] = {"load": os.getloadavg()[0], "threads": options.threads}
    policy = make_policy(
        VineSkillConfig(device="cpu"), ds_meta=LeRobotDatasetMetadata("vine/x", root=options.export)
    ).train()
    meta = LeRobotDatasetMetadata("vine/x", root=options.export)
    deltas = {"action": [i / meta.fps for i in range(policy.config.chunk_size)]}
    begin = time.perf_counter()
    theirs = LeRobotDataset("vine/x", root=options.export, delta_timestamps=deltas, video_backend="pyav")
    found["lerobot_open_s"] = time.perf_counter() - begin
    begin = time.perf_counter()
    own = FramesInMemory(meta, deltas)
    found["memory_open_s"] = time.perf_counter() - begin
    order = torch.randint(len(own), (64 * (options.batches + 2),)).tolist()
    batches = iter(DataLoader(theirs, batch_size=64, sampler=order))
    next(batches)
    found["lerobot_batch_ms"] = median_ms(lambda: next(batches), options.batches)
    found["memory_batch_ms"] = median_ms(lambda: own.batch(order[:64]), options.batches)
    batch = own.batch(order[:64])
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())

    def step() -> None:
        policy(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        policy.update()

    step()
    found["step_ms"] = median_ms(step, options.batches)
    for name in ("lerobot", "memory"):
        found[f"{name}_share"] = found[f"{name}_batch_ms"] / (found[f"{name}_batch_ms"] + found["step_ms"])
    print(json.dumps({key: round(value, 3) for key, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
