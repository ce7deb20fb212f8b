"""What a command does not import: start-up time is what a user feels first."""

import subprocess
import sys
from pathlib import Path

import pytest

from vine_vla.cli import commands

HEAVY = {
    *("torch", "torchvision", "lerobot", "datasets", "transformers", "mujoco", "gymnasium"),
    *("pandas", "scipy", "sklearn", "statsmodels", "matplotlib", "plotly", "numba"),
}
CODE = """
import sys
from vine_vla.cli import main
code = main(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
sys.exit(code)
"""


def imported(*arguments: str) -> set[str]:
    """Top-level modules that `vine ARGUMENTS` has imported when it is done."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_the_overview_imports_no_library() -> None:
    assert not imported("--help") & {*HEAVY, "numpy", "tyro", "pyarrow", "rich"}


@pytest.mark.parametrize("command", commands())
def test_help_imports_nothing_heavy(command: str) -> None:
    assert not imported(command, "--help") & HEAVY


@pytest.mark.parametrize("name", ["cr5_excerpt", "g1_excerpt"])
def test_inspecting_imports_nothing_heavy(name: str, repository: Path) -> None:
    found = imported("inspect", str(repository / "tests/data" / name))
    assert "pyarrow" in found and not found & HEAVY
