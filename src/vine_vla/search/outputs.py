"""Outputs of the planning model, a row for each different graph.

Nodes are never merged: equal graphs at different places of the tree (or in different problems) are
different nodes, but they share one row here, so that the model judges each graph once. Options are
kept in the order of their text, which makes every tie in the search a tie by canonical text and every
answer independent of the order of the proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.options import Subgoal
from vine_vla.core.packing import PackedGraphs
from vine_vla.core.protocols import Expansion, Float, PlanningModel
from vine_vla.search.compiled import compiled
from vine_vla.search.config import SearchConfig
from vine_vla.search.pruning import NO_PROPOSAL, prune_options, support_gap

Int = NDArray[np.int64]

_FIRST_CAPACITY = 64


@lru_cache(maxsize=65536)
def canonical_text(subgoal: Subgoal) -> str:
    """The subgoal's internal form; decides ties."""
    return str(subgoal)


def _fingerprints(graphs: PackedGraphs) -> list[bytes]:
    """All bytes of each graph [n], equal for equal graphs; a third of the time of `digests`."""
    count = len(graphs.budget)
    parts = [np.ascontiguousarray(a).reshape(count, -1).view(np.uint8) for a in graphs if a.size]
    table = np.concatenate(parts, 1)
    return [row.tobytes() for row in table]


class Table(NamedTuple):
    """What the model says of R graphs with K options each (padded), M members.

    Args:
        prior, support: in [0, 1]. [R, K]
        p: probabilities of goal, reached, slipped, dead. [R, M, K, 4]
        value: V after reached and after slipped. [R, M, K, 2]
        reason: reason code of each option, `pruning.KEPT` where it may be taken. [R, K]
        upper: pruning score u. [R, K]
        gap: 0 covered to 1 not covered at all. [R, K]
        column: where the model put each option; its graphs stay there. [R, K]
    """

    prior: Float
    p: Float
    value: Float
    support: Float
    reason: NDArray[np.int8]
    upper: Float
    gap: NDArray[np.float64]
    column: Int


class Outputs:
    """A growing table of model outputs. R rows in use, M members, K options (padded).

    Attributes:
        subgoals: options of each row, in the order of their text. `[R][<= K]`
        table: see `Table`.
        model_calls: calls of `expand`. hits: graphs that were answered from the table.
    """

    def __init__(self, model: PlanningModel, config: SearchConfig) -> None:
        self.model, self.config, self.rule = model, config, model.pruning
        self.subgoals: list[list[Subgoal]] = []
        self.members = self.model_calls = self.hits = 0
        self._rows: dict[tuple[str, bytes], int] = {}
        self._sorted: dict[tuple[Subgoal, ...], tuple[list[Subgoal], list[int]]] = {}
        self._capacity = 0
        self.table: Table
        self._next: PackedGraphs

    def __len__(self) -> int:
        return len(self.subgoals)

    def look_up(self, graphs: PackedGraphs, instructions: Sequence[str]) -> Int:
        """Rows of `graphs` [n] under `instructions` [n]; one model call for those not seen before.

        Raises:
            VineError: the model's answer has a wrong shape or is no probability.
        """
        keys = list(zip(instructions, _fingerprints(graphs), strict=True))
        start = len(self)
        rows: list[int] = []
        places: list[int] = []
        fresh: dict[tuple[str, bytes], int] = {}
        for place, key in enumerate(keys):
            row = self._rows.get(key)
            if row is None:
                row = fresh.setdefault(key, start + len(places))
                if row == start + len(places):
                    places.append(place)
            rows.append(row)
        if places:
            batch = graphs if len(places) == len(keys) else graphs.select(np.array(places))
            answer = self.model.expand(batch, [keys[place][0] for place in places], self.config.k)
            self.model_calls += 1
            self._insert(answer, len(places))
            self._rows.update(fresh)
        self.hits += len(keys) - len(places)
        return np.array(rows, np.int64)

    def after(self, row: Int, option: Int, outcome: Int) -> PackedGraphs:
        """The graphs after `outcome` (reached or slipped) of `option` in `row`. [n] each"""
        place = (row * self.config.k + self.table.column[row, option]) * 2 + outcome
        return PackedGraphs(*(a.reshape(-1, *a.shape[3:]).take(place, 0) for a in self._next))  # type: ignore[arg-type]

    def _insert(self, answer: Expansion, count: int) -> None:
        _check_shapes(answer, count, self.config.k)
        p, support, mask = answer.p, answer.support, answer.mask
        reason, upper = prune_options(p, support, mask, answer.subgoals, self.rule, prune=self.config.prune)
        gap = support_gap(support, self.rule.min_support)
        found = _Judged(
            prior=_plain(answer.prior, np.float32),
            p=_plain(p, np.float32),
            value=_plain(answer.value, np.float32),
            support=_plain(support, np.float32),
            mask=_plain(mask, np.bool_),
        )
        broken = _first_broken(found)
        if broken:
            raise VineError(_BROKEN[broken], where=_WHERE)
        subgoals, order = self._sort(answer.subgoals)
        self._reserve(len(self) + count, answer)
        judged = (_plain(reason, np.int8), _plain(upper, np.float32), _plain(gap, np.float64))
        _store(self.table, len(self), order, found, *judged)
        here = slice(len(self), len(self) + count)
        for mine, theirs in zip(_arrays(self._next), _arrays(answer.next), strict=True):
            mine[here, : mask.shape[1]] = theirs
        self.subgoals += subgoals

    def _sort(self, options: Sequence[Sequence[Subgoal]]) -> tuple[list[list[Subgoal]], Int]:
        """The options of each row in the order of their text, and where the model put them. [n, K]"""
        found = []
        for names in options:
            key = tuple(names)
            known = self._sorted.get(key)
            if known is None:
                texts = [canonical_text(s) for s in key]
                places = sorted(range(len(key)), key=texts.__getitem__)
                padded = places + list(range(len(key), self.config.k))
                known = self._sorted[key] = ([key[i] for i in places], padded)
            found.append(known)
        return [names for names, _ in found], np.array([places for _, places in found], np.int64)

    def _reserve(self, rows: int, answer: Expansion) -> None:
        """Make room for `rows` rows of the shape of `answer`."""
        if rows <= self._capacity:
            return
        capacity = max(_FIRST_CAPACITY, rows, 2 * self._capacity)
        k, members = self.config.k, answer.p.shape[0]
        table = Table(
            prior=np.zeros((capacity, k), np.float32),
            p=np.zeros((capacity, members, k, 4), np.float32),
            value=np.zeros((capacity, members, k, 2), np.float32),
            support=np.zeros((capacity, k), np.float32),
            reason=np.full((capacity, k), NO_PROPOSAL, np.int8),
            upper=np.zeros((capacity, k), np.float32),
            gap=np.zeros((capacity, k)),
            column=np.zeros((capacity, k), np.int64),
        )
        graphs = PackedGraphs(*(np.zeros((capacity, k, *a.shape[2:]), a.dtype) for a in answer.next))
        if self._capacity:
            if members != self.members:
                raise VineError(f"the model gave {members} members after {self.members}")
            larger: list[NDArray[Any]] = [*table, *graphs]
            smaller: list[NDArray[Any]] = [*self.table, *self._next]
            for new, old in zip(larger, smaller, strict=True):
                new[: len(self)] = old[: len(self)]
        self.table, self._next, self.members, self._capacity = table, graphs, members, capacity


def _arrays(graphs: PackedGraphs) -> tuple[NDArray[Any], ...]:
    return tuple(graphs)


_WHERE = "planning model, expand"
_BROKEN = (
    "",
    "a prior is not in [0, 1]",
    "a support is not in [0, 1]",
    "outcome probabilities do not sum to 1",
    "a value is not in [0, 1]",
)


class _Judged(NamedTuple):
    """Arrays of an `Expansion` as the compiled loops want them: contiguous, float32."""

    prior: Float
    p: Float
    value: Float
    support: Float
    mask: NDArray[np.bool_]


def _plain(array: NDArray[Any], kind: type) -> NDArray[Any]:
    """`array` contiguous and of that kind, so that every model meets the same compiled loop."""
    return np.ascontiguousarray(array, kind)


def _check_shapes(answer: Expansion, count: int, k: int) -> None:
    """Raises VineError unless `answer` is an expansion of `count` graphs with at most `k` options."""
    width = answer.mask.shape[-1]
    members = answer.p.shape[0]
    shapes = {
        "mask": (answer.mask.shape, (count, width)),
        "prior": (answer.prior.shape, (count, width)),
        "support": (answer.support.shape, (count, width)),
        "p": (answer.p.shape, (members, count, width, 4)),
        "value": (answer.value.shape, (members, count, width, 2)),
        "next": (answer.next.batch_shape, (count, width, 2)),
    }
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise VineError(f"{name} has shape {list(found)}, expected {list(expected)}", where=_WHERE)
    if width > k:
        raise VineError(f"{width} proposals, but at most {k} were asked for", where=_WHERE)
    if [len(row) for row in answer.subgoals] != answer.mask.sum(1).tolist():
        raise VineError("subgoals and mask disagree", where=_WHERE, hint="put the padding last")


@compiled
def _first_broken(a: _Judged) -> int:
    """0 if all numbers are probabilities, else which line of `_BROKEN` says what is wrong."""
    members = len(a.p)
    found = 0
    for b in range(a.mask.shape[0]):
        for k in range(a.mask.shape[1]):
            if not a.mask[b, k]:
                continue
            # Written so that NaN, which compares as false, is found too.
            if not _is_probability(a.prior[b, k]):
                return 1
            if not _is_probability(a.support[b, k]):
                return 2
            for m in range(members):
                total = 0.0
                for outcome in range(4):
                    if not a.p[m, b, k, outcome] > -1e-6:
                        found = 3
                    total += a.p[m, b, k, outcome]
                if not abs(total - 1) < 1e-3:
                    found = 3
                if not (_is_probability(a.value[m, b, k, 0]) and _is_probability(a.value[m, b, k, 1])):
                    found = found or 4
    return found


@compiled
def _is_probability(x: float) -> bool:
    return x > -1e-6 and x < 1 + 1e-6


@compiled
def _store(
    table: Table,
    start: int,
    order: Int,
    found: _Judged,
    reason: NDArray[np.int8],
    upper: Float,
    gap: NDArray[np.float64],
) -> None:
    """Write an answer into the rows from `start` on, the options in `order` [n, K]."""
    count, width = found.mask.shape
    for b in range(count):
        for k in range(width):
            row, theirs = start + b, order[b, k]
            table.column[row, k] = theirs
            table.prior[row, k] = found.prior[b, theirs] if found.mask[b, theirs] else 0.0
            table.support[row, k], table.reason[row, k] = found.support[b, theirs], reason[b, theirs]
            table.upper[row, k], table.gap[row, k] = upper[b, theirs], gap[b, theirs]
            for m in range(len(found.p)):
                table.p[row, m, k] = found.p[m, b, theirs]
                table.value[row, m, k] = found.value[m, b, theirs]
