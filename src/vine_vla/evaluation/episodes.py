"""One episode of one arm in one scene: the row for `episodes.csv`, the executed options, the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vine_vla.agent import (
    AgentConfig,
    EpisodeRecord,
    StopReason,
    Streams,
    Verdict,
    Wording,
    outcome_probabilities,
    run_episode,
)
from vine_vla.core.options import Outcome
from vine_vla.core.protocols import Observation, Perceiver, Plan, Planner, PlanStatus, Skill
from vine_vla.evaluation.world import (
    DEAD,
    FINISHED,
    LIMIT,
    STOPPED,
    SUCCESS,
    Judge,
    WatchedSkill,
)
from vine_vla.tasks.base import Simulation

EPISODE_COLUMNS = (
    *("task", "split", "scene", "arm", "variant", "training_seed", "policy_seed", "success", "outcome"),
    *("reason", "steps", "subgoals", "replans", "plan_seconds", "model_calls", "plan_p", "plan_spread"),
)
FEASIBILITY_COLUMNS = (
    *("task", "split", "scene", "arm", "training_seed", "source", "position", "lookahead", "subgoal"),
    *("predicted", "spread", "q", "pruned", "reached"),
)


@dataclass(frozen=True)
class Parts:
    """What an arm is made of: everything `run_episode` needs besides the robot."""

    perceiver: Perceiver
    planner: Planner
    skill: Skill
    config: AgentConfig
    wording: Wording
    plans: int = 1


@dataclass(frozen=True)
class Key:
    """Which episode: the columns that name it."""

    task: str
    split: str
    scene: int
    arm: str
    variant: str
    training_seed: int
    policy_seed: int


@dataclass(frozen=True)
class Episode:
    """A finished episode.

    Args:
        key: which one.
        row: `EPISODE_COLUMNS` without the key's.
        options: rows of `FEASIBILITY_COLUMNS`, source `executed`, for arms that predict.
        record: what the agent decided and did; of the successful try with best-of-K.
        outcomes: the true outcome of every execution.
    """

    key: Key
    row: Mapping[str, Any]
    options: tuple[Mapping[str, Any], ...]
    record: EpisodeRecord
    outcomes: tuple[Outcome, ...]


class _FromRank:
    """Best-of-K: begins with the option ranked `rank` at the first root, then plans as usual."""

    def __init__(self, planner: Planner, rank: int) -> None:
        self.planner, self.rank, self.first = planner, rank, True

    def plan(
        self,
        graph: Any,
        instruction: str,
        budget: int,
        seed: int,
        observation: Observation | None = None,
    ) -> Plan:
        plan = self.planner.plan(graph, instruction, budget, seed, observation)
        if self.first and self.rank and len(plan.options) > self.rank:
            option = plan.options[self.rank]
            if plan.status is PlanStatus.PLANNED:
                plan = Plan(
                    status=PlanStatus.PLANNED,
                    subgoals=(option.subgoal,),
                    feasibility=option.feasibility,
                    spread=option.spread,
                    lower=option.lower,
                    upper=option.upper,
                    reason=f"option ranked {self.rank + 1}",
                    options=plan.options,
                    tree=plan.tree,
                    model_calls=plan.model_calls,
                    seconds=plan.seconds,
                )
        self.first = False
        return plan


def play(task: Simulation, parts: Parts, key: Key) -> Episode:
    """Reset `task` to the key's scene and run the arm; the same scene and noise for every arm."""
    best: Episode | None = None
    for rank in range(parts.plans):
        planner = parts.planner if parts.plans == 1 else _FromRank(parts.planner, rank)
        best = _play_once(task, parts, planner, key)
        if best.row["success"]:
            break
    assert best is not None
    return best


def _play_once(task: Simulation, parts: Parts, planner: Planner, key: Key) -> Episode:
    streams = Streams.spawn(key.scene, key.policy_seed)
    task.reset(key.scene, streams.scene)
    judge, skill = Judge(task), WatchedSkill(parts.skill, task)
    record = run_episode(judge, parts.perceiver, planner, skill, parts.config, streams, wording=parts.wording)
    skill.close()
    first = record.decisions[0].plan if record.decisions else None
    predicts = first is not None and bool(first.options)
    row = {
        "success": int(judge.success),
        "outcome": _outcome(judge, record),
        "reason": str(record.reason),
        "steps": record.steps,
        "subgoals": len(record.executions),
        "replans": record.replans,
        "plan_seconds": record.seconds["plan"] / max(len(record.decisions), 1),
        "model_calls": sum(d.plan.model_calls for d in record.decisions) + record.watch_calls,
        "plan_p": first.feasibility if first is not None and predicts else None,
        "plan_spread": first.spread if first is not None and predicts else None,
    }
    return Episode(key, row, tuple(_options(record, skill.outcomes, key)), record, tuple(skill.outcomes))


def _outcome(judge: Judge, record: EpisodeRecord) -> str:
    if judge.success:
        return SUCCESS
    if judge.dead:
        return DEAD
    if record.reason in (StopReason.INFEASIBLE, StopReason.UNSUPPORTED):
        return STOPPED
    return FINISHED if record.reason is StopReason.FINISHED else LIMIT


def _options(record: EpisodeRecord, outcomes: list[Outcome], key: Key) -> list[Mapping[str, Any]]:
    """What the plan said of every executed option, and what became of it."""
    rows: list[Mapping[str, Any]] = []
    for position, (execution, outcome) in enumerate(zip(record.executions, outcomes, strict=True)):
        plan = record.decisions[execution.decision].plan
        p = outcome_probabilities(plan, execution.place)
        cut_short = execution.verdict is Verdict.INTERRUPTED and record.reason is StopReason.STEP_LIMIT
        if p is None or (cut_short and outcome is not Outcome.REACHED):
            continue
        rows.append(
            {
                "task": key.task,
                "split": key.split,
                "scene": key.scene,
                "arm": key.arm + (f" ({key.variant})" if key.variant else ""),
                "training_seed": key.training_seed,
                "source": "executed",
                "position": position,
                "lookahead": execution.place + 1,
                "subgoal": str(execution.subgoal),
                "predicted": p[0] + p[1],
                "spread": plan.spread if execution.place == 0 else None,
                "q": plan.feasibility if execution.place == 0 else None,
                "pruned": 0,
                "reached": int(outcome is Outcome.REACHED),
            }
        )
    return rows
