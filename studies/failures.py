"""How many failed episodes are needed: success against the number of failures that System 2 may learn from.

    python benchmarks/failures.py DATASET --out results/failures

DATASET: demonstrations of the plug with failures (`plug-full` writes them to runs/plug-full/demos). Every
point has all successful episodes, and as many failed ones as it says, drawn by the seed; points of a seed are
nested. Plans are made on true graphs and carried out by scripted hands, so that nothing but what the failures
teach differs; scenes, jitter and noise are the same for all points. Writes `failures.csv` (a point a row),
`failures.json` (means over seeds, difference to no failures with its bootstrap interval over scenes) and
`failures.png`. Points that are there already are not run again.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch

from studies.gates import GraphBuilder
from vine_vla.core.options import Demonstration, EpisodeOutcome
from vine_vla.data import open_dataset
from vine_vla.evaluation.episodes import Key, play
from vine_vla.evaluation.final import check_scenes
from vine_vla.evaluation.statistics import compare
from vine_vla.storage.json import RowLog, write_json
from vine_vla.storage.provenance import environment
from vine_vla.storage.tables import write_table
from vine_vla.system2.compact import OutcomeConfig, train_outcomes
from vine_vla.tasks.registry import find_task
from vine_vla.tasks.scenes import parse_scenes


def with_failures(demonstrations: list[Demonstration], count: int, seed: int) -> list[Demonstration]:
    """All successful episodes and `count` others, the first of an order that the seed draws."""
    won = [d.outcome is EpisodeOutcome.SUCCESS for d in demonstrations]
    lost = np.flatnonzero(~np.array(won))
    kept = set(np.random.default_rng([seed, 20261130]).permutation(lost)[:count].tolist())
    return [d for i, d in enumerate(demonstrations) if won[i] or i in kept]


def measure(model: object, scenes: list[int], split: str) -> list[dict[str, object]]:
    """A row a scene: success, and what the first plan promised."""
    builder = GraphBuilder(models={"all": model}, facts={}, split=split)
    task = builder.open_task()
    parts = builder.build("vine", 0, task)
    rows = []
    for scene in scenes:
        row = play(task, parts, Key("plug", split, scene, "vine", "", 0, 0)).row
        rows.append({"scene": scene, "success": row["success"], "plan_p": row["plan_p"]})
    return rows


def curve(points: list[dict], scenes: int) -> list[dict[str, object]]:
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/failures"))
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 5, 15, 50, 100, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", default="0:200")
    parser.add_argument("--split", default="unseen")
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes = parse_scenes(args.scenes)
    check_scenes(scenes, find_task("plug").lists(args.split), final=False)
    dataset = open_dataset(args.dataset)
    every = list(dataset.demonstrations)
    most = sum(d.outcome is not EpisodeOutcome.SUCCESS for d in every)
    log = RowLog(args.out / "points.jsonl")
    known = {(p["failures"], p["seed"]) for p in log.rows}
    for seed in args.seeds:
        for count in dict.fromkeys(min(c, most) for c in args.counts):
            if (count, seed) in known:
                continue
            chosen = with_failures(every, count, seed)
            model = train_outcomes(chosen, dataset.schema, replace(OutcomeConfig(), seed=seed))
            log.append({"failures": count, "seed": seed, "scenes": measure(model, list(scenes), args.split)})
            print(count, seed, np.mean([s["success"] for s in log.rows[-1]["scenes"]]), flush=True)
    log.close()
    found = curve(log.rows, len(scenes))
    table = [
        {"failures": p["failures"], "seed": p["seed"], "episodes": len(p["scenes"])}
        | {"success": np.mean([s["success"] for s in p["scenes"]])}
        | {"promised": np.mean([s["plan_p"] or 0.0 for s in p["scenes"]])}
        for p in log.rows
    ]
    write_table(args.out / "failures.csv", pd.DataFrame(table).sort_values(["failures", "seed"]).round(4))
    settings = {"scenes": args.scenes, "split": args.split, "episodes": len(every), "failed": most}
    write_json(args.out / "failures.json", settings | {"curve": found, "environment": environment()})
    draw(found, args.out / "failures.png")


if __name__ == "__main__":
    main()
