"""The `vine` command: finds commands by file, starts the one asked for, turns errors into one line.

How to add a command: drop `cli/NAME.py` into this folder; nothing else has to change.

- The first line of its docstring is the one line that `vine --help` shows. It is read, not imported,
  so that help stays fast however heavy a command's imports are.
- It defines `run(config: C) -> int`. `C` is a frozen dataclass (or a union of them, which tyro turns
  into sub-commands, e.g. `vine train system1 | system2`); give a sub-command its name and help with
  `Annotated[C, tyro.conf.subcommand(name="system2", description="...")]`. Annotations are resolved at
  run time, so `C` must be importable from the module that defines `run`.
- Fields of `C` carry their default, and their docstring gives meaning and unit. Both become the
  help: `seconds: float = 2.0` followed by a docstring of its own, `Time for one plan, in seconds.`
  A positional argument is `path: tyro.conf.Positional[Path]`; `json: bool = False` is the flag `--json`.
- `C` embeds the library's own frozen dataclasses (`Annotated[SearchConfig, tyro.conf.OmitArgPrefixes]`) and
  declares only what is the command's: an option is declared, explained and checked once. Texts are the
  attribute docstrings of those classes, ranges are checked in their `__post_init__`.
- A command whose options depend on its arguments also defines `config_type(arguments)`, which gives `C`.
- A module imports at its top only what is light (the classes that it embeds); the work is imported in `run`.
- `run` returns the exit code: 0 all well, 1 the command did its work and the answer is "no" (a check
  that failed). Bad input raises `VineError`: one line on stderr, exit code 2. Ctrl-C exits with 130.
- Results go to stdout, progress and warnings to stderr, so that `--json` can be piped.
- Files whose name starts with an underscore are helpers, not commands.
"""

import ast
import difflib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

from vine_vla.core.errors import VineError

__all__ = ["commands", "main"]

LEAST = {"threads": 1, "workers": 0}
"""Fields that mean the same in every command, and the least that they may be."""

# The order of work, for reading only: a command that is not named here is listed after these.
ORDER = (
    *("quickstart", "demo", "inspect", "doctor", "annotate", "export", "merge", "collect", "train"),
    *("calibrate", "plan", "explain", "skill", "eval", "experiment", "report", "serve"),
)


def commands(folder: Path | None = None) -> dict[str, str]:
    """Name and one-line help of every command, in the order of work.

    Args:
        folder: where the command files are; default: this package.

    Returns:
        `{name: help}`; the files are parsed, never imported.
    """
    found = {}
    for file in sorted((folder or Path(__file__).parent).glob("[!_]*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            found[file.stem.replace("_", "-")] = (ast.get_docstring(tree) or "").split("\n")[0]
    rank = {name: place for place, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(ORDER)), item[0])))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vine ARGV`; the entry point of the console script.

    Args:
        argv: arguments after `vine`; default: those of the process.

    Returns:
        The exit code: the command's own, 2 for bad input or bad arguments, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    warnings.formatwarning = _warning_line
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except VineError as error:
        print(f"vine: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vine: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `vine ... | head`: the reader has gone, which is not our error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _warning_line(message: Warning | str, *_: object) -> str:
    """A warning as one line for people, without the code that raised it."""
    return f"vine: warning: {message}\n"


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(f"vine {version('vine-vla')}")
        return 0
    known = commands()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `vine {close[0]}`?" if close else "see `vine --help`"
        raise VineError(f"no command `{name}`", hint=hint)
    run = import_module(f"{__name__}.{name.replace('-', '_')}").run
    return _call(run, prog=f"vine {name}", arguments=rest)


def _call(run: Callable[[Any], int], prog: str, arguments: Sequence[str]) -> int:
    """Parse the arguments into the configuration that `run` is annotated with, and run it."""
    import tyro  # late: `vine --help` does not need it

    special = getattr(sys.modules[run.__module__], "config_type", None)
    config_type = special(arguments) if special else get_type_hints(run, include_extras=True)["config"]
    try:
        config = tyro.cli(
            config_type,
            prog=prog,
            args=arguments,
            description=sys.modules[run.__module__].__doc__,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as end:  # tyro has printed its help (0) or what is wrong with the arguments (2)
        return end.code if isinstance(end.code, int) else 2
    for name, least in LEAST.items():
        value = getattr(config, name, None)
        if isinstance(value, int) and value < least:
            raise VineError(f"{name} is {value}", where=f"--{name}", hint=f"give {least} or more")
    return run(config)


def _overview() -> str:
    known = commands()
    width = max((len(name) for name in known), default=0)
    lines = [
        "usage: vine COMMAND [OPTIONS]",
        "",
        "Keep your failed demonstrations and your robot fails less.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {text.rstrip('.')}" for name, text in known.items()),
        "",
        "`vine COMMAND --help` lists a command's options with defaults and units; `vine --version`.",
    ]
    return "\n".join(lines)
