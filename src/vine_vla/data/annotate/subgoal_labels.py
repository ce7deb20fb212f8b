"""Subgoals from label files: judged grasp attempts, or any verb with arguments.

A file of subgoals has one object a line:

    {"episode_index": 0, "start": 0, "end": 127, "verb": "place", "args": ["cup", "saucer"],
     "outcome": "slipped"}

`end` is exclusive; `args` are ids of objects in the episode's boxes. `text` may give the sentence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vine_vla.core.errors import VineError
from vine_vla.core.graph import NAME, Schema, Verb
from vine_vla.core.options import Demonstration, EpisodeOutcome, Outcome, OutcomeSource, Segment, Subgoal
from vine_vla.core.text import describe
from vine_vla.data.annotate.label_files import as_list, json_rows

Attempts = Literal["closed", "whole"]

_WORDS = {
    **dict.fromkeys(("success", "reached"), Outcome.REACHED),
    **dict.fromkeys(("missed", "regrasp_in_place", "slipped", "failed", "failure"), Outcome.SLIPPED),
    "dead": Outcome.DEAD,
    **dict.fromkeys((None, "unknown", "undecided", "censored"), Outcome.CENSORED),
}

EpisodeOf = Callable[[Mapping[str, Any], str], int]
"""Episode index of a row, checked; the string says where the row stands."""


def read_outcome_word(word: Any, where: str) -> Outcome:
    """The outcome that a label's word means; VineError for a word that is none."""
    try:
        return _WORDS[word]
    except (KeyError, TypeError):
        known = ", ".join(w for w in _WORDS if w)
        raise VineError(f"unknown outcome {word!r}", where=where, hint=f"use {known}, or null") from None


def attempt_segments(
    path: Path,
    episode_of: EpisodeOf,
    demonstrations: Sequence[Demonstration],
    grasped: str,
    judge: OutcomeSource,
    attempts: Attempts,
) -> dict[int, tuple[Segment, ...]]:
    """Grasp attempts of a label file. episode_index -> segments

    Args:
        path: see `annotation`. episode_of: checks a row.
        demonstrations: with the outcomes of the same labels: what failed last in a failed episode is dead.
        grasped: what is taken hold of. judge: who says so.
        attempts: `closed`: frames in which the gripper is closed; `whole`: from the end of the attempt
            before, or the episode's start, so that the way there is part of it.
    """
    found: dict[int, tuple[Segment, ...]] = {}
    for line, row in json_rows(path):
        if "grasp_attempts" not in row:
            continue
        index, where = episode_of(row, f"{path}, line {line}"), f"{path}, line {line}, field grasp_attempts"
        if index in found:
            raise VineError(
                f"grasp_attempts of episode {index} stand twice", where=where, hint="put them into one line"
            )
        length = demonstrations[index].length
        segments: list[Segment] = []
        before = 0
        for start, end, outcome in sorted(
            _attempt(a, length, where) for a in as_list(row["grasp_attempts"], where)
        ):
            if start < before:
                raise VineError(
                    f"an attempt begins at frame {start}, the one before ends at {before}", where=where
                )
            first = before if attempts == "whole" else start
            text = f"grasp the {grasped.replace('_', ' ')}"
            segments.append(Segment(first, end, Subgoal("grasp", (grasped,)), text, Outcome(outcome), judge))
            before = end
        found[index] = _ended(segments, demonstrations[index].outcome)
    return found


def _attempt(data: Any, length: int, where: str) -> tuple[int, int, str]:
    try:
        start, end, word = data["close_frame"], data["open_frame"], data["outcome"]
    except (KeyError, TypeError) as error:
        raise VineError(f"an attempt lacks {error}", where=where) from error
    end = length if end is None else end
    return *_frames(start, end, length, where), read_outcome_word(word, where).value


def _frames(start: Any, end: Any, length: int, where: str) -> tuple[int, int]:
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= length:
        raise VineError(f"frames {start} to {end} of an episode of {length}", where=where)
    return start, end


def _ended(segments: Sequence[Segment], outcome: EpisodeOutcome) -> tuple[Segment, ...]:
    """What slipped last in a failed episode was not made good any more: it is dead."""
    last = segments[-1:] if outcome is EpisodeOutcome.FAILURE else ()
    return (
        *segments[: len(segments) - len(last)],
        *(replace(s, outcome=Outcome.DEAD) if s.outcome is Outcome.SLIPPED else s for s in last),
    )


def subgoal_segments(
    path: Path,
    episode_of: EpisodeOf,
    demonstrations: Sequence[Demonstration],
    verbs: Sequence[Verb],
    judge: OutcomeSource,
) -> tuple[dict[int, tuple[Segment, ...]], tuple[Verb, ...]]:
    """Segments of a file of subgoals (without text where it gives none), and the verbs that `verbs` lacks.

    Args:
        path: see above. episode_of: checks a row.
        demonstrations: with graphs, which say the classes of arguments; else an id's stem (`cup_2`) does.
        verbs: those that are known, with their templates. judge: who says how segments ended.
    """
    rows: dict[int, list[Segment]] = defaultdict(list)
    known = {v.name: v for v in verbs}
    fresh: dict[str, Verb] = {}
    for line, row in json_rows(path):
        where = f"{path}, line {line}"
        index = episode_of(row, where)
        demonstration = demonstrations[index]
        start, end = _frames(
            row.get("start"), row.get("end"), demonstration.length, f"{where}, fields start, end"
        )
        name, args = row.get("verb"), tuple(as_list(row.get("args", []), f"{where}, field args"))
        for word in (name, *args):
            if not isinstance(word, str) or not NAME.fullmatch(word):
                raise VineError(
                    f"malformed name {word!r}", where=f"{where}, fields verb, args", hint="use a-z, 0-9 and _"
                )
        if "outcome" not in row:
            raise VineError("no outcome", where=where, hint="say null where it is not known")
        outcome = read_outcome_word(row["outcome"], f"{where}, field outcome")
        classes = tuple(_class_of(a, demonstration) for a in args)
        if name not in known:
            slots = " ".join(f"{{{i}}}" for i in range(len(args)))
            fresh[name] = known[name] = Verb(name, classes, f"{name.replace('_', ' ')} {slots}".strip())
        if known[name].arguments != classes:
            raise VineError(
                f"{name}({', '.join(args)}) takes {classes}, elsewhere {known[name].arguments}",
                where=f"{where}, field args",
                hint="a verb takes the same classes everywhere: use another verb",
            )
        subgoal = Subgoal(str(name), args)
        rows[index].append(Segment(start, end, subgoal, str(row.get("text") or ""), outcome, judge))
    segments = {
        i: _ended(sorted(some, key=lambda s: s.start), demonstrations[i].outcome) for i, some in rows.items()
    }
    return segments, tuple(fresh.values())


def _class_of(name: str, demonstration: Demonstration) -> str:
    for graph in demonstration.graphs.values():
        if name in graph:
            return graph[name].cls
    stem, _, number = name.rpartition("_")
    return stem if stem and number.isdigit() else name


def with_text(segment: Segment, demonstration: Demonstration, schema: Schema) -> Segment:
    """`segment` with the sentence that a plan would give it, if it has none of its own.

    As at plan time where the graph at its start shows the arguments, else with their ids.
    """
    if segment.text:
        return segment
    graph, subgoal = demonstration.graphs.get(segment.start), segment.subgoal
    if graph is not None and all(a in graph for a in subgoal.args):
        return replace(segment, text=describe(subgoal, graph, schema))
    names = (f"the {a.replace('_', ' ')}" for a in subgoal.args)
    return replace(segment, text=schema.verb(subgoal.verb).template.format(*names))
