"""How good a done head is, on clips that it did not learn from: frame by frame, and as the agent uses it.

The agent does not ask which class is likeliest. It stops at the first moment at which a probability has been
over its threshold several looks in a row; a head that is right in most frames may still stop too early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.compute.progress import FEW, too_few
from vine_vla.core.errors import VineError
from vine_vla.core.protocols import DONE, FAILED, RUNNING, Float
from vine_vla.system1.vine_skill.labels import IGNORED
from vine_vla.system1.vine_skill.waypoints import Clip

NAMES = {RUNNING: "running", DONE: "done", FAILED: "failed"}


@dataclass(frozen=True)
class Stopping:
    """When the agent believes its done head; the fields are those of its configuration.

    Args:
        done_threshold, failed_threshold: probability from which `done` or `failed` counts.
        hysteresis: looks in a row that must say so.
        every: frames between two looks: 1 for policies asked at every step, as many as are executed of a
            chunk for others.

    Raises:
        VineError: hysteresis or every is below 1.
    """

    done_threshold: float
    failed_threshold: float
    hysteresis: int
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("hysteresis", "every"):
            if getattr(self, name) < 1:
                raise VineError(f"{name} is {getattr(self, name)}", hint="give 1 or more")


class Decision(NamedTuple):
    """What ended a subgoal, DONE or FAILED, and in which frame of the clip."""

    verdict: int
    frame: int


def decide(probabilities: Float, stopping: Stopping) -> Decision | None:
    """The first decision in a clip, float32 [L, 3], as the agent takes it; None if it takes none."""
    limits = ((DONE, stopping.done_threshold), (FAILED, stopping.failed_threshold))
    streak = {DONE: 0, FAILED: 0}
    for frame in range(0, len(probabilities), stopping.every):
        for verdict, limit in limits:
            streak[verdict] = streak[verdict] + 1 if probabilities[frame, verdict] >= limit else 0
            if streak[verdict] >= stopping.hysteresis:
                return Decision(verdict, frame)
    return None


def figures(
    probabilities: Float, labels: NDArray[np.int64], clips: Sequence[Clip], stopping: Stopping
) -> dict[str, Any]:
    """The figures of a head on some clips, JSON-ready.

    Args:
        probabilities: of the frames that clips refer to; others are not looked at. float32 [N, 3]
        labels: RUNNING, DONE, FAILED or IGNORED. int64 [N]
        clips: the held-out segments.
        stopping: as the agent stops.

    Returns:
        `accuracy` over labelled frames and `always_running`, the accuracy of a head that says nothing else;
        `recall` per class, None without such frames; `done` and `failed`, for clips that end so, and
        `running`, for clips in which nothing ended: see `_ends`.
    """
    inside = np.concatenate([np.arange(clip.first, clip.last) for clip in clips])
    known = inside[labels[inside] != IGNORED]
    said, true = probabilities[known].argmax(1), labels[known]
    return {
        "clips": len(clips),
        "frames": len(known),
        "accuracy": _share(said == true),
        "always_running": _share(true == RUNNING),
        "recall": {name: _share(said[true == which] == which) for which, name in NAMES.items()},
        "done": _ends(DONE, probabilities, labels, clips, stopping),
        "failed": _ends(FAILED, probabilities, labels, clips, stopping),
        "running": _ends(RUNNING, probabilities, labels, clips, stopping),
    }


def _ends(
    end: int, probabilities: Float, labels: NDArray[np.int64], clips: Sequence[Clip], stopping: Stopping
) -> dict[str, Any]:
    """How clips that end with the label `end` were judged; rates are shares of those clips.

    `right`: the right decision while the label holds. `premature`: any decision before it does.
    `confused`: the wrong decision while it does. `missed`: none until the clip's end; what the head would
    have said after it is not known. `error_frames`: from the label's last frame to the decision, right or
    premature alike; negative is earlier. Clips in which nothing ended can only be premature, or right.
    """
    judged: dict[str, int] = dict.fromkeys(("right", "premature", "confused", "missed"), 0)
    errors = []
    for clip in clips:
        held = labels[clip.first : clip.last]
        length = int((held != IGNORED).sum())  # only the end of a clip is ever unknown
        if not length or held[length - 1] != end:
            continue
        begin = length if end == RUNNING else int(np.argmax(held == end))
        decision = decide(probabilities[clip.first : clip.first + length], stopping)
        if decision is None:
            judged["right" if end == RUNNING else "missed"] += 1
            continue
        if decision.frame < begin:
            judged["premature"] += 1
        else:
            judged["right" if decision.verdict == end else "confused"] += 1
        if decision.verdict == end:
            errors.append(decision.frame - (length - 1))
    count = sum(judged.values())
    found: dict[str, Any] = {"clips": count} | {
        name: round(number / count, 4) if count else None for name, number in judged.items()
    }
    if end != RUNNING:
        found["error_frames"] = {
            "mean": round(float(np.mean(errors)), 3) if errors else None,
            "median": float(np.median(errors)) if errors else None,
            "mean_absolute": round(float(np.mean(np.abs(errors))), 3) if errors else None,
        }
    return found


def _share(right: NDArray[np.bool_]) -> float | None:
    return round(float(right.mean()), 4) if len(right) else None


def figure_lines(found: dict[str, Any]) -> list[str]:
    """The figures of held-out clips, for people."""
    recalls = ", ".join(f"{name} {_shown(value)}" for name, value in found["recall"].items())
    lines = [
        f"on {found['clips']} clips of {found['episodes']} held-out episodes, {found['frames']} frames:",
        f"  accuracy {found['accuracy']:.3f} (always running: {found['always_running']:.3f}); "
        f"recall {recalls}",
    ]
    for end in ("done", "failed"):
        row = found[end]
        if row["clips"] < FEW:
            lines.append(f"  {end:<7} clips that end so: {too_few(row['clips'])}")
            continue
        error = row["error_frames"]
        shown = "-" if error["mean"] is None else f"{error['mean']:+.1f} (median {error['median']:+.1f})"
        rates = ", ".join(f"{n} {_shown(row[n])}" for n in ("right", "premature", "confused", "missed"))
        lines.append(f"  {end:<7} {row['clips']:>4} clips: {rates}; frames from the end {shown}")
    if found["running"]["clips"] >= FEW:
        row, alarm = found["running"], _shown(found["running"]["premature"])
        lines.append(f"  running {row['clips']:>4} clips in which nothing ended: alarm {alarm}")
    return lines


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
