"""The pages: links lead somewhere, commands and options exist, and the site builds without network."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from docs.figures import ROOT, blocks
from vine_vla.cli import main
from vine_vla.evaluation.arms import ALWAYS, find_arm

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "results").rglob("*.md")),
]
CURRENT = [page for page in PAGES if "notebook" not in page.parts]
GENERATED = ("docs/reference/",)
"""Made by tools/site_pages.py when the site is built, which checks links to them."""

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"\bvine ([a-z]\w*)((?: [^`\n]*)?)")


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


def anchors(page: Path) -> set[str]:
    """Ids that mkdocs gives the headings of a page."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in found)
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for found in LINK.finditer(page.read_text(encoding="utf-8")):
        link = found[1] or found[2]
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page
        if "://" in link or target.relative_to(ROOT).as_posix().startswith(GENERATED):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


PRIVATE = re.compile(
    r"\b(eyes|(learned|scripted|perfect) hands|drills?|corrections|remarks?|haste|luck|listening"
    r"|blind operators|workshops?|adopt(s|ed)?|paint(ed)?|hues?|mend(s|ed)?|as_seen)\b",
    re.IGNORECASE,
)
"""Words that a robotics engineer would have to learn; the glossary has the standard ones."""


@pytest.mark.parametrize("page", CURRENT, ids=names(CURRENT))
def test_words_are_the_fields_own(page: Path) -> None:
    found = [(b.line, m[0]) for b in blocks(page.read_text("utf-8")) for m in PRIVATE.finditer(b.text)]
    assert not found


@cache
def command_help(*words: str) -> str:
    """What `vine WORDS --help` prints; empty if there is no such command."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        code = main([*words, "--help"])
    return printed.getvalue() if code == 0 else ""


@pytest.mark.parametrize("page", CURRENT, ids=names(CURRENT))
def test_commands_and_their_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    code = "\n".join([*re.findall(r"```sh\n(.*?)```", text, re.DOTALL), *re.findall(r"`(vine [^`]+)`", text)])
    code += "\n".join(re.findall(r"^    (vine .*)$", text, re.MULTILINE))
    wrong = []
    for name, rest in COMMAND.findall(re.sub(r" #.*| \|.*", "", code)):
        words, shown = (name,), command_help(name)
        if "subcommands" in shown and rest.split() and not rest.split()[0].isupper():
            words = (name, rest.split()[0])
            shown = command_help(*words) if re.search(rf"[{{,]{words[1]}[,}}]", shown) else ""
        options = ["", *re.findall(r"(?<= )--[a-z][\w-]*", rest)]
        wrong += [f"{' '.join(words)} {option}" for option in options if not shown or option not in shown]
    assert not wrong


def test_arms_that_are_named_exist() -> None:
    text = (ROOT / "docs/guides/comparing.md").read_text(encoding="utf-8")
    table = text.partition("## Arms")[2].partition("\n## ")[0]
    arms = re.findall(
        r"`([\w:-]+)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line)
    )
    assert len(arms) > 15
    for arm in arms:
        assert arm == f"{ALWAYS}NAME" or find_arm(arm)


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {"index.html", "results.html", "reference/commands.html", "reference/core.html"} <= {
        page.relative_to(tmp_path).as_posix() for page in pages
    }
    assert (tmp_path / "results/plug-full/episodes.csv").is_file()
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"https?://[^\"]*\"", text), page
