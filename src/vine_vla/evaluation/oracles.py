"""Oracle planners: they read the simulator, and show what better values could still gain."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vine_vla.agent import AgentConfig, Wording, run_subgoal
from vine_vla.core.graph import SceneGraph
from vine_vla.core.identity import match_names
from vine_vla.core.options import Subgoal
from vine_vla.core.packing import pack
from vine_vla.core.protocols import (
    Observation,
    Perceiver,
    Plan,
    Planner,
    PlanningModel,
    PlanStatus,
    RankedOption,
    Skill,
)
from vine_vla.core.text import describe, format_graph
from vine_vla.evaluation.world import WHOLE_TASK
from vine_vla.search.trace import KIND, VERSION
from vine_vla.tasks.base import Oracle, Simulation


@dataclass(frozen=True)
class _Branch:
    """A state of the simulator inside a roll-out, with its graph."""

    state: Any
    graph: SceneGraph


@dataclass
class OracleValuePlanner:
    """Ranks the model's proposals by roll-outs of System 1 from the saved state.

    Q of an option is the mean over `rollouts` executions of: 1 if the goal was reached, 0 if dead, else the
    success of the best continuation. The continuation is the best single next option over all roll-outs that
    ended alike, each executed once, and so on to `depth` options. Where no option succeeds in
    any roll-out the planner that it stands in for decides.

    Args:
        task: the simulator; its state is put back afterwards.
        model: for proposals alone.
        otherwise: decides where all roll-outs fail.
    """

    task: Simulation
    model: PlanningModel
    perceiver: Perceiver
    skill: Skill
    wording: Wording
    config: AgentConfig
    otherwise: Planner
    rollouts: int = 4
    depth: int = 2
    k: int = 8

    def plan(
        self,
        graph: SceneGraph,
        instruction: str,
        budget: int,
        seed: int,
        observation: Observation | None = None,
    ) -> Plan:
        """Plan by roll-outs; the simulator is as before when it returns."""
        start, rng = time.perf_counter(), np.random.default_rng(seed)
        here = _Branch(self.task.save_state(), graph)
        root = [here] * self.rollouts
        depth = min(self.depth, budget)
        options, chances = [], {}
        for subgoal in self._proposals([here], instruction, budget):
            scores, ends = self._execute(root, subgoal, rng)
            goes_on = float(np.mean([end is not None for end in ends]))
            goal = float(np.mean(scores))
            chances[subgoal] = {"goal": goal, "reached": goes_on, "slipped": 0.0, "dead": 1 - goal - goes_on}
            q = self._value(scores, ends, instruction, budget - 1, depth - 1, rng)
            options.append((q, subgoal))
        self.task.restore_state(here.state)
        options.sort(key=lambda pair: (-pair[0], str(pair[1])))
        if not options or options[0][0] <= 0:
            return self.otherwise.plan(graph, instruction, budget, seed, observation)
        q = options[0][0]
        ranked = tuple(
            RankedOption(s, describe(s, graph, self.model.schema), v, v, v, 0.0, 0.0, 1.0, self.rollouts)
            for v, s in options
        )
        return Plan(
            status=PlanStatus.PLANNED,
            subgoals=(options[0][1],),
            feasibility=q,
            spread=0.0,
            lower=q,
            upper=q,
            reason=f"{options[0][1]}: {q:.2f} of {self.rollouts} roll-outs with the best continuation",
            options=ranked,
            tree=_root_tree(ranked, chances, graph, instruction, budget),
            seconds=time.perf_counter() - start,
        )

    def _proposals(self, branches: Sequence[_Branch], instruction: str, budget: int) -> list[Subgoal]:
        """Everything proposed in any of the branches, in the order of first mention."""
        graphs = pack([b.graph for b in branches], self.model.schema, budget=budget)
        answer = self.model.expand(graphs, [instruction] * len(branches), self.k)
        return list(dict.fromkeys(s for row in answer.subgoals for s in row))

    def _execute(
        self, branches: Sequence[_Branch], subgoal: Subgoal, rng: np.random.Generator
    ) -> tuple[list[float], list[_Branch | None]]:
        """1 for success and 0 for dead in each branch, and the branch to go on from where it is neither."""
        config = replace(self.config, max_steps=self.config.subgoal_steps, frames="none")
        scores: list[float] = []
        ends: list[_Branch | None] = []
        for branch in branches:
            self.task.restore_state(branch.state)
            if any(argument not in branch.graph for argument in subgoal.args):
                scores.append(0.0)
                ends.append(None)
                continue
            text, seed = self.wording(subgoal, branch.graph), int(rng.integers(2**31))
            _, graph, _ = run_subgoal(
                self.task, self.perceiver, self.skill, config, subgoal, text, seed, branch.graph
            )
            success, dead = self.task.is_success(), self.task.is_dead()
            scores.append(float(success))
            ends.append(None if success or dead else _Branch(self.task.save_state(), graph))
        return scores, ends

    def _value(
        self,
        scores: Sequence[float],
        ends: Sequence[_Branch | None],
        instruction: str,
        budget: int,
        depth: int,
        rng: np.random.Generator,
    ) -> float:
        """Mean success when the open branches go on with the best option for all of them."""
        open_ = [branch for branch in ends if branch is not None]
        if not open_ or depth <= 0 or budget <= 0:
            return float(np.mean(scores))
        best = 0.0
        for subgoal in self._proposals(open_, instruction, budget):
            after, later = self._execute(open_, subgoal, rng)
            best = max(best, self._value(after, later, instruction, budget - 1, depth - 1, rng))
            if best >= 1.0:
                break
        return (sum(scores) + best * len(open_)) / len(scores)


def _root_tree(
    ranked: Sequence[RankedOption],
    chances: dict[Subgoal, dict[str, float]],
    graph: SceneGraph,
    instruction: str,
    budget: int,
) -> dict[str, object]:
    """A search tree of one node (schema of `search.trace`), with what happened in the roll-outs."""
    options = [
        {
            "subgoal": str(o.subgoal),
            "text": o.text,
            "p": chances[o.subgoal],
            **dict.fromkeys(("feasibility", "lower", "upper", "score"), o.feasibility),
            **{"spread": 0.0, "reachable_upper": 1.0, "prior": o.prior, "support": 1.0, "pruned": None},
            **{"visits": o.visits, "children": {"reached": None, "slipped": None}},
            "value_after": {"reached": o.feasibility, "slipped": o.feasibility},
        }
        for o in ranked
    ]
    best = ranked[0].feasibility
    node = {
        **{"id": 0, "parent": None, "option": None, "outcome": None, "depth": 0, "budget": budget},
        **{"graph": format_graph(graph), "value": best, "lower": best, "upper": best, "spread": 0.0},
        **{"best": 0, "options": options},
    }
    return {
        **{"kind": KIND, "version": VERSION, "planner": "oracle-value", "instruction": instruction},
        **{"status": "planned", "reason": "roll-outs", "config": {}, "members": {}, "complete": False},
        **{"expansions": 1, "model_calls": 0, "cache_hits": 0, "variation": [[0, 0]], "nodes": [node]},
    }


@dataclass
class RightPlanner:
    """A plan that nothing spoils, from the simulator: shows what execution alone reaches (gates G2 and G3).

    Of several one is drawn.
    """

    simulation: Simulation
    oracle: Oracle

    def plan(
        self,
        graph: SceneGraph,
        instruction: str,
        budget: int,
        seed: int,
        observation: Observation | None = None,
    ) -> Plan:
        """One of the oracle's plans on what `graph` shows; infeasible when there is none."""
        names = match_names(self.simulation.true_graph(None), graph)
        plans = [
            [e._replace(args=tuple(names[name] for name in e.args)) for e in plan]
            for plan in self.oracle.plans(self.simulation)
            if all(name in names for e in plan for name in e.args)
        ]
        if not plans:
            reason = "the simulator has no plan on what perception shows"
            return Plan(PlanStatus.INFEASIBLE, (), 0.0, 0.0, 0.0, 0.0, reason=reason)
        chosen = plans[int(np.random.default_rng(seed).integers(len(plans)))]
        return Plan(PlanStatus.PLANNED, tuple(chosen), 1.0, 0.0, 1.0, 1.0, reason="from the simulator")


@dataclass
class WholeTaskPlanner:
    """For flat policies: the task itself is the one subgoal, and nothing is predicted."""

    subgoal: Subgoal = WHOLE_TASK

    def plan(
        self,
        graph: SceneGraph,
        instruction: str,
        budget: int,
        seed: int,
        observation: Observation | None = None,
    ) -> Plan:
        """The whole task."""
        return Plan(PlanStatus.PLANNED, (self.subgoal,), 0.0, 0.0, 0.0, 0.0, reason="the whole task at once")
