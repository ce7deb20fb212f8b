"""The planners: `tree`, `greedy`, `exhaustive`, and `imitate`, which has no value and no pruning.

All of them answer with a layer-1 `Plan`. A plan's feasibility is P(reach the goal before failing) if
its first subgoal is taken, as the reporting members see it. "No" has two forms, `infeasible` and
`unsupported`; neither ever hides behind a first choice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.packing import PackedGraphs, pack, unpack
from vine_vla.core.protocols import (
    AFTER_REACHED,
    GOAL,
    REACHED,
    Evidence,
    Forecast,
    Neighbours,
    Observation,
    Plan,
    PlanningModel,
    PlanStatus,
    RankedOption,
    in_context,
)
from vine_vla.search.config import SearchConfig
from vine_vla.search.engine import Searched, search, search_everything
from vine_vla.search.forecast import forecast
from vine_vla.search.pruning import BELOW_TAU, explain_pruning
from vine_vla.search.tabular import ReachAvoid, TabularModel
from vine_vla.search.trace import bounds, empty_trace, option_text, trace_tree
from vine_vla.search.tree import NO_NODE


@cache
def warm_up() -> float:
    """Have the compiled loops ready before a clock runs; the seconds that took.

    Tenths of a second where they lie on disk. Where they were never compiled (the first planner after an
    installation or an update, or no folder can be written) some seconds.
    """
    start = time.perf_counter()
    problem = ReachAvoid(
        np.array([[[0.0, 1.0, 0.0, 0.0]]]),
        np.zeros((1, 1, 2), np.int64),
        np.ones((1, 1), bool),
        np.ones((1, 1)),
    )
    model = TabularModel([problem], budget=2)
    search(model, model.pack([0], 2), [""], SearchConfig(k=1, expansions=2))
    return time.perf_counter() - start


@dataclass(frozen=True)
class TreePlanner:
    """Best-first tree search with PUCT priors over a planning model.

    Args:
        model: System 2 as search sees it.
        config: settings of the search.
        evidence: names the recorded episodes behind a pruned option; default: the model, if it can.

    The search has no randomness, so every seed gives the same answer. Making a planner warms the search up.
    """

    model: PlanningModel
    config: SearchConfig = SearchConfig()
    evidence: Evidence | None = None
    name = "tree"

    def __post_init__(self) -> None:
        warm_up()

    def plan(
        self,
        graph: SceneGraph,
        instruction: str,
        budget: int,
        seed: int = 0,
        observation: Observation | None = None,
    ) -> Plan:
        """Plan from `graph` with `budget` subgoals left."""
        model = in_context(self.model, observation, graph, instruction)
        return self._plan_all(model, [graph], [instruction], [budget])[0]

    def plan_many(
        self, graphs: Sequence[SceneGraph], instructions: Sequence[str], budgets: Sequence[int], seed: int = 0
    ) -> list[Plan]:
        """Plan for B scenes at once; what they cost (calls, seconds) is told for all of them together."""
        return self._plan_all(self.model, graphs, instructions, budgets)

    def _plan_all(
        self,
        model: PlanningModel,
        graphs: Sequence[SceneGraph],
        instructions: Sequence[str],
        budgets: Sequence[int],
    ) -> list[Plan]:
        start = time.perf_counter()
        open_ = [b for b, budget in enumerate(budgets) if budget > 0]
        plans = [self._used_up(instruction) for instruction in instructions]
        if not open_:
            return plans
        packed = pack([graphs[b] for b in open_], self.model.schema, budget=[budgets[b] for b in open_])
        found = self._search(model, packed, [instructions[b] for b in open_], self.config)
        for place, b in enumerate(open_):
            plans[b] = self._answer(found, place, graphs[b], start)
        return plans

    def forecast(
        self,
        graph: SceneGraph,
        instruction: str,
        subgoals: Sequence[Subgoal],
        budget: int,
        observation: Observation | None = None,
    ) -> Forecast:
        """What the rest of a plan is worth now."""
        model = in_context(self.model, observation, graph, instruction)
        return forecast(model, graph, instruction, subgoals, budget, self.config)

    def _search(
        self, model: PlanningModel, packed: PackedGraphs, instructions: list[str], config: SearchConfig
    ) -> Searched:
        return search(model, packed, instructions, config)

    def _used_up(self, instruction: str) -> Plan:
        reason = "the subgoal budget is used up"
        trace = empty_trace(self.name, instruction, PlanStatus.INFEASIBLE, reason, self.config)
        return Plan(PlanStatus.INFEASIBLE, (), 0.0, 0.0, 0.0, 0.0, reason=reason, tree=trace)

    def _answer(self, found: Searched, problem: int, graph: SceneGraph, start: float) -> Plan:
        texts: dict[Subgoal, str] = {}
        order, options, reasons = self._rank(found, problem, graph, texts)
        status, reason = self._judge(found, problem, options, reasons)
        variation = _variation(found, problem, order[0]) if status is PlanStatus.PLANNED else []
        tree = found.tree
        trace = trace_tree(
            found,
            problem,
            planner=self.name,
            graph=graph,
            status=status,
            reason=reason,
            variation=variation,
            texts=texts,
            root_reasons=reasons,
        )
        best = options[0] if options and options[0].pruned is None else None
        return Plan(
            status=status,
            subgoals=tuple(found.outputs.subgoals[tree.nodes.row[problem, n]][k] for n, k in variation),
            feasibility=best.feasibility if best else 0.0,
            spread=best.spread if best else 0.0,
            lower=best.lower if best else 0.0,
            upper=best.upper if best else 0.0,
            predicted=_predicted(found, problem, variation),
            reason=reason,
            options=tuple(options),
            tree=trace,
            expansions=int(tree.nodes.used[problem]),
            model_calls=found.outputs.model_calls,
            seconds=time.perf_counter() - start,
        )

    def _rank(
        self, found: Searched, problem: int, graph: SceneGraph, texts: dict[Subgoal, str]
    ) -> tuple[list[int], list[RankedOption], dict[int, str]]:
        """Places of the root's options from best to worst, the options, and the reasons of pruning."""
        tree, outputs = found.tree, found.outputs
        row = int(tree.nodes.row[problem, 0])
        subgoals = outputs.subgoals[row]
        score = outputs.table.prior[row] if tree.config.expansions == 0 else tree.nodes.score[problem, 0]
        pruned = outputs.table.reason[row] == BELOW_TAU
        upper = outputs.table.upper[row]
        order = sorted(
            range(len(subgoals)),
            key=lambda k: (bool(pruned[k]), -float(upper[k] if pruned[k] else score[k]), k),
        )
        nearest_to = getattr(self.evidence or self.model, "nearest", None)
        reasons: dict[int, str] = {}
        for place, k in enumerate(k for k in order if pruned[k]):
            nearest: Neighbours | None = None
            if nearest_to is not None and place < tree.config.evidence:
                nearest = nearest_to(graph, subgoals[k])
            u = float(outputs.table.upper[row, k])
            reasons[k] = explain_pruning(subgoals[k], outputs.table.p[row, :, k], u, outputs.rule, nearest)
        q = bounds(tree.nodes.q[problem, 0], tree.reporting, tree.config.z)
        visits = tree.nodes.visits[problem, 0].sum(-1)
        options = []
        for k in order:
            texts[subgoals[k]] = option_text(subgoals[k], graph, found)
            feasibility, lower, upper, spread = (float(a[k]) for a in q)
            options.append(
                RankedOption(
                    subgoal=subgoals[k],
                    text=texts[subgoals[k]],
                    feasibility=feasibility,
                    lower=lower,
                    upper=upper,
                    spread=spread,
                    prior=float(outputs.table.prior[row, k]),
                    support=float(outputs.table.support[row, k]),
                    visits=int(visits[k]),
                    pruned=reasons.get(k),
                )
            )
        return order, options, reasons

    def _judge(
        self, found: Searched, problem: int, options: list[RankedOption], reasons: dict[int, str]
    ) -> tuple[PlanStatus, str]:
        """Whether there is a plan, and one line that says so."""
        if not options:
            return PlanStatus.INFEASIBLE, "the model proposes no subgoal here"
        best = options[0]
        if best.pruned is not None:
            line = f"all {len(options)} options are pruned; the least bad is {best.subgoal}: {best.pruned}"
            return PlanStatus.INFEASIBLE, line
        judged = f"feasibility {best.feasibility:.2f} [{best.lower:.2f}, {best.upper:.2f}]"
        if found.tree.config.expansions and best.upper <= 0:
            return PlanStatus.INFEASIBLE, f"no option has a chance; the best is {best.subgoal}: {judged}"
        rule = found.outputs.rule
        if found.tree.config.stop and best.lower < rule.tau_stop:
            poorly = ", poorly covered by the data" if best.support < rule.min_support else ""
            line = f"lower bound of the best, {best.subgoal}, is under tau_stop {rule.tau_stop:.2f}: {judged}"
            return PlanStatus.UNSUPPORTED, line + poorly
        told = f"; {len(reasons)} of {len(options)} options pruned" if reasons else ""
        return PlanStatus.PLANNED, f"{best.subgoal}: {judged}{told}{self._addition(found, problem)}"

    def _addition(self, found: Searched, problem: int) -> str:
        """What else to say of a plan."""
        return ""


@dataclass(frozen=True)
class GreedyPlanner(TreePlanner):
    """Look-ahead 1: one expansion, `Q = p_goal + p_reached V(n'_reached) + p_slipped V(n'_slipped)`."""

    name = "greedy"

    def _search(
        self, model: PlanningModel, packed: PackedGraphs, instructions: list[str], config: SearchConfig
    ) -> Searched:
        return search(model, packed, instructions, replace(config, expansions=1))


@dataclass(frozen=True)
class ImitatePlanner(TreePlanner):
    """The proposal with the highest prior; no value, no pruning, no stop.

    The plan's feasibility is what the model's one call happens to say; it decides nothing.
    """

    name = "imitate"

    def _search(
        self, model: PlanningModel, packed: PackedGraphs, instructions: list[str], config: SearchConfig
    ) -> Searched:
        config = replace(config, expansions=0, prune=False, stop=False)
        return search(model, packed, instructions, config)


@dataclass(frozen=True)
class ExhaustivePlanner(TreePlanner):
    """Every option and outcome to the look-ahead or the end of the budget; `expansions` is ignored.

    Args:
        limit: nodes at which to stop; the trace then says `complete: false`.
    """

    limit: int = 20_000
    name = "exhaustive"

    def _search(
        self, model: PlanningModel, packed: PackedGraphs, instructions: list[str], config: SearchConfig
    ) -> Searched:
        return search_everything(model, packed, instructions, config, limit=self.limit)

    def _addition(self, found: Searched, problem: int) -> str:
        complete = found.tree.complete(problem)
        return "" if complete else f"; not exhaustive, stopped at {found.tree.nodes.used[problem]} nodes"


PLANNERS: dict[str, type[TreePlanner]] = {
    planner.name: planner for planner in (TreePlanner, GreedyPlanner, ExhaustivePlanner, ImitatePlanner)
}


def make_planner(name: str, model: PlanningModel, config: SearchConfig | None = None) -> TreePlanner:
    """The planner of that name; VineError lists the known ones."""
    if name not in PLANNERS:
        raise VineError(f"unknown planner {name!r}", hint=f"known planners: {', '.join(PLANNERS)}")
    return PLANNERS[name](model, config or SearchConfig())


def _variation(found: Searched, problem: int, first: int) -> list[tuple[int, int]]:
    """(node, option) pairs from the root along `reached`.

    It ends where the tree ends, where nothing may be taken, or with a subgoal that more probably
    fulfils the goal than it leaves something to do.
    """
    tree, outputs = found.tree, found.outputs
    node, option = 0, first
    pairs = [(node, option)]
    while True:
        p = outputs.table.p[tree.nodes.row[problem, node], :, option].mean(0)
        child = int(tree.nodes.children[problem, node, option, AFTER_REACHED])
        if child < 0 or p[GOAL] >= p[REACHED] or tree.nodes.best[problem, child] == NO_NODE:
            return pairs
        node, option = child, int(tree.nodes.best[problem, child])
        pairs.append((node, option))


def _predicted(found: Searched, problem: int, variation: list[tuple[int, int]]) -> tuple[SceneGraph, ...]:
    """The graph expected after each subgoal of the variation."""
    if not variation:
        return ()
    node, option = (np.array(part) for part in zip(*variation, strict=True))
    after = np.full(len(node), AFTER_REACHED)
    packed = found.outputs.after(found.tree.nodes.row[problem, node], option, after)
    return tuple(unpack(packed, found.outputs.model.schema))
