"""The guard of the test scenes: run only with `--final`, and every such run is on record."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.storage.files import write_bytes
from vine_vla.storage.provenance import now, revision
from vine_vla.tasks.base import SceneLists
from vine_vla.tasks.registry import find_task, task_names

COLUMNS = ("date", "revision", "task", "split", "first", "last", "scenes", "arms", "out")


def check_scenes(scenes: Sequence[int], lists: SceneLists, *, final: bool, calibration: bool = False) -> None:
    """Raises VineError unless all scenes belong to the list that the caller may use.

    Args:
        scenes: scene numbers.
        lists: of the split.
        final: test scenes are wanted, and nothing else.
        calibration: calibration scenes are wanted, and nothing else.
    """
    name = "test" if final else "calibration" if calibration else "dev"
    allowed: range = getattr(lists, name)
    wrong = [s for s in scenes if s not in allowed]
    if not wrong:
        return
    first, last = lists.test.start, lists.test.stop - 1
    if not final and any(s in lists.test for s in wrong):
        hint = f"test scenes {first} to {last} run only with --final"
    elif final:
        hint = f"--final runs test scenes {first} to {last} only; leave it out for the others"
    else:
        hint = f"use scenes {allowed.start} to {allowed.stop - 1}"
    raise VineError(f"scene {wrong[0]} is no {name} scene", hint=hint)


def list_names(task: str, split: str, scenes: Sequence[int]) -> list[str]:
    """Which of `dev`, `calibration` and `test` hold some of `scenes`; none if the task is not installed."""
    if task not in task_names() or split not in (splits := find_task(task).splits):
        return []
    lists = splits[split].lists
    names = ("dev", "calibration", "test")
    return [name for name in names if lists and any(s in getattr(lists, name) for s in scenes)]


def record_final(
    log: Path, *, task: str, split: str, scenes: Sequence[int], arms: Sequence[str], out: Path
) -> None:
    """Append one line to the committed list of runs on test scenes, before the first of them runs."""
    old = log.read_text(encoding="utf-8") if log.is_file() else ",".join(COLUMNS) + "\n"
    line = io.StringIO()
    values = (now(), revision(), task, split, min(scenes), max(scenes), len(scenes), " ".join(arms), out.name)
    csv.writer(line, lineterminator="\n").writerow(values)
    write_bytes(log, (old + line.getvalue()).encode())
