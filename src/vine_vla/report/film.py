"""Filmstrips: one scene in two arms, with prediction and true result under each subgoal's frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vine_vla.core.errors import VineError
from vine_vla.core.options import parse_subgoal
from vine_vla.report.headline import Block
from vine_vla.report.images import DrawnFrame, drawn_frame
from vine_vla.report.traces import Executed, Trace

KINDS = ("saved", "lost", "both failed")


@dataclass(frozen=True)
class Pair:
    """One scene in the main arm and in a rival."""

    main: Trace
    rival: Trace

    @property
    def kind(self) -> str | None:
        """`saved`, `lost`, `both failed`; None where both solved it."""
        if self.main.success:
            return None if self.rival.success else "saved"
        return "lost" if self.rival.success else "both failed"

    @property
    def parting(self) -> int | None:
        """The first subgoal in which the two differ."""
        a, b = self.main.executed, self.rival.executed
        differ = [place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x.subgoal != y.subgoal]
        return differ[0] if differ else min(len(a), len(b)) if len(a) != len(b) else None


class Cell(NamedTuple):
    """One subgoal of a strip."""

    executed: Executed
    frame: DrawnFrame | None
    replanned: bool
    differs: bool

    @property
    def name(self) -> str:
        return self.executed.text or self.executed.subgoal

    @property
    def forecast(self) -> str:
        """The prediction in words."""
        e = self.executed
        interval = f" [{e.lower:.2f}, {e.upper:.2f}]" if e.lower is not None and e.upper is not None else ""
        return "no prediction" if e.predicted is None else f"predicted {e.predicted:.2f}{interval}"


class Strip(NamedTuple):
    """One episode: a cell a subgoal, then how it ended; `stopped` is the planner's reason not to begin."""

    trace: Trace
    cells: list[Cell]
    last: DrawnFrame | None
    ending: str
    stopped: str


class Kind(NamedTuple):
    """Shown pairs of one kind, of `total` scenes and seeds in the whole run."""

    name: str
    total: int
    shown: list[tuple[Pair, list[Strip]]]


def pairs(traces: Sequence[Trace], main: str, rival: str) -> list[Pair]:
    """Traces of the two arms on the same task, split, scene and seeds, by scene."""
    keyed: dict[str, dict[tuple[str, str, int, int, int], Trace]] = {main: {}, rival: {}}
    for t in traces:
        if t.label in keyed:
            keyed[t.label][(t.task, t.split, t.scene, t.training_seed, t.policy_seed)] = t
    both = sorted(keyed[main].keys() & keyed[rival].keys())
    return [Pair(keyed[main][key], keyed[rival][key]) for key in both]


def filmed_rival(block: Block, traces: Sequence[Trace]) -> str | None:
    """The headline's rival if it was recorded beside the main arm, else the first arm that was."""
    names = [block.rival.b] if block.rival else []
    names += [name for name in block.labels if name != block.main]
    return next((name for name in names if pairs(traces, block.main, name)), None)


def kinds(block: Block, rival: str, traces: Sequence[Trace], per_kind: int, camera: str) -> list[Kind]:
    """The first `per_kind` pairs of each kind by scene number: a rule, so that nobody picks favourites."""
    found, totals = pairs(traces, block.main, rival), _totals(block, rival)
    shown = {kind: [pair for pair in found if pair.kind == kind][:per_kind] for kind in KINDS}
    return [
        Kind(
            kind, totals[kind], [(p, [strip(t, camera, p.parting) for t in (p.main, p.rival)]) for p in some]
        )
        for kind, some in shown.items()
    ]


def strip(trace: Trace, camera: str, parting: int | None) -> Strip:
    """One episode's strip; the subgoal number `parting` is marked."""
    replans = {decision.step for decision in trace.decisions[1:]}
    cells = [
        Cell(
            executed,
            drawn_frame(trace.frame_at(executed.start), camera, _arguments(executed)),
            executed.start in replans,
            place == parting,
        )
        for place, executed in enumerate(trace.executed)
    ]
    why = ", ".join(dict.fromkeys(word for word in (trace.outcome, trace.reason) if word))
    ending = "solved" if trace.success else f"failed: {why or 'no reason given'}"
    never_began = not trace.success and trace.decisions and not trace.executed
    stopped = trace.decisions[-1].reason if never_began else ""
    last = drawn_frame(trace.frames[-1], camera) if trace.frames else None
    return Strip(trace, cells, last, ending, stopped)


def _arguments(executed: Executed) -> tuple[str, ...]:
    try:
        return parse_subgoal(executed.subgoal).args
    except VineError:  # an arm without subgoals (`flat`) names its whole episode as it likes
        return ()


def _totals(block: Block, rival: str) -> Mapping[str, int]:
    """Scenes and seeds of each kind in the whole run."""
    keys = ["scene", "training_seed", "policy_seed"]
    wide = block.rows.pivot_table(index=keys, columns="arm", values="success", dropna=False)
    wide = wide[[block.main, rival]].dropna()
    a, b = wide[block.main] == 1, wide[rival] == 1
    return {"saved": int((a & ~b).sum()), "lost": int((~a & b).sum()), "both failed": int((~a & ~b).sum())}
