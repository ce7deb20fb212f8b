"""Were the triggers of replanning right? The first plan is executed to its end, whatever they say.

    python -m studies.triggers RUN --split pushed --scenes 0:100

An alarm is right if the plan it warns of fails when it is carried on. Nothing is replanned here, so the
rest of the same episode is that plan's roll-out from the very state and noise of the alarm, and one episode
tells about every trigger:

- `on-failure`: the done head, the graph or the clock say that a subgoal was not reached;
- `fixed`: after every subgoal but the last, whatever happened;
- `uncertainty`: the feasibility of the rest has fallen, and its spread has risen or something changed.

Precision is the share of episodes with an alarm whose plan failed, recall the share of failed plans with an
alarm before the failure's onset, lead the time between alarm and onset.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro

from studies.study import provenance, run_jobs, run_study
from vine_vla.agent import Agent, AgentConfig, Feedback, Replanning, Streams, Verdict
from vine_vla.agent.body import Body
from vine_vla.evaluation.build import RunBuilder
from vine_vla.evaluation.episodes import Parts
from vine_vla.evaluation.final import check_scenes, record_final
from vine_vla.evaluation.runner import Builder
from vine_vla.evaluation.statistics import wilson
from vine_vla.evaluation.world import Judge, WatchedSkill
from vine_vla.storage.json import write_json
from vine_vla.storage.tables import write_table
from vine_vla.tasks.base import Simulation
from vine_vla.tasks.registry import DEFAULT_TASK, find_task
from vine_vla.tasks.scenes import parse_scenes

TRIGGERS = ("on-failure", "fixed", "uncertainty")
COLUMNS = ("scene", "success", "outcome", "onset", "steps", "watch_calls", *TRIGGERS)


class WatchedAgent(Agent):
    """Plans once and never again, and notes when `uncertainty` would have."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.watching = True
        self.alarms: list[int] = []

    def _doubts(self, body: Body, budget: int) -> bool:
        if super()._doubts(body, budget):
            self.alarms.append(body.steps)
        return False


def watch_episode(task: Simulation, parts: Parts, scene: int, policy_seed: int = 0) -> dict[str, Any]:
    """One episode of the first plan: how it ended, and the step of each trigger's first alarm (or None)."""
    streams = Streams.spawn(scene, policy_seed)
    task.reset(scene, streams.scene)
    judge, skill = Judge(task), WatchedSkill(parts.skill, task)
    config = replace(parts.config, replanning=Replanning.NEVER, frames="none")
    agent = WatchedAgent(
        parts.perceiver,
        parts.planner,
        skill,
        config,
        streams,
        wording=parts.wording,
        instruction=task.instruction,
    )
    died: int | None = None
    steps, feedback = 0, Feedback(judge.observe())
    while (actions := agent.act(feedback)) is not None:
        executed, over = 0, False
        for action in actions:
            over = judge.step(action)
            executed += 1
            if over:
                break
        steps += executed
        if judge.dead and died is None:
            onset = getattr(task, "onset", None)
            died = onset if onset is not None else steps
        feedback = Feedback(judge.observe(), executed, over)
    record = agent.record
    skill.close()
    failed = [e.end for e in record.executions if e.verdict not in (Verdict.DONE, Verdict.INTERRUPTED)]
    plan = record.decisions[0].plan
    ended = [e.end for e in record.executions if e.place + 1 < len(plan.subgoals)]
    outcome = "success" if judge.success else "dead" if judge.dead else str(record.reason)
    return {
        "scene": scene,
        "success": int(judge.success),
        "outcome": outcome,
        "onset": died if died is not None else (None if judge.success else record.steps),
        "steps": record.steps,
        "watch_calls": record.watch_calls,
        "on-failure": failed[0] if failed else None,
        "fixed": ended[0] if ended else None,
        "uncertainty": agent.alarms[0] if agent.alarms else None,
    }


def trigger_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a trigger.

    Args:
        rows: with `COLUMNS`.

    Returns:
        trigger, episodes, failures, alarms, precision with Wilson interval, recall with Wilson interval,
        false_alarms (share of successful plans with an alarm), lead (median of right alarms, steps).
    """
    found = []
    failed = rows["success"] == 0
    for trigger in TRIGGERS:
        alarm = rows[trigger].astype(float)
        early = alarm.notna() & ~(failed & (alarm > rows["onset"].astype(float)))
        right = early & failed
        precision = wilson(int(right.sum()), int(early.sum())) if early.any() else (np.nan,) * 3
        recall = wilson(int(right.sum()), int(failed.sum())) if failed.any() else (np.nan,) * 3
        lead = (rows["onset"].astype(float) - alarm)[right]
        found.append(
            {
                "trigger": trigger,
                "episodes": len(rows),
                "failures": int(failed.sum()),
                "alarms": int(early.sum()),
                "precision": precision[0],
                "precision_low": precision[1],
                "precision_high": precision[2],
                "recall": recall[0],
                "recall_low": recall[1],
                "recall_high": recall[2],
                "false_alarms": float((early & ~failed).sum() / max(int((~failed).sum()), 1)),
                "lead": float(lead.median()) if len(lead) else float("nan"),
            }
        )
    return pd.DataFrame(found)


class _Watcher:
    """One process's task and arm."""

    def __init__(self, builder: Builder, label: str) -> None:
        self.task = builder.open_task()
        self.parts = builder.build(label, 0, self.task)

    def __call__(self, scene: int) -> dict[str, Any]:
        return watch_episode(self.task, self.parts, scene)


def evaluate_triggers(
    builder: Builder, scenes: Sequence[int], work: Path, out: Path, *, label: str = "vine", workers: int = 2
) -> pd.DataFrame:
    """Watch what is missing of `scenes`; writes `triggers.csv` (an episode a row) under `out`.

    Args:
        work: folder in which episodes are kept, so that a killed run is resumed.

    Returns:
        The rows.
    """
    rows = run_jobs(
        work / f"{builder.task}_{builder.split}.jsonl",
        partial(_Watcher, builder, label),
        {str(scene): scene for scene in scenes},
        settings=builder.settings() | {"split": builder.split, "arm": label},
        workers=workers,
        name="episodes",
    )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_table(out / "triggers.csv", table)
    return table


@dataclass(frozen=True)
class Config:
    """Options."""

    run: tyro.conf.Positional[Path]
    """Run with System 1 and System 2."""
    task: str = DEFAULT_TASK
    """Name in the registry."""
    split: str = ""
    """Appearance of the scenes, best one in which something moves meanwhile; empty: the task's choice."""
    scenes: str = "0:100"
    """Scene numbers."""
    final: bool = False
    """Run test scenes, on record."""
    work: Path = Path("runs/triggers")
    """Episodes are kept here, so that a killed study resumes."""
    out: Path = Path("results/replanning")
    """Results directory."""
    skill: Literal["learned", "scripted"] = "learned"
    """Who executes: System 1, or the scripted expert, which leaves the triggers alone to be judged."""
    perception: Literal["learned", "true"] = "learned"
    """Graphs that are perceived, or the simulator's."""
    workers: int = 2
    """Processes."""
    fall: float = AgentConfig.fall
    """Fall of feasibility that counts."""
    rise: float = AgentConfig.rise
    """Rise of spread that counts."""
    watch: int = AgentConfig.watch
    """Robot steps between two assessments of the rest of the plan."""


def run(config: Config) -> None:
    """Watch, print the table, write it."""
    task, made = find_task(config.task), provenance(config)
    split = config.split or task.default_split
    scenes = parse_scenes(config.scenes)
    check_scenes(scenes, task.lists(split), final=config.final)
    builder = RunBuilder(
        task=task.name,
        split=split,
        runs=(str(config.run),),
        agent=AgentConfig(fall=config.fall, rise=config.rise, watch=config.watch),
        skill=config.skill,
        perception=config.perception,
    )
    builder.check(("vine",))
    if config.final:
        log = config.out.parent / "final_runs.csv"
        record_final(log, task=task.name, split=split, scenes=scenes, arms=["vine"], out=config.out)
    table = trigger_table(evaluate_triggers(builder, scenes, config.work, config.out, workers=config.workers))
    write_json(config.out / "triggers.json", {**made, "triggers": table.to_dict("records")})
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3f}"))


if __name__ == "__main__":
    sys.exit(run_study(Config, run, __doc__))
