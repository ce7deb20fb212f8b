"""`.ci/run`: its exit code, its last line, and what it sets; with a `make` whose results are known."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from browser import require_chromium

SUMMARY = "======================= 151 passed in 101.04s (0:01:41) ========================"
FAILED = "=================== 1 failed, 150 passed in 9.04s ==================="


TOOLS = ("bash", "sh", "env", "git", "dirname", "mktemp", "tee", "grep", "tail", "rm", "cat")


@pytest.fixture
def tree(tmp_path: Path, repository: Path) -> Path:
    root = tmp_path / "main"
    (root / ".ci").mkdir(parents=True)
    shutil.copy(repository / ".ci" / "run", root / ".ci")
    (tmp_path / "bin").mkdir()
    return root


def tool(tree: Path, name: str, text: str) -> None:
    file = tree.parent / "bin" / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def run(
    tree: Path, lint: int, test: int, summary: str = SUMMARY, chromium: bool = True
) -> subprocess.CompletedProcess[str]:
    tool(
        tree,
        "make",
        f"""exec 3>>"{tree.parent}/calls"
        echo "$1 $MUJOCO_GL $HF_HUB_OFFLINE $VINE_BROWSER_TESTS real=$VINE_REAL_DATA" >&3
        [ "$1" = lint ] && exit {lint}
        echo '{summary}'
        [ {test} = 0 ] || echo "make: *** [test] Error {test}" >&2
        exit {test}""",
    )
    places = f"{tree.parent}/bin:{os.environ['PATH']}"
    if chromium:
        tool(tree, "chromium", "exit 0")
    else:  # nothing of this machine but what the script needs
        places = f"{tree.parent}/bin"
        for name in TOOLS:
            if not (tree.parent / "bin" / name).exists():
                (tree.parent / "bin" / name).symlink_to(shutil.which(name))
    environment = {k: v for k, v in os.environ.items() if k != "VINE_REAL_DATA"}
    return subprocess.run(
        [tree / ".ci" / "run"],
        env=environment | {"PATH": places},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("lint", "test", "summary", "code"),
    [(0, 0, SUMMARY, 0), (1, 0, SUMMARY, 1), (0, 2, FAILED, 1), (1, 2, FAILED, 1)],
)
def test_fails_when_either_fails_and_ends_with_the_summary(
    tree: Path, lint: int, test: int, summary: str, code: int
) -> None:
    done = run(tree, lint, test, summary)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == summary
    calls = (tree.parent / "calls").read_text().splitlines()
    assert [line.split()[0] for line in calls] == ["lint", "test"]
    assert {line.split(" ", 1)[1] for line in calls} == {"egl 1 required real="}


def test_real_data_beside_the_tree_are_used(tree: Path) -> None:
    (tree.parent / "shared" / "data").mkdir(parents=True)
    assert run(tree, 0, 0).returncode == 0
    assert f"real={tree.parent}/shared/data" in (tree.parent / "calls").read_text()


def test_missing_egl_is_named_and_installed_by_root(tree: Path) -> None:
    tool(tree, "ldconfig", "exit 0")
    tool(tree, "id", "echo 0")
    tool(tree, "apt-get", f'echo "$*" >>"{tree.parent}/apt"')
    done = run(tree, 0, 0)
    assert "apt-get install -y --no-install-recommends libegl1 libgl1-mesa-dri" in done.stdout
    assert "libegl1 libgl1-mesa-dri" in (tree.parent / "apt").read_text()

    (tree.parent / "apt").unlink()
    tool(tree, "id", "echo 1000")
    done = run(tree, 0, 0)
    assert "libegl1" in done.stdout
    assert not (tree.parent / "apt").exists()
    assert done.returncode == 0


def test_missing_chromium_is_installed_by_root_or_the_tests_fail(tree: Path) -> None:
    tool(tree, "ldconfig", "echo libEGL.so.1")
    tool(tree, "id", "echo 0")
    tool(tree, "apt-get", f'echo "$*" >>"{tree.parent}/apt"')
    assert "no chromium" in run(tree, 0, 0, chromium=False).stdout
    calls = (tree.parent / "apt").read_text().splitlines()
    assert calls == ["update -qq", "install -y -qq --no-install-recommends chromium"]

    tool(tree, "apt-get", "exit 100")
    done = run(tree, 0, 0, chromium=False)
    assert "could not be installed; the browser tests will fail" in done.stdout
    assert "required" in (tree.parent / "calls").read_text()


@pytest.mark.parametrize(
    ("required", "raised"), [("required", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_without_chromium_browser_tests_fail_in_ci_and_are_skipped_elsewhere(
    monkeypatch: pytest.MonkeyPatch, required: str, raised: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("VINE_BROWSER_TESTS", required)
    with pytest.raises(raised, match="no chromium"):
        require_chromium()
