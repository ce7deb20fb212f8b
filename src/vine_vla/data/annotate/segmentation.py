"""Segmentation: cut episodes where the data say that one subgoal ends and the next begins.

    gripper    at changes of the gripper command: `grasp` while closed, `approach` while open
    task       where the per-frame `task` text changes
    language   LeRobot 0.6 `language_persistent` rows of style `subtask`
    sarm       SARM columns `dense_subtask_*` or `sparse_subtask_*` of `meta/episodes`

A named subtask becomes a verb without arguments (`pick up the cup` -> `pick_up_the_cup()`), since nothing
says which words are objects. Outcomes
follow only where the episode's outcome decides them, see `infer_outcomes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.options import EpisodeOutcome, Outcome, OutcomeSource, Segment, Subgoal
from vine_vla.data.lerobot.tables import FrameTable, LeRobotFiles
from vine_vla.storage.parquet import to_numpy

Kind = Literal["gripper", "task", "language", "sarm"]
GRASP, APPROACH = "grasp", "approach"
SEGMENT_RECORD = "vine_segments"
"""Column of `meta/episodes` in which an export keeps what the subtask formats cannot hold, see `subtasks`."""


class Cut(NamedTuple):
    """Frames `start` to `end` (exclusive) of an episode, with the text of what is done there."""

    start: int
    end: int
    text: str


def named_subtasks(files: LeRobotFiles) -> tuple[Kind, dict[int, list[Cut]]] | None:
    """Subtasks that other tools wrote into the dataset: sarm, language or task; None without any."""
    sarm = cut_by_sarm(files)
    if any(sarm.values()):
        return "sarm", sarm
    if "language_persistent" in files.features:
        language = cut_by_language(files)
        if any(language.values()):
            return "language", language
    if any(len(e.tasks) > 1 or e.extra.get(SEGMENT_RECORD) for e in files.episodes):
        return "task", cut_by_task(files)
    return None


def cut_by_task(files: LeRobotFiles) -> dict[int, list[Cut]]:
    """Runs of equal per-frame task text. episode_index -> cuts"""
    table, found = FrameTable(files, ["task_index"]), {}
    for episode in files.episodes:
        index = to_numpy(table.column(episode.index, "task_index"))
        runs = runs_of(index)
        found[episode.index] = [Cut(a, b, files.tasks.get(int(index[a]), "")) for a, b in runs]
    return found


def cut_by_language(files: LeRobotFiles) -> dict[int, list[Cut]]:
    """Subtasks of the `language_persistent` column; each lasts until the next one. episode_index -> cuts"""
    table, found = FrameTable(files, ["language_persistent"]), {}
    for episode in files.episodes:
        rows = table.column(episode.index, "language_persistent")[0].as_py() or []
        found[episode.index] = cuts_of_rows(rows, episode.length, files.fps)
    return found


def cuts_of_rows(rows: Sequence[Mapping[str, Any]], length: int, fps: float) -> list[Cut]:
    """Cuts of an episode of `length` frames from its `language_persistent` rows, times in seconds."""
    subtasks = sorted(
        (r for r in rows if r["style"] == "subtask" and r["content"]), key=lambda r: r["timestamp"]
    )
    starts = []
    for time in (float(r["timestamp"]) for r in subtasks):
        grain = float(np.spacing(np.float32(time)))  # what float32 cannot resolve in a long episode
        starts.append(math.ceil((time - grain) * fps - 1e-3))
    return [
        Cut(a, b, r["content"])
        for a, b, r in zip(starts, [*starts, length][1:], subtasks, strict=True)
        if 0 <= a < b
    ]


def cut_by_sarm(files: LeRobotFiles) -> dict[int, list[Cut]]:
    """SARM's subtasks, dense ones if there are any; its end frames are inclusive. episode_index -> cuts"""
    found: dict[int, list[Cut]] = {}
    for episode in files.episodes:
        found[episode.index] = []
        for grain in ("dense", "sparse"):
            columns = [
                episode.extra.get(f"{grain}_subtask_{c}") for c in ("names", "start_frames", "end_frames")
            ]
            if all(columns):
                rows = sorted(zip(*columns, strict=True), key=lambda r: r[1])
                found[episode.index] = [
                    Cut(int(a), min(int(b) + 1, episode.length), str(n)) for n, a, b in rows if 0 <= a <= b
                ]
                break
    return found


def cut_by_gripper(
    files: LeRobotFiles, dimension: int | None = None, closed_is_high: bool = True
) -> dict[int, list[Cut]]:
    """Phases of the gripper command. episode_index -> cuts

    Args:
        files: the dataset.
        dimension: of `action`; default the one that is called gripper.
        closed_is_high: whether the larger command closes the gripper.
    """
    where = f"{files.root / 'meta/info.json'}, feature action"
    if dimension is None:
        names = flat_names(files.features.get("action", {}).get("names"))
        matches = [i for i, name in enumerate(names) if "gripper" in name.lower()]
        if len(matches) != 1:
            raise VineError(
                f"{len(matches)} dimensions are called gripper",
                where=where,
                hint="name it by --gripper-dimension",
            )
        dimension = matches[0]
    table = FrameTable(files, ["action"])
    commands = {e.index: table.vector(e.index, "action") for e in files.episodes}
    size = next(iter(commands.values())).shape[1] if commands else 0
    if not 0 <= dimension < size:
        raise VineError(f"no dimension {dimension} in an action of {size}", where=where)
    values = {i: c[:, dimension] for i, c in commands.items()}
    low = min(float(v.min()) for v in values.values())
    high = max(float(v.max()) for v in values.values())
    if high == low:
        raise VineError(
            f"dimension {dimension} never changes", where=where, hint="choose another --gripper-dimension"
        )
    found = {}
    for index, value in values.items():
        share = (value - low) / (high - low)
        closed = _with_hysteresis(share if closed_is_high else 1 - share)
        found[index] = [Cut(a, b, GRASP if closed[a] else APPROACH) for a, b in runs_of(closed)]
    return found


def _with_hysteresis(share: NDArray[np.float32]) -> NDArray[np.bool_]:
    """True above 0.6, False below 0.4, unchanged between."""
    state = np.zeros(len(share), bool)
    now = bool(share[0] > 0.5)
    for t, value in enumerate(share):
        now = True if value > 0.6 else False if value < 0.4 else now
        state[t] = now
    return state


def runs_of(values: NDArray[Any]) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every run of equal values."""
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return list(zip(edges[:-1], edges[1:], strict=True)) if len(values) else []


def flat_names(names: Any) -> list[str]:
    """Names of a feature's dimensions, however they are nested."""
    if isinstance(names, str):
        return [names]
    if isinstance(names, Mapping):
        names = list(names.values())
    return [n for item in names or [] for n in flat_names(item)] if isinstance(names, (list, tuple)) else []


def verb_name(text: str) -> str:
    """A subtask's text as a verb: `Pick up the cup!` -> `pick_up_the_cup`."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return name if re.match(r"[a-z]", name) else f"subtask_{name}".rstrip("_")


def segments_of(
    cuts: Sequence[Cut], kind: Kind, outcome: EpisodeOutcome, source: OutcomeSource
) -> tuple[Segment, ...]:
    """Cuts as segments, with the outcomes that can be inferred."""
    names = [verb_name(c.text) for c in cuts]
    outcomes = [Outcome.CENSORED] * len(cuts) if kind == "gripper" else infer_outcomes(names, outcome)
    return tuple(
        Segment(c.start, c.end, Subgoal(name, ()), c.text, o, source)
        for c, name, o in zip(cuts, names, outcomes, strict=True)
    )


def infer_outcomes(names: Sequence[str], outcome: EpisodeOutcome) -> list[Outcome]:
    """Outcomes of named subtasks, as far as the episode's outcome decides them.

    In a success everything was reached, except what had to be done again later: that slipped. In a failure
    the last one is dead. In an episode without a known end only a repeated subtask tells: it slipped.
    """
    found = []
    for place, name in enumerate(names):
        if name in names[place + 1 :]:
            found.append(Outcome.SLIPPED)
        elif outcome is EpisodeOutcome.SUCCESS:
            found.append(Outcome.REACHED)
        elif outcome is EpisodeOutcome.FAILURE:
            found.append(Outcome.DEAD if place == len(names) - 1 else Outcome.REACHED)
        else:
            found.append(Outcome.CENSORED)
    return found


def corrected(
    segments: tuple[Segment, ...], before: EpisodeOutcome, after: EpisodeOutcome
) -> tuple[Segment, ...]:
    """Segments of an episode whose outcome is corrected from `before` to `after`.

    Outcomes that `infer_outcomes` gave are inferred anew. Labelled ones stay: those of subgoals with
    arguments, which no cut makes, those that do not follow from `before`, and gripper phases, which nothing
    decides.
    """
    verbs = [s.subgoal.verb for s in segments]
    inferred = infer_outcomes(verbs, before) == [s.outcome for s in segments]
    if not inferred or any(s.subgoal.args for s in segments) or {*verbs} <= {GRASP, APPROACH}:
        return segments
    outcomes = infer_outcomes(verbs, after)
    return tuple(replace(s, outcome=o) for s, o in zip(segments, outcomes, strict=True))
