"""Subgoals, their outcomes, and the demonstrations in which they were recorded."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from vine_vla.core.errors import VineError
from vine_vla.core.graph import NAME, SceneGraph, Schema


class Subgoal(NamedTuple):
    """An edge e of the search: a verb with object ids, printed as `place(cup, shelf_2)`."""

    verb: str
    args: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.verb}({', '.join(self.args)})"


_SUBGOAL = re.compile(rf"({NAME.pattern})\(((?:{NAME.pattern}(?:, ?{NAME.pattern})*)?)\)")


def parse_subgoal(text: str) -> Subgoal:
    """Inverse of `str(subgoal)`; raises VineError when `text` is no subgoal."""
    match = _SUBGOAL.fullmatch(text.strip())
    if not match:
        raise VineError(
            f"not a subgoal: {text!r}", hint="write verb(argument, ...), e.g. place(cup, shelf_2)"
        )
    return Subgoal(match[1], tuple(a.strip() for a in match[2].split(",")) if match[2] else ())


def check_subgoal(subgoal: Subgoal, graph: SceneGraph, schema: Schema, where: str = "") -> None:
    """Raises VineError unless the verb is known and its arguments are objects of the right classes."""
    verb = schema.verb(subgoal.verb)
    classes = tuple(graph[a].cls if a in graph else "?" for a in subgoal.args)
    if classes != verb.arguments:
        raise VineError(
            f"subgoal {subgoal} does not fit {verb.name}({', '.join(verb.arguments)})",
            where=where,
            hint=f"objects in the scene: {', '.join(o.id for o in graph.objects)}",
        )


def candidate_subgoals(graph: SceneGraph, schema: Schema) -> list[Subgoal]:
    """Every verb with every choice of distinct objects of the right classes, in the schema's order."""
    found = []
    for verb in schema.verbs:
        pools = [[o.id for o in graph.of_class(cls)] for cls in verb.arguments]
        found += [
            Subgoal(verb.name, args) for args in itertools.product(*pools) if len(set(args)) == len(args)
        ]
    return found


class Outcome(StrEnum):
    """How a subgoal's execution ended."""

    REACHED = "reached"
    SLIPPED = "slipped"  # failed, the scene can still be solved
    DEAD = "dead"  # failed for good
    CENSORED = "censored"  # not decidable: operator abort, end of file


class EpisodeOutcome(StrEnum):
    """How an episode ended. An absent label is `unknown`, never anything else."""

    SUCCESS = "success"
    FAILURE = "failure"
    TRUNCATED = "truncated"
    UNKNOWN = "unknown"


class OutcomeSource(StrEnum):
    """Who judged an outcome."""

    SIMULATOR = "simulator"
    OPERATOR = "operator"
    HUMAN = "human"
    MODEL = "model"


class Collector(StrEnum):
    """Who acted while an episode was recorded."""

    OPERATOR = "operator"
    INTERVENTION = "intervention"
    POLICY = "policy"


class Split(StrEnum):
    """What an episode or scene may be used for."""

    TRAIN = "train"
    CALIBRATION = "calibration"
    TEST = "test"


@dataclass(frozen=True)
class Segment:
    """One execution of a subgoal within an episode: frames `start` to `end` (exclusive)."""

    start: int
    end: int
    subgoal: Subgoal
    text: str
    outcome: Outcome
    outcome_source: OutcomeSource

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise VineError(f"segment {self.subgoal} covers no frames: start {self.start}, end {self.end}")


@dataclass(frozen=True)
class Demonstration:
    """An episode with its outcome, its option segments and the scene graphs at their boundaries.

    Args:
        episode_id: stable name that survives merging and splitting of datasets.
        episode_index: position in the LeRobot dataset at hand.
        instruction: the task text.
        length: number of frames.
        outcome: how the episode ended.
        outcome_source: who said so; None while the outcome is unknown.
        segments: in order of start, not overlapping, within the episode.
        graphs: frame -> scene graph, at least at the segments' starts; empty where not annotated.
        onset_frame: first frame of the physical event that ended the chances, if known.
        failure_kind: a word for it, if known.
        scene, seed: of the simulator, if any.
        collector, split: who acted, and what the episode may be used for.

    Raises:
        VineError: segments overlap, are out of order or reach past the end.
    """

    episode_id: str
    episode_index: int
    instruction: str
    length: int
    outcome: EpisodeOutcome = EpisodeOutcome.UNKNOWN
    outcome_source: OutcomeSource | None = None
    segments: tuple[Segment, ...] = ()
    graphs: Mapping[int, SceneGraph] = field(default_factory=dict)
    onset_frame: int | None = None
    failure_kind: str | None = None
    scene: int | None = None
    seed: int | None = None
    collector: Collector = Collector.OPERATOR
    split: Split = Split.TRAIN

    def __post_init__(self) -> None:
        end = 0
        for segment in self.segments:
            if segment.start < end:
                raise VineError(
                    f"segments overlap at frame {segment.start}", where=f"episode {self.episode_id}"
                )
            end = segment.end
        if end > self.length:
            raise VineError(
                f"a segment ends at frame {end}, past the episode's {self.length} frames",
                where=f"episode {self.episode_id}",
            )


@dataclass(frozen=True)
class Option:
    """o_e = (I, pi, beta, Pi): a subgoal as a temporally extended action, with what was learned of it.

    Args:
        subgoal: the edge e.
        start: probability in [0, 1] that it can start in the graph at hand (I; the proposal prior).
        probabilities: of goal, reached, slipped, dead. Shape [4], sums to 1 (the ends of beta).
        leads_to: graph after `reached` and graph after `slipped` (Pi).

    The skill pi that executes it is a `Skill` and is shared by all options.
    """

    subgoal: Subgoal
    start: float
    probabilities: tuple[float, float, float, float]
    leads_to: tuple[SceneGraph, SceneGraph]
