"""The dataset in memory gives the trainer the very batches that LeRobot's own gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lerobot.datasets import LeRobotDataset
from torch.utils.data import DataLoader

from vine_vla.core.errors import VineError
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.system1.vine_skill import memory
from vine_vla.system1.vine_skill.memory import InMemoryDataset


@pytest.mark.parametrize("room", [12e9, 0])
@pytest.mark.parametrize(("episodes", "present"), [(None, False), ([1, 3], True)])
def test_identical_batches(
    skills: Path, episodes: list[int] | None, present: bool, room: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "DECODED_BYTES", room)  # decoded once, or a batch at a time
    arguments = {"root": skills, "episodes": episodes, "return_uint8": True}
    arguments["delta_timestamps"] = {"action": [i / 10 for i in range(-1, 12)]}
    if present:  # as a policy that could keep a history, and keeps none, asks
        keys = ("observation.images.front", "observation.state", "observation.environment_state")
        arguments["delta_timestamps"] |= {key: [0.0] for key in keys}
    own = InMemoryDataset("vine/skills", **arguments)
    theirs = LeRobotDataset("vine/skills", **arguments)
    assert len(own) == len(theirs)
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(0)).tolist()
    batches = [DataLoader(d, batch_size=16, sampler=order) for d in (own, theirs)]
    for mine, other in zip(*batches, strict=True):
        assert set(mine) == set(other)
        for key, value in other.items():
            found = mine[key]
            # What the trainer does with uint8.
            if key.startswith("observation.images") and not key.endswith("_is_pad"):
                assert found.dtype == torch.uint8
                found = found.to(torch.float32) / 255.0
            if isinstance(value, torch.Tensor):
                assert found.dtype == value.dtype, key
                assert torch.equal(found, value), key
            else:
                assert found == value, key


def test_videos_are_refused(toy: DemoDataset) -> None:
    with pytest.raises(VineError, match="vine export skills"):
        InMemoryDataset("vine/toy", root=toy.root, video_backend="pyav")
