"""What a planning model's feasibility rests on, where its failures matter, and what to demonstrate next.

A case is a (graph, subgoal) whose outcome is known: a probe, or a segment that training did not see. What an
attribute or relation means to the model is found by giving each case that of another case with the same verb
(permutation importance, Breiman 2001): how much worse the predictions become, and how feasible the option
looks with each value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vine_vla.core.graph import Attribute, Relation, SceneGraph
from vine_vla.core.options import Outcome, Split, Subgoal, candidate_subgoals
from vine_vla.core.packing import pack
from vine_vla.core.protocols import GOAL, REACHED, PlanningModel
from vine_vla.core.relations import GRIPPER
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.evaluation.probes.run import ExecutedProbe
from vine_vla.search import SearchConfig, search
from vine_vla.search.planners import TreePlanner
from vine_vla.search.tree import MID

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A subgoal in a scene, and whether it was reached.

    Args:
        source: episode or scene that it comes from. first: whether it is the scene's start.
    """

    source: str
    graph: SceneGraph
    subgoal: Subgoal
    instruction: str
    budget: int
    reached: bool
    first: bool


def cases_of_probes(probes: Sequence[ExecutedProbe]) -> list[Case]:
    """A case a probe; of repeated ones the first execution."""
    return [
        Case(
            f"scene {p.scene}",
            p.graph,
            p.subgoal,
            p.instruction,
            p.budget,
            bool(p.reached[0]),
            not p.position,
        )
        for p in probes
    ]


def cases_of_episodes(dataset: DemoDataset, budget: int) -> list[Case]:
    """A case a segment with a known outcome, from episodes that training leaves out."""
    found = []
    for demo in dataset.demonstrations:
        if demo.split is Split.TRAIN:
            continue
        for place, segment in enumerate(demo.segments):
            if segment.outcome is Outcome.CENSORED or segment.start not in demo.graphs:
                continue
            graph = demo.graphs[segment.start]
            found.append(
                Case(
                    demo.episode_id,
                    graph,
                    segment.subgoal,
                    demo.instruction,
                    max(budget - place, 1),
                    segment.outcome is Outcome.REACHED,
                    place == 0,
                )
            )
    return found


def predict(model: PlanningModel, cases: Sequence[Case]) -> F64:
    """P(goal or reached) of each case, mean of the members; NaN where it is not proposed. [n]"""
    graphs = pack([c.graph for c in cases], model.schema, budget=[c.budget for c in cases])
    most = max(len(candidate_subgoals(c.graph, model.schema)) for c in cases)
    answer = model.expand(graphs, [c.instruction for c in cases], most)
    found = np.full(len(cases), np.nan)
    for row, case in enumerate(cases):
        if case.subgoal in answer.subgoals[row]:
            p = answer.p[:, row, answer.subgoals[row].index(case.subgoal)]
            found[row] = float((p[:, GOAL] + p[:, REACHED]).mean())
    return found


# ---- what feasibility rests on ---------------------------------------------------------------------


def importance(
    model: PlanningModel, cases: Sequence[Case], rng: np.random.Generator, repeats: int = 3
) -> pd.DataFrame:
    """How much each attribute and relation of a verb's arguments matters to its feasibility.

    Returns:
        verb, feature, n, importance (rise of the Brier score when the feature is another case's, mean over
        `repeats`), value, shown (how often the value occurs), effect (mean P(goal or reached) with this
        value in every case, minus that with the values as they are); sorted by verb, importance, effect.
    """
    rows: list[dict[str, Any]] = []
    verbs = sorted({c.subgoal.verb for c in cases})
    for verb in verbs:
        own = [c for c in cases if c.subgoal.verb == verb]
        base = predict(model, own)
        own, base = [c for c, b in zip(own, base, strict=True) if b == b], base[~np.isnan(base)]
        if len(own) < 10:
            continue
        reached = np.array([c.reached for c in own], float)
        for feature in _features(own):
            values = [feature.read(c) for c in own]
            if len({v for v in values if v is not None}) < 2:
                continue
            losses = []
            for _ in range(repeats):
                donors = rng.permutation(len(own))
                changed = [feature.write(c, values[d]) for c, d in zip(own, donors, strict=True)]
                p = predict(model, changed)
                losses.append(np.nanmean((p - reached) ** 2) - np.mean((base - reached) ** 2))
            for value in sorted({v for v in values if v is not None}, key=str):
                p = predict(model, [feature.write(c, value) for c in own])
                rows.append(
                    {
                        "verb": verb,
                        "feature": feature.name,
                        "n": len(own),
                        "importance": float(np.mean(losses)),
                        "value": str(value),
                        "shown": float(np.mean([v == value for v in values])),
                        "effect": float(np.nanmean(p - base)),
                    }
                )
    table = pd.DataFrame(rows, columns=["verb", "feature", "n", "importance", "value", "shown", "effect"])
    return table.sort_values(
        ["verb", "importance", "feature", "effect"], ascending=[True, False, True, True], ignore_index=True
    )


@dataclass(frozen=True)
class _AttributeOf:
    """A category of the verb's argument number `place`, or of the gripper (place -1)."""

    place: int
    attribute: str
    cls: str

    @property
    def name(self) -> str:
        return f"{self.cls}.{self.attribute}"

    def _id(self, case: Case) -> str | None:
        if self.place < 0:
            return next((o.id for o in case.graph.objects if o.cls == GRIPPER), None)
        return case.subgoal.args[self.place]

    def read(self, case: Case) -> Attribute | None:
        name = self._id(case)
        value = case.graph[name].attributes.get(self.attribute) if name is not None else None
        return str(value) if isinstance(value, str) else value  # the category, not the doubt about it

    def write(self, case: Case, value: Attribute | None) -> Case:
        name = self._id(case)
        if name is None or value is None:
            return case
        objects = tuple(
            replace(o, attributes={**o.attributes, self.attribute: value}) if o.id == name else o
            for o in case.graph.objects
        )
        return replace(case, graph=SceneGraph(objects, case.graph.relations))


@dataclass(frozen=True)
class _RelationTo:
    """Whether `predicate` holds from the verb's argument number `place` to anything of class `cls`."""

    place: int
    predicate: str
    own: str
    cls: str

    @property
    def name(self) -> str:
        return f"{self.predicate}({self.own}, {self.cls})"

    def _pairs(self, case: Case) -> tuple[str, list[str]]:
        me = case.subgoal.args[self.place]
        return me, [o.id for o in case.graph.objects if o.cls == self.cls and o.id != me]

    def read(self, case: Case) -> bool:
        me, others = self._pairs(case)
        return any(
            r.predicate == self.predicate and r.subject == me and r.object in others
            for r in case.graph.relations
        )

    def write(self, case: Case, value: bool | None) -> Case:
        if value is None or value == self.read(case):
            return case
        me, others = self._pairs(case)
        kept = tuple(
            r
            for r in case.graph.relations
            if not (r.predicate == self.predicate and r.subject == me and r.object in others)
        )
        if value and others:
            kept = (*kept, Relation(self.predicate, me, others[0]))
        return replace(case, graph=SceneGraph(case.graph.objects, kept))


def _features(cases: Sequence[Case]) -> list[Any]:
    """Categories of the arguments and the gripper, and relations of the arguments, that occur in `cases`."""
    found: dict[Any, None] = {}
    for case in cases:
        graph = case.graph
        for item in graph.objects:
            if item.cls == GRIPPER:
                found |= dict.fromkeys(
                    _AttributeOf(-1, n, item.cls) for n, v in item.attributes.items() if isinstance(v, str)
                )
        for place, name in enumerate(case.subgoal.args):
            item = graph[name]
            found |= dict.fromkeys(
                _AttributeOf(place, n, item.cls) for n, v in item.attributes.items() if isinstance(v, str)
            )
            for r in graph.relations:
                if r.subject == name and r.object in graph:
                    found[_RelationTo(place, r.predicate, item.cls, graph[r.object].cls)] = None
    return list(found)


# ---- what failures change, and what is unknown -------------------------------------------------------


def changed_decisions(
    model: PlanningModel, withheld: PlanningModel, cases: Sequence[Case], config: SearchConfig
) -> pd.DataFrame:
    """First subgoals that change when the failures are withheld, at the start of each scene.

    Returns:
        source, with_failures, feasibility, withheld, withheld_feasibility, regret (what `model` says is
        lost by the withheld choice), and the nearest episodes behind it if the model can name them; one row
        a scene in which the two differ, largest regret first.
    """
    starts = _starts(cases)
    plans = [_plan_all(m, starts, config) for m in (model, withheld)]
    nearest_to = getattr(model, "nearest", None)
    rows = []
    for case, ours, theirs in zip(starts, *plans, strict=True):
        if not ours.subgoals or not theirs.subgoals or ours.subgoals[0] == theirs.subgoals[0]:
            continue
        judged = {o.subgoal: o.feasibility for o in ours.options}
        their_first = theirs.subgoals[0]
        row = {
            "source": case.source,
            "with_failures": str(ours.subgoals[0]),
            "feasibility": ours.feasibility,
            "withheld": str(their_first),
            "withheld_feasibility": theirs.feasibility,
            "regret": ours.feasibility - judged.get(their_first, 0.0),
            "nearest_failed": "",
            "nearest_reached": "",
        }
        if nearest_to is not None:
            found = nearest_to(case.graph, their_first)
            row["nearest_failed"] = ", ".join(found.failed)
            row["nearest_reached"] = ", ".join(found.succeeded)
        rows.append(row)
    columns = ["source", "with_failures", "feasibility", "withheld", "withheld_feasibility", "regret"]
    table = pd.DataFrame(rows, columns=[*columns, "nearest_failed", "nearest_reached"])
    return table.sort_values("regret", ascending=False, ignore_index=True)


def disagreements(model: PlanningModel, cases: Sequence[Case], config: SearchConfig) -> pd.DataFrame:
    """Scenes in which the members disagree most about the best first subgoal: what to demonstrate next.

    Returns:
        source, entropy (bits) of the members' votes, votes (subgoal: share), stake (how much members differ
        in the value of the options voted for); one row a scene, most undecided first.
    """
    starts = _starts(cases)
    if not starts:
        return pd.DataFrame(columns=["source", "entropy", "votes", "stake"])
    packed = pack([c.graph for c in starts], model.schema, budget=[c.budget for c in starts])
    found = search(model, packed, [c.instruction for c in starts], config)
    rows = []
    for place, case in enumerate(starts):
        subgoals = found.outputs.subgoals[int(found.tree.nodes.row[place, 0])]
        if not subgoals:
            continue
        q = found.tree.nodes.q[place, 0, MID, :, : len(subgoals)]
        votes = np.bincount(q.argmax(1), minlength=len(subgoals)) / len(q)
        voted = np.flatnonzero(votes)
        share = votes[voted]
        rows.append(
            {
                "source": case.source,
                "entropy": float(-(share * np.log2(share)).sum()),
                "votes": ", ".join(
                    f"{subgoals[k]}: {votes[k]:.2f}" for k in voted[np.argsort(-share, kind="stable")]
                ),
                "stake": float(np.ptp(q[:, voted], axis=1).mean()) if len(voted) > 1 else 0.0,
            }
        )
    table = pd.DataFrame(rows, columns=["source", "entropy", "votes", "stake"])
    return table.sort_values(["entropy", "stake"], ascending=False, ignore_index=True)


def _starts(cases: Sequence[Case]) -> list[Case]:
    """The first case of each scene's start."""
    return list({c.source: c for c in reversed(cases) if c.first}.values())[::-1]


def _plan_all(model: PlanningModel, starts: Sequence[Case], config: SearchConfig) -> list[Any]:
    planner = TreePlanner(model, config)
    return planner.plan_many(
        [c.graph for c in starts], [c.instruction for c in starts], [c.budget for c in starts]
    )


def explain(
    model: PlanningModel,
    withheld: PlanningModel | None,
    cases: Sequence[Case],
    *,
    seed: int = 0,
    config: SearchConfig | None = None,
) -> dict[str, pd.DataFrame]:
    """All tables by name: `importance`, `decisions` (if there is a model without failures), `unknown`."""
    config = config or SearchConfig(evidence=0, trace=1)
    rng = np.random.default_rng(seed)
    found = {"importance": importance(model, cases, rng), "unknown": disagreements(model, cases, config)}
    if withheld is not None:
        found["decisions"] = changed_decisions(model, withheld, cases, config)
    return found
