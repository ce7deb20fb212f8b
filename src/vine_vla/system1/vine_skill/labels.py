"""Labels of System 1 per frame, from the sidecars beside a LeRobot dataset.

LeRobot's preprocessor drops every column that it does not know, so outcomes cannot travel in the batch.
The frame's `index` does; the policy looks the labels up by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.options import Collector, Outcome
from vine_vla.core.protocols import DONE, FAILED, RUNNING
from vine_vla.data.sidecars.files import EPISODE, EPISODES, SEGMENTS
from vine_vla.storage.parquet import read_columns
from vine_vla.system1.vine_skill.waypoints import Clip, next_name

IGNORED = -1
"""Done label of frames that teach nothing about the end (outside segments, or censored)."""


RESCUE_FRAMES, RESCUE_WEIGHT = 5, 5.0
"""The first frames after an expert has taken over show the way out of where others got stuck. They are few,
and many frames in which all is well are like them: pressed on a rim, a part feels like a seated one."""


class FrameLabels(NamedTuple):
    """Labels by the frame's `index`.

    Args:
        imitate: weight in the action loss: 1 in segments that were reached, more where one rescues; else 0.
            float32 [N]
        done: RUNNING, DONE, FAILED or IGNORED. int64 [N]
        clips: the segments, for `waypoints`.
    """

    imitate: NDArray[np.bool_]
    done: NDArray[np.int64]
    clips: list[Clip]


def frame_labels(
    root: Path, starts: Sequence[int], ends: Sequence[int], done_frames: int, failed_frames: int
) -> FrameLabels:
    """Labels of all frames of the LeRobot dataset at `root`.

    A reached segment is imitated, above all where it begins with a rescue.
    The last `done_frames` frames of a reached segment are done, the last `failed_frames` of a slipped or
    dead one have failed, the rest of both is running. A censored segment is not imitated; it was running,
    but for its last frames, of which nothing is known, unless someone took over (`intervention`): who
    goes on says that it was not over. So does a segment that the same subgoal follows, but a slip: expert
    and policy take turns in whole episodes. Without sidecars every episode counts as one reached segment.

    Args:
        starts, ends: per episode, `index` of its first frame and of the one after its last.

    Raises:
        VineError: a sidecar is unreadable, lacks a column or does not fit the dataset.
    """
    frames = max(ends, default=0)
    imitate, done = np.zeros(frames, np.float32), np.full(frames, IGNORED, np.int64)
    segments = _segments(root)
    if segments is None:
        segments = [
            _Row(e, str(e), 0, ends[e] - starts[e], None, Outcome.REACHED, False, False)
            for e in range(len(starts))
        ]
    clips = []
    for episode, name, start, end, subgoal, outcome, goes_on, rescue in segments:
        if not 0 <= episode < len(starts) or not 0 <= start < end <= ends[episode] - starts[episode]:
            raise VineError(
                f"segment {start}..{end} does not fit episode {episode}",
                where=str(root / SEGMENTS),
                hint="export the dataset anew; LeRobot's edit tools renumber episodes without the sidecars",
            )
        first, last = starts[episode] + start, starts[episode] + end
        whole = subgoal is None or subgoal[0] == EPISODE.name
        clips.append(Clip(name, first, last, subgoal, outcome, whole))
        done[first:last] = RUNNING
        if outcome is Outcome.CENSORED:
            if not goes_on:
                done[max(first, last - done_frames) : last] = IGNORED
        elif outcome is Outcome.REACHED:
            imitate[first:last] = 1.0
            if rescue:
                imitate[first : min(first + RESCUE_FRAMES, last)] = RESCUE_WEIGHT
            if not goes_on:
                done[max(first, last - done_frames) : last] = DONE
        elif not goes_on:
            done[max(first, last - failed_frames) : last] = FAILED
    return FrameLabels(imitate, done, clips)


class _Row(NamedTuple):
    """A segment of the sidecars; `goes_on`: somebody carries on with the same subgoal; `rescue`: somebody
    else was at it before."""

    episode: int
    name: str
    start: int
    end: int
    subgoal: tuple[str, tuple[str, ...]] | None
    outcome: Outcome
    goes_on: bool
    rescue: bool


def _segments(root: Path) -> list[_Row] | None:
    """The segments of the sidecars; None without any."""
    path = root / SEGMENTS
    if not path.is_file():
        return None
    episodes = read_columns(root / EPISODES, ["episode_id", "episode_index", "collector"]).to_pylist()
    known = {
        e["episode_id"]: (e["episode_index"], e["collector"] == Collector.INTERVENTION) for e in episodes
    }
    columns = ["episode_id", "start", "end", "verb", "args", "outcome"]
    rows = read_columns(path, columns).to_pylist()
    following = {(r["episode_id"], r["start"]): (r["verb"], r["args"]) for r in rows}
    # Whoever had to be rescued: in the same episode, or in the clip before of the same name.
    given_up = [r for r in rows if r["outcome"] == Outcome.CENSORED]
    places = {(r["episode_id"], r["end"]): r for r in given_up}
    places |= {(next_name(r["episode_id"]), 0): r for r in given_up}
    found = []
    try:
        for r in rows:
            (index, taken_over), outcome = known[r["episode_id"]], Outcome(r["outcome"])
            again = following.get((r["episode_id"], r["end"])) == (r["verb"], r["args"])
            goes_on = taken_over if outcome is Outcome.CENSORED else again and outcome is not Outcome.SLIPPED
            subgoal = (r["verb"], tuple(r["args"]))
            before = places.get((r["episode_id"], r["start"]))
            rescue = (
                taken_over
                and before is not None
                and (before["verb"], before["args"]) == (r["verb"], r["args"])
            )
            found.append(
                _Row(index, r["episode_id"], r["start"], r["end"], subgoal, outcome, goes_on, rescue)
            )
    except (KeyError, ValueError) as error:
        raise VineError(f"unknown episode or outcome {error}", where=str(path)) from error
    return found
