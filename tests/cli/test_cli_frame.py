"""The command line as a user meets it: help, errors, exit codes, speed of start."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import get_args, get_origin, get_type_hints

import pytest

from vine_vla.cli import commands, main

VINE = [sys.executable, "-c", "import sys; from vine_vla.cli import main; sys.exit(main())"]

COMMAND = '''"""Greet a number of times.

More about greeting.
"""
import os, signal, sys
from dataclasses import dataclass
from typing import Annotated
import tyro
from vine_vla.core.errors import VineError

@dataclass(frozen=True)
class Config:
    """Options."""
    name: tyro.conf.Positional[str]
    """Whom to greet."""
    seconds: float = 2.5
    """Time for one greeting, in seconds."""
    json: bool = False
    """Print JSON."""

def run(config: Config) -> int:
    if config.name == "nobody":
        raise VineError("no name", where="argument name", hint="give one")
    if config.name == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    print(f"hello {config.name} {config.seconds} {config.json}")
    return 1 if config.name == "stranger" else 0
'''

NESTED = '''"""Do one of two things."""
from dataclasses import dataclass
from typing import Annotated
import tyro

@dataclass(frozen=True)
class One:
    """The first thing."""
    steps: int = 3
    """Steps, a count."""

@dataclass(frozen=True)
class Two:
    """The second thing."""

Both = Annotated[One, tyro.conf.subcommand("one")] | Annotated[Two, tyro.conf.subcommand("two")]

def run(config: Both) -> int:
    print(type(config).__name__, getattr(config, "steps", None))
    return 0
'''


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VINE, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The command package with two commands dropped in, as a builder would add them."""
    import vine_vla.cli as cli

    (tmp_path / "greet.py").write_text(COMMAND)
    (tmp_path / "nested.py").write_text(NESTED)
    (tmp_path / "_helper.py").write_text("def run(config): ...")
    (tmp_path / "constants.py").write_text("X = 1")
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    listed = commands() | commands(tmp_path)
    monkeypatch.setattr(cli, "commands", lambda: listed)
    yield cli
    for name in ("greet", "nested"):
        sys.modules.pop(f"vine_vla.cli.{name}", None)


def test_help_lists_every_command_and_exits_0() -> None:
    done = call("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for name, text in commands().items():
        assert f"  {name} " in done.stdout
        assert text.rstrip(".") in done.stdout


def test_no_command_shows_the_help_and_exits_2() -> None:
    done = call()
    assert done.returncode == 2
    assert "usage: vine COMMAND" in done.stdout


def test_version(repository: Path) -> None:
    declared = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    assert call("--version").stdout.split() == ["vine", declared]


def test_help_is_fast() -> None:
    """Its own work stays under half a second, in the best of three (a busy machine only adds to it)."""
    took = []
    for _ in range(3):
        started = time.process_time_ns(), os.times().children_user + os.times().children_system
        call("--help")
        took.append(os.times().children_user + os.times().children_system - started[1])
    assert min(took) < 0.5, took


def test_unknown_command_names_the_nearest() -> None:
    done = call("doctr")
    assert done.returncode == 2
    assert done.stderr == "vine: error: no command `doctr`: did you mean `vine doctor`?\n"
    assert done.stdout == ""


def test_bad_arguments_exit_2() -> None:
    done = call("doctor", "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "system1", "nowhere", "--out", "x", "--threads", "0"),
        ("train", "system2", "nowhere", "--out", "x", "--threads", "-1"),
        ("eval", "nowhere", "--workers", "-2"),
        ("collect", "--out", "x", "--workers", "-1"),
    ],
)
def test_threads_and_workers_are_checked_before_anything_is_done(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"vine: error: {arguments[-2][2:]} is {arguments[-1]}") and not said.out
    assert said.err.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", commands())
def test_every_command_keeps_the_convention(name: str) -> None:
    """One line of help; `run` takes `config`, a frozen dataclass or a union of them, and returns int."""
    assert commands()[name], f"{name} has no docstring"
    run = import_module(f"vine_vla.cli.{name.replace('-', '_')}").run
    hints = get_type_hints(run)
    assert hints["return"] is int
    kinds = [hints["config"]] if isinstance(hints["config"], type) else get_args(hints["config"])
    for kind in (get_origin(kind) or kind for kind in kinds):
        assert is_dataclass(kind)
        assert kind.__dataclass_params__.frozen, kind


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help(name: str) -> None:
    done = call(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: vine {name}" in done.stdout


def test_a_dropped_file_is_a_command(planted: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert planted.commands()["greet"] == "Greet a number of times."
    assert "helper" not in planted.commands()
    assert "constants" not in planted.commands()
    assert main(["greet", "Ada", "--seconds", "0.5", "--json"]) == 0
    assert capsys.readouterr().out == "hello Ada 0.5 True\n"
    assert main(["greet", "stranger"]) == 1


def test_help_shows_defaults_and_units(planted: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["greet", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Time for one greeting, in seconds. (default: 2.5)" in text
    assert "More about greeting." in text
    assert "--no-json" not in text


def test_subcommands(planted: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nested", "one", "--steps", "7"]) == 0
    assert main(["nested", "two"]) == 0
    assert capsys.readouterr().out == "One 7\nTwo None\n"
    assert main(["nested", "three"]) == 2


def test_vine_error_is_one_line_and_exit_2(planted: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["greet", "nobody"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "vine: error: no name (argument name): give one\n"


def test_ctrl_c_exits_130(planted: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["greet", "interrupt"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "vine: interrupted\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "import sys; from vine_vla.cli import main; sys.exit(main(['--help']))"
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "{sys.executable}" -c "{code}" | true'],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
