"""How often a plan that never changes would be right: always this grasp, at the nearest socket that fits.

`python -m studies.plug_constant_plans --out results/gates` writes `constant_plans.csv`, a row for each split,
range of scenes and grasp. Scenes are counted, nothing is executed: a plan is right if no tall neighbour
spoils it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from studies.study import provenance, run_study
from vine_vla.evaluation.statistics import wilson
from vine_vla.storage.json import write_json
from vine_vla.storage.tables import write_table
from vine_vla.tasks.plug.scenes import FROZEN, GRASPS, plug_scene
from vine_vla.tasks.scenes import parse_scenes

SCENES = [(split, f"{r.start}:{r.stop}") for split in ("seen", "unseen") for r in FROZEN.values()]
SCENES += [("unseen", "400:700"), ("demo", "0:600")]
"""All frozen lists; the test scenes and the demonstrations of `plug-full`."""


def count() -> pd.DataFrame:
    """Share of scenes in which each constant plan is right, with its 95 % Wilson interval."""
    rows = []
    for split, numbers in SCENES:
        scenes = [plug_scene(split, number) for number in parse_scenes(numbers)]
        for grasp in GRASPS:
            right = sum(not scene.habit_is_brittle(grasp) for scene in scenes)
            share = wilson(right, len(scenes))
            rows.append((split, numbers, grasp, len(scenes), right, share.estimate, share.low, share.high))
    columns = ["split", "scenes", "grasp", "n", "right", "share", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class Config:
    """Options."""

    out: Path = Path("results/gates")
    """Where constant_plans.csv and constant_plans.json go."""


def run(config: Config) -> None:
    """Count, print the table, write it."""
    made, table = provenance(config), count()
    write_table(config.out / "constant_plans.csv", table.round(4))
    write_json(config.out / "constant_plans.json", made)
    print(table.to_string(index=False))


if __name__ == "__main__":
    sys.exit(run_study(Config, run, __doc__))
