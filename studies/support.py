"""Does VINE know what it has never met? Intervals and their coverage with a category held out of training.

    python -m studies.support POOL --hold-out end=tall colour=purple --out results/support

POOL is a dataset with annotated graphs (plug-full's pool of operators' episodes). Two models learn from
equally many training episodes, on true graphs: one from any, one only from episodes in which no object has
the category. Test segments are of other episodes: those whose arguments have the category, and the others.

An interval of P(goal or reached) is mean +- 1.64 spread of the members, before; after, an option that the
data do not cover has it widened towards [0, 1] by its gap, as at the root of a search. It covers when the
true rate lies in it; for that stands the frequency among all segments of the pool with the same verb and
categories of its arguments and of what is held. Writes `support.csv` and `support.json`.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
import tyro

from studies.study import provenance, run_study
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Demonstration, Outcome, Segment, Split, Subgoal
from vine_vla.core.packing import pack
from vine_vla.core.protocols import GOAL, REACHED
from vine_vla.data import open_dataset
from vine_vla.search.pruning import support_gap
from vine_vla.storage.json import write_json
from vine_vla.storage.tables import write_table
from vine_vla.system2.compact import OutcomeConfig, train_outcomes
from vine_vla.system2.compact.model import GraphModel

Z = 1.64
LEAST = 8
"""Segments that a cell needs for its frequency to stand for the true rate."""
Case = tuple[SceneGraph, Segment, str]


def cell(graph: SceneGraph, subgoal: Subgoal, ignored: Sequence[str]) -> tuple[str, ...]:
    """Verb and categories of everything that it is about; how a held thing is held belongs to it."""
    about = [graph[name] for name in subgoal.args]
    held = [graph[b] for name, _, b in graph.relations if name == "held"]
    words = {f"{o.cls}.{k}={v}" for o in [*about, *held] for k, v in o.attributes.items() if k not in ignored}
    return subgoal.verb, *sorted(words)


def decided(demonstrations: Sequence[Demonstration]) -> list[Case]:
    """Segments with a known outcome that begin at a graph."""
    return [
        (d.graphs[s.start], s, d.instruction)
        for d in demonstrations
        for s in d.segments
        if s.outcome in (Outcome.REACHED, Outcome.SLIPPED, Outcome.DEAD) and s.start in d.graphs
    ]


def has(graph: SceneGraph, category: tuple[str, str], names: Sequence[str] | None = None) -> bool:
    """Whether an object (of `names`) has the category."""
    attribute, value = category
    objects = graph.objects if names is None else [graph[n] for n in names]
    return any(str(o.attributes.get(attribute)) == value for o in objects)


def intervals(model: GraphModel, cases: Sequence[Case], schema: Schema) -> pd.DataFrame:
    """Predicted P, support, and both intervals of each case; cases that are not proposed are left out."""
    rows = []
    for start in range(0, len(cases), 256):
        part = cases[start : start + 256]
        graphs = pack([g for g, _, _ in part], schema, budget=[model.budget] * len(part))
        answer = model.expand(graphs, [text for _, _, text in part], 64)
        gap = support_gap(answer.support, model.pruning.min_support)
        for b, (_, segment, _) in enumerate(part):
            if segment.subgoal not in answer.subgoals[b]:
                continue
            at = answer.subgoals[b].index(segment.subgoal)
            reach = answer.p[:, b, at, GOAL] + answer.p[:, b, at, REACHED]
            low, high = np.clip(reach.mean() + Z * reach.std() * np.array([-1, 1]), 0, 1)
            g = gap[b, at]
            rows.append(
                {
                    "case": start + b,
                    "predicted": reach.mean(),
                    "support": answer.support[b, at],
                    "uncovered": g > 0,
                    "low": low,
                    "high": high,
                    "low_after": low * (1 - g),
                    "high_after": high + g * (1 - high),
                }
            )
    return pd.DataFrame(rows)


def summary(found: pd.DataFrame, rate: pd.Series, reached: pd.Series) -> dict[str, float]:
    """Means over cases; coverage over those whose cell's rate is known."""
    known = rate.notna()

    def coverage(low: str, high: str) -> float:
        part, true = found[known], rate[known]
        return float(((part[low] - 1e-9 <= true) & (true <= part[high] + 1e-9)).mean())

    return {
        "n": len(found),
        "known": int(known.sum()),
        "reached": float(reached.mean()),
        "predicted": float(found["predicted"].mean()),
        "support": float(found["support"].mean()),
        "uncovered": float(found["uncovered"].mean()),
        "width_before": float((found["high"] - found["low"]).mean()),
        "width_after": float((found["high_after"] - found["low_after"]).mean()),
        "coverage_before": coverage("low", "high"),
        "coverage_after": coverage("low_after", "high_after"),
    }


@dataclass(frozen=True)
class Config:
    """Options."""

    pool: tyro.conf.Positional[Path]
    """Dataset with annotated graphs."""
    hold_out: tuple[str, ...]
    """Categories, ATTRIBUTE=VALUE; a pair of models for each."""
    ignored: tuple[str, ...] = ("colour",)
    """Attributes that feasibility ignores."""
    seed: int = 0
    """Of training and of the halves of the pool."""
    out: Path = Path("results/support")
    """Results directory."""


def run(config: Config) -> None:
    """Train with and without each category, write the table."""
    made = provenance(config)
    torch.set_num_threads(1)
    dataset = open_dataset(config.pool)
    schema, everyone = dataset.schema, list(dataset.demonstrations)
    order = np.random.default_rng(config.seed).permutation(len(everyone))
    half = len(everyone) // 2
    taught, tested = ([everyone[i] for i in part] for part in (order[:half], order[half:]))
    cells: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    for graph, segment, _ in decided(everyone):
        cells[cell(graph, segment.subgoal, config.ignored)].append(segment.outcome is Outcome.REACHED)
    cases = decided(tested)
    keys = [cell(graph, segment.subgoal, config.ignored) for graph, segment, _ in cases]
    rate = pd.Series([np.mean(cells[k]) if len(cells[k]) >= LEAST else np.nan for k in keys])
    reached = pd.Series([segment.outcome is Outcome.REACHED for _, segment, _ in cases])
    rows = []
    for text in config.hold_out:
        attribute, _, value = text.partition("=")
        category = attribute, value
        without = [d for d in taught if not any(has(g, category) for g in d.graphs.values())]
        about = pd.Series([has(g, category, s.subgoal.args) for g, s, _ in cases])
        for name, chosen in (("met", taught[: len(without)]), ("never met", without)):
            marked = [
                replace(d, split=Split.CALIBRATION if i % 5 == 0 else Split.TRAIN)
                for i, d in enumerate(chosen)
            ]
            model = train_outcomes(marked, schema, OutcomeConfig(seed=config.seed))
            found = intervals(model, cases, schema)
            for group, mine in (("has it", about), ("has it not", ~about)):
                part = found[mine[found["case"]].to_numpy()]
                figures = summary(part, rate[part["case"]].set_axis(part.index), reached[part["case"]])
                rows.append(
                    {"category": text, "in training": name, "episodes": len(chosen), "target": group}
                    | figures
                )
                print(
                    " ".join(
                        f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()
                    ),
                    flush=True,
                )
    write_table(config.out / "support.csv", pd.DataFrame(rows).round(4))
    write_json(config.out / "support.json", made)


if __name__ == "__main__":
    sys.exit(run_study(Config, run, __doc__))
