"""The page `docs/guides/own_data.md`: its commands run as they stand there, its files read by VINE."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vine_vla.cli import commands, main

EXCERPT = Path(__file__).parents[1] / "data/cr5_excerpt"
MAIN = "import sys; from vine_vla.cli import main; sys.exit(main())"


@pytest.fixture
def page(repository) -> str:
    return (repository / "docs/guides/own_data.md").read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    """The fenced blocks of a kind, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_commands_of_the_page_exist(page):
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    used = [shlex.split(line, comments=True)[1] for line in lines if line.startswith("vine ")]
    assert set(used) <= set(commands())
    assert [u for u in used if u != "inspect"][:4] == ["annotate", "train", "export", "train"]


def test_files_of_the_page_are_read(page, tmp_path, capsys):
    """Boxes, words and subgoals as the page shows them, on the small excerpt of the same recordings."""
    boxes, words, subgoals = (json.loads(block) for block in blocks(page, "json"))
    files = {name: tmp_path / f"{name}.json" for name in ("boxes", "words", "subgoals")}
    for name, data in (("boxes", boxes), ("words", words), ("subgoals", subgoals)):
        files[name].write_text(json.dumps(data) + "\n")
    given = [part for name, file in files.items() for part in (f"--{name}", str(file))]
    assert main(["annotate", str(EXCERPT), *given, "--out", str(tmp_path / "data")]) == 0
    told = capsys.readouterr()
    assert told.out == "2 episodes: 2 unknown; 1 segments, 1 scene graphs\n"
    assert "1 of 1 segments have no scene graph" in told.err
    schema = json.loads((tmp_path / "data/meta/vine.json").read_text())["schema"]
    assert {name: schema[name] for name in ("verbs", "predicates", "describing")} == {
        name: words[name] for name in ("verbs", "predicates", "describing")
    }


def test_the_first_steps_on_the_excerpt(tmp_path, capsys):
    """Inspected, annotated on a copy, and told what is missing before anything is trained."""
    out = tmp_path / "data"
    labels = ["--labels", str(EXCERPT / "labels.jsonl"), "--out", str(out)]
    assert main(["inspect", str(EXCERPT)]) == 0
    assert main(["annotate", str(EXCERPT), *labels]) == 0
    assert main(["train", "system2", str(out), "--out", str(tmp_path / "run/system2"), "--graphs-only"]) == 2
    assert "no episode with segments and scene graphs" in capsys.readouterr().err
    assert main(["annotate", str(EXCERPT), *labels, "--boxes", str(EXCERPT / "boxes.jsonl")]) == 0
    assert main(["train", "system2", str(out), "--out", str(tmp_path / "run/system2"), "--graphs-only"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vine: error: none of the 4 segments of 2 training episodes has a scene graph")
    assert main(["inspect", str(out)]) == 0
    assert squeezed("segments grasp 4: 2 reached, 2 slipped") in squeezed(capsys.readouterr().out)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_command_of_the_page_on_the_real_data(page, real_data, repository, tmp_path):
    pytest.importorskip("openpi_client")
    for name, target in (
        ("cr5_hand_guided", real_data / "cr5_hand_guided"),
        ("examples", repository / "examples"),
    ):
        (tmp_path / name).symlink_to(target, target_is_directory=True)
    before = {p: p.stat().st_mtime_ns for p in (real_data / "cr5_hand_guided").rglob("*")}
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, command in (("vine", [sys.executable, "-c", MAIN]), ("python", [sys.executable])):
        (tools / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (tools / name).chmod(0o755)
    # A server that is left behind by a failed step would keep the output open for ever.
    start = "set -e; unset -f vine python; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
    script = start + "".join(blocks(page, "sh")).replace("8000", str(free_port()))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p: p.stat().st_mtime_ns for p in (real_data / "cr5_hand_guided").rglob("*")} == before
    said = squeezed(done.stdout + done.stderr)
    for quoted in blocks(page, "text")[:2]:  # what does not depend on weights
        for line in quoted.splitlines():
            assert line == "..." or squeezed(line) in said, line
    for word in ("not calibrated: ", "is never pruned: ", "no failed segment among", "scene graph"):
        assert word in said
    assert "usb: cameras ['top'], state and actions of (6, 7) numbers" in said
    tree = json.loads((tmp_path / "tree.json").read_text())
    assert tree["status"] in ("planned", "infeasible", "unsupported")
    assert re.search(r"(acting|holding|stopped)", said)
