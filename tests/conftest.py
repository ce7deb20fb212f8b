"""Settings for every test, made before anything heavy is imported."""

import os
from pathlib import Path

import pytest
from browser import browser, tab

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

__all__ = ["browser", "tab"]  # fixtures


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the full real robot datasets, from VINE_REAL_DATA; the test is skipped without it."""
    folder = os.environ.get("VINE_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("VINE_REAL_DATA names no folder with the real robot datasets")
    return Path(folder)
