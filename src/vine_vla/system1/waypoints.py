"""Waypoints in hindsight: where the hand last opened or closed in a segment, seen from where it is now.

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

from vine_vla.options import Outcome

POSE_NAMES = ("x", "y", "z", "cos_yaw", "sin_yaw")
"""State dimensions, by name, that make up the pose of the hand."""

UNITS = np.array([0.01, 0.01, 0.01, 0.05], np.float32)
"""metres and rad at which the scale of waypoints turns from linear to logarithmic."""


class Clip(NamedTuple):
    """Frames `first` to `last` (exclusive) in which one subgoal was tried.

    Args:
        name: episode and number of the segment, `e1.02`, as `vine export skills` has it.
        subgoal: anything that is equal for equal subgoals.
    """

    name: str
    first: int
    last: int
    subgoal: object
    outcome: Outcome


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
    reached = {c.name: c for c in clips if c.outcome is Outcome.REACHED}
    for clip in clips:
        if clip.outcome is Outcome.REACHED:
            last = _last_switch(actions[clip.first : clip.last][:, switches]) + clip.first
            at[clip.first : clip.last] = clip.last - 1
            at[clip.first : last] = last
        elif clip.outcome is Outcome.CENSORED:
            after = reached.get(next_name(clip.name))
            if after is not None and after.subgoal == clip.subgoal:
                last = _last_switch(actions[after.first : after.last][:, switches]) + after.first
                at[clip.first : clip.last] = last
    known = at >= 0
    delta, turn = position[at] - position, yaw[at] - yaw
    cos, sin = np.cos(yaw), np.sin(yaw)
    x, y = cos * delta[:, 0] + sin * delta[:, 1], cos * delta[:, 1] - sin * delta[:, 0]
    turn = np.arctan2(np.sin(turn), np.cos(turn))
    ahead = np.arcsinh(np.stack([x, y, delta[:, 2], turn], 1) / UNITS)
    return Waypoints(np.where(known[:, None], ahead, 0).astype(np.float32), known)


def _last_switch(grip: NDArray[np.float32]) -> int:
    """First frame after the last change of sign in `grip` [n, D]; 0 if nothing changes."""
    change = ((grip[1:] > 0) != (grip[:-1] > 0)).any(1)
    return int(np.flatnonzero(change)[-1]) + 1 if change.any() else 0


def next_name(name: str) -> str:
    """The name of the clip after `name` in the same episode."""
    stem, _, number = name.rpartition(".")
    return f"{stem}.{int(number) + 1:0{len(number)}d}" if number.isdigit() else ""
