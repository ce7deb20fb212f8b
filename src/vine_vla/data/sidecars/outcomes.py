"""Outcomes of episodes, read from the spellings in use; an absent label stays unknown.

Sources, the first that speaks counts:

- a column of `meta/episodes` called `vine_outcome` (of VINE's own exports), `next.success`, `success`,
  `is_success` or `is_episode_successful` (bool, 0 or 1, or a word such as `failure`);
- per frame `is_episode_successful`, `is_success` or `success`: the last frame's value;
- per frame `next.success`: true anywhere is a success. False alone is only filling, since every frame must
  carry a value; it is a failure where `next.done` says that the episode really ended on its last frame,
  truncated where `next.truncated` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vine_vla.core.options import EpisodeOutcome

EPISODE_OUTCOME = "vine_outcome"
EPISODE_COLUMNS = (EPISODE_OUTCOME, "next.success", "success", "is_success", "is_episode_successful")
"""Names of label columns in `meta/episodes`."""

FRAME_COLUMNS = ("is_episode_successful", "is_success", "success")
"""Names of per-frame columns whose last value is a label."""

LABEL_COLUMNS = (*FRAME_COLUMNS, "next.success", "next.done", "next.truncated")
"""Per-frame columns that `read_outcome` may ask for."""

_WORDS = {
    **dict.fromkeys(("success", "successful", "succeeded", "true", "yes", "1"), EpisodeOutcome.SUCCESS),
    **dict.fromkeys(("failure", "fail", "failed", "false", "no", "0"), EpisodeOutcome.FAILURE),
    **dict.fromkeys(("truncated", "timeout", "timed_out"), EpisodeOutcome.TRUNCATED),
    **dict.fromkeys(("unknown", "undecided", "", "none", "null", "nan"), EpisodeOutcome.UNKNOWN),
}


def as_outcome(value: Any) -> EpisodeOutcome:
    """What one label means; ValueError for a word that is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return EpisodeOutcome.UNKNOWN
    if isinstance(value, str):
        try:
            return _WORDS[value.strip().lower()]
        except KeyError:
            raise ValueError(f"unknown outcome {value!r}") from None
    if value in (0, 1):  # bool, and numbers that stand for it
        return EpisodeOutcome.SUCCESS if value else EpisodeOutcome.FAILURE
    raise ValueError(f"unknown outcome {value!r}")


def read_outcome(
    extra: Mapping[str, Any], columns: Collection[str], read: Callable[[str], list[Any]]
) -> EpisodeOutcome:
    """The outcome of one episode from labels that other tools wrote.

    Args:
        extra: its row of `meta/episodes`.
        columns: names of the per-frame columns that exist.
        read: gives a per-frame column of this episode.
    """
    for name in EPISODE_COLUMNS:
        if name in extra and as_outcome(extra[name]) is not EpisodeOutcome.UNKNOWN:
            return as_outcome(extra[name])
    for name in FRAME_COLUMNS:
        if name in columns and as_outcome(read(name)[-1]) is not EpisodeOutcome.UNKNOWN:
            return as_outcome(read(name)[-1])
    if "next.success" in columns:
        if any(bool(v) for v in read("next.success") if v is not None):
            return EpisodeOutcome.SUCCESS
        if "next.truncated" in columns and read("next.truncated")[-1]:
            return EpisodeOutcome.TRUNCATED
        if "next.done" in columns and read("next.done")[-1]:
            return EpisodeOutcome.FAILURE
    return EpisodeOutcome.UNKNOWN
