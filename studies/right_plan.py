"""Gates G2 and G3: the right plan is executed; what System 1 alone reaches, and what perception costs.

    python -m studies.right_plan RUN --perception true       G2: true graphs
    python -m studies.right_plan RUN --perception learned    G3: perceived graphs, after G2 in the same --out

Per verb: how often the subgoal was reached when its execution ended, false and missed alarms of the done
head, and how late it says done after the simulator first counts the subgoal as reached.

Writes `gN.csv` (rows of `episodes.csv`), `gN_subgoals.csv` (an executed subgoal a row) and `gN.json`. Exit
code 0: the gate is open; 1: closed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import tyro

from studies.study import provenance, run_jobs, run_study
from vine_vla.agent import Verdict
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Outcome, Subgoal
from vine_vla.core.protocols import Float, Observation, Skill
from vine_vla.evaluation.build import RunBuilder
from vine_vla.evaluation.episodes import EPISODE_COLUMNS, Key, play
from vine_vla.evaluation.final import check_scenes
from vine_vla.evaluation.statistics import wilson
from vine_vla.evaluation.world import true_subgoal
from vine_vla.storage.json import write_json
from vine_vla.storage.tables import read_table, write_table
from vine_vla.tasks.base import Simulation
from vine_vla.tasks.registry import DEFAULT_TASK, find_task
from vine_vla.tasks.scenes import parse_scenes

ARM = "oracle-plan"


@dataclass(frozen=True)
class Config:
    """Options."""

    run: tyro.conf.Positional[Path]
    """Run directory with trained systems."""
    task: str = DEFAULT_TASK
    """Name in the registry; it needs an oracle."""
    split: str = ""
    """Appearance of the scenes; empty: the task's own choice."""
    scenes: str = "0:60"
    """Dev scenes."""
    perception: Literal["true", "learned"] = "true"
    """Graphs of the simulator (G2) or perceived ones (G3)."""
    skill: Literal["learned", "scripted"] = "learned"
    """System 1, or the scripted expert as its upper bound."""
    needed: float = 0.85
    """G2 is open from this success rate on: .85 at the full training budget, .6 at the demo's."""
    lost: float = 0.05
    """G3 is open if perception costs at most this share of successes against the rows of G2."""
    workers: int = 2
    """Processes, one thread each."""
    work: Path = Path("runs/gates")
    """Episodes are kept here, so that a killed study resumes."""
    out: Path = Path("results/gates")
    """Where the figures go."""


class TimedSimulation:
    """A simulation that notes when the running subgoal first counts as reached; else the one it holds."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.running: Subgoal | None = None
        self.first: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._simulation, name)

    def step(self, action: Float) -> bool:
        """Execute `action`; True when the robot has stopped."""
        over = self._simulation.step(action)
        waiting = self.first is None and self.running is not None
        if waiting and self._simulation.subgoal_status(self.running) is Outcome.REACHED:
            self.first = self._simulation.steps
        return over


class TimedSkill:
    """A skill that tells its `TimedSimulation` which subgoal runs; `firsts` has one entry an execution."""

    def __init__(self, skill: Skill, simulation: TimedSimulation) -> None:
        self.skill, self.simulation = skill, simulation
        self.privileged = getattr(skill, "privileged", False)
        self.firsts: list[int | None] = []
        self._waiting: Subgoal | None = None

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None:
        """As `Skill.start`."""
        self.close()
        self._waiting = subgoal
        self.skill.start(subgoal, text, seed)

    def act(self, observation: Observation, graph: SceneGraph) -> Any:
        """As `Skill.act`."""
        if self._waiting is not None:
            true = self._waiting if self.privileged else true_subgoal(self.simulation, self._waiting, graph)  # type: ignore[arg-type]
            self.simulation.running, self.simulation.first, self._waiting = true, None, None
        return self.skill.act(observation, graph)

    def close(self) -> None:
        """End the running subgoal."""
        if self.simulation.running is not None:
            self.firsts.append(self.simulation.first)
            self.simulation.running = None


class RightPlanWorker:
    """Plays the right plan of a scene; answers with the episode's row and one row an executed subgoal."""

    def __init__(self, builder: RunBuilder) -> None:
        self.builder = builder
        self.simulation = builder.open_task()

    def __call__(self, scene: int) -> dict[str, Any]:
        """Play `scene`."""
        timed = TimedSimulation(self.simulation)
        parts = self.builder.build(ARM, 0, self.simulation)
        skill = TimedSkill(parts.skill, timed)
        key = Key(self.builder.task, self.builder.split, scene, ARM, "", 0, 0)
        episode = play(timed, replace(parts, skill=skill), key)  # type: ignore[arg-type]
        skill.close()
        executed = zip(episode.record.executions, episode.outcomes, skill.firsts, strict=True)
        subgoals = [
            {
                "scene": scene,
                "position": position,
                "verb": execution.subgoal.verb,
                "reached": int(outcome is Outcome.REACHED),
                "verdict": str(execution.verdict),
                "delay": execution.end - first if first is not None else None,
            }
            for position, (execution, outcome, first) in enumerate(executed)
        ]
        return {"episode": asdict(key) | dict(episode.row), "subgoals": subgoals}


def verb_table(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Verb -> rates with 95 % Wilson intervals over executions, and the done head's delay in steps.

    Args:
        rows: with columns verb, reached, verdict, delay.
    """
    found: dict[str, dict[str, Any]] = {}
    for verb, own in rows.groupby("verb"):
        reached = own["reached"] == 1
        rates: Mapping[str, Any] = {
            "reached": reached,
            "false_done": (own["verdict"] == Verdict.DONE) & ~reached,
            "false_failed": (own["verdict"] == Verdict.FAILED) & reached,
            "missed_done": (own["verdict"] == Verdict.TIMEOUT) & reached,
        }
        delay = own["delay"][(own["verdict"] == Verdict.DONE) & reached].dropna()
        found[str(verb)] = {
            "n": len(own),
            **{name: list(wilson(int(which.sum()), len(own))[:3]) for name, which in rates.items()},
            "done_delay_steps": {"median": float(delay.median()), "p90": float(delay.quantile(0.9))}
            if len(delay)
            else None,
            "verdicts": own["verdict"].value_counts().to_dict(),
        }
    return found


def measure(config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Episodes (`EPISODE_COLUMNS`) and executed subgoals of all scenes; what is missing is played."""
    task = find_task(config.task)
    split = config.split or task.default_split
    scenes = parse_scenes(config.scenes)
    check_scenes(scenes, task.lists(split), final=False)
    builder = RunBuilder(
        task=task.name,
        split=split,
        runs=(str(config.run),),
        perception=config.perception,
        skill=config.skill,
    )
    builder.check((ARM,))
    answers = run_jobs(
        config.work / f"{gate_name(config)}_{task.name}_{split}_{config.skill}.jsonl",
        partial(RightPlanWorker, builder),
        {str(scene): scene for scene in scenes},
        settings=builder.settings(),
        workers=config.workers,
        name="right plan",
    )
    subgoals = [row for answer in answers for row in answer["subgoals"]]
    columns = ["scene", "position", "verb", "reached", "verdict", "delay"]
    episodes = pd.DataFrame([answer["episode"] for answer in answers], columns=list(EPISODE_COLUMNS))
    return episodes, pd.DataFrame(subgoals, columns=columns)


def gate_name(config: Config) -> str:
    """`g2` or `g3`."""
    return "g2" if config.perception == "true" else "g3"


def run(config: Config) -> bool:
    """Write the figures; whether the gate is open."""
    name, made = gate_name(config), provenance(config)
    episodes, subgoals = measure(config)
    success = wilson(int(episodes["success"].sum()), len(episodes))
    figures: dict[str, Any] = {"success": list(success[:3])}
    if name == "g2":
        rule, is_open = f"success >= {config.needed}", success.estimate >= config.needed
    else:
        before = read_table(config.out / "g2.csv")
        same = before[
            before["scene"].isin(episodes["scene"]) & (before["split"] == episodes["split"].iloc[0])
        ]
        lost = float(same["success"].mean() - success.estimate) if len(same) else float("nan")
        rule, is_open = f"at most {config.lost} lost against G2", bool(lost <= config.lost)
        figures |= {"g2": float(same["success"].mean()), "lost": lost}
    figures |= {
        "outcomes": episodes["outcome"].value_counts().to_dict(),
        "reasons": episodes["reason"].value_counts().to_dict(),
        "subgoals": float(episodes["subgoals"].mean()),
        "verbs": verb_table(subgoals),
    }
    write_table(config.out / f"{name}.csv", episodes)
    write_table(config.out / f"{name}_subgoals.csv", subgoals)
    write_json(config.out / f"{name}.json", {"gate": name, "open": is_open, "rule": rule, **made, **figures})
    print(f"{name}: {'open' if is_open else 'closed'} ({rule}), success {success}")
    for verb, row in figures["verbs"].items():
        print(f"  {verb}: reached {row['reached'][0]:.3f} of {row['n']}, {row['verdicts']}")
    return bool(is_open)


if __name__ == "__main__":
    sys.exit(run_study(Config, run, __doc__))
