"""Waypoints in hindsight: where the hand opens or closes, seen from where it is now.

In a segment it is the last such place, for a hand may have closed in vain before; in a whole episode, which
has many, the next one.

A chunk of actions is a noisy witness of where a demonstrator was going; the recording says it exactly.
Predicting the waypoint beside the actions teaches the encoder where things are (an auxiliary loss, as in
hindsight relabelling, Andrychowicz et al. 2017, arXiv 1707.01495). What a policy did before an expert took
over gets the expert's waypoint: from such frames the actions are not to be imitated, but where it should
have gone is known. No label but the robot's own state is needed; a state that names no pose trains without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.options import Outcome

POSE_NAMES = ("x", "y", "z", "cos_yaw", "sin_yaw")
"""State dimensions, by name, that make up the pose of the hand."""

UNITS = np.array([0.01, 0.01, 0.01, 0.05], np.float32)
"""metres and rad at which the scale of waypoints turns from linear to logarithmic."""


class Clip(NamedTuple):
    """Frames `first` to `last` (exclusive) in which one subgoal was tried.

    Args:
        name: episode and number of the segment, `e1.02`, as `vine export skills` has it.
        subgoal: anything that is equal for equal subgoals.
        whole: the clip is (part of) a whole episode.
    """

    name: str
    first: int
    last: int
    subgoal: object
    outcome: Outcome
    whole: bool = False


class Waypoints(NamedTuple):
    """Per frame the scaled waypoint x, y, z, yaw in the yaw frame of the hand, and whether one is known.

    Args:
        ahead: asinh(offset / UNITS). float32 [N, 4]
        known: bool [N]
    """

    ahead: NDArray[np.float32]
    known: NDArray[np.bool_]


def find_pose(names: Sequence[str] | None) -> list[int]:
    """Places of x, y, z, cos_yaw, sin_yaw among the state's names; empty if one is missing."""
    known = list(names or ())
    return [known.index(name) for name in POSE_NAMES] if set(POSE_NAMES) <= set(known) else []


def waypoints(
    states: NDArray[np.float32],
    actions: NDArray[np.float32],
    clips: Sequence[Clip],
    pose: Sequence[int],
    switches: Sequence[int],
) -> Waypoints:
    """Waypoints of all frames.

    Args:
        states: raw states. [N, P]
        actions: [N, A]
        clips: reached ones give waypoints to themselves, and to a censored one of the same subgoal that
            they follow.
        pose: places of the pose in the state (`find_pose`).
        switches: action dimensions that open and close the hand.
    """
    position, yaw = states[:, pose[:3]], np.arctan2(states[:, pose[4]], states[:, pose[3]])
    at = np.full(len(states), -1)
    reached = {(c.name, c.first): c for c in clips if c.outcome is Outcome.REACHED}
    reached |= {(c.name, -1): c for c in clips if c.outcome is Outcome.REACHED}
    for clip in clips:
        if clip.outcome is Outcome.REACHED:
            at[clip.first : clip.last] = _waypoint_frames(clip, actions[:, switches])
        elif clip.outcome is Outcome.CENSORED:
            after = reached.get((clip.name, clip.last)) or reached.get((next_name(clip.name), -1))
            if after is not None and after.subgoal == clip.subgoal:
                at[clip.first : clip.last] = _waypoint_frames(after, actions[:, switches])[0]
    known = at >= 0
    delta, turn = position[at] - position, yaw[at] - yaw
    cos, sin = np.cos(yaw), np.sin(yaw)
    x, y = cos * delta[:, 0] + sin * delta[:, 1], cos * delta[:, 1] - sin * delta[:, 0]
    turn = np.arctan2(np.sin(turn), np.cos(turn))
    ahead = np.arcsinh(np.stack([x, y, delta[:, 2], turn], 1) / UNITS)
    return Waypoints(np.where(known[:, None], ahead, 0).astype(np.float32), known)


def _waypoint_frames(clip: Clip, grip: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each frame of a reached clip the frame whose place is its waypoint; the last one after the last
    change of sign in `grip` [N, D]."""
    closed = grip[clip.first : clip.last] > 0
    changes = np.flatnonzero((closed[1:] != closed[:-1]).any(1)) + 1
    stops = np.append(changes if clip.whole else changes[-1:], len(closed) - 1)
    frames = np.arange(len(closed))
    return clip.first + stops[np.minimum(np.searchsorted(stops, frames, side="right"), len(stops) - 1)]


def next_name(name: str) -> str:
    """The name of the clip after `name` in the same episode."""
    stem, _, number = name.rpartition(".")
    return f"{stem}.{int(number) + 1:0{len(number)}d}" if number.isdigit() else ""
