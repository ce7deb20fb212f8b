"""Gates G1 and G4: whether failures teach anything, and whether the whole is ready for hours of runs.

    python -m studies.gates g1 --demonstrations 400     true graphs, scripted skill
    python -m studies.gates g4 RUN                      all arms on 60 dev scenes

G0 is `studies.plug_physics`, G2 and G3 are `studies.right_plan`. Each gate writes `gN.csv` (rows of
`episodes.csv`) and `gN.json` (figures, whether the gate is open, command, seeds, revision, versions). Exit
code 0: open; 1: closed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from studies.study import provenance, run_study
from vine_vla.agent import AgentConfig
from vine_vla.compute.executor import LocalExecutor
from vine_vla.compute.progress import track
from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration, EpisodeOutcome
from vine_vla.core.text import describe
from vine_vla.data.record.staging import read_staged, staged_path
from vine_vla.evaluation.arms import ARMS, find_arm
from vine_vla.evaluation.build import RunBuilder, planned_parts
from vine_vla.evaluation.episodes import EPISODE_COLUMNS, Parts
from vine_vla.evaluation.final import check_scenes
from vine_vla.evaluation.oracles import RightPlanner
from vine_vla.evaluation.probes.reliability import score_table
from vine_vla.evaluation.runner import Schedule, evaluate
from vine_vla.evaluation.statistics import wilson
from vine_vla.evaluation.verdicts import best_of, primary_comparisons, print_summary, summary
from vine_vla.evaluation.world import TruePerceiver
from vine_vla.search.config import SearchConfig
from vine_vla.storage.json import write_json
from vine_vla.storage.tables import read_table, write_table
from vine_vla.tasks.base import OperatorDials, Simulation
from vine_vla.tasks.collect import CollectConfig, collect, missing
from vine_vla.tasks.registry import DEFAULT_TASK, find_task
from vine_vla.tasks.scenes import parse_scenes

RESULTS = Path("results/gates")


@dataclass(frozen=True)
class GraphBuilder:
    """Arms on true graphs with the scripted expert as System 1; planning models in memory, by variant."""

    models: Mapping[str, Any]
    facts: Mapping[str, Any]
    task: str
    split: str
    scripted_scale: float = 0.3
    agent: AgentConfig = AgentConfig(hysteresis=1)
    search: SearchConfig = SearchConfig()

    def open_task(self) -> Simulation:
        return find_task(self.task).simulation(self.split, render=False)

    def build(self, label: str, training_seed: int, simulation: Simulation) -> Parts:
        task, arm, perceiver = find_task(self.task), find_arm(label), TruePerceiver(simulation)
        skill = task.skill(simulation, self.scripted_scale)
        wording = partial(describe, schema=task.schema)
        agent = replace(self.agent, max_steps=task.max_steps, subgoal_steps=task.subgoal_steps)
        if arm.planner == "right-plan":
            if task.oracle is None:
                raise VineError(f"task {task.name} has no oracle", hint=f"leave {label!r} out")
            return Parts(perceiver, RightPlanner(simulation, task.oracle), skill, agent, wording)
        if arm.model is None:
            raise VineError(f"arm {label!r} has no planning model", hint="leave it out of this gate")
        model = self.models[arm.model]
        agent = replace(agent, budget=model.budget)
        return planned_parts(arm, model, perceiver, skill, agent, self.search, simulation, wording)

    def settings(self) -> Mapping[str, Any]:
        own = {"scripted_scale": self.scripted_scale, "agent": asdict(self.agent)}
        return own | {"search": asdict(self.search), **self.facts}


@dataclass(frozen=True)
class G1:
    """True graphs, scripted skill: `vine` minus the best `success-only` is at least 20 points."""

    task: str = DEFAULT_TASK
    """Name in the registry."""
    demonstrations: int = 400
    """Episodes that `vine` learns from; `matched-count` takes as many successful ones."""
    scenes: str = "0:100"
    """Dev scenes."""
    arms: tuple[str, ...] = (
        "oracle-plan",
        "vine",
        "greedy",
        "imitate",
        "imitate-all",
        "success-only",
        "success-only:slips-removed",
        "success-only:matched-count",
    )
    """Arms, `name` or `name:variant`."""
    split: str = ""
    """Appearance of the scenes; empty: the task's own choice."""
    operators: OperatorDials = OperatorDials(skill=(0.4, 1.0))
    """What the operators are like; their injected disturbances teach System 1 alone and are left out."""
    seed: int = 0
    """Of operators and training."""
    workers: int = 0
    """Processes for demonstrations."""
    work: Path = Path("runs/gates/g1")
    """Demonstrations and episodes are kept here, so that a killed gate resumes."""
    out: Path = RESULTS
    """Where g1.csv and g1.json go."""
    name: str = "g1"
    """Name of the files, for runs with other operators."""


@dataclass(frozen=True)
class G4:
    """All arms on dev scenes: `vine` is above the best `success-only`."""

    run: tyro.conf.Positional[Path]
    """Run directory with trained systems."""
    task: str = DEFAULT_TASK
    """Name in the registry."""
    scenes: str = "0:60"
    """Dev scenes."""
    split: str = ""
    """Appearance of the scenes; empty: the task's own choice."""
    workers: int = 2
    """Processes, one thread each."""
    work: Path = Path("runs/gates")
    """Episodes and traces are kept here, so that a killed gate resumes."""
    out: Path = RESULTS
    """Where g4.csv and g4.json go."""
    arms: tuple[str, ...] = field(default=())
    """Arms; default: all that the run directory can build."""


Gate = Annotated[G1, tyro.conf.subcommand("g1")] | Annotated[G4, tyro.conf.subcommand("g4")]


def graph_demonstrations(config: CollectConfig, workers: int) -> list[Demonstration]:
    """Demonstrations of operators with true graphs and no images, staged beside `config.out`."""
    todo = missing(config)
    answers = collect(config, LocalExecutor(workers))
    bar = {"name": "demonstrations", "total": config.episodes, "done": config.episodes - len(todo)}
    for _ in track(answers, **bar):  # type: ignore[arg-type]
        pass
    paths = (staged_path(config.staging, config.episode_id(n)) for n in range(config.episodes))
    return [replace(read_staged(path).demonstration, episode_index=n) for n, path in enumerate(paths)]


def train_variants(
    demonstrations: Sequence[Demonstration], count: int, schema: Any, wanted: Sequence[str], seed: int
) -> dict[str, Any]:
    """Planning models by variant, on true graphs.

    Args:
        demonstrations: those of `vine` first, then further ones for `withhold_matched`.
        count: how many are `vine`'s.
        wanted: variant names of the arms.
    """
    from vine_vla.system2.compact.config import OutcomeConfig
    from vine_vla.system2.compact.learn import train_outcomes
    from vine_vla.system2.segments import Failures

    own = list(demonstrations[:count])
    config = OutcomeConfig(seed=seed)
    models = {"all": train_outcomes(own, schema, config)}
    models["imitate-all"] = models["all"].with_prior(imitate_all=True)
    for name in dict.fromkeys(wanted):
        if name in models:
            continue
        failures = Failures(name)
        data, episodes = own, None
        if failures is Failures.WITHHOLD_MATCHED:
            data = list(demonstrations)
            episodes = min(count, sum(d.outcome is EpisodeOutcome.SUCCESS for d in data))
        variant = replace(config, failures=failures, episodes=episodes)
        models[name] = train_outcomes(data, schema, variant, shared=models["all"].shared)
    return models


def run_g1(gate: G1) -> bool:
    """Demonstrations without images, planning models, arms, verdict."""
    task, made = find_task(gate.task), provenance(gate)
    split = gate.split or task.default_split
    scenes = parse_scenes(gate.scenes)
    check_scenes(scenes, task.lists(split), final=False)
    labels = tuple(find_arm(name).label for name in gate.arms)
    matched = any(find_arm(label).model == "withhold-matched" for label in labels)
    collection = CollectConfig(
        gate.work / "demonstrations",
        task=task.name,
        episodes=gate.demonstrations * (2 if matched else 1),
        seed=gate.seed,
        operators=replace(gate.operators, disturbance=0.0),
        graph_every=0,
        images=False,
    )
    demonstrations = graph_demonstrations(collection, gate.workers)
    own = demonstrations[: gate.demonstrations]
    wanted = [m for label in labels if (m := find_arm(label).model)]
    begun = time.perf_counter()
    models = train_variants(demonstrations, gate.demonstrations, task.schema, wanted, gate.seed)
    facts = {
        "operators": asdict(collection.operators),
        "demonstrations": gate.demonstrations,
        "matched": min(gate.demonstrations, sum(d.outcome is EpisodeOutcome.SUCCESS for d in demonstrations)),
        "training_seed": gate.seed,
    }
    trained = time.perf_counter() - begun
    builder = GraphBuilder(models=models, facts=facts, task=task.name, split=split)
    folder = gate.work / "episodes"
    rows = evaluate(builder, Schedule(scenes, labels), folder, workers=0, traces=False)
    rate = wilson(sum(d.outcome is EpisodeOutcome.SUCCESS for d in own), len(own))
    found = summary(rows, attempted=scenes)
    first = next(iter(primary_comparisons(rows, attempted=scenes)), None)
    gain = first.difference.estimate if first else float("nan")
    figures = {
        "vine_minus_best_success_only": gain,
        "best_success_only": best_of(rows, "success-only"),
        "operators_success": list(rate[:3]),
        "training_seconds": trained,
        "pruning": {name: dict(model.pruning.tau) for name, model in models.items()},
        "calibration": _scores(folder),
        **found,
    }
    is_open = bool(gain >= 0.20)
    _finish(gate.out, gate.name, rows, made, figures, is_open, "vine - best success-only >= 0.20")
    return is_open


def run_g4(gate: G4) -> bool:
    """All arms that can be built."""
    task, made = find_task(gate.task), provenance(gate)
    split = gate.split or task.default_split
    scenes = parse_scenes(gate.scenes)
    check_scenes(scenes, task.lists(split), final=False)
    builder = RunBuilder(task=task.name, split=split, runs=(str(gate.run),))
    labels = tuple(find_arm(name).label for name in gate.arms) or _buildable(builder)
    builder.check(labels)
    folder = gate.work / "g4"
    rows = evaluate(builder, Schedule(scenes, labels), folder, workers=gate.workers)
    found = summary(rows, attempted=scenes)
    comparisons = primary_comparisons(rows, attempted=scenes)
    is_open = bool(comparisons) and comparisons[0].difference.estimate > 0
    figures = {"calibration": _scores(folder), **found}
    _finish(gate.out, "g4", rows, made, figures, is_open, "vine above the best success-only")
    return is_open


def _buildable(builder: RunBuilder) -> tuple[str, ...]:
    found = []
    for label, arm in ARMS.items():
        if arm.planner == "oracle-value":  # a hundred times the time of the others: ask for it by name
            continue
        try:
            builder.check((label,))
        except VineError:
            continue
        found.append(label)
    return tuple(found)


def _scores(folder: Path) -> list[dict[str, Any]]:
    """How well executed options were predicted."""
    try:
        return [dict(row) for row in score_table(read_table(folder / "feasibility.csv")).to_dict("records")]
    except VineError:
        return []


def _finish(
    out: Path,
    name: str,
    rows: pd.DataFrame,
    made: Mapping[str, Any],
    figures: Mapping[str, Any],
    is_open: bool,
    rule: str,
) -> None:
    write_table(out / f"{name}.csv", rows[list(EPISODE_COLUMNS)])
    write_json(out / f"{name}.json", {"gate": name, "open": is_open, "rule": rule, **made, **figures})
    print_summary(dict(figures), title=f"{name}: {'open' if is_open else 'closed'} ({rule})")


def run_gate(gate: Gate) -> bool:
    """Run the gate; whether it is open."""
    return run_g1(gate) if isinstance(gate, G1) else run_g4(gate)


if __name__ == "__main__":
    sys.exit(run_study(Gate, run_gate, __doc__))
