"""Where labels come from: the options of `vine annotate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vine_vla.core.options import OutcomeSource
from vine_vla.data.sidecars.splits import CALIBRATION_SHARE, check_share


@dataclass(frozen=True)
class Sources:
    """Where labels come from; None leaves that kind as it is.

    Raises:
        VineError: a share that is none.
    """

    labels: Path | None = None
    """JSON lines, one an episode: episode_index, success (true, false, null), grasp_attempts (close_frame,
    open_frame, outcome)."""
    outcomes: Path | None = None
    """CSV with the columns episode (index or id) and outcome (success, failure, truncated, unknown)."""
    subgoals: Path | None = None
    """JSON lines, one a subgoal: episode_index, start, end (exclusive), verb, args (object ids), outcome
    (reached, slipped, dead, null)."""
    segments: Literal["gripper", "task", "language", "sarm"] | None = None
    """Cut the episodes at gripper changes, per-frame task texts, LeRobot 0.6 subtasks or SARM columns."""
    boxes: Path | None = None
    """JSON lines, one a frame and camera: episode_index, frame_index, camera, image_size, objects (label,
    pixel box; if known id, attributes, held)."""
    words: Path | None = None
    """JSON with your own classes, attributes, verbs (arguments, template), predicates; default: what labels
    and boxes name."""
    attempts: Literal["closed", "whole"] = "closed"
    """Frames of a grasp attempt: those with the gripper closed, or the whole way there from the end of the
    attempt before, which System 1 needs to learn it."""
    source: OutcomeSource = OutcomeSource.HUMAN
    """Who made the labels."""
    grasped: str | None = None
    """Class that grasp attempts take hold of; default: the one that boxes mark as held, else `object`."""
    gripper_dimension: int | None = None
    """Dimension of the action that drives the gripper, from 0; default: the one whose name says gripper."""
    gripper_closed: Literal["high", "low"] = "high"
    """Whether the gripper is closed at high or at low values of that dimension."""
    calibration_share: float = CALIBRATION_SHARE
    """Share of the episodes kept for calibration, in [0, 1]; for a dataset without sidecars."""

    def __post_init__(self) -> None:
        check_share(self.calibration_share)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to add."""
        return not any((self.labels, self.outcomes, self.subgoals, self.segments, self.boxes, self.words))
