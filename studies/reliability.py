"""Are the probabilities right, by verb, look-ahead and split? From tables that evaluations have written.

    python -m studies.reliability results/plug-full --arm vine --out results/reliability

Reads `feasibility.csv` (subgoals) and `episodes.csv` (plans) of every folder. Writes `reliability.csv`: for
each source (`probe`: drawn at random and executed; `executed`: chosen by a plan; `plan`: the first plan's own
probability against the episode's success), split, verb and look-ahead the number of rows, mean prediction,
share that came true, their gap, AUROC and ECE beside that of a perfect predictor; gap and AUROC with 95 %
bootstrap intervals over scenes. `reliability.png` draws verbs and look-aheads, `plans.png` whole plans.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from studies.study import provenance, run_study
from vine_vla.core.errors import VineError
from vine_vla.evaluation.probes.reliability import reliability, score
from vine_vla.evaluation.statistics import scene_bootstrap
from vine_vla.storage.json import write_json
from vine_vla.storage.tables import read_table, write_table

LEAST = 30
"""Rows below which nothing is said."""


def subgoals(folders: Sequence[Path], arm: str) -> pd.DataFrame:
    """Rows of all folders with columns source, split, verb, lookahead, scene, predicted, happened."""
    found = []
    for folder in folders:
        rows = read_table(folder / "feasibility.csv")
        rows = rows[rows["arm"] == arm].assign(
            verb=lambda r: r["subgoal"].str.split("(").str[0],
            happened=lambda r: r["reached"],
            folder=str(folder),
        )
        found.append(rows)
    return pd.concat(found, ignore_index=True)


def plans(folders: Sequence[Path], arm: str) -> pd.DataFrame:
    """The same of whole plans."""
    found = []
    for folder in folders:
        rows = read_table(folder / "episodes.csv")
        label = rows["arm"] + rows["variant"].fillna("").map(lambda v: f" ({v})" if v else "")
        rows = rows[(label == arm) & rows["plan_p"].notna()]
        found.append(
            rows.assign(
                source="plan", verb="plan", lookahead=0, predicted=rows["plan_p"], happened=rows["success"]
            )
        )
    return pd.concat(found, ignore_index=True)


def groups(rows: pd.DataFrame) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """All rows of a source and split, then by verb, then by look-ahead."""
    for (source, split), own in rows.groupby(["source", "split"]):
        yield {"source": source, "split": split, "verb": "all", "lookahead": "all"}, own
        if own["verb"].nunique() > 1:
            for verb, part in own.groupby("verb"):
                yield {"source": source, "split": split, "verb": verb, "lookahead": "all"}, part
        if source == "executed":
            for ahead, part in own.groupby(own["lookahead"].clip(upper=3)):
                name = f"{ahead}" if ahead < 3 else "3 and more"
                yield {"source": source, "split": split, "verb": "all", "lookahead": name}, part


def table(rows: pd.DataFrame) -> pd.DataFrame:
    found = []
    for key, part in groups(rows):
        if len(part) < LEAST:
            continue
        predicted, happened = part["predicted"].to_numpy(float), part["happened"].to_numpy(float)
        scenes = part["scene"].to_numpy()
        s = score(predicted, happened, scenes)
        by_scene = pd.Series(predicted - happened).groupby(scenes).mean().to_numpy()
        gap = scene_bootstrap(by_scene)
        found.append(
            key
            | {"n": s.n, "scenes": len(by_scene), "predicted": predicted.mean(), "happened": s.base}
            | {"gap": gap.estimate, "gap_low": gap.low, "gap_high": gap.high}
            | {"auroc": s.auroc, "auroc_low": s.auroc_low, "auroc_high": s.auroc_high}
            | {"ece": s.ece, "ece_perfect": s.ece_perfect}
        )
    return pd.DataFrame(found)


def curves(axis, rows: pd.DataFrame, by: str, title: str) -> None:  # noqa: ANN001
    """One reliability plot, a line for each value of `by`."""
    axis.plot([0, 1], [0, 1], color="0.75", linewidth=1)
    for value, part in rows.groupby(by):
        if len(part) < LEAST:
            continue
        bins = int(np.clip(len(part) // 30, 1, 8))
        made = reliability(
            part["predicted"].to_numpy(float),
            part["happened"].to_numpy(float),
            part["scene"].to_numpy(),
            bins=bins,
        )
        error = np.maximum(np.stack([made["reached"] - made["low"], made["high"] - made["reached"]]), 0)
        axis.errorbar(
            made["predicted"],
            made["reached"],
            yerr=error,
            marker="o",
            ms=4,
            capsize=2,
            label=f"{value} ({len(part)})",
        )
    axis.set(title=title, xlim=(0, 1), ylim=(0, 1), xlabel="predicted")
    axis.legend(frameon=False, fontsize=7)


def draw(rows: pd.DataFrame, whole: pd.DataFrame, out: Path) -> None:
    """The two pictures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = [(s, p, by) for (s, p), _ in rows.groupby(["source", "split"]) for by in ("verb", "lookahead")]
    kinds = [k for k in kinds if k[0] == "executed" or k[2] == "verb"]
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(3.2 * len(kinds), 3.2), layout="constrained", squeeze=False
    )
    for axis, (source, split, by) in zip(axes[0], kinds, strict=True):
        part = rows[(rows["source"] == source) & (rows["split"] == split)]
        curves(axis, part, by, f"{source}, {split}, by {by}")
    axes[0, 0].set_ylabel("came true")
    figure.savefig(out / "reliability.png", dpi=110)
    figure, axis = plt.subplots(figsize=(4, 3.6), layout="constrained")
    curves(axis, whole, "split", "whole plans")
    axis.set_ylabel("episode succeeded")
    figure.savefig(out / "plans.png", dpi=130)


@dataclass(frozen=True)
class Config:
    """Options."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Result folders of vine eval and vine experiment."""
    arm: str = "vine"
    """Its label in the tables."""
    out: Path = Path("results/reliability")
    """Results directory."""


def run(config: Config) -> None:
    """Read the tables, write the figures."""
    made = provenance(config)
    rows, whole = subgoals(config.folders, config.arm), plans(config.folders, config.arm)
    if not len(rows):
        raise VineError(f"no rows of arm {config.arm!r}", where=str(config.folders[0]))
    found = table(pd.concat([rows, whole], ignore_index=True))
    write_table(config.out / "reliability.csv", found.round(4))
    write_json(config.out / "reliability.json", made)
    draw(rows, whole, config.out)
    print(found.round(3).to_string(index=False))


if __name__ == "__main__":
    sys.exit(run_study(Config, run, __doc__))
