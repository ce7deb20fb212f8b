"""What the site (mkdocs.yml) is made of beside docs/: command and API reference, and the committed results.

mkdocs calls the hooks below. Links in the sources are relative to the repository, so that they work where it
is read without the site; `on_page_markdown` turns those that leave docs/ into links of the site.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
SHARED = ("results", "examples")
"""Folders outside docs/ whose files are part of the site."""
WIDTH = 88
"""Characters that a line of a command's help may have, to fit the page."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")

ROOMS = {
    "core": "Nouns and boundaries: scene graphs, subgoals, outcomes, and what the parts owe each other.",
    "search": "Tree search over subgoals, and the reasons of a plan.",
    "agent": "The loop that perceives, plans, executes, verifies and plans again.",
    "data": "LeRobot datasets and their sidecars: reading, recording, annotating, exporting.",
    "tasks": "The boundary to tasks, and the registry that finds them.",
    "system1": "Low-level policies: the project's own, others' policies, done heads.",
    "system2": "The boundary to kinds of System 2, and what works for all of them.",
    "evaluation": "Arms, paired episodes and statistics.",
    "compute": "Executors and stages.",
    "serving": "The openpi server.",
}
"""Packages with a page of the API reference."""
INSIDES = {"compact", "line", "plug", "vine_skill"}
"""Sub-packages that nobody outside builds on."""


MODULE = "    options: {show_root_heading: false, show_root_toc_entry: false}"


def on_files(files: Files, config: Any) -> Files:
    """Add what is generated, and the files that docs/ links to."""
    files.append(File.generated(config, "reference/commands.md", content=_commands()))
    for room, about in ROOMS.items():
        files.append(File.generated(config, f"reference/{room}.md", content=_room(room, about)))
    for folder in SHARED:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(ROOT).as_posix()
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links of the repository into links of the site; keep intervals on one line."""
    name = page.file.src_uri
    here = posixpath.dirname(name if name.startswith(SHARED) else f"docs/{name}")

    def of_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, link[1]))
        if (ROOT / target).is_dir():
            target += "/README.md"
        target = target.removeprefix("docs/")
        return posixpath.relpath(target, posixpath.dirname(name) or ".")

    markdown = re.sub(r"<!-- rows:.*?-->\n?", "", markdown, flags=re.DOTALL)  # for tests/docs alone
    markdown = re.sub(r"(?<=\d) to (?=[+-]?\.?\d)", "&nbsp;to&nbsp;", markdown)
    return LINK.sub(of_site, markdown)


def _commands() -> str:
    """The commands' own `--help`, a section each."""
    os.environ["COLUMNS"] = str(WIDTH)
    sys.path.insert(0, str(ROOT / "src"))
    from vine_vla.cli import commands

    parts = ["# Commands", "`vine --help` lists them; this page is what `vine COMMAND --help` prints."]
    for name in commands():
        for words, text in _help((name,)):
            parts += [f"{'#' * (1 + len(words))} vine {' '.join(words)}", f"```text\n{text}\n```"]
    return "\n\n".join(parts)


def _help(words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """A command's help, then its sub-commands'."""
    from vine_vla.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([*words, "--help"])
    lines = [line.rstrip() for line in printed.getvalue().strip().splitlines()]
    text = "\n".join(line if len(line) <= WIDTH else textwrap.fill(line, WIDTH) for line in lines)
    yield words, text
    named = re.match(r"usage: .*?\{([\w,-]+)\}", text.split("\n\n")[0], re.DOTALL)
    for name in named[1].split(",") if named and "subcommands" in text else ():
        yield from _help((*words, name))


def _room(room: str, about: str) -> str:
    """A page of a package: its modules, then those of its sub-packages."""
    package = ROOT / "src/vine_vla" / room
    parts = [f"# vine_vla.{room}", about]
    for file in sorted(package.rglob("*.py"), key=lambda file: (len(file.parts), file)):
        place = file.relative_to(package).with_suffix("").parts
        if not file.stem.startswith("_") and INSIDES.isdisjoint(place):
            name = ".".join(place)
            parts.append(f"## {name}\n\n::: vine_vla.{room}.{name}\n{MODULE}")
    return "\n\n".join(parts)
