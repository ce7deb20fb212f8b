"""Subgoals from label files: labelled grasp attempts, or any verb with arguments.

A file of subgoals has one object a line:

    {"episode_index": 0, "start": 0, "end": 127, "verb": "place", "args": ["cup", "saucer"],
     "outcome": "slipped"}

`end` is exclusive; `args` are ids of objects in the episode's boxes. `text` may give the sentence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from vine_vla.core.errors import VineError
from vine_vla.core.graph import NAME, Schema, Verb
from vine_vla.core.options import Demonstration, EpisodeOutcome, Outcome, OutcomeSource, Segment, Subgoal
from vine_vla.core.text import describe
from vine_vla.data.annotate.label_files import EpisodeRow, json_rows
from vine_vla.data.annotate.labels import Labels, union
from vine_vla.data.annotate.placeholder import PLACEHOLDER, VERB, grasp_text, placed
from vine_vla.data.annotate.sources import Sources

_WORDS = {
    **dict.fromkeys(("success", "reached"), Outcome.REACHED),
    **dict.fromkeys(("missed", "regrasp_in_place", "slipped", "failed", "failure"), Outcome.SLIPPED),
    "dead": Outcome.DEAD,
    **dict.fromkeys((None, "unknown", "undecided", "censored"), Outcome.CENSORED),
}


class Attempt(msgspec.Struct):
    """Frames in which the gripper is closed, to the episode's end where `open_frame` is None."""

    close_frame: int
    open_frame: int | None
    outcome: str | None


class EpisodeLabels(EpisodeRow):
    """A line of `labels.jsonl`, see `annotation`."""

    success: str | float | bool | None | UnsetType = UNSET
    failure_kind: str | None = None
    final_state: str | None = None
    grasp_attempts: list[Attempt] | UnsetType = UNSET

    @property
    def has_outcome(self) -> bool:
        """Whether it says something of the outcome, be it that it is not known."""
        return self.success is not UNSET


class _SubgoalRow(EpisodeRow, kw_only=True):
    start: int
    end: int
    verb: str
    outcome: str | None
    args: tuple[str, ...] = ()
    text: str | None = None


def add_attempts(
    labels: Labels, rows: Sequence[tuple[str, EpisodeLabels]], grasped: str | None, sources: Sources
) -> None:
    """Add grasp attempts as segments; they replace an episode's other segments.

    What failed last in a failed episode is dead, so outcomes are added before.

    Args:
        labels: of the dataset, added to.
        rows: places and lines of a label file.
        grasped: class of what is taken hold of, None for the placeholder.
        sources: who labelled, and which frames an attempt has.

    Raises:
        VineError: attempts that do not fit the episode, or of one episode in two lines.
    """
    cls = grasped or PLACEHOLDER
    found: dict[int, tuple[Segment, ...]] = {}
    for place, row in rows:
        if isinstance(row.grasp_attempts, UnsetType):
            continue
        index, where = labels.episode_of(row, place), f"{place}, field grasp_attempts"
        if index in found:
            raise VineError(
                f"grasp_attempts of episode {index} stand twice", where=where, hint="put them into one line"
            )
        d = labels.demonstrations[index]
        segments: list[Segment] = []
        end_before = 0
        for attempt in sorted(row.grasp_attempts, key=lambda a: a.close_frame):
            start, end = attempt.close_frame, attempt.open_frame
            end = d.length if end is None else end
            _check_frames(start, end, d.length, where)
            if start < end_before:
                raise VineError(
                    f"an attempt begins at frame {start}, the one before ends at {end_before}", where=where
                )
            first = end_before if sources.attempts == "whole" else start
            outcome = _outcome(attempt.outcome, where)
            segment = Segment(first, end, Subgoal(VERB, (cls,)), grasp_text(cls), outcome, sources.source)
            if cls != PLACEHOLDER:
                segment = placed(segment, cls, d.graphs.get(first), where)
            segments.append(segment)
            end_before = end
        found[index] = _with_dead_end(segments, d.outcome)
    if found:
        own = [v for v in labels.schema.verbs if v.name == VERB and v.arguments == (cls,)]
        labels.extend_schema([cls], verbs=own or [Verb(VERB, (cls,), "grasp {0}")])
    for index, segments_found in found.items():
        labels.change(index, segments=segments_found)


def add_subgoals(labels: Labels, path: Path, source: OutcomeSource) -> None:
    """Add the subgoals of a file as segments; they replace an episode's other segments.

    The classes of arguments come from the scene graphs, else from an id's stem (`cup_2`).

    Raises:
        VineError: a line is malformed, does not fit the dataset, or a verb takes other classes elsewhere.
    """
    segments: dict[int, list[Segment]] = defaultdict(list)
    known = {v.name: v for v in labels.schema.verbs}
    fresh: dict[str, Verb] = {}
    for where, row in json_rows(path, _SubgoalRow):
        index = labels.episode_of(row, where)
        d = labels.demonstrations[index]
        _check_frames(row.start, row.end, d.length, f"{where}, fields start, end")
        for word in (row.verb, *row.args):
            if not NAME.fullmatch(word):
                raise VineError(
                    f"malformed name {word!r}", where=f"{where}, fields verb, args", hint="use a-z, 0-9 and _"
                )
        outcome = _outcome(row.outcome, f"{where}, field outcome")
        classes = tuple(_class_of(a, d) for a in row.args)
        if row.verb not in known:
            slots = " ".join(f"{{{i}}}" for i in range(len(row.args)))
            template = f"{row.verb.replace('_', ' ')} {slots}".strip()
            fresh[row.verb] = known[row.verb] = Verb(row.verb, classes, template)
        subgoal = Subgoal(row.verb, row.args)
        if known[row.verb].arguments != classes:
            raise VineError(
                f"{subgoal} takes {classes}, elsewhere {known[row.verb].arguments}",
                where=f"{where}, field args",
                hint="a verb takes the same classes everywhere: use another verb",
            )
        segments[index].append(Segment(row.start, row.end, subgoal, row.text or "", outcome, source))
    taken = {cls for verb in fresh.values() for cls in verb.arguments}
    labels.extend_schema(union(labels.schema.classes, taken), verbs=fresh.values())
    for index, some in segments.items():
        d = labels.demonstrations[index]
        ordered = _with_dead_end(sorted(some, key=lambda s: s.start), d.outcome)
        labels.change(index, segments=tuple(_with_text(s, d, labels.schema) for s in ordered))


def _outcome(word: str | None, where: str) -> Outcome:
    try:
        return _WORDS[word]
    except KeyError:
        known = ", ".join(w for w in _WORDS if w)
        raise VineError(f"unknown outcome {word!r}", where=where, hint=f"use {known}, or null") from None


def _check_frames(start: int, end: int, length: int, where: str) -> None:
    if not 0 <= start < end <= length:
        raise VineError(f"frames {start} to {end} of an episode of {length}", where=where)


def _with_dead_end(segments: Sequence[Segment], outcome: EpisodeOutcome) -> tuple[Segment, ...]:
    """What slipped last in a failed episode was not made good any more: it is dead."""
    if outcome is EpisodeOutcome.FAILURE and segments and segments[-1].outcome is Outcome.SLIPPED:
        return (*segments[:-1], replace(segments[-1], outcome=Outcome.DEAD))
    return tuple(segments)


def _class_of(name: str, demonstration: Demonstration) -> str:
    for graph in demonstration.graphs.values():
        if name in graph:
            return graph[name].cls
    stem, _, number = name.rpartition("_")
    return stem if stem and number.isdigit() else name


def _with_text(segment: Segment, demonstration: Demonstration, schema: Schema) -> Segment:
    """`segment` with the sentence that a plan would give it, if it has none of its own.

    As at plan time where the graph at its start shows the arguments, else with their ids.
    """
    if segment.text:
        return segment
    graph, subgoal = demonstration.graphs.get(segment.start), segment.subgoal
    if graph is not None and all(a in graph for a in subgoal.args):
        return replace(segment, text=describe(subgoal, graph, schema))
    names: Iterable[str] = (f"the {a.replace('_', ' ')}" for a in subgoal.args)
    return replace(segment, text=schema.verb(subgoal.verb).template.format(*names))
