"""Nothing outside a task's folder names it, its verbs or its object classes; a task can come from outside."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from vine_vla.tasks import Task, find_task, task_names

ANY = ""
ALLOWED = {
    "line": (ANY, "English: a line of text or of a plot"),
    "block": (ANY, "English: a block of code, of a network or of a table"),
    "put": (ANY, "English: to put something somewhere"),
    "post": (ANY, "English: to post a form, HTTP's POST"),
    "cup": (ANY, "the example object of docstrings and messages"),
    "gripper": (ANY, "a word of the data contract: `core.relations.GRIPPER`, which every schema may have"),
    "insert": (r"\.insert\(|insert_", "the method of lists"),
    "socket": (r"\.sockets\[", "the network's"),
}
"""Word -> pattern of the uses that are meant (all with an empty one), and the reason."""


def words_of(task: Task) -> set[str]:
    """The task's name, its verbs and its object classes."""
    return {task.name, *task.schema.classes, *(verb.name for verb in task.schema.verbs)}


def named(source: Path, words: set[str]) -> Iterator[str]:
    """Lines of Python files under `source`, outside `tasks/`, that use one of the words."""
    use = re.compile(rf"(?<![a-z0-9_])({'|'.join(sorted(words))})(?:e?s)?(?:_\d+)?(?![a-z0-9_])", re.I)
    for file in sorted(source.rglob("*.py")):
        where = file.relative_to(source)
        if where.parts[0] == "tasks":
            continue
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            for found in use.finditer(text):
                meant, _ = ALLOWED.get(found[1].lower(), (None, ""))
                if meant is None or (meant and not re.search(meant, text)):
                    yield f"{where}:{number}: {found[1]}: {text.strip()}"


def test_nothing_outside_its_folder_names_a_task_a_verb_or_an_object_class(repository: Path) -> None:
    words = set().union(*(words_of(find_task(name)) for name in task_names()))
    assert len(words) > 12
    assert list(named(repository / "src" / "vine_vla", words)) == []
    plugin = repository / "plugins" / "lerobot_policy_vine"
    assert list(named(plugin, words)) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('"""An edge, e.g. `grasp_sides(ball_2)`."""', True),
        ("holding = graph['plug']", True),
        ("names.insert(0, name)", False),
        ("run `insert(a, b)`", True),
        ("# a line of text about plugins", False),
    ],
)
def test_a_planted_name_is_found(tmp_path: Path, text: str, names: bool) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "graph.py").write_text(text)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "other.py").write_text(text)
    found = list(named(tmp_path, {"line", "ball", "grasp_sides", "plug", "insert"}))
    assert bool(found) is names and all(line.startswith("core/graph.py:1") for line in found)


def test_every_task_says_what_the_rest_needs() -> None:
    assert {"line", "plug"} <= set(task_names())
    for name in task_names():
        task = find_task(name)
        assert task.demonstration_splits and task.default_split in task.evaluation_splits
        for split in task.evaluation_splits:
            lists = task.lists(split)
            assert not set(lists.dev) & set(lists.test) and not set(lists.calibration) & set(lists.test)
            assert not set(lists.dev) & set(lists.calibration)


OUTSIDE = '''
"""A task of another package: the line under another name, with a constant policy of its own."""

from dataclasses import replace

from vine_vla.core.options import Subgoal
from vine_vla.tasks.line import TASK as LINE


def first_cup(graph, instruction):
    balls, cups = graph.of_class("ball"), graph.of_class("cup")
    ball = next((b for b in balls if b.attributes.get("hold") != "none"), None)
    if ball is not None:
        return [Subgoal("put", (ball.id, cups[0].id))]
    return [Subgoal("grasp_sides", (balls[0].id,))]


TASK = replace(LINE, name="shelf", env_id="", constants={"first": first_cup})
'''


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder for `sys.path` with an installed distribution that brings the task `shelf`."""
    site = tmp_path / "site"
    info = site / "shelf_task-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "shelf_task.py").write_text(OUTSIDE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf-task\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vine.tasks]\nshelf = shelf_task:TASK\n")
    return site


def vine(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`vine ARGUMENTS` with `site` on the path."""
    paths = os.pathsep.join([str(site), *(p for p in sys.path if p)])
    code = "import sys; from vine_vla.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
        cwd=site.parent,
        timeout=600,
    )


def test_a_task_of_another_package_is_collected_and_evaluated(outside: Path, tmp_path: Path) -> None:
    done = vine(outside, "collect", "--task", "shelf", "--out", "demos", "--episodes", "3", "--workers", "0")
    assert done.returncode == 0, done.stderr
    from vine_vla.data import open_dataset

    found = open_dataset(tmp_path / "demos").demonstrations
    assert [d.episode_id for d in found] == [f"shelf-s0-{n:05d}" for n in range(3)]
    assert all(d.segments for d in found)
    (tmp_path / "run").mkdir()
    arms = ("--arms", "oracle-plan", "always-first", "--skill", "scripted", "--perception", "true")
    more = ("--scenes", "0:4", "--workers", "0", "--out", "results")
    done = vine(outside, "eval", "run", "--task", "shelf", *arms, *more)
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(tmp_path / "results" / "episodes.csv")
    assert set(rows["task"]) == {"shelf"} and set(rows["arm"]) == {"oracle-plan", "always-first"}
    assert rows["subgoals"].min() >= 1 and len(rows) == 8


def test_a_broken_package_is_named_and_takes_no_other_task_with_it(outside: Path) -> None:
    (outside / "shelf_task.py").write_text("raise RuntimeError('half installed')")
    said = vine(outside, "collect", "--task", "shelf", "--out", "demos", "--episodes", "1")
    assert (
        said.returncode == 2 and "task 'shelf' cannot be loaded: RuntimeError: half installed" in said.stderr
    )
    assert not (outside.parent / "demos").exists()
    listed = vine(outside, "experiment", "none-such")
    assert listed.returncode == 2 and "unknown experiment" in listed.stderr and "plug-quick" in listed.stderr
    unknown = vine(outside, "collect", "--task", "shelve", "--out", "demos")
    assert unknown.returncode == 2 and "known tasks: line, plug, shelf" in unknown.stderr
