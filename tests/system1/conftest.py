"""Datasets and policies that several tests share; made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from system1.policies import save_act
from system1.toy import SCHEMA, record_toy

from vine_vla.data.export.crops import LAYOUT, target_layout
from vine_vla.data.export.skills import export_flat, export_skills
from vine_vla.data.lerobot.dataset import DemoDataset


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> DemoDataset:
    return record_toy(tmp_path_factory.mktemp("toy"), episodes=6)


@pytest.fixture(scope="session")
def skills(toy: DemoDataset) -> Path:
    return export_skills(toy, toy.root.parent / "skills", threads=1).out


@pytest.fixture(scope="session")
def flat(toy: DemoDataset) -> Path:
    return export_flat(toy, toy.root.parent / "flat", threads=1, successful_only=False).out


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ACT with random weights that reads two cameras, state, verb and boxes."""
    layout = target_layout(SCHEMA, dict.fromkeys(SCHEMA.cameras, (96, 96)))
    folder = save_act(tmp_path_factory.mktemp("act") / "pretrained_model", environment=layout.width)
    (folder / Path(LAYOUT).name).write_text(layout.to_json())
    return folder
