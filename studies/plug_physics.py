"""Gate G0: does the physics make the choices matter? Every grasp x socket x neighbour cell, without learning.

`python -m studies.plug_physics --episodes 100 --out results/gates` writes `g0.csv` (a row a cell) and
`g0.json` (command, seeds, revision, versions, scene and operator statistics, and whether the gate is open).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.study import provenance, run_jobs, run_study
from vine_vla.core.options import Outcome, Subgoal
from vine_vla.evaluation.statistics import wilson
from vine_vla.storage.json import write_json
from vine_vla.storage.tables import write_table
from vine_vla.tasks.plug.expert import Expert, SkillDial
from vine_vla.tasks.plug.operators import Choice, Habits, Operator
from vine_vla.tasks.plug.scenes import GRASPS, HIDDEN_SIDE, TALL_HEIGHT, Block, PlugScene, Socket, plug_scene
from vine_vla.tasks.plug.sim import PlugSim
from vine_vla.tasks.plug.task import choice_status

NEIGHBOURS = ("none", "low", "x", "y", "xy")
SKILL = (0.5, 1.0)
"""Range of the operators' noise scale."""
_GREY = (0.8, 0.8, 0.8)


@dataclass(frozen=True)
class Cell:
    """One cell of the gate: how it is grasped, where it goes, what stands there, how noisy control is."""

    grasp: str
    kind: str
    neighbours: str
    scale: float
    height_bias: float = 0.0

    @property
    def expected(self) -> str:
        """`good`, `brittle` or `wrong`."""
        if self.kind != "two_pin":
            return "wrong"
        return (
            "brittle"
            if {"long": "x", "short": "y"}[self.grasp] in self.neighbours.replace("low", "")
            else "good"
        )


def cell_scene(cell: Cell, seed: int) -> PlugScene:
    """A scene with one socket and the cell's neighbours; poses and heights vary as in the real scenes."""
    rng = np.random.default_rng([seed, 11])
    blocks = []
    for side in "xy" if cell.neighbours == "low" else cell.neighbours.replace("none", ""):
        height = (
            rng.uniform(0.022, 0.032)
            if cell.neighbours == "low"
            else TALL_HEIGHT[side] + rng.uniform(-0.002, 0.002)
        )
        width = (0.032 if side == "x" else 0.040) * rng.uniform(0.95, 1.05)
        sign = int(rng.choice((-1, 1))) if cell.neighbours == "low" else HIDDEN_SIDE[side]
        blocks.append(Block(side, sign, float(height), 0.024, float(width), _GREY))
    x, y = 0.575 + rng.uniform(-0.018, 0.018), rng.choice((-0.145, 0, 0.145)) + rng.uniform(-0.01, 0.01)
    socket = Socket(
        cell.kind, "blue", _GREY, float(x), float(y), float(rng.uniform(-0.2, 0.2)), tuple(blocks)
    )
    rack = (0.395 + rng.uniform(-0.012, 0.012), rng.uniform(-0.11, 0.11), rng.uniform(-0.3, 0.3))
    return PlugScene(
        "cell", seed, "", (float(rack[0]), float(rack[1]), float(rack[2])), (socket,), _GREY, _GREY, _GREY
    )


@dataclass(frozen=True)
class ScriptedEpisode:
    """What happened: subgoals with outcomes, success, steps, onset step of a loss (-1 if none)."""

    history: tuple[tuple[Choice, Outcome], ...]
    success: bool
    dead: bool
    steps: int
    onset: int


def as_subgoal(choice: Choice) -> Subgoal:
    """The subgoal of an operator's choice, sockets named by index."""
    verb, socket = choice
    return Subgoal(verb, ("plug",) if socket is None else ("plug", f"socket_{socket}"))


def run_choice(sim: PlugSim, expert: Expert, choice: Choice) -> Outcome:
    """Let the expert execute one subgoal to its end."""
    for action in expert.run(sim, as_subgoal(choice), choice[1]):
        sim.step(action)
    return choice_status(sim, choice) or Outcome.SLIPPED


def run_plan(
    sim: PlugSim, scene: PlugScene, grasp: str, socket: int, dial: SkillDial, seed: int
) -> list[Outcome]:
    """Outcomes of grasping and inserting once; stops at the first that is not reached."""
    sim.reset(scene, seed)
    expert = Expert(dial, np.random.default_rng([seed, 1]))
    outcomes: list[Outcome] = []
    for choice in ((f"grasp_{grasp}", None), ("insert", socket)):
        outcomes.append(run_choice(sim, expert, choice))
        if outcomes[-1] is not Outcome.REACHED:
            break
    return outcomes


def run_operator(
    sim: PlugSim, scene: PlugScene, habits: Habits, dial: SkillDial, seed: int
) -> ScriptedEpisode:
    """One episode of a scripted operator."""
    sim.reset(scene, seed)
    operator = Operator(habits, np.random.default_rng([seed, 2]))
    expert = Expert(dial, np.random.default_rng([seed, 1]))
    operator.begin(scene)
    history: list[tuple[Choice, Outcome]] = []
    while (choice := operator.next(sim, history)) is not None:
        history.append((choice, run_choice(sim, expert, choice)))
    return ScriptedEpisode(tuple(history), sim.success(), sim.dead(), sim.steps, sim.onset)


class PhysicsWorker:
    """Runs batches of a cell or of operators; keeps its simulator."""

    def __init__(self) -> None:
        self.sim = PlugSim()

    def __call__(self, job: tuple[Cell | Habits, int, int]) -> list[Any]:
        """Outcomes of episodes `first` to `first + count` of a cell; or rows of operators' episodes."""
        what, first, count = job
        if isinstance(what, Habits):
            return _operator_batch(self.sim, what, first, count)
        dial = SkillDial(scale=what.scale, height_bias=what.height_bias)
        return [
            [str(o) for o in run_plan(self.sim, cell_scene(what, seed), what.grasp, 0, dial, seed)]
            for seed in range(first, first + count)
        ]


def _operator_batch(sim: PlugSim, habits: Habits, first: int, count: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(first, first + count):
        scene = plug_scene("demo", number)
        scale = float(np.random.default_rng([number, 5]).uniform(*SKILL))
        episode = run_operator(sim, scene, habits, SkillDial(scale=scale), number)
        inserts = [
            (choice[1], scene.sockets[choice[1] or 0], outcome)
            for choice, outcome in episode.history
            if choice[0] == "insert"
        ]
        verbs = [choice[0] for choice, _ in episode.history]
        before = (
            [verb for verb in verbs[: verbs.index("insert")] if verb.startswith("grasp")] if inserts else []
        )
        first_good = inserts[0][1].good(before[-1].removeprefix("grasp_")) if before else None
        rows.append(
            {
                "success": episode.success,
                "dead": episode.dead,
                "steps": episode.steps,
                "subgoals": len(episode.history),
                "first_insert": str(inserts[0][2]) if inserts else "",
                "first_kind": inserts[0][1].kind if inserts else "",
                "first_good": first_good,
                "slips": sum(outcome is Outcome.SLIPPED for _, outcome in episode.history),
                "put_back": sum(choice[0] == "put_back" for choice, _ in episode.history),
            }
        )
    return rows


def gate_cells() -> list[Cell]:
    """All cells: the table proper, then the shortcut of grasping higher."""
    cells = [Cell(g, "two_pin", n, s) for s in (0.5, 1.0) for n in NEIGHBOURS for g in GRASPS]
    cells += [Cell(g, "round", "none", s) for s in (0.5, 1.0) for g in GRASPS]
    return cells + [
        Cell(g, "two_pin", n, 0.5, b) for b in (0.004, 0.008) for g, n in (("long", "x"), ("short", "y"))
    ]


def scene_statistics(split: str, numbers: range) -> dict[str, float]:
    """Shares of scenes with the properties that the experiment rests on."""
    scenes = [plug_scene(split, n) for n in numbers]
    return {
        "scenes": len(scenes),
        "needs_lookahead": float(np.mean([s.needs_lookahead() for s in scenes])),
        "habit_plan_brittle": float(np.mean([s.habit_is_brittle() for s in scenes])),
        "has_good_plan": float(np.mean([bool(s.good_plans()) for s in scenes])),
        "nearest_is_wrong_kind": float(
            np.mean([s.sockets[s.nearest(False)].kind != "two_pin" for s in scenes])
        ),
    }


def _chunks(total: int, size: int = 10) -> list[tuple[int, int]]:
    return [(start, min(size, total - start)) for start in range(0, total, size)]


@dataclass(frozen=True)
class Config:
    """Options."""

    episodes: int = 100
    """Episodes a cell."""
    operators: int = 300
    """Episodes of operators without knowledge of failure causes."""
    seed: int = 100_000
    """First seed of the cells."""
    workers: int = 1
    """Processes."""
    work: Path = Path("runs/gates")
    """Episodes are kept here, so that a killed gate resumes."""
    out: Path = Path("results/gates")
    """Where g0.csv and g0.json go."""


def run(config: Config) -> bool:
    """Write `g0.csv` and `g0.json`; whether the gate is open."""
    made, cells, habits = provenance(config), gate_cells(), Habits()
    jobs: dict[str, tuple[Cell | Habits, int, int]] = {
        f"{cell} {first}": (cell, config.seed + first, n)
        for cell in cells
        for first, n in _chunks(config.episodes)
    }
    jobs |= {f"operators {first}": (habits, first, n) for first, n in _chunks(config.operators)}
    settings = {"episodes": config.episodes, "operators": config.operators, "seed": config.seed}
    file = config.work / "g0.jsonl"
    answers = run_jobs(file, PhysicsWorker, jobs, settings=settings, workers=config.workers, name="physics")
    found = dict(zip(jobs, answers, strict=True))
    rows = [
        _row(cell, [r for first, _ in _chunks(config.episodes) for r in found[f"{cell} {first}"]])
        for cell in cells
    ]
    played = [r for first, _ in _chunks(config.operators) for r in found[f"operators {first}"]]
    figures = {"operators": _operator_summary(played, habits, SKILL), **_verdict(rows)}
    is_open = bool(figures.pop("open"))
    write_table(config.out / "g0.csv", pd.DataFrame(rows))
    write_json(config.out / "g0.json", {"gate": "g0", "open": is_open, **made, **figures})
    print(f"g0: {'open' if is_open else 'closed'}")
    for name, held in figures["checks"].items():
        print(f"  {name}: {'yes' if held else 'no'}")
    return is_open


def _row(cell: Cell, results: Sequence[Sequence[str]]) -> dict[str, Any]:
    n = len(results)
    success = sum(len(r) == 2 and r[1] == Outcome.REACHED for r in results)
    _, low, high, _ = wilson(success, n)
    return {
        **asdict(cell),
        "expected": cell.expected,
        "episodes": n,
        "success": round(success / n, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "slipped": round(sum(r[-1] == Outcome.SLIPPED for r in results) / n, 3),
        "dead": round(sum(r[-1] == Outcome.DEAD for r in results) / n, 3),
        "grasp_failed": round(sum(len(r) == 1 for r in results) / n, 3),
    }


def _operator_summary(
    played: list[dict[str, Any]], habits: Habits, skill: tuple[float, float]
) -> dict[str, Any]:
    brittle = [r for r in played if r["first_good"] is False and r["first_kind"] == "two_pin"]
    good = [r for r in played if r["first_good"]]
    wrong = [r for r in played if r["first_kind"] == "round"]
    n = len(played)
    fails = sum(not r["success"] for r in played)

    def share(rows: list[dict[str, Any]], outcome: str) -> float:
        return float(round(sum(r["first_insert"] == outcome for r in rows) / max(len(rows), 1), 3))

    return {
        "habits": asdict(habits),
        "skill": skill,
        "episodes": n,
        "failed": round(fails / n, 3),
        "failed_interval": [round(v, 3) for v in wilson(fails, n)[1:3]],
        "dead": round(sum(r["dead"] for r in played) / n, 3),
        "with_slip": round(sum(r["slips"] > 0 for r in played) / n, 3),
        "mean_steps": round(float(np.mean([r["steps"] for r in played])), 1),
        "mean_subgoals": round(float(np.mean([r["subgoals"] for r in played])), 2),
        "first_insert": {
            name: {"n": len(rows), **{o: share(rows, o) for o in ("reached", "slipped", "dead")}}
            for name, rows in (("good", good), ("brittle", brittle), ("wrong_kind", wrong))
        },
    }


def _verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    half = [r for r in rows if r["scale"] == 0.5 and r["height_bias"] == 0]
    good = [r["success"] for r in half if r["expected"] == "good"]
    brittle = [r["success"] for r in half if r["expected"] == "brittle"]
    high = [r["success"] for r in rows if r["height_bias"] > 0]
    good_one = [r["success"] for r in rows if r["expected"] == "good" and r["scale"] == 1.0]
    wrong = [r["success"] for r in rows if r["expected"] == "wrong"]
    scenes = {
        "seen": scene_statistics("seen", range(0, 1000)),
        "unseen": scene_statistics("unseen", range(0, 1000)),
        "demo": scene_statistics("demo", range(0, 1000)),
    }
    checks = {
        "good cells >= .95 at s=.5": min(good) >= 0.95,
        "good cells >= .90 at s=1": min(good_one) >= 0.90,
        "brittle cells .10 to .40 at s=.5": min(brittle) >= 0.10 and max(brittle) <= 0.40,
        "grasping 4 and 8 mm higher stays <= .40": max(high) <= 0.40,
        "wrong kind never succeeds": max(wrong) == 0,
        "look-ahead needed in >= 1/3 of scenes": min(s["needs_lookahead"] for s in scenes.values()) >= 1 / 3,
    }
    return {"scenes": scenes, "checks": checks, "open": all(checks.values())}


if __name__ == "__main__":
    sys.exit(run_study(Config, run, __doc__))
