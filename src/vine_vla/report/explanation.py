"""Tables of `vine explain`: what feasibility rests on, what failures change, what is unknown."""

from __future__ import annotations

from pathlib import Path

import msgspec

from vine_vla.storage.json import read_struct

MOST = 20
"""Rows shown of a table."""


class Importance(msgspec.Struct, frozen=True):
    """A feature's importance (rise of the Brier score) and the effect of one of its values on P."""

    verb: str
    feature: str
    n: int
    importance: float | None
    value: str
    shown: float | None
    effect: float | None


class Choice(msgspec.Struct, frozen=True):
    """A first subgoal that is another one when the failures are withheld."""

    source: str
    with_failures: str
    feasibility: float | None
    withheld: str
    withheld_feasibility: float | None
    regret: float | None
    nearest_failed: str | None = None


class Unknown(msgspec.Struct, frozen=True):
    """A scene on whose first subgoal the members of the ensemble vote."""

    source: str
    entropy: float | None
    votes: str
    stake: float | None


class Explanation(msgspec.Struct, frozen=True):
    """What `vine explain` writes; `decisions` is None where no model without failures was compared."""

    cases: int | None = None
    source: str = ""
    importance: list[Importance] = []
    decisions: list[Choice] | None = None
    unknown: list[Unknown] = []

    @property
    def important(self) -> list[Importance]:
        """Features that matter, a row a value."""
        return [row for row in self.importance if (row.importance or 0.0) >= 0.001][: 3 * MOST]

    @property
    def split_votes(self) -> list[Unknown]:
        """Scenes on which the members do not agree."""
        return [row for row in self.unknown if (row.entropy or 0.0) > 0]


def read_explanation(file: Path) -> Explanation:
    """`explain.json`, checked."""
    return read_struct(file, Explanation, hint="write it anew with `vine explain`")
