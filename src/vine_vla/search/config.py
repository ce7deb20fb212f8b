"""Settings of a search, one frozen dataclass for every planner."""

from __future__ import annotations

from dataclasses import dataclass

from vine_vla.core.errors import VineError


@dataclass(frozen=True)
class SearchConfig:
    """How a planner searches.

    Raises:
        VineError: a value is out of its range.
    """

    k: int = 8
    """Proposals a node, K >= 1."""
    expansions: int = 64
    """Nodes expanded for one plan, the root included; 1 is greedy, 0 ranks by the prior alone."""
    seconds: float | None = None
    """Time for one plan, in seconds; None: no limit. The root is always expanded."""
    leaves: int = 16
    """Leaves of one problem that go into one model call, >= 1."""
    depth: int = 6
    """Look-ahead H in subgoals, >= 1; the remaining subgoal budget limits it further."""
    c_puct: float = 0.25
    """Weight of the prior in the exploration term, >= 0; values are on the absolute scale [0, 1]."""
    kappa: float = 0.5
    """Options are chosen by mean minus kappa x spread of the choosing members, >= 0."""
    length_penalty: float = 0.02
    """What every further subgoal of a plan must gain in feasibility to be worth it, in [0, 1]: options are
    chosen by their score minus length_penalty x subgoals, so that near-ties go to the shorter plan.
    Feasibility itself has no cost of time."""
    z: float = 1.64
    """Half width of reported intervals, in standard deviations between reporting members, >= 0."""
    min_outcome: float = 0.02
    """Outcomes of at most this probability keep the model's value and are not searched, in [0, 1)."""
    split: bool = True
    """One half of the members chooses, the other reports; False: all members do both."""
    prune: bool = True
    """Prune options whose score is under the model's threshold."""
    stop: bool = True
    """Answer `unsupported` when the best plan's lower bound is under the model's tau_stop."""
    evidence: int = 3
    """Prune options at the root, the least bad ones, whose nearest recorded episodes are named."""
    trace: int = 256
    """Nodes at most in the plan's JSON tree: the first expanded ones and the principal variation's."""

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "k": (1, 1024),
            "expansions": (0, 10**7),
            "leaves": (1, 4096),
            "depth": (1, 1000),
            "c_puct": (0, 1e6),
            "kappa": (0, 1e3),
            "length_penalty": (0, 1),
            "z": (0, 1e3),
            "min_outcome": (0, 1 - 1e-9),
            "evidence": (0, 10**7),
            "trace": (1, 10**7),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise VineError(
                    f"{name} is {getattr(self, name)}",
                    where=f"--{name.replace('_', '-')}",
                    hint=f"use {low} to {high:g}",
                )
        if self.seconds is not None and not self.seconds > 0:
            raise VineError(f"seconds is {self.seconds}", where="--seconds", hint="use more than 0")


def split_members(members: int, split: bool) -> tuple[list[int], list[int]]:
    """Which members choose and which report: even and odd ones, or all in both when there is one."""
    everyone = list(range(members))
    if members == 1 or not split:
        return everyone, everyone
    return everyone[::2], everyone[1::2]
