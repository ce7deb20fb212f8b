"""The planning model on graphs: proposals, outcomes, next graphs, values and support behind one `expand`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Option, Subgoal, check_subgoal
from vine_vla.core.packing import PackedGraphs, pack, unpack
from vine_vla.core.protocols import (
    AFTER_REACHED,
    AFTER_SLIPPED,
    DEAD,
    GOAL,
    REACHED,
    SLIPPED,
    Context,
    Expansion,
    Neighbours,
    PruningRule,
)
from vine_vla.learning.device import to_device, to_numpy
from vine_vla.system2.compact.dynamics import Changes, next_graphs
from vine_vla.system2.compact.features import Candidates, Encoder, Float, Int
from vine_vla.system2.compact.hypotheses import categorical, likeliest, readings
from vine_vla.system2.compact.nets import GraphNet, SubgoalNet, SubgoalTensors
from vine_vla.system2.compact.outcome import outcome_logits
from vine_vla.system2.compact.proposal import Flat, prior
from vine_vla.system2.compact.value import at_budget, values
from vine_vla.system2.compact.words import Texts
from vine_vla.system2.uncertainty.calibration import Calibration
from vine_vla.system2.uncertainty.support import Support, context_bits

NEGLIGIBLE = 0.02
"""Outcomes of at most this probability, the members' mean, are worth what the graph was worth before: no net
is asked."""


@dataclass(frozen=True)
class Shared:
    """What all variants of one data set share.

    Args:
        encoder: features. proposal: of successful episodes. proposal_all: of all (the arm `imitate-all`).
        budget: subgoals an episode may spend. subgoals_a_plan: median of successful demonstrations.
    """

    encoder: Encoder
    proposal: SubgoalNet
    proposal_all: SubgoalNet
    budget: int
    subgoals_a_plan: float


@dataclass(frozen=True)
class Records:
    """The training segments behind the model, for `nearest`.

    Args:
        episodes: id of each segment's episode, in the order of `Support.points`. outcome: int64 [N]
    """

    episodes: tuple[str, ...]
    outcome: Int


@dataclass(frozen=True)
class Judged:
    """What the nets say of N (graph, subgoal) pairs.

    Args:
        logits: before calibration. [M, N, 4]. p: calibrated. [M, N, 4]
        embedding: for support and evidence. [N, E]. support: [N]
    """

    logits: Float
    p: Float
    embedding: Float
    support: Float


@dataclass(frozen=True)
class GraphModel:
    """System 2 without eyes: satisfies `PlanningModel` and `Evidence` on scene graphs.

    Args:
        shared: encoder and proposals. outcome, dynamics, changes, value: the variant's nets.
        value_mu: the diagnostic value. calibration, support, pruning: see there.
        records: training segments. prior_floor: see `OutcomeConfig`.
        imitate_all: whether the prior is that of all episodes instead of the successful ones.
    """

    shared: Shared
    outcome: SubgoalNet
    dynamics: SubgoalNet
    changes: Changes
    value: GraphNet
    value_mu: GraphNet
    calibration: Calibration
    support: Support
    pruning: PruningRule
    records: Records
    prior_floor: float = 0.01
    imitate_all: bool = False
    _layouts: dict[bytes, Candidates] = field(default_factory=dict, repr=False, compare=False)

    @property
    def encoder(self) -> Encoder:
        return self.shared.encoder

    @property
    def schema(self) -> Schema:
        return self.shared.encoder.schema

    @property
    def device(self) -> torch.device:
        """Where the nets are, all of them."""
        return self.outcome.device

    @property
    def members(self) -> int:
        return self.outcome.members

    @property
    def budget(self) -> int:
        """Subgoals that an episode may spend."""
        return self.shared.budget

    def with_prior(self, *, imitate_all: bool) -> GraphModel:
        """The same model with the proposals of all episodes, or of the successful ones."""
        return replace(self, imitate_all=imitate_all)

    def proposals(
        self, graphs: PackedGraphs, texts: Texts, k: int, base: Float | None = None
    ) -> tuple[list[Candidates], Flat, SubgoalTensors, NDArray[np.float64], Int]:
        """Candidates of B graphs; the same flat, and their features; priors; and what is proposed.

        Priors are [B, Q], the places of the at most k best among the Q are [B, K], -1 padded.
        """
        candidates = self.encoder.candidates(graphs, self._layouts)
        flat = Flat(candidates, self.encoder.arity)
        net = self.shared.proposal_all if self.imitate_all else self.shared.proposal
        features = self.encoder.subgoal_inputs(graphs, flat.rows, flat.verbs, flat.args, texts, base)
        inputs = SubgoalTensors(features, net.device)
        likely = prior(net, inputs, flat)
        picked = np.argsort(-likely, axis=1, kind="stable")[:, :k]
        chance = np.take_along_axis(likely, np.maximum(picked, 0), 1)
        # The likeliest is always proposed, however flat the prior.
        keep = (
            (picked >= 0) & (chance > 0) & ((chance >= self.prior_floor) | (np.arange(picked.shape[1]) == 0))
        )
        return candidates, flat, inputs, likely, np.where(keep, picked, -1)

    def judge(self, graphs: PackedGraphs, rows: Int, verbs: Int, args: Int, inputs: SubgoalTensors) -> Judged:
        """Outcomes and support of N subgoals, each in one of B graphs, from their features."""
        with torch.inference_mode():
            logits_t, vector = outcome_logits(self.outcome, inputs)
            logits = to_numpy(logits_t)
            embedding = to_numpy(vector.transpose(0, 1).reshape(len(rows), vector.shape[0] * vector.shape[2]))
        p = self.calibration.apply(logits, verbs)
        spread = (p[..., GOAL] + p[..., REACHED]).std(0)
        context = context_bits(self.schema, graphs, rows, args)
        return Judged(logits, p, embedding, self.support.of(embedding, verbs, spread, context))

    def expand(
        self, graphs: PackedGraphs, instructions: Sequence[str], k: int, context: Context | None = None
    ) -> Expansion:
        """At most `k` proposals for each of the B graphs, with outcomes, next graphs and values."""
        count = len(graphs.budget)
        if len(instructions) != count:
            raise VineError(f"{count} graphs but {len(instructions)} instructions")
        texts = self.encoder.texts(list(instructions))
        seen = likeliest(graphs, self._constant)
        base = self.encoder.base(seen, texts)
        candidates, flat, inputs, likely, picked = self.proposals(seen, texts, k, base)
        mask = picked >= 0
        rows, columns = np.nonzero(mask)
        chosen = flat.place[rows, picked[rows, columns]]
        verbs, args = flat.verbs[chosen], flat.args[chosen]
        inputs = inputs[to_device(chosen, self.device)]
        judged = self.judge_in_doubt(graphs, texts, rows, verbs, args, inputs)
        before = graphs.select(rows)
        after = next_graphs(self.dynamics, self.encoder, self.changes, before, inputs)
        value = self._values_after(graphs, texts, rows, judged.p, after)
        return self._padded(graphs, candidates, likely, picked, judged, after, value)

    def judge_in_doubt(
        self,
        graphs: PackedGraphs,
        texts: Texts,
        rows: Int,
        verbs: Int,
        args: Int,
        inputs: SubgoalTensors,
    ) -> Judged:
        """`judge` in graphs that perception may doubt: probabilities and support are means over readings.

        Args:
            inputs: features of the N subgoals in the likeliest scenes, whose logits and embedding are given.
        """
        judged = self.judge(likeliest(graphs, self._constant), rows, verbs, args, inputs)
        found = readings(graphs, rows, args, self._constant)
        if not len(found.pair):
            return judged
        pair, each = found.pair, np.arange(len(found.pair))
        read = likeliest(graphs.select(rows[pair])._replace(attributes=found.attributes), self._constant)
        told = texts.select(rows[pair])
        inputs = SubgoalTensors(
            self.encoder.subgoal_inputs(read, each, verbs[pair], args[pair], told), self.device
        )
        answer = self.judge(read, each, verbs[pair], args[pair], inputs)
        p, support = judged.p.copy(), judged.support.copy()
        p[:, pair], support[pair] = 0.0, 0.0
        np.add.at(p, (slice(None), pair), found.weight[:, None] * answer.p)
        np.add.at(support, pair, found.weight * answer.support)
        return replace(judged, p=p, support=support)

    @cached_property
    def _constant(self) -> list[slice]:
        """The slots of categories that no subgoal alters."""
        return [slot for slot in categorical(self.schema) if not self.changes.alters[slot].any()]

    def _values_after(
        self, graphs: PackedGraphs, texts: Texts, rows: Int, p: Float, after: PackedGraphs
    ) -> Float:
        """V after reached and after slipped of N subgoals, each in one of B graphs. [M, N, 2]

        Half of all outcomes hardly ever happen. There V of the graph before the subgoal stands in, at one
        less to spend, and the members' mean of Q is off by at most `NEGLIGIBLE`.
        """
        unasked = p.mean(0)[:, [REACHED, SLIPPED]] <= NEGLIGIBLE
        owners, which = np.unique(rows[unasked.any(1)], return_inverse=True)
        asked = np.flatnonzero(~unasked)
        parents = graphs.select(owners)
        parents = parents._replace(budget=np.maximum(parents.budget - 1, 0))
        flat = after.reshape(-1).select(asked)
        both = PackedGraphs(*(np.concatenate(pair) for pair in zip(flat, parents, strict=True)))
        told = texts.select(np.concatenate([rows[asked // 2], owners]))
        seen = likeliest(both, self._constant)
        found = at_budget(values(self.value, self.encoder, seen, told, self.members), both.budget)
        value = np.zeros((self.members, len(rows), 2), np.float32)
        value[:, unasked.any(1)] = found[:, len(asked) :][:, which, None]
        value.reshape(self.members, -1)[:, asked] = found[:, : len(asked)]
        return value

    def _padded(
        self,
        graphs: PackedGraphs,
        candidates: list[Candidates],
        likely: NDArray[np.float64],
        picked: Int,
        judged: Judged,
        after: PackedGraphs,
        value: Float,
    ) -> Expansion:
        """Answers for N proposals spread over [B, K]; padding is dead, worthless and unsupported."""
        mask = picked >= 0
        b, k = mask.shape
        p = np.zeros((self.members, b, k, 4), np.float32)
        p[..., DEAD] = 1.0
        p[:, mask] = judged.p
        padded_value = np.zeros((self.members, b, k, 2), np.float32)
        padded_value[:, mask] = value
        support = np.zeros((b, k), np.float32)
        support[mask] = judged.support
        chance = np.take_along_axis(likely, np.maximum(picked, 0), 1)
        arrays = []
        for parent, child in zip(graphs, after, strict=True):
            spread = np.broadcast_to(parent[:, None, None], (b, k, 2, *parent.shape[1:])).copy()
            spread[mask] = child
            arrays.append(spread)
        return Expansion(
            subgoals=[
                [c.subgoals[q] for q in row if q >= 0] for c, row in zip(candidates, picked, strict=True)
            ],
            prior=np.where(mask, chance, 0.0).astype(np.float32),
            mask=mask,
            p=p,
            next=PackedGraphs(*arrays),
            value=padded_value,
            support=support,
        )

    def feasibility(self, graphs: PackedGraphs, instructions: Sequence[str]) -> tuple[Float, Float]:
        """`V` at each graph's budget [M, B], and the diagnostic `V_mu` [B]."""
        texts = self.encoder.texts(list(instructions))
        seen = likeliest(graphs, self._constant)
        best = at_budget(values(self.value, self.encoder, seen, texts, self.members), graphs.budget)
        return best, values(self.value_mu, self.encoder, seen, texts, 1)[0, :, 1]

    def nearest(self, graph: SceneGraph, subgoal: Subgoal, count: int = 3) -> Neighbours:
        """Training episodes in which this verb, in the most similar scenes, was reached and was not."""
        check_subgoal(subgoal, graph, self.schema)
        graphs = likeliest(pack([graph], self.schema), self._constant)
        place = {o.id: slot for slot, o in enumerate(graph.objects)}
        args = np.full((1, self.encoder.arity), -1, np.int64)
        args[0, : len(subgoal.args)] = [place[a] for a in subgoal.args]
        verbs = np.array([[v.name for v in self.schema.verbs].index(subgoal.verb)], np.int64)
        rows = np.zeros(1, np.int64)
        texts = self.encoder.texts([""])
        inputs = SubgoalTensors(self.encoder.subgoal_inputs(graphs, rows, verbs, args, texts), self.device)
        judged = self.judge(graphs, rows, verbs, args, inputs)
        distance = self.support.distances(self.support.place(judged.embedding), verbs)[0]
        order = [int(i) for i in np.argsort(distance, kind="stable") if np.isfinite(distance[i])]
        reached = (self.records.outcome == GOAL) | (self.records.outcome == REACHED)
        found: tuple[list[str], list[str]] = ([], [])
        for i in order:
            side = found[0 if reached[i] else 1]
            if len(side) < count and self.records.episodes[i] not in side:
                side.append(self.records.episodes[i])
        return Neighbours(tuple(found[0]), tuple(found[1]))

    def option(self, graph: SceneGraph, subgoal: Subgoal, instruction: str) -> Option:
        """Everything learned of one subgoal, as a noun."""
        answer = self.expand(pack([graph], self.schema, budget=self.budget), [instruction], 10_000)
        if subgoal not in answer.subgoals[0]:
            raise VineError(f"{subgoal} is not proposed here", hint=f"proposed: {answer.subgoals[0]}")
        k = answer.subgoals[0].index(subgoal)
        after = unpack(answer.next.select((0, k)), self.schema)
        goal, reached, slipped, dead = (float(v) for v in answer.p[:, 0, k].mean(0))
        leads_to = (after[AFTER_REACHED], after[AFTER_SLIPPED])
        return Option(subgoal, float(answer.prior[0, k]), (goal, reached, slipped, dead), leads_to)
