"""Frames in memory give the trainer the very batches that LeRobot's loader gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from torch.utils.data import DataLoader

from vine_vla.core.errors import VineError
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.system1.vine_skill import memory
from vine_vla.system1.vine_skill.memory import FramesInMemory


@pytest.mark.parametrize("room", [12e9, 0])
@pytest.mark.parametrize("present", [False, True])
def test_identical_batches(skills: Path, present: bool, room: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "DECODED_BYTES", room)  # decoded once, or a batch at a time
    deltas = {"action": [i / 10 for i in range(-1, 12)]}
    if present:  # as a policy that could keep a history, and keeps none, asks
        keys = ("observation.images.front", "observation.state", "observation.environment_state")
        deltas |= {key: [0.0] for key in keys}
    own = FramesInMemory(LeRobotDatasetMetadata("vine/skills", root=skills), deltas)
    theirs = LeRobotDataset("vine/skills", root=skills, delta_timestamps=deltas)
    assert len(own) == len(theirs)
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(theirs, batch_size=16, sampler=order)
    for number, other in enumerate(loader):
        mine = own.batch(order[16 * number : 16 * (number + 1)])
        assert set(mine) == set(other)
        for key, value in other.items():
            if isinstance(value, torch.Tensor):
                assert mine[key].dtype == value.dtype, key
                assert torch.equal(mine[key], value), key
            else:
                assert mine[key] == value, key


def test_videos_are_refused(toy: DemoDataset) -> None:
    with pytest.raises(VineError, match="vine export skills"):
        FramesInMemory(LeRobotDatasetMetadata("vine/toy", root=toy.root))
