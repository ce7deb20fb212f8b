"""How many failed episodes are needed: success against the number of failures that System 2 may learn from.

    python -m studies.failures DATASET --out results/failures

DATASET: a task's demonstrations with failures (an experiment writes them to runs/NAME/demos). Every
point has all successful episodes, and as many failed ones as it says, drawn by the seed; points of a seed are
nested. Plans are made on true graphs and executed by the scripted expert, so that only what the failures
teach differs; scenes, jitter and noise are the same for all points. Writes `failures.csv` (a point a row),
`failures.json` (means over seeds, difference to no failures with its bootstrap interval over scenes) and
`failures.png`. Points that are up to date are not run again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
import tyro

from studies.gates import GraphBuilder
from studies.study import provenance, run_jobs, run_study
from vine_vla.core.options import Demonstration, EpisodeOutcome
from vine_vla.data import open_dataset
from vine_vla.evaluation.episodes import Key, play
from vine_vla.evaluation.final import check_scenes
from vine_vla.evaluation.statistics import compare
from vine_vla.storage.json import write_json
from vine_vla.storage.tables import write_table
from vine_vla.system2.compact import OutcomeConfig, train_outcomes
from vine_vla.tasks.registry import DEFAULT_TASK, find_task
from vine_vla.tasks.scenes import parse_scenes


def with_failures(demonstrations: list[Demonstration], count: int, seed: int) -> list[Demonstration]:
    """All successful episodes and `count` others, the first of an order that the seed draws."""
    won = [d.outcome is EpisodeOutcome.SUCCESS for d in demonstrations]
    lost = np.flatnonzero(~np.array(won))
    kept = set(np.random.default_rng([seed, 20261130]).permutation(lost)[:count].tolist())
    return [d for i, d in enumerate(demonstrations) if won[i] or i in kept]


def measure(model: object, task: str, split: str, scenes: Sequence[int]) -> list[dict[str, object]]:
    """A row a scene: success, and what the first plan promised."""
    builder = GraphBuilder(models={"all": model}, facts={}, task=task, split=split)
    simulation = builder.open_task()
    parts = builder.build("vine", 0, simulation)
    rows = []
    for scene in scenes:
        row = play(simulation, parts, Key(task, split, scene, "vine", "", 0, 0)).row
        rows.append({"scene": scene, "success": row["success"], "plan_p": row["plan_p"]})
    return rows


def curve(points: list[dict]) -> list[dict[str, object]]:
    """Means over seeds, with an interval over scenes, and the difference to no failures."""
    rows = pd.DataFrame(
        [
            {"scene": s["scene"], "success": s["success"], "training_seed": p["seed"], "policy_seed": 0}
            | {"arm": f"{p['failures']} failures", "variant": ""}
            for p in points
            for s in p["scenes"]
        ]
    )
    found = []
    for count in sorted({p["failures"] for p in points}):
        mine = [p for p in points if p["failures"] == count]
        name = f"{count} failures"
        each = [float(np.mean([s["success"] for s in p["scenes"]])) for p in mine]
        promised = [float(np.mean([s["plan_p"] or 0.0 for s in p["scenes"]])) for p in mine]
        row = {"failures": count, "seeds": len(mine), "success": float(np.mean(each)), "by_seed": each}
        row |= {"promised": float(np.mean(promised))}
        if count:
            difference = compare(rows, name, "0 failures").difference
            row |= {"gain": list(difference)}
        found.append(row)
    return found


def draw(found: list[dict], file: Path) -> None:
    """Success and promise against the number of failures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
    x = np.array([row["failures"] for row in found])
    axis.plot(x, [row["success"] for row in found], "o-", color="tab:blue", label="success")
    axis.plot(x, [row["promised"] for row in found], "s:", color="tab:orange", label="promised by the plan")
    for row in found:
        axis.plot([row["failures"]] * row["seeds"], row["by_seed"], ".", color="tab:blue", alpha=0.5)
    axis.set_xscale("symlog", linthresh=5)
    axis.set_xticks(x, [str(v) for v in x])
    axis.set_xlabel("failed episodes")
    axis.set_ylim(0, 1)
    axis.legend(frameon=False)
    figure.savefig(file, dpi=150)


@dataclass(frozen=True)
class Config:
    """Options."""

    dataset: tyro.conf.Positional[Path]
    """Demonstrations with true graphs."""
    task: str = DEFAULT_TASK
    """Name in the registry; the one that the demonstrations are of."""
    counts: tuple[int, ...] = (0, 5, 15, 50, 100, 1000)
    """Numbers of failed episodes; more than there are counts as all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training and of the choice of episodes."""
    scenes: str = "0:200"
    """Dev scenes."""
    split: str = ""
    """Appearance of the scenes; empty: the task's own choice."""
    work: Path = Path("runs/failures")
    """Points are kept here, so that a killed study resumes."""
    out: Path = Path("results/failures")
    """Results directory."""


def run(config: Config) -> None:
    """Train and measure every point that is missing, write the figures."""
    torch.set_num_threads(1)
    made, task = provenance(config), find_task(config.task)
    split, scenes = config.split or task.default_split, parse_scenes(config.scenes)
    check_scenes(scenes, task.lists(split), final=False)
    dataset = open_dataset(config.dataset)
    every = list(dataset.demonstrations)
    failed = sum(d.outcome is not EpisodeOutcome.SUCCESS for d in every)

    def point(job: list[int]) -> dict[str, Any]:
        count, seed = job
        chosen = with_failures(every, count, seed)
        model = train_outcomes(chosen, dataset.schema, replace(OutcomeConfig(), seed=seed))
        return {"failures": count, "seed": seed, "scenes": measure(model, task.name, split, scenes)}

    counts = dict.fromkeys(min(c, failed) for c in config.counts)
    points = run_jobs(
        config.work / "points.jsonl",
        lambda: point,
        {f"{count} failures, seed {seed}": [count, seed] for seed in config.seeds for count in counts},
        settings={"task": task.name, "split": split, "scenes": config.scenes, "episodes": len(every)},
        workers=0,
        name="points",
    )
    found = curve(points)
    table = [
        {"failures": p["failures"], "seed": p["seed"], "episodes": len(p["scenes"])}
        | {"success": np.mean([s["success"] for s in p["scenes"]])}
        | {"promised": np.mean([s["plan_p"] or 0.0 for s in p["scenes"]])}
        for p in points
    ]
    write_table(config.out / "failures.csv", pd.DataFrame(table).sort_values(["failures", "seed"]).round(4))
    record = {**made, "episodes": len(every), "failed": failed, "curve": found}
    write_json(config.out / "failures.json", record)
    draw(found, config.out / "failures.png")


if __name__ == "__main__":
    sys.exit(run_study(Config, run, __doc__))
