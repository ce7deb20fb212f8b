"""Older LeRobot formats (v2.0, v2.1): counted and explained, never read as demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.data.lerobot.tables import CONVERT, VERSION, off_grid
from vine_vla.storage.json import decode
from vine_vla.storage.parquet import read_columns, to_numpy
from vine_vla.storage.untrusted import read_text


@dataclass(frozen=True)
class LegacyReport:
    """What an older dataset holds, and every reason why it cannot be used as it is."""

    episodes: int
    frames: int
    tasks: tuple[str, ...]
    errors: tuple[VineError, ...]


def read_legacy(root: Path, info: Mapping[str, Any]) -> LegacyReport:
    """Count episodes and frames of a v2 dataset and check its time grid."""
    errors = [
        VineError(
            f"LeRobot format {info['codebase_version']}, VINE reads {VERSION}",
            where=f"{root / 'meta/info.json'}, field codebase_version",
            hint=f"{CONVERT} --repo-id=me/name --root={root} --push-to-hub=false`; the old files stay beside",
        )
    ]
    files = sorted((root / "data").glob("*/episode_*.parquet"))
    frames, away, worst = 0, [], 0.0
    unreadable: list[VineError] = []
    for number, file in enumerate(files):
        try:
            table = read_columns(file, ["timestamp", "frame_index"])
        except VineError as error:
            unreadable.append(error)
            continue
        frames += len(table)
        time, frame = to_numpy(table["timestamp"]), to_numpy(table["frame_index"])
        if off_grid(time, frame, info["fps"]).any():
            away.append(number)
            worst = max(worst, float(np.abs(time - frame / info["fps"]).max()))
    if away:
        first = ", ".join(map(str, away[:5])) + (", ..." if len(away) > 5 else "")
        errors.append(
            VineError(
                f"timestamps are up to {worst:.2f} s off frame_index / fps in {len(away)} of {len(files)}"
                f" episodes ({first}), so that LeRobot would fetch wrong images or none",
                where=f"{files[away[0]]}, column timestamp",
                hint="the video has one frame a row: set timestamp to frame_index / fps before converting",
            )
        )
    errors += unreadable
    declared = info.get("total_episodes", len(files))
    if declared != len(files):
        errors.append(
            VineError(
                f"info.json counts {declared} episodes, data/ holds {len(files)}",
                where=f"{root / 'meta/info.json'}, field total_episodes",
            )
        )
    return LegacyReport(len(files), frames, _tasks(root), tuple(errors))


class _Task(TypedDict):
    task: str


def _tasks(root: Path) -> tuple[str, ...]:
    path = root / "meta/tasks.jsonl"
    try:
        lines = read_text(path).splitlines()
        return tuple(decode(line, _Task, str(path))["task"] for line in lines if line)
    except VineError:
        return ()
