"""The bootstrap: finds a Python that really runs, makes the environment once, mends half-made ones.

The tests run the real script in a copy of its surroundings with an empty lock file, so that nothing is
fetched; the project that it installs is a small one, built with the setuptools of this environment.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHIM = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"
REAL = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
# Says it is a Python of another version, whatever it is asked.
OTHER = """#!/bin/sh\ncase "$2" in *version_info*) echo "{version} $0";; esac\n"""
TOO_OLD = "#!/bin/sh\nexit 1\n"

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "small"
version = "0.1"
[tool.setuptools]
py-modules = ["small"]
"""


class Clone:
    """A working tree with the script in it, a home without Pythons, and a PATH that holds little."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.root = folder / "a clone"  # with a space, as people's folders have
        self.bin = folder / "bin"
        self.home = folder / "home"
        for path in (self.root / "tools", self.bin, self.home):
            path.mkdir(parents=True)
        shutil.copy(repository / "tools" / "bootstrap.sh", self.root / "tools")
        (self.root / "requirements.lock").write_text("# nothing\n")
        (self.root / "pyproject.toml").write_text(PROJECT)
        (self.root / "small.py").write_text("x = 1\n")
        for tool in ["sh", "dirname", "cat", "cksum", "awk", "df", "ls", "mkdir", "mv", "rm", "flock", "env"]:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        # The script looks into fixed places, too; these make every name on PATH ours.
        for name in ("python3.12", "python3.13", "python3", "python", "uv"):
            self.put(name, SHIM)

    def put(self, name: str, text: str, folder: Path | None = None) -> Path:
        file = (folder or self.bin) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        return file

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "tools/bootstrap.sh", *arguments],
            cwd=self.root,
            env={"PATH": str(self.bin), "HOME": str(self.home), "VINE_NO_UV": "1", **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def find(self, **environment: str) -> str:
        done = self.run("--find-python", **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, repository: Path) -> Clone:
    return Clone(tmp_path, repository)


@pytest.fixture
def base_python() -> str:
    """A Python outside of a virtual environment that can install: this one's, if it brings pip."""
    python = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    if subprocess.run([python, "-c", "import ensurepip"], capture_output=True, check=False).returncode:
        pytest.skip("this Python has no ensurepip")
    return python


def test_a_shim_that_fails_does_not_count(clone: Clone, base_python: str) -> None:
    """pyenv's shims exist for every version and exit non-zero for those that are not selected."""
    real = clone.put(
        "python", f'#!/bin/sh\nexec "{base_python}" "$@"\n', clone.home / ".pyenv/versions/3.12.99/bin"
    )
    assert real.exists()
    version, found = clone.find().split(" ", 1)
    assert version == f"3.{sys.version_info.minor}"
    assert found == os.path.realpath(base_python) or Path(found).samefile(base_python)


def test_the_lowest_version_that_runs_is_taken(clone: Clone) -> None:
    clone.put("python3.12", OTHER.format(version="3.12"))
    clone.put("python3.13", OTHER.format(version="3.13"))
    assert clone.find() == f"3.12 {clone.bin / 'python3.12'}"
    clone.put("python3.12", SHIM)
    assert clone.find() == f"3.13 {clone.bin / 'python3.13'}"


def test_the_override_wins_and_must_run(clone: Clone) -> None:
    clone.put("python3.12", OTHER.format(version="3.12"))
    mine = clone.put("mine", OTHER.format(version="3.13"))
    assert clone.find(PYTHON=str(mine)).startswith("3.13 ")

    done = clone.run(PYTHON=str(clone.put("broken", SHIM)))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "broken does not run" in done.stderr
    assert not (clone.root / ".venv").exists()


@pytest.mark.parametrize(
    ("python3", "words"),
    [
        (TOO_OLD, ["no working Python 3.12 or 3.13", "apt-get install", "pyenv install", "PYTHON="]),
        (OTHER.format(version="3.14"), ["only Python 3.14 found", "install Python 3.12 or 3.13"]),
        (
            # It can make environments, but without pip, as Debian's does without python3-venv.
            '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\necho "3.12 $0"\n',
            ["has no ensurepip", "apt-get install python3-venv"],
        ),
    ],
)
def test_one_line_says_what_is_missing_and_how_to_get_it(
    clone: Clone, python3: str, words: list[str]
) -> None:
    if clone.run("--find-python").returncode == 0:
        pytest.skip("this machine has a Python in a place where the script looks besides PATH")
    clone.put("python3", python3)
    done = clone.run()
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def real_uv() -> str | None:
    """A uv that runs: the one beside this Python, or one of the user's; None where there is none."""
    places = [Path(sys.executable).parent, Path.home() / ".local/bin"]
    places += sorted((Path.home() / ".pyenv/versions").glob("*/bin"))
    for file in (place / "uv" for place in places):
        if (
            file.exists()
            and subprocess.run([file, "--version"], capture_output=True, check=False).returncode == 0
        ):
            return str(file)
    return None


class TestMaking:
    """The whole script, offline; with uv where there is one, since it is much faster than pip."""

    @pytest.fixture(autouse=True)
    def _offline(self, clone: Clone, base_python: str) -> None:
        import setuptools

        # A lock that installs nothing leaves setuptools out, which the editable install needs.
        site = Path(setuptools.__file__).parents[1]
        clone.put("python3.12", f'#!/bin/sh\nexec "{base_python}" "$@"\n')
        self.clone, self.root = clone, clone.root
        self.offline = {
            "PYTHONPATH": str(site),
            "PIP_NO_INDEX": "1",
            "UV_OFFLINE": "1",
            "UV_LINK_MODE": "copy",
        }
        if uv := real_uv():
            clone.put("uv", f'#!/bin/sh\nexec "{uv}" "$@"\n')
            self.offline["VINE_NO_UV"] = ""

    def make(self, **environment: str) -> subprocess.CompletedProcess[str]:
        done = self.clone.run(**(self.offline | environment))
        assert done.returncode == 0, done.stderr
        return done

    def python(self, code: str) -> str:
        command = [str(self.root / ".venv/bin/python"), "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def test_with_pip_from_nothing(self) -> None:
        assert "making .venv" in self.make(VINE_NO_UV="1").stderr
        assert self.python("import small, pip; print(small.x)") == "1"

    def test_the_second_run_does_nothing_and_a_new_lock_updates(self) -> None:
        self.make()
        started = time.perf_counter()
        second = self.make()
        assert time.perf_counter() - started < 2
        assert second.stderr == ""

        keep = self.root / ".venv" / "keep"
        keep.touch()
        (self.root / "requirements.lock").write_text("# something else\n")
        assert "up to date" in self.make().stderr
        assert keep.exists()
        assert self.make().stderr == ""

    @pytest.mark.parametrize("awaited", [".venv/.vine-building", ".venv/pyvenv.cfg", ".venv/bin/python"])
    def test_a_kill_at_any_moment_is_survived(self, awaited: str) -> None:
        """kill -9 of the whole process group as soon as the file is there."""
        process = subprocess.Popen(
            ["sh", "tools/bootstrap.sh"],
            cwd=self.root,
            env={"PATH": str(self.clone.bin), "HOME": str(self.clone.home), **self.offline},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while not (self.root / awaited).exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        os.killpg(process.pid, 9)
        process.wait()
        assert not (self.root / ".venv/.vine-stamp").exists()
        left = self.root / ".venv/left"
        left.touch()
        assert "half made" in self.make().stderr
        assert not left.exists()
        assert self.python("import small; print(small.x)") == "1"
        assert self.make().stderr == ""

    def test_an_update_that_was_killed_is_made_again(self) -> None:
        self.make()
        (self.root / ".venv/.vine-stamp").rename(self.root / ".venv/.vine-building")
        assert "half made" in self.make().stderr
        assert self.make().stderr == ""

    def test_an_update_that_fails_says_so_and_keeps_the_environment(self) -> None:
        """Without a network it could not be made again."""
        self.make()
        keep = self.root / ".venv" / "keep"
        keep.touch()
        (self.root / "requirements.lock").write_text("no-such-package-anywhere==3.1\n")
        failed = self.clone.run(**self.offline)
        assert failed.returncode == 2
        assert "could not be installed" in failed.stderr.splitlines()[-1]
        assert not (self.root / ".venv/.vine-stamp").exists()
        (self.root / "requirements.lock").write_text("# mended\n")
        assert "up to date" in self.make().stderr
        assert keep.exists()
        assert self.make().stderr == ""

    def test_an_environment_of_somebody_else_is_kept(self, base_python: str) -> None:
        subprocess.run([base_python, "-m", "venv", "--without-pip", str(self.root / ".venv")], check=True)
        theirs = self.root / ".venv" / "theirs"
        theirs.touch()
        assert "up to date" in self.make().stderr
        assert theirs.exists()

    def test_an_environment_whose_python_is_gone_is_made_again(self) -> None:
        self.make()
        (self.root / ".venv/bin/python").unlink()
        assert "does not run any more" in self.make().stderr
        assert self.python("import small; print(small.x)") == "1"

    def test_a_moved_clone_is_made_right(self) -> None:
        """Scripts and links of an environment carry its path; the second place must not use the first."""
        self.make()
        moved = self.root.parent / "moved"
        self.root.rename(moved)
        self.root = self.clone.root = moved
        assert "in another place" in self.make().stderr
        assert self.python("import small; print(small.__file__)") == str(moved / "small.py")


def test_the_lock_names_versions_and_no_addresses(repository: Path) -> None:
    lines = (repository / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    for line in pins:
        requirement = line.split(";")[0].strip()
        name, _, version = requirement.partition("==")
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum(), line
        assert version[:1].isdigit(), line
        assert not set("/@:") & set(requirement), line
    assert "mujoco==3.3.0" in pins
