"""Outputs of the planning model, a row for each different graph.

Nodes are never merged: equal graphs at different places of the tree (or in different problems) are
different nodes, but they share one row here, so that the model judges each graph once. Options are
kept in the order of their text, which makes every tie in the search a tie by canonical text and every
answer independent of the order of the proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vine_vla.errors import VineError
from vine_vla.options import Subgoal
from vine_vla.packing import PackedGraphs
from vine_vla.protocols import Expansion, Float, PlanningModel
from vine_vla.search.config import SearchConfig
from vine_vla.search.pruning import NO_PROPOSAL, cut_options, support_gap

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


class Outputs:
    """A growing table of model outputs. R rows in use, M members, K options (padded).

    Attributes:
        subgoals: options of each row, in the order of their text. [R][<= K]
        prior: [R, K]. p: [R, M, K, 4]. value: [R, M, K, 2]. support: [R, K].
        cut: reason code of each option, `pruning.KEPT` where it may be taken. int8 [R, K]
        upper: pruning score u. [R, K]. gap: 0 covered to 1 not covered at all. [R, K]
        column: where the model put each option; its graphs stay there. [R, K]
        model_calls: calls of `expand`. hits: graphs that were answered from the table.
    """

    def __init__(self, model: PlanningModel, config: SearchConfig) -> None:
        self.model, self.config, self.rule = model, config, model.pruning
        self.subgoals: list[list[Subgoal]] = []
        self.members = self.model_calls = self.hits = 0
        self._rows: dict[tuple[str, bytes], int] = {}
        self._capacity = 0
        self.prior: Float
        self.p: Float
        self.value: Float
        self.support: Float
        self.cut: NDArray[np.int8]
        self.upper: Float
        self.gap: NDArray[np.float64]
        self.column: Int
        self._next: PackedGraphs

    def __len__(self) -> int:
        return len(self.subgoals)

    def look_up(self, graphs: PackedGraphs, instructions: Sequence[str]) -> Int:
        """Rows of `graphs` [n] under `instructions` [n]; one model call for those not seen before.

        Raises:
            VineError: the model's answer has a wrong shape or is no probability.
        """
        keys = list(zip(instructions, _fingerprints(graphs), strict=True))
        fresh = {key: place for place, key in reversed(list(enumerate(keys))) if key not in self._rows}
        places = sorted(fresh.values())
        if places:
            batch = graphs if len(places) == len(keys) else graphs.select(np.array(places))
            answer = self.model.expand(batch, [keys[place][0] for place in places], self.config.k)
            self.model_calls += 1
            self._insert([keys[place] for place in places], answer)
        self.hits += len(keys) - len(places)
        return np.array([self._rows[key] for key in keys], np.int64)

    def after(self, row: Int, option: Int, outcome: Int) -> PackedGraphs:
        """The graphs after `outcome` (reached or slipped) of `option` in `row`. [n] each"""
        return self._next.select((row, self.column[row, option], outcome))

    def _insert(self, keys: list[tuple[str, bytes]], answer: Expansion) -> None:
        _check(answer, len(keys), self.config.k)
        texts = [[canonical_text(s) for s in row] for row in answer.subgoals]
        order = np.tile(np.arange(answer.mask.shape[1]), (len(keys), 1))
        for b, names in enumerate(texts):
            order[b, : len(names)] = sorted(range(len(names)), key=names.__getitem__)
        row = np.arange(len(keys))[:, None]
        subgoals = [[s[i] for i in o[: len(s)]] for s, o in zip(answer.subgoals, order, strict=True)]
        mask, support = answer.mask[row, order], answer.support[row, order]
        p = answer.p[:, row, order]
        cut, upper = cut_options(p, support, mask, subgoals, self.rule, prune=self.config.prune)

        start, end, used = len(self), len(self) + len(keys), order.shape[1]
        self._reserve(end, answer)
        at = (slice(start, end), slice(0, used))
        self.prior[at] = np.where(mask, answer.prior[row, order], 0.0)
        self.support[at], self.cut[at], self.upper[at] = support, cut, upper
        self.gap[at] = support_gap(support, self.rule.min_support)
        self.p[start:end, :, :used] = np.moveaxis(p, 0, 1)
        self.value[start:end, :, :used] = np.moveaxis(answer.value[:, row, order], 0, 1)
        self.column[at] = order
        for mine, theirs in zip(_arrays(self._next), _arrays(answer.next), strict=True):
            mine[start:end, :used] = theirs
        self.subgoals += subgoals
        self._rows.update((key, start + place) for place, key in enumerate(keys))

    def _reserve(self, rows: int, answer: Expansion) -> None:
        """Make room for `rows` rows of the shape of `answer`."""
        if rows <= self._capacity:
            return
        capacity = max(_FIRST_CAPACITY, rows, 2 * self._capacity)
        k, members = self.config.k, answer.p.shape[0]
        fresh: dict[str, NDArray[Any]] = {
            "prior": np.zeros((capacity, k), np.float32),
            "p": np.zeros((capacity, members, k, 4), np.float32),
            "value": np.zeros((capacity, members, k, 2), np.float32),
            "support": np.zeros((capacity, k), np.float32),
            "cut": np.full((capacity, k), NO_PROPOSAL, np.int8),
            "upper": np.zeros((capacity, k), np.float32),
            "gap": np.zeros((capacity, k)),
            "column": np.zeros((capacity, k), np.int64),
        }
        graphs = PackedGraphs(*(np.zeros((capacity, k, *a.shape[2:]), a.dtype) for a in answer.next))
        if self._capacity:
            if members != self.members:
                raise VineError(f"the model gave {members} members after {self.members}")
            for name, array in fresh.items():
                array[: len(self)] = getattr(self, name)[: len(self)]
            for new, old in zip(_arrays(graphs), _arrays(self._next), strict=True):
                new[: len(self)] = old[: len(self)]
        for name, array in fresh.items():
            setattr(self, name, array)
        self._next, self.members, self._capacity = graphs, members, capacity


def _arrays(graphs: PackedGraphs) -> tuple[NDArray[Any], ...]:
    return tuple(graphs)


def _check(answer: Expansion, count: int, k: int) -> None:
    """Raises VineError unless `answer` is an expansion of `count` graphs with at most `k` options."""
    where = "planning model, expand"
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
            raise VineError(f"{name} has shape {list(found)}, expected {list(expected)}", where=where)
    if width > k:
        raise VineError(f"{width} proposals, but at most {k} were asked for", where=where)
    if [len(row) for row in answer.subgoals] != answer.mask.sum(1).tolist():
        raise VineError("subgoals and mask disagree", where=where, mend="put the padding last")
    padding = ~answer.mask
    for name, array in (("prior", answer.prior), ("support", answer.support)):
        if not ((array > -1e-6) & (array < 1 + 1e-6) | padding).all():
            raise VineError(f"a {name} is not in [0, 1]", where=where)
    # Written so that NaN, which compares as false, is found too.
    if not ((np.abs(answer.p.sum(-1) - 1) < 1e-3) & (answer.p.min(-1) > -1e-6) | padding).all():
        raise VineError("outcome probabilities do not sum to 1", where=where)
    if not ((answer.value.min(-1) > -1e-6) & (answer.value.max(-1) < 1 + 1e-6) | padding).all():
        raise VineError("a value is not in [0, 1]", where=where)
