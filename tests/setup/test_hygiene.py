"""The checks on files to be committed: nothing of the tree breaks them, and each finds its case."""

import subprocess
import sys
from pathlib import Path

import pytest


def check(repository: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/hygiene.py", *map(str, files)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


def test_the_tree_is_clean(repository: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git working tree")
    # This file holds the bad examples.
    files = [
        Path(name) for name in listed.stdout.split("\0") if name and name != "tests/setup/test_hygiene.py"
    ]
    done = check(repository, *files)
    assert done.stdout.strip() == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("a.py", "x = torch.load(path)\n", ":1: unpickles a file"),
        ("a.py", "\nnp.load(path, allow_pickle=True)\n", ":2: unpickles a file"),
        ("a.py", "breakpoint()\n", "debugger left in"),
        # Put together, so that no address stands in this file.
        ("a.md", "/".join(["https:", "", "py" + "pi.org", "simple\n"]), "address of a package registry"),
        ("a.toml", "path = '/home/ada/data'\n", "path of one machine"),
        ("a.py", "<<<<<<< ours\n", "marks of a merge conflict"),
        ("a.py", "x = 1\r\n", "line ends of Windows"),
        ("a.sh", "echo", "no newline at the end"),
        ("a.bin", "x" * 2_000_001, "2.0 MB, more than 2 MB"),
    ],
)
def test_each_slip_is_found(repository: Path, tmp_path: Path, name: str, content: str, finding: str) -> None:
    file = tmp_path / name
    file.write_bytes(content.encode())
    done = check(repository, file)
    assert done.returncode == 1
    assert finding in done.stdout

    file.write_text("x = 1\n")
    assert check(repository, file).returncode == 0


def test_something_that_is_not_utf8_is_found(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"caf\xe9\n")
    assert "not UTF-8" in check(repository, file).stdout
