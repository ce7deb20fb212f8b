"""Problems: what is wrong with a dataset, and what its labels do not allow to learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration, EpisodeOutcome, Outcome

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One finding; an `error` keeps VINE from using the dataset, a `warning` says what it then cannot do."""

    level: Level
    what: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return str(VineError(self.what, where=self.where, hint=self.hint))

    @classmethod
    def of(cls, error: VineError) -> Problem:
        return cls("error", error.what, error.where, error.hint)


def label_problems(demonstrations: Sequence[Demonstration], where: str) -> Iterable[Problem]:
    """Labels that contradict each other, and what VINE cannot learn from what is there."""
    for d in demonstrations:
        at, ends = f"{where}, episode {d.episode_id}", [s.outcome for s in d.segments]
        if d.outcome is EpisodeOutcome.SUCCESS and Outcome.DEAD in ends:
            yield Problem(
                "error", "a dead segment in a successful episode", at, "correct one of the two labels"
            )
        if Outcome.DEAD in ends[:-1]:
            yield Problem(
                "error", "a segment follows a dead one", at, "dead means failed for good: use slipped"
            )
        if d.outcome is EpisodeOutcome.FAILURE and ends and ends[-1] in (Outcome.REACHED, Outcome.SLIPPED):
            yield Problem(
                "warning",
                f"the last segment of a failed episode is {ends[-1]}, not dead",
                at,
                "check both labels",
            )
        if d.onset_frame is not None and not 0 <= d.onset_frame < d.length:
            yield Problem("error", f"onset_frame {d.onset_frame} of {d.length} frames", at)
    outcomes = Counter(d.outcome for d in demonstrations)
    slips: Counter[Outcome] = Counter()
    for d in demonstrations:
        slips.update(s.outcome for s in d.segments)
    if unknown := outcomes[EpisodeOutcome.UNKNOWN]:
        yield Problem(
            "warning",
            f"{unknown} of {len(demonstrations)} episodes have no known outcome and serve perception only",
            where,
            "add outcomes with `vine annotate --page`, `--outcomes` or `--labels`",
        )
    if not outcomes[EpisodeOutcome.FAILURE] and not slips[Outcome.SLIPPED] and not slips[Outcome.DEAD]:
        yield Problem(
            "warning",
            "no failed episode and no failed segment: VINE cannot learn what goes wrong, every covered option"
            " counts as feasible and plans fall back to what the operators did most often",
            where,
            "keep the failed episodes of your recordings, or label them with `vine annotate`",
        )
    if not outcomes[EpisodeOutcome.SUCCESS] and unknown < len(demonstrations):
        yield Problem(
            "warning",
            "no successful episode: VINE cannot learn which subgoals to propose",
            where,
            "add outcomes with `vine annotate --page`, `--outcomes` or `--labels`",
        )
    if not any(d.segments for d in demonstrations):
        yield Problem(
            "warning",
            "no segments: System 2 has no subgoals to learn from",
            where,
            "cut the episodes with `vine annotate --segments gripper|task|language|sarm` or `--labels`",
        )
    without = [(d, s) for d in demonstrations for s in d.segments if s.start not in d.graphs]
    if without:
        first, segment = without[0]
        count = sum(len(d.segments) for d in demonstrations)
        yield Problem(
            "warning",
            f"{len(without)} of {count} segments have no scene graph at their first frame, for one episode "
            f"{first.episode_index}, frame {segment.start}: System 2 does not learn from those",
            where,
            "add boxes of these frames with `vine annotate --boxes`",
        )
