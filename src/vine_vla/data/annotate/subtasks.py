"""Segments in the formats that others use for subtasks, there and back.

    language   LeRobot 0.6: rows of style `subtask` in the column `language_persistent`
    sarm       SARM: lists `dense_subtask_*` in `meta/episodes`
    task       the `task` text of every frame

None of them has a place for everything:

- all: how a segment ended, by which source, and which objects its words mean (`place(cup, shelf_2)`);
- language: that nothing is being done; a subtask lasts until the next one begins;
- task: the same, frames between segments carry the instruction; and where one segment ends and the next
  begins if both have the same text, as in a failed grasp that is tried again at once.

So every export also keeps the segments themselves, in three columns of `meta/episodes`. LeRobot's loading,
filtering, merging and adding of features keep them, its splitting and deleting of episodes do not:

    vine_segments      a list, one JSON object a segment: start, end, text, subgoal, outcome, outcome_source
    vine_instruction   task text of the whole episode
    vine_outcome       success, failure, truncated or unknown

An import takes the cuts from the format. Where they are what the segments would have been written as, it
gives back those segments, equal in all. In an episode that was edited since, a segment whose frames and text
are still there keeps its outcome, and the others are taken as new: outcomes only where the episode's decides
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema, Verb
from vine_vla.core.options import EpisodeOutcome, Outcome, OutcomeSource, Segment, parse_subgoal
from vine_vla.data.annotate.segmentation import SEGMENT_RECORD, Cut, Kind, runs_of, segments_of
from vine_vla.data.lerobot.tables import LeRobotFiles
from vine_vla.storage.json import decode

INSTRUCTION = "vine_instruction"


def subtask_text(segment: Segment) -> str:
    """What a segment is called in every format."""
    return segment.text or str(segment.subgoal)


def persistent_rows(segments: Sequence[Segment], times: Sequence[float]) -> list[dict[str, Any]]:
    """`language_persistent` rows of an episode.

    Args:
        segments: in order.
        times: of every frame, in seconds, exactly as the dataset has them: LeRobot compares for equality.
    """
    rest = {"camera": None, "tool_calls": None}
    return [
        {
            "role": "assistant",
            "content": subtask_text(s),
            "style": "subtask",
            "timestamp": times[s.start],
            **rest,
        }
        for s in segments
    ]


def sarm_columns(segments: Sequence[Segment], fps: float) -> dict[str, list[Any] | None]:
    """SARM's columns of one episode, without their prefix; ends are inclusive, times in seconds.

    SARM takes every subtask for done, so train it on successful episodes. An episode without segments has
    no lists at all, since SARM's reader takes an empty one for an error.
    """
    starts, ends = [s.start for s in segments], [s.end - 1 for s in segments]
    columns: dict[str, list[Any]] = {
        "names": [subtask_text(s) for s in segments],
        "start_times": [t / fps for t in starts],
        "end_times": [t / fps for t in ends],
        "start_frames": starts,
        "end_frames": ends,
    }
    return {name: values or None for name, values in columns.items()}


def frame_texts(segments: Sequence[Segment], instruction: str, length: int) -> list[str]:
    """The task text of every frame; between segments the instruction."""
    texts = [instruction] * length
    for s in segments:
        texts[s.start : s.end] = [subtask_text(s)] * (s.end - s.start)
    return texts


def cuts_in(kind: Kind, segments: Sequence[Segment], instruction: str, length: int) -> list[Cut]:
    """What an import finds of `segments` written as `kind`: the same cuts, less what it has no place for."""
    if kind == "task":
        texts = np.array(frame_texts(segments, instruction, length), object)
        return [Cut(a, b, texts[a]) for a, b in runs_of(texts)]
    ends = [s.end for s in segments]
    if kind == "language":
        ends = [*(s.start for s in segments[1:]), length]
    return [Cut(s.start, end, subtask_text(s)) for s, end in zip(segments, ends, strict=False)]


class _Record(msgspec.Struct):
    start: int
    end: int
    text: str
    subgoal: str
    outcome: Outcome
    outcome_source: OutcomeSource


def record(segments: Sequence[Segment]) -> list[str]:
    """`vine_segments` of an episode."""
    records = (_Record(s.start, s.end, s.text, str(s.subgoal), s.outcome, s.outcome_source) for s in segments)
    return [msgspec.json.encode(r).decode() for r in records]


def read_record(items: Sequence[str], where: str) -> tuple[Segment, ...]:
    """Inverse of `record`; VineError for anything that it does not write."""
    at, segments = f"{where}, column {SEGMENT_RECORD}", []
    for item in items:
        try:
            r = decode(item, _Record, at)
            subgoal = parse_subgoal(r.subgoal)
            segment = Segment(r.start, r.end, subgoal, r.text, r.outcome, r.outcome_source)
        except VineError as error:
            raise VineError(
                f"malformed segment {item!r}: {error.what}",
                where=at,
                hint="export again, or remove the column",
            ) from error
        if segments and segment.start < segments[-1].end:
            raise VineError(f"segments overlap at frame {segment.start}", where=at)
        segments.append(segment)
    return tuple(segments)


def imported(
    files: LeRobotFiles,
    kind: Kind,
    cuts: Mapping[int, Sequence[Cut]],
    outcomes: Mapping[int, EpisodeOutcome],
    source: OutcomeSource,
) -> dict[int, tuple[Segment, ...]]:
    """Cuts of a dataset as segments, those of an export of VINE as the segments they were.

    Args:
        files: the dataset.
        kind, cuts: as `segmentation` cut it; episode_index -> cuts.
        outcomes: of the episodes.
        source: who is to stand for outcomes that are inferred.

    Returns:
        episode_index -> segments.

    Raises:
        VineError: malformed `vine_segments`.
    """
    found = {}
    for episode in files.episodes:
        kept = episode.extra.get(SEGMENT_RECORD) if kind != "gripper" else None
        known = None if kept is None else read_record(kept, f"{files.root}, episode {episode.index}")
        instruction = episode.extra.get(INSTRUCTION) or ""
        here, outcome = cuts[episode.index], outcomes[episode.index]
        found[episode.index] = restored(here, known, kind, instruction, episode.length, outcome, source)
    return found


def restored(
    cuts: Sequence[Cut],
    known: Sequence[Segment] | None,
    kind: Kind,
    instruction: str,
    length: int,
    outcome: EpisodeOutcome,
    source: OutcomeSource,
) -> tuple[Segment, ...]:
    """Segments of one episode from its cuts and, if it was exported by VINE, the segments `known` by then."""
    if known is None:
        return segments_of(cuts, kind, outcome, source)
    within = not known or known[-1].end <= length
    if within and cuts_in(kind, known, instruction, length) == list(cuts):
        return tuple(known)
    places = {Cut(s.start, s.end, subtask_text(s)): s for s in known}
    named = [c for c in cuts if c in places or kind != "task" or c.text != instruction]
    fresh = segments_of(named, kind, outcome, source)
    return tuple(places.get(c, s) for c, s in zip(named, fresh, strict=True))


def vocabulary(
    segments: Iterable[Sequence[Segment]], schema: Schema
) -> tuple[tuple[str, ...], tuple[Verb, ...]]:
    """All classes of `schema` and of the segments, and the segments' verbs that `schema` lacks, by name.

    A verb with arguments that no schema came with takes its classes from the ids: `shelf_2` is a `shelf`.

    Raises:
        VineError: a verb with two different numbers of arguments.
    """
    old = {v.name: v for v in schema.verbs}
    sizes: dict[str, int] = {}
    verbs: dict[str, Verb] = {}
    for s in (s for some in segments for s in some):
        name, args = s.subgoal
        if sizes.setdefault(name, len(args)) != len(args):
            raise VineError(f"verb {name} has {sizes[name]} and {len(args)} arguments")
        if name in old and len(old[name].arguments) == len(args):
            continue
        words = (s.text or name) if not args else name.replace("_", " ")
        template = words.replace("{", "{{").replace("}", "}}")
        slots = "".join(f" {{{i}}}" for i in range(len(args)))
        verbs[name] = Verb(name, tuple(re.sub(r"_\d+$", "", a) for a in args), template + slots)
    classes = dict.fromkeys((*schema.classes, *(c for v in verbs.values() for c in v.arguments)))
    return tuple(classes), tuple(verbs[name] for name in sorted(verbs))
