"""Option segments as arrays: what every backend learns from, and the choice of failures to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import (
    Demonstration,
    EpisodeOutcome,
    Outcome,
    Segment,
    Split,
    Subgoal,
    check_subgoal,
)
from vine_vla.core.packing import PackedGraphs, pack
from vine_vla.core.protocols import DEAD, GOAL, REACHED, SLIPPED
from vine_vla.core.text import format_graph

CENSORED = -1
"""Place of an undecided outcome in `SegmentTable.outcome`; never trained on."""


class Failures(StrEnum):
    """Which failures a variant of System 2 may see. The value is the variant's name."""

    KEEP = "all"  # everything
    WITHHOLD = "withhold"  # only successful episodes, their slips kept
    WITHHOLD_SLIPS = "withhold-slips"  # only successful episodes, their slips removed as well
    WITHHOLD_MATCHED = "withhold-matched"  # as many successful episodes as `episodes` says, slips kept


@dataclass(frozen=True)
class SegmentTable:
    """N segments of E episodes.

    Args:
        schema: their vocabulary.
        graphs: at the segments' starts. [N]
        after: at their ends; the start's graph where `has_after` is False. [N]
        has_after: whether the end was annotated. bool [N]
        subgoals: N of them. verbs: their index. int64 [N]. args: object slots, -1 for none. int64 [N, A]
        outcome: GOAL, REACHED, SLIPPED, DEAD or CENSORED. int64 [N]
        episode: index into `episodes`. int64 [N]
        instructions: a text for each segment.
        episodes: ids. success: 1 success, 0 failure, -1 not known. int64 [E]. splits: of each episode.
    """

    schema: Schema
    graphs: PackedGraphs
    after: PackedGraphs
    has_after: NDArray[np.bool_]
    subgoals: tuple[Subgoal, ...]
    verbs: NDArray[np.int64]
    args: NDArray[np.int64]
    outcome: NDArray[np.int64]
    episode: NDArray[np.int64]
    instructions: tuple[str, ...]
    episodes: tuple[str, ...]
    success: NDArray[np.int64]
    splits: tuple[Split, ...]

    def __len__(self) -> int:
        return len(self.verbs)

    def where(self, keep: NDArray[np.bool_]) -> SegmentTable:
        """The segments at `keep` [N]; the list of episodes stays."""
        index = np.flatnonzero(keep)
        return SegmentTable(
            self.schema,
            self.graphs.select(index),
            self.after.select(index),
            self.has_after[index],
            tuple(self.subgoals[i] for i in index),
            self.verbs[index],
            self.args[index],
            self.outcome[index],
            self.episode[index],
            tuple(self.instructions[i] for i in index),
            self.episodes,
            self.success,
            self.splits,
        )

    def decided(self) -> SegmentTable:
        """Segments whose outcome is known."""
        return self.where(self.outcome != CENSORED)


def subgoals_to_goal(demonstrations: Iterable[Demonstration]) -> float:
    """Median number of subgoals of the successful demonstrations; 1 without any."""
    counts = [len(d.segments) for d in demonstrations if d.outcome is EpisodeOutcome.SUCCESS and d.segments]
    return float(median(counts)) if counts else 1.0


def subgoal_budget(demonstrations: Iterable[Demonstration]) -> int:
    """Subgoals that an episode may spend: 2 x the median of the successful demonstrations."""
    return max(1, round(2 * subgoals_to_goal(demonstrations)))


def choose_episodes(
    demonstrations: Sequence[Demonstration], failures: Failures, episodes: int | None = None
) -> list[Demonstration]:
    """The demonstrations that a variant may see.

    Args:
        demonstrations: all of the data set.
        failures: what to withhold.
        episodes: keep this many, chosen by a hash of their ids so that every variant draws from the same
            order; None keeps all. `withhold-matched` needs it: it is the number the other variants used.

    Raises:
        VineError: fewer are left than asked for, or none at all.
    """
    order = sorted(
        demonstrations, key=lambda d: (hashlib.blake2b(d.episode_id.encode()).digest(), d.episode_id)
    )
    if failures is Failures.WITHHOLD_MATCHED:
        if episodes is None:
            raise VineError(
                "withhold-matched needs the number of episodes that it has to match", hint="give --episodes N"
            )
        chosen = [d for d in order if d.outcome is EpisodeOutcome.SUCCESS]
        if len(chosen) < episodes:
            raise VineError(
                f"only {len(chosen)} successful episodes, {episodes} asked for",
                hint="record more, or lower --episodes",
            )
        chosen = chosen[:episodes]
    else:
        chosen = order if episodes is None else order[:episodes]
        if failures is not Failures.KEEP:
            chosen = [d for d in chosen if d.outcome is EpisodeOutcome.SUCCESS]
    if not any(d.segments and d.graphs for d in chosen):
        raise VineError(
            f"no episode with segments and scene graphs is left for variant {failures.value}",
            hint="annotate segments and graphs, or record successful episodes",
        )
    return sorted(chosen, key=lambda d: d.episode_id)


def hold_out(demonstrations: Sequence[Demonstration], share: float = 0.15) -> list[Split]:
    """The split of each demonstration; if the data set names no calibration episodes, a share by hash."""
    splits = [d.split for d in demonstrations]
    if Split.CALIBRATION in splits:
        return splits
    found = []
    for d, split in zip(demonstrations, splits, strict=True):
        draw = int.from_bytes(hashlib.blake2b(d.episode_id.encode(), digest_size=4).digest()) / 2**32
        found.append(Split.CALIBRATION if split is Split.TRAIN and draw < share else split)
    return found


def segment_table(
    demonstrations: Sequence[Demonstration], schema: Schema, *, drop_slips: bool = False, objects: int = 0
) -> SegmentTable:
    """Segments with a graph at their start, in the order of the demonstrations.

    A reached segment that ends a successful episode reached the goal. Where the onset of a failure is
    known, the segment that holds it is dead and later ones are left out: the chances had ended. An episode
    that stands twice (with other graphs) counts as one.
    """
    place_of: dict[str, int] = {}
    for d in demonstrations:
        place_of.setdefault(d.episode_id, len(place_of))
    first = {d.episode_id: d for d in reversed(demonstrations)}
    unique = [first[name] for name in place_of]
    starts: list[SceneGraph] = []
    ends: list[SceneGraph] = []
    has_after, subgoals, outcomes, owners, texts = [], [], [], [], []
    for demonstration in demonstrations:
        for segment in demonstration.segments:
            graph = demonstration.graphs.get(segment.start)
            outcome = outcome_place(demonstration, segment)
            if graph is None or outcome is None or (drop_slips and outcome == SLIPPED):
                continue
            check_subgoal(segment.subgoal, graph, schema, where=f"episode {demonstration.episode_id}")
            after = graph_after(demonstration, segment)
            starts.append(graph)
            ends.append(after or graph)
            has_after.append(after is not None)
            subgoals.append(segment.subgoal)
            outcomes.append(outcome)
            owners.append(place_of[demonstration.episode_id])
            texts.append(demonstration.instruction)
    count = max([objects, 1, *(len(g.objects) for g in [*starts, *ends])])
    arity = max([1, *(len(v.arguments) for v in schema.verbs)])
    args = np.full((len(subgoals), arity), -1, np.int64)
    for row, (subgoal, graph) in enumerate(zip(subgoals, starts, strict=True)):
        place = {o.id: slot for slot, o in enumerate(graph.objects)}
        args[row, : len(subgoal.args)] = [place[a] for a in subgoal.args]
    names = [v.name for v in schema.verbs]
    known = {EpisodeOutcome.SUCCESS: 1, EpisodeOutcome.FAILURE: 0}
    return SegmentTable(
        schema=schema,
        graphs=pack(starts, schema, objects=count),
        after=pack([_aligned(b, a) for a, b in zip(starts, ends, strict=True)], schema, objects=count),
        has_after=np.array(has_after, bool),
        subgoals=tuple(subgoals),
        verbs=np.array([names.index(s.verb) for s in subgoals], np.int64),
        args=args,
        outcome=np.array(outcomes, np.int64),
        episode=np.array(owners, np.int64),
        instructions=tuple(texts),
        episodes=tuple(place_of),
        success=np.array([known.get(d.outcome, -1) for d in unique], np.int64),
        splits=tuple(d.split for d in unique),
    )


def outcome_place(demonstration: Demonstration, segment: Segment) -> int | None:
    """GOAL, REACHED, SLIPPED, DEAD or CENSORED; None for a segment after the failure's onset."""
    onset = demonstration.onset_frame
    if onset is not None and demonstration.outcome is EpisodeOutcome.FAILURE:
        if segment.start > onset:
            return None
        if segment.start <= onset < segment.end:
            return DEAD
    if segment.outcome is Outcome.REACHED:
        ends = segment is demonstration.segments[-1] and demonstration.outcome is EpisodeOutcome.SUCCESS
        return GOAL if ends else REACHED
    return {Outcome.SLIPPED: SLIPPED, Outcome.DEAD: DEAD}.get(segment.outcome, CENSORED)


def graph_after(demonstration: Demonstration, segment: Segment) -> SceneGraph | None:
    """The first graph at or after the segment's end and not past the next segment's start."""
    later = [s.start for s in demonstration.segments if s.start >= segment.end]
    limit = min(later, default=demonstration.length)
    frames = [f for f in demonstration.graphs if segment.end <= f <= limit]
    return demonstration.graphs[min(frames)] if frames else None


def _aligned(graph: SceneGraph, start: SceneGraph) -> SceneGraph:
    """`graph` with the objects of `start` in their order; objects that it lacks stay as they were."""
    later = {o.id: o for o in graph.objects}
    objects = tuple(later.get(o.id, o) for o in start.objects)
    ids = {o.id for o in objects}
    relations = tuple(r for r in graph.relations if r.subject in ids and r.object in ids)
    return SceneGraph(objects, relations)


def check_taught(train: Sequence[Demonstration], table: SegmentTable) -> None:
    """Raises VineError if the training episodes teach no proposals or no outcomes.

    Args:
        train: training episodes. table: their segments that start at a scene graph.
    """
    segments = sum(len(d.segments) for d in train)
    if not len(table):
        raise VineError(
            f"none of the {segments} segments of {len(train)} training episodes has a scene graph at its "
            "first frame",
            where="meta/vine_graphs.parquet",
            hint="annotate boxes of these frames with `vine annotate --boxes`; `vine inspect` names one",
        )
    if not (table.success[table.episode] == 1).any():
        raise VineError(
            f"no successful episode among {len(train)} training episodes with scene graphs, and only those "
            "teach which subgoals to propose",
            where="meta/vine_episodes.parquet",
            hint="label outcomes with `vine annotate --outcomes` or `--labels`, or record successes",
        )
    if not len(table.decided()):
        raise VineError(
            f"none of the {len(table)} segments with a scene graph has a known outcome",
            where="meta/vine_segments.parquet",
            hint="say how they ended, with `vine annotate --subgoals` or `--labels`",
        )


def fingerprint(demonstrations: Sequence[Demonstration]) -> str:
    """Hash of everything that learning on graphs reads; order does not matter."""
    rows = []
    for d in demonstrations:
        segments = [(s.start, s.end, str(s.subgoal), s.outcome.value) for s in d.segments]
        graphs = [(f, format_graph(g)) for f, g in sorted(d.graphs.items())]
        rows.append(
            repr(
                (d.episode_id, d.instruction, d.outcome.value, d.split.value, d.onset_frame, segments, graphs)
            )
        )
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def count_episodes(demonstrations: Sequence[Demonstration]) -> dict[str, int]:
    """Episodes by outcome and split, segments, and the subgoal budget, for the record."""
    found = {"all": len(demonstrations), "budget": subgoal_budget(demonstrations)}
    for d in demonstrations:
        for name in (f"outcome {d.outcome.value}", f"split {d.split.value}"):
            found[name] = found.get(name, 0) + 1
    found["segments"] = sum(len(d.segments) for d in demonstrations)
    return found
