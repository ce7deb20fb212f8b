"""How optimistic is a chosen plan? Its promised probability minus its true one, against K and look-ahead.

    python -m studies.optimism --out results/search

A maximum over noisy estimates is optimistic: what is chosen is chosen partly because its noise was kind.
One half of the ensemble chooses, the other reports (`SearchConfig.split`). On random reach-avoid problems
whose true values are known, the members of a tabular model have each watched every subgoal `--samples`
times. Bias is the plan's reported feasibility minus the true Q of its first subgoal, best continuation
within the budget after it; leaves beyond the look-ahead have each member's own value. Writes
`optimism.csv`, `optimism.json` and `optimism.png`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from studies.study import provenance, run_study
from vine_vla.search import SearchConfig, TabularModel, perturb, random_problem, search, value_iteration
from vine_vla.search.tabular import q_values
from vine_vla.search.tree import MID
from vine_vla.storage.json import write_json
from vine_vla.storage.tables import write_table

BUDGET = 6


@dataclass(frozen=True)
class Config:
    """Options."""

    out: Path = Path("results/search")
    """Results directory."""
    ks: tuple[int, ...] = (2, 4, 8, 16)
    """Numbers of proposals K."""
    depths: tuple[int, ...] = (1, 2, 4, 6)
    """Look-aheads H."""
    problems: int = 40
    """Random problems."""
    starts: int = 10
    """Starts a problem."""
    members: int = 6
    """Of the ensemble."""
    samples: int = 12
    """How often each member saw a subgoal."""
    expansions: int = 64
    """Of a search."""
    seed: int = 0
    """Of the problems."""


def bias_of(k: int, depth: int, split: bool, config: Config) -> tuple[float, float, float]:
    """Mean bias over problems, its standard error, and the mean regret of what was chosen."""
    bias, regret = [], []
    for number in range(config.problems):
        rng = np.random.default_rng([config.seed, number, k])
        problem = random_problem(rng, states=24, actions=k, applicable=1.0)
        model = TabularModel(perturb(problem, config.members, config.samples, rng), budget=BUDGET)
        starts = list(range(config.starts))
        searching = SearchConfig(
            k=k,
            expansions=config.expansions,
            depth=depth,
            kappa=0,
            length_penalty=0,
            prune=False,
            stop=False,
            split=split,
        )
        found = search(model, model.pack(starts, BUDGET), [""] * len(starts), searching)
        best = q_values(problem, value_iteration(problem, BUDGET)[BUDGET - 1])
        for place, state in enumerate(starts):
            option = int(found.tree.nodes.best[place, 0])
            verb = found.outputs.subgoals[int(found.tree.nodes.row[place, 0])][option].verb
            action = int(verb.removeprefix("do_"))
            promised = found.tree.nodes.q[place, 0, MID, found.tree.reporting, option].mean()
            bias.append(promised - best[state, action])
            regret.append(best[state].max() - best[state, action])
    return float(np.mean(bias)), float(np.std(bias) / np.sqrt(config.problems)), float(np.mean(regret))


def draw(table: pd.DataFrame, file: Path) -> None:
    """Bias against K at the largest look-ahead, and against look-ahead at the largest K."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for axis, along, other, label in (
        (axes[0], "K", "depth", "proposals K"),
        (axes[1], "depth", "K", "look-ahead H"),
    ):
        part = table[table[other] == table[other].max()]
        for split, own in part.groupby("split"):
            name = "one half chooses, the other reports" if split else "all choose and report"
            axis.errorbar(
                own[along], own["bias"], yerr=1.96 * own["error"], marker="o", capsize=3, label=name
            )
        axis.axhline(0, color="0.6", linewidth=1)
        axis.set_xlabel(f"{label} ({other} = {table[other].max()})")
    axes[0].set_ylabel("promised minus true P")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def run(config: Config) -> None:
    """Search everything, write table and picture."""
    made, rows = provenance(config), []
    for k in config.ks:
        for depth in config.depths:
            for split in (True, False):
                bias, error, regret = bias_of(k, depth, split, config)
                rows.append(
                    {"K": k, "depth": depth, "split": split, "bias": bias, "error": error, "regret": regret}
                )
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    write_table(config.out / "optimism.csv", table.round(5))
    write_json(config.out / "optimism.json", made)
    draw(table, config.out / "optimism.png")


if __name__ == "__main__":
    sys.exit(run_study(Config, run, __doc__))
