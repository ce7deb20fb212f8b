"""Time of one whole planning step, from images to a plan, and how it grows.

    python benchmarks/planning_step.py --out results/search

A System 2 is trained on drawn scenes of 6 to 16 objects (`packing_pictures.py`), then one thread perceives
and plans in new scenes. One thing changes at a time: objects N, proposals K, look-ahead H, scenes planned at
once B. The rest stays at N = 12, K = 5, H = 6, B = 1, 64 expansions, 8 subgoals left. Writes
`planning_step.csv` (milliseconds, p50 and p95, a row a setting) and `planning_step.png`. With `--model
FOLDER` what is trained stays there and is read from there the next time, to compare revisions of planning.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from packing_pictures import INSTRUCTION, PackingPictures, layout, look

from vine_vla.search import SearchConfig, TreePlanner
from vine_vla.system2 import Backend, load_system2
from vine_vla.system2.compact import OutcomeConfig, PerceptionConfig, System2Config, train_system2

BUDGET = 8
GROWTH = {"objects": (6, 8, 12, 16), "K": (3, 5, 8, 12, 20), "depth": (1, 2, 4, 6, 8), "B": (1, 4, 16, 64)}
USUAL = {"objects": 12, "K": 5, "depth": 6, "B": 1}
LABELS = {"objects": "objects N", "K": "proposals K", "depth": "look-ahead H", "B": "scenes at once B"}


def train(folder: Path, episodes: int, steps: int) -> None:
    """A System 2 of the usual size, taught briefly; nothing is done where it is there already."""
    quick = replace(OutcomeConfig().outcome, epochs=4, least_steps=100)
    outcomes = OutcomeConfig(states=300, outcome=quick, dynamics=quick, proposal=quick, value_mu=quick)
    outcomes = replace(outcomes, value=replace(quick, epochs=1, least_steps=20))
    config = System2Config(outcomes, PerceptionConfig(steps=steps), calibrate_on_perceived=False)
    train_system2(PackingPictures(episodes), folder, config)


def measure(model: Backend, repeats: int, objects: int, k: int, depth: int, batch: int) -> dict[str, float]:
    """Milliseconds of perceiving and planning B scenes, after one step that is not counted."""
    planner = TreePlanner(model, SearchConfig(k=k, depth=depth, expansions=64, trace=1))
    seen, planned, found, options, nodes = [], [], [], [], []
    for number in range(repeats + 1):
        rng = np.random.default_rng([objects, number])
        views = [look(rng, layout(rng, objects))[0] for _ in range(batch)]
        start = time.perf_counter()
        graphs = model.perceive(views, [INSTRUCTION] * batch)
        between = time.perf_counter()
        plans = planner.plan_many(graphs, [INSTRUCTION] * batch, [BUDGET] * batch)
        planned.append(1000 * (time.perf_counter() - between))
        seen.append(1000 * (between - start))
        found.append(np.mean([len(graph.objects) for graph in graphs]))
        options.append(np.mean([len(plan.options) for plan in plans]))
        nodes.append(np.mean([plan.expansions for plan in plans]))
    whole = np.array(seen[1:]) + np.array(planned[1:])
    parts = {"perceive": seen[1:], "plan": planned[1:], "whole": whole}
    times = {f"{n}_p{q}": float(np.percentile(t, q)) for n, t in parts.items() for q in (50, 95)}
    return (
        times
        | {"found": float(np.mean(found)), "options": float(np.mean(options))}
        | {"expansions": float(np.mean(nodes))}
    )


def draw(table: pd.DataFrame, file: Path) -> None:
    """Milliseconds against each thing that grows, a scene."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(GROWTH), figsize=(11, 2.8), layout="constrained")
    for axis, (name, label) in zip(axes, LABELS.items(), strict=True):
        rows = table[table["grows"] == name]
        each = rows["B"]
        for part, style in (("whole", "-"), ("plan", "--"), ("perceive", ":")):
            axis.plot(
                rows[name], rows[f"{part}_p50"] / each, style, color="tab:blue", label=f"{part}, median"
            )
        axis.plot(rows[name], rows["whole_p95"] / each, "o", color="tab:red", ms=4, label="whole, p95")
        axis.axhline(50, color="0.7", linewidth=1)
        axis.set_xlabel(label)
        axis.set_ylim(0)
    axes[0].set_ylabel("ms a scene")
    axes[0].legend(frameon=False, fontsize=7)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/search"))
    parser.add_argument("--episodes", type=int, default=300, help="drawn episodes to learn from")
    parser.add_argument("--steps", type=int, default=800, help="of perception's training")
    parser.add_argument(
        "--model", type=Path, help="folder that keeps the trained System 2; default: none does"
    )
    parser.add_argument("--repeats", type=int, default=60, help="planning steps a setting")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as spare:
        folder = args.model or Path(spare)
        train(folder, args.episodes, args.steps)
        model = load_system2(folder)
    rows = []
    for name, values in GROWTH.items():
        for value in values:
            at = USUAL | {name: value}
            repeats = max(8, args.repeats // at["B"])
            row = measure(model, repeats, at["objects"], at["K"], at["depth"], at["B"])
            rows.append({"grows": name, **at, "repeats": repeats, **row})
            print(
                " ".join(
                    f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in rows[-1].items()
                ),
                flush=True,
            )
    table = pd.DataFrame(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    table.round(3).to_csv(args.out / "planning_step.csv", index=False)
    draw(table, args.out / "planning_step.png")


if __name__ == "__main__":
    main()
