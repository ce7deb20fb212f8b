"""Does conformal pruning keep its promise? Reached probes that it prunes against the Beta-binomial law.

    python -m studies.coverage RUN --probes 1000

Probes on calibration scenes set the thresholds, probes on other scenes of the same split are pruned by them.
Split conformal says: of m new reached options, exchangeable with the n that set tau, the number that falls
under it is BetaBinomial(m, k, n + 1 - k), k = floor(alpha' (n + 1)). The promise is for seen scenes; unseen
ones, and subgoals judged in the graph that the model imagines, are measured without one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from numpy.typing import NDArray
from scipy.stats import betabinom

from studies.study import provenance, run_study
from vine_vla.core.protocols import PlanningModel
from vine_vla.evaluation.build import RunBuilder
from vine_vla.evaluation.final import check_scenes, record_final
from vine_vla.evaluation.probes.execution import calibration_probes
from vine_vla.evaluation.probes.run import (
    ExecutedProbe,
    Judgement,
    ProbeConfig,
    judge,
    read_probes,
    run_probes,
)
from vine_vla.storage.json import write_json
from vine_vla.storage.tables import write_table
from vine_vla.system2.uncertainty.conformal import threshold
from vine_vla.tasks.registry import DEFAULT_TASK, find_task
from vine_vla.tasks.scenes import parse_scenes

ALPHAS = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Scored:
    """Judged probes that count: proposed, covered and reached.

    Args:
        verbs: of each. upper: pruning score u. [n]
    """

    verbs: NDArray[np.str_]
    upper: NDArray[np.float64]

    def of(self, verb: str) -> NDArray[np.float64]:
        return self.upper[self.verbs == verb]


def scored(probes: Sequence[ExecutedProbe], judgements: Sequence[Judgement], min_support: float) -> Scored:
    """The reached probes whose options the data cover; others are never pruned."""
    kept = [
        (p.subgoal.verb, j.upper)
        for p, j in zip(probes, judgements, strict=True)
        if not np.isnan(j.predicted) and j.support >= min_support and p.reached[0] == 1
    ]
    return Scored(np.array([v for v, _ in kept], dtype=str), np.array([u for _, u in kept], float))


def coverage_table(
    calibration: Scored, tested: dict[str, Scored], subgoals_a_plan: float, alphas: Sequence[float] = ALPHAS
) -> pd.DataFrame:
    """Falsely pruned options of every set in `tested` with thresholds from `calibration`.

    Args:
        tested: by name.
        subgoals_a_plan: alpha' = alpha / this.

    Returns:
        alpha, alpha_option (alpha'), verb, set, n (calibration), m (tested), tau (NaN: too few for one),
        cut, rate, low, high (95 % of the Beta-binomial law), within.
    """
    rows: list[dict[str, Any]] = []
    for alpha in alphas:
        share = alpha / max(subgoals_a_plan, 1.0)
        for verb in sorted(set(calibration.verbs.tolist())):
            own = calibration.of(verb)
            tau = threshold(own.astype(np.float32), share)
            k = int(np.floor(share * (len(own) + 1) + 1e-9))
            for name, other in tested.items():
                new = other.of(verb)
                cut = int((new.astype(np.float32) < tau).sum()) if tau is not None else 0
                low, high = 0.0, 0.0
                if tau is not None and len(new):
                    law = betabinom(len(new), k, len(own) + 1 - k)
                    low, high = law.ppf(0.025) / len(new), law.ppf(0.975) / len(new)
                rate = cut / len(new) if len(new) else float("nan")
                rows.append(
                    {
                        "alpha": alpha,
                        "alpha_option": share,
                        "verb": verb,
                        "set": name,
                        "n": len(own),
                        "m": len(new),
                        "tau": float("nan") if tau is None else tau,
                        "cut": cut,
                        "rate": rate,
                        "low": low,
                        "high": high,
                        "within": bool(not len(new) or rate <= high + 1e-12),
                    }
                )
    return pd.DataFrame(rows)


def overall(table: pd.DataFrame) -> pd.DataFrame:
    """A row an alpha and set: false pruning of all verbs together against alpha'; whether all are within."""
    found = []
    for (alpha, name), own in table.groupby(["alpha", "set"], sort=False):
        found.append(
            {
                "alpha": alpha,
                "alpha_option": own["alpha_option"].iloc[0],
                "set": name,
                "reached": int(own["m"].sum()),
                "cut": int(own["cut"].sum()),
                "rate": own["cut"].sum() / max(own["m"].sum(), 1),
                "within": bool(own["within"].all()),
            }
        )
    return pd.DataFrame(found)


@dataclass(frozen=True)
class Config:
    """Options."""

    run: tyro.conf.Positional[Path]
    """Run with System 1 and System 2."""
    task: str = DEFAULT_TASK
    """Name in the registry."""
    seen: str = ""
    """Split that looks like the demonstrations; empty: the first with scene lists."""
    probes: int = 1000
    """Probes that are tested, seen and unseen."""
    calibrating: int = 1000
    """Probes that set the thresholds; those that `vine calibrate` executed for this run count."""
    calibration: str = "200:400"
    """Calibration scenes, of the seen split."""
    scenes: str = "0:200"
    """Scenes that are tested, seen and unseen; dev ones, or test ones with --final."""
    other: str = ""
    """Split that looks otherwise, `unseen`; empty: the second with scene lists."""
    unseen: Path | None = None
    """Probes that this run executed on unseen scenes before (probes_x1.jsonl.gz); default: execute some."""
    final: bool = False
    """Run test scenes, on record."""
    out: Path = Path("results/conformal")
    """Results directory."""
    workers: int = 2
    """Processes."""


def run(config: Config) -> None:
    """Run the probes, prune them, write `coverage.csv` and `coverage.json`."""
    made, task = provenance(config), find_task(config.task)
    calibration, scenes = parse_scenes(config.calibration), parse_scenes(config.scenes)
    splits = (config.seen or task.evaluation_splits[0], config.other or task.evaluation_splits[1])
    lists = task.lists(splits[0])
    check_scenes(calibration, lists, final=False, calibration=True)
    check_scenes(scenes, lists, final=config.final)
    if config.final:
        log = config.out.parent / "final_runs.csv"
        for split in splits[: 2 if config.unseen is None else 1]:
            record_final(log, task=task.name, split=split, scenes=scenes, arms=["vine"], out=config.out)
    found: dict[str, list[ExecutedProbe]] = {}
    seen = RunBuilder(task=task.name, split=splits[0], runs=(str(config.run),))
    seen.check(("vine",))
    found["calibration"] = calibration_probes(
        seen, config.run, _probing(calibration, config.calibrating), workers=config.workers
    )
    probing = _probing(scenes, config.probes)
    found["seen"] = run_probes(seen, probing, config.out / "probes_seen.jsonl", workers=config.workers)
    if config.unseen is not None:
        found["unseen"] = read_probes(config.unseen)
    else:
        other, file = replace(seen, split=splits[1]), config.out / "probes_unseen.jsonl"
        found["unseen"] = run_probes(other, probing, file, workers=config.workers)
    model: PlanningModel = seen.build("vine", 0, seen.open_task()).planner.model  # type: ignore[attr-defined]
    sets = {name: scored(p, judge(model, p), model.pruning.min_support) for name, p in found.items()}
    for name in ("seen", "unseen"):
        later = [p for p in found[name] if p.prefix is not None]
        if later:
            words = judge(model, later, imagined=True)
            sets[f"{name}, imagined"] = scored(later, words, model.pruning.min_support)
    subgoals = float(model.shared.subgoals_a_plan)  # type: ignore[attr-defined]
    table = coverage_table(sets.pop("calibration"), sets, subgoals)
    write_table(config.out / "coverage.csv", table)
    whole = overall(table)
    record = {
        **made,
        "subgoals_a_plan": subgoals,
        "overall": whole.to_dict("records"),
    }
    write_json(config.out / "coverage.json", record)
    print(whole.to_string(index=False, float_format=lambda v: f"{v:.4f}"))


def _probing(scenes: Sequence[int], probes: int) -> ProbeConfig:
    """So many probes on `scenes`, equally many on each."""
    return ProbeConfig(scenes=tuple(scenes), each=max(1, -(-probes // len(scenes))))


if __name__ == "__main__":
    sys.exit(run_study(Config, run, __doc__))
