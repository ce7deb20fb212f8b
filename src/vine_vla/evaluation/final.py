"""The guard of the test scenes: looked at only with `--final`, and every look is on record."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.storage.files import write_bytes
from vine_vla.storage.provenance import now, revision

DEV, CALIBRATION, TEST = range(0, 200), range(200, 400), range(400, 1000)
COLUMNS = ("date", "revision", "task", "split", "first", "last", "scenes", "arms", "out")


def check_scenes(scenes: Sequence[int], *, final: bool, calibration: bool = False) -> None:
    """Raises VineError unless all scenes belong to the list that the caller may use.

    Args:
        scenes: scene numbers.
        final: test scenes (400 to 999) are wanted, and nothing else.
        calibration: calibration scenes (200 to 399) are wanted, and nothing else.
    """
    allowed, name = (TEST, "test") if final else (CALIBRATION, "calibration") if calibration else (DEV, "dev")
    wrong = [s for s in scenes if s not in allowed]
    if not wrong:
        return
    if not final and any(s in TEST for s in wrong):
        hint = "test scenes 400 to 999 run only with --final"
    elif final:
        hint = "--final runs test scenes 400 to 999 only; leave it out for the others"
    else:
        hint = f"use scenes {allowed.start} to {allowed.stop - 1}"
    raise VineError(f"scene {wrong[0]} is no {name} scene", hint=hint)


def record_final(
    log: Path, *, task: str, split: str, scenes: Sequence[int], arms: Sequence[str], out: Path
) -> None:
    """Append one line to the committed list of looks at the test scenes, before the first of them runs."""
    old = log.read_text(encoding="utf-8") if log.is_file() else ",".join(COLUMNS) + "\n"
    line = io.StringIO()
    values = (now(), revision(), task, split, min(scenes), max(scenes), len(scenes), " ".join(arms), out.name)
    csv.writer(line, lineterminator="\n").writerow(values)
    write_bytes(log, (old + line.getvalue()).encode())
