"""Gates G1 to G4: which part is weak, found before hours are spent. Each is one command.

    python -m studies.gates g1 --demonstrations 400
    python -m studies.gates g2 RUN      right plan, true graphs, learned System 1
    python -m studies.gates g3 RUN      the same with perceived graphs
    python -m studies.gates g4 RUN      all arms on 60 dev scenes

Each writes `results/gates/gN.csv` (rows of `episodes.csv`) and `gN.json` (figures, whether the gate is
open, command, seeds, revision, versions). Exit code 0: open; 1: closed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import tyro

from studies.graph_demos import Dials, graph_demonstrations
from vine_vla.agent import AgentConfig
from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration, EpisodeOutcome
from vine_vla.core.text import describe
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
from vine_vla.storage.provenance import environment
from vine_vla.storage.tables import read_table, write_table
from vine_vla.tasks.base import Simulation
from vine_vla.tasks.plug import TASK
from vine_vla.tasks.scenes import parse_scenes

RESULTS = Path("results/gates")


@dataclass(frozen=True)
class GraphBuilder:
    """Arms on true graphs with the scripted expert as System 1; planning models in memory, by variant."""

    models: Mapping[str, Any]
    facts: Mapping[str, Any]
    task: str = TASK.name
    split: str = "unseen"
    scripted_scale: float = 0.3
    agent: AgentConfig = AgentConfig(hysteresis=1, max_steps=400)
    search: SearchConfig = SearchConfig()

    def open_task(self) -> Simulation:
        return TASK.simulation(self.split, render=False)

    def build(self, label: str, training_seed: int, task: Simulation) -> Parts:
        arm, perceiver = find_arm(label), TruePerceiver(task)
        skill = TASK.skill(task, self.scripted_scale)
        wording = partial(describe, schema=TASK.schema)
        if arm.planner == "right-plan":
            assert TASK.oracle is not None
            return Parts(perceiver, RightPlanner(task, TASK.oracle), skill, self.agent, wording)
        if arm.model is None:
            raise VineError(f"arm {label!r} has no planning model", hint="leave it out of this gate")
        model = self.models[arm.model]
        agent = replace(self.agent, budget=model.budget)
        return planned_parts(arm, model, perceiver, skill, agent, self.search, task, wording)

    def settings(self) -> Mapping[str, Any]:
        own = {"scripted_scale": self.scripted_scale, "agent": asdict(self.agent)}
        return own | {"search": asdict(self.search), **self.facts}


@dataclass(frozen=True)
class G1:
    """True graphs, scripted skill: `vine` minus the best `success-only` is at least 20 points."""

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
    split: Literal["seen", "unseen"] = "unseen"
    """Look of the scenes."""
    grasp_rate: float = 0.85
    """How often operators take their habitual grasp."""
    other_socket: float = 0.15
    """How often they take a fitting socket other than the nearest."""
    awareness: float = 0.0
    """How often they choose a plan that nothing spoils; 0: blind to the causes of failure."""
    skill: tuple[float, float] = (0.4, 1.0)
    """Range of the operators' skill dial s; 0 perfect, 1 ordinary."""
    seed: int = 0
    """Of operators and training."""
    workers: int = 0
    """Processes for demonstrations."""
    work: Path = Path("runs/gates/g1")
    """Demonstrations and episodes are kept here, so that a killed gate goes on."""
    out: Path = RESULTS
    """Where g1.csv and g1.json go."""
    name: str = "g1"
    """Name of the files, for runs with other dials."""


@dataclass(frozen=True)
class RunGate:
    """What G2, G3 and G4 share."""

    run: tyro.conf.Positional[Path]
    """Run directory with trained systems."""
    scenes: str = "0:60"
    """Dev scenes."""
    split: Literal["seen", "unseen"] = "unseen"
    """Look of the scenes."""
    workers: int = 2
    """Processes, one thread each."""
    work: Path = Path("runs/gates")
    """Episodes and traces are kept here, so that a killed gate goes on."""
    out: Path = RESULTS
    """Where gN.csv and gN.json go."""
    needed: float = 0.85
    """Success rate from which the gate is open: .85 at the full training budget, .6 at the demo's."""


@dataclass(frozen=True)
class G2(RunGate):
    """Right plan, true graphs, learned System 1."""


@dataclass(frozen=True)
class G3(RunGate):
    """Right plan, perceived graphs, learned System 1: at most 5 points below G2."""

    lost: float = 0.05
    """Points that perception may cost."""


@dataclass(frozen=True)
class G4(RunGate):
    """All arms on 60 dev scenes."""

    arms: tuple[str, ...] = field(default=())
    """Arms; default: all that the run directory can build."""


Gate = (
    Annotated[G1, tyro.conf.subcommand("g1")]
    | Annotated[G2, tyro.conf.subcommand("g2")]
    | Annotated[G3, tyro.conf.subcommand("g3")]
    | Annotated[G4, tyro.conf.subcommand("g4")]
)


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
    from vine_vla.tasks.plug.operators import Habits

    scenes = parse_scenes(gate.scenes)
    check_scenes(scenes, TASK.lists(gate.split), final=False)
    labels = tuple(find_arm(name).label for name in gate.arms)
    habits = Habits(grasp_rate=gate.grasp_rate, other_socket=gate.other_socket, awareness=gate.awareness)
    dials = Dials(habits=habits, skill=gate.skill, seed=gate.seed)
    matched = any(find_arm(label).model == "withhold-matched" for label in labels)
    total = gate.demonstrations * (2 if matched else 1)
    file = gate.work / "demonstrations.jsonl"
    demonstrations = graph_demonstrations(total, dials, file, workers=gate.workers)
    own = demonstrations[: gate.demonstrations]
    wanted = [m for label in labels if (m := find_arm(label).model)]
    begun = time.perf_counter()
    models = train_variants(demonstrations, gate.demonstrations, TASK.schema, wanted, gate.seed)
    facts = {
        "dials": asdict(dials),
        "demonstrations": gate.demonstrations,
        "matched": min(gate.demonstrations, sum(d.outcome is EpisodeOutcome.SUCCESS for d in demonstrations)),
        "training_seed": gate.seed,
    }
    trained = time.perf_counter() - begun
    builder = GraphBuilder(models=models, facts=facts, split=gate.split)
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
    _finish(gate.out, gate.name, rows, gate, figures, is_open, "vine - best success-only >= 0.20")
    return is_open


def run_g2(gate: G2) -> bool:
    """True graphs and the right plan: what System 1 alone reaches."""
    rows, figures = _right_plan(gate, "true", "g2")
    rate = figures["success"][0]
    is_open = bool(rate >= gate.needed)
    _finish(gate.out, "g2", rows, gate, figures, is_open, f"success >= {gate.needed}")
    return is_open


def run_g3(gate: G3) -> bool:
    """Perceived graphs; compared with the rows of G2 on the same scenes."""
    rows, figures = _right_plan(gate, "learned", "g3")
    before = read_table(gate.out / "g2.csv")
    same = before[before["scene"].isin(rows["scene"]) & (before["split"] == gate.split)]
    lost = float(same["success"].mean() - figures["success"][0]) if len(same) else float("nan")
    figures |= {"lost": lost, "g2": float(same["success"].mean()) if len(same) else float("nan")}
    is_open = bool(lost <= gate.lost)
    _finish(gate.out, "g3", rows, gate, figures, is_open, f"at most {gate.lost} lost against G2")
    return is_open


def run_g4(gate: G4) -> bool:
    """All arms that can be built; open when every arm ran and System 1 is no bottleneck for `vine`."""
    scenes = parse_scenes(gate.scenes)
    check_scenes(scenes, TASK.lists(gate.split), final=False)
    builder = RunBuilder(task="plug", split=gate.split, runs=(str(gate.run),))
    labels = tuple(find_arm(name).label for name in gate.arms) or _buildable(builder)
    builder.check(labels)
    folder = gate.work / "g4"
    rows = evaluate(builder, Schedule(scenes, labels), folder, workers=gate.workers)
    found = summary(rows, attempted=scenes)
    print_summary(found)
    comparisons = primary_comparisons(rows, attempted=scenes)
    is_open = bool(comparisons) and comparisons[0].difference.estimate > 0
    figures = {"calibration": _scores(folder), **found}
    _finish(
        gate.out, "g4", rows, gate, figures, is_open, "vine above the best success-only; look at filmstrips"
    )
    return is_open


def _right_plan(
    gate: RunGate, perception: Literal["true", "learned"], name: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    scenes = parse_scenes(gate.scenes)
    check_scenes(scenes, TASK.lists(gate.split), final=False)
    builder = RunBuilder(task="plug", split=gate.split, runs=(str(gate.run),), perception=perception)
    builder.check(("oracle-plan",))
    folder = gate.work / name
    rows = evaluate(builder, Schedule(scenes, ("oracle-plan",)), folder, workers=gate.workers)
    success = wilson(int(rows["success"].sum()), len(rows))
    return rows, {
        "success": list(success[:3]),
        "outcomes": rows["outcome"].value_counts().to_dict(),
        "reasons": rows["reason"].value_counts().to_dict(),
        "subgoals": float(rows["subgoals"].mean()),
    }


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
    out: Path, name: str, rows: pd.DataFrame, gate: Any, figures: dict[str, Any], is_open: bool, rule: str
) -> None:
    write_table(out / f"{name}.csv", rows[list(EPISODE_COLUMNS)])
    facts = {
        "gate": name,
        "open": is_open,
        "rule": rule,
        "command": " ".join(["python -m studies.gates", *_portable(sys.argv[1:])]),
        "settings": {k: str(v) for k, v in asdict(gate).items() if k not in ("work", "out", "run")},
        "environment": environment(),
        **figures,
    }
    write_json(out / f"{name}.json", facts)
    if "arms" in figures:
        print_summary(figures, title=f"{name}: {'open' if is_open else 'closed'} ({rule})")
    else:
        low, high = figures["success"][1:]
        line = f"{name}: {'open' if is_open else 'closed'} ({rule}), success {figures['success'][0]:.3f}"
        print(f"{line} [{low:.3f}, {high:.3f}]")  # noqa: T201 - this module is a command


def _portable(arguments: Sequence[str]) -> list[str]:
    """Arguments without this machine's folders: where files were kept is no part of a result."""
    return [Path(a).name if Path(a).is_absolute() else a for a in arguments]


def run_gate(gate: Gate) -> bool:
    """Run the gate; whether it is open."""
    runs = {G1: run_g1, G2: run_g2, G3: run_g3, G4: run_g4}
    return bool(runs[type(gate)](gate))  # type: ignore[operator]


def main() -> int:
    """Exit code 0: open; 1: closed; 2: bad input."""
    try:
        return 0 if run_gate(tyro.cli(Gate, description=__doc__)) else 1
    except VineError as error:
        print(f"gate: error: {error}", file=sys.stderr)  # noqa: T201
        return 2


if __name__ == "__main__":
    sys.exit(main())
