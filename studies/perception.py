"""How well perception works: at the first update of each scene, and while the right plan is executed.

    python -m studies.perception RUN --scenes 0:60 --split unseen --out results/dev

First update: objects that no box of their class covers by .4, and attributes that are wrong. During execution
(scripted expert, an update before every chunk of actions, ids followed from update to update): how far the
perceived boxes are from the true ones; a box is astray when its centre is off by more than .05 image widths.
Over all updates: classes (true objects that have a perceived one of their class within .05), relations (F1
over pairs of objects that are perceived), and identity switches (an id that names another object than in the
update before). Writes `perception.json`.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import tyro

from studies.study import provenance, run_study
from vine_vla.agent import Streams, run_episode
from vine_vla.core.graph import SceneGraph
from vine_vla.core.identity import match_names
from vine_vla.core.protocols import Observation, Perceiver
from vine_vla.evaluation.build import RunBuilder
from vine_vla.evaluation.final import check_scenes
from vine_vla.storage.json import write_json
from vine_vla.system2 import load_system2
from vine_vla.tasks.registry import DEFAULT_TASK, find_task
from vine_vla.tasks.scenes import parse_scenes

COVERED, ASTRAY = 0.4, 0.05


class Watcher:
    """Perception that hands the skill the true graph and keeps what `perception` finds beside it."""

    def __init__(self, truth: Perceiver, perception: Perceiver) -> None:
        self.truth, self.perception = truth, perception
        self.updates: list[tuple[SceneGraph, SceneGraph]] = []

    def perceive(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        earlier: Sequence[SceneGraph | None] | None = None,
    ) -> list[SceneGraph]:
        """The true graphs."""
        true = self.truth.perceive(observations, instructions, earlier)
        before = [self.updates[-1][1]] if self.updates else None
        perceived = self.perception.perceive(observations, instructions, before)
        self.updates += zip(true, perceived, strict=True)
        return true


def first_update(true: SceneGraph, perceived: SceneGraph, camera: str, counts: dict[str, list[int]]) -> None:
    """Add to `counts`, name -> [wrong, all]."""
    for item in true.objects:
        if camera not in item.boxes:
            continue
        alike = [o for o in perceived.of_class(item.cls) if camera in o.boxes]
        best = max(alike, key=lambda o: o.boxes[camera].iou(item.boxes[camera]), default=None)
        found = best is not None and best.boxes[camera].iou(item.boxes[camera]) > COVERED
        counts[f"{item.cls} not found"][0] += not found
        counts[f"{item.cls} not found"][1] += 1
        if found:
            for name, value in item.attributes.items():
                counts[f"{item.cls}.{name} wrong"][0] += best.attributes.get(name) != value
                counts[f"{item.cls}.{name} wrong"][1] += 1


def during_execution(updates: list[tuple[SceneGraph, SceneGraph]], off: dict[str, list[float]]) -> None:
    """Add to `off`, "class camera" -> distances of centres in image widths, inf where only one has a box."""
    names = match_names(*updates[0])
    for true, perceived in updates:
        for item in true.objects:
            other = perceived[names[item.id]].boxes if names.get(item.id) in perceived else {}
            for camera in {*item.boxes, *other}:
                both = camera in item.boxes and camera in other
                a, b = (x[camera].center if both else (0.0, np.inf) for x in (item.boxes, other))
                off[f"{item.cls} {camera}"].append(
                    float(np.hypot(a[0] - b[0], a[1] - b[1])) if both else np.inf
                )


class Tally:
    """Classes, relations and identities over all updates.

    Attributes:
        objects, right: true objects in the reference camera, and those found under their class.
        hits, claimed, real: relations in both graphs, in the perceived, in the true one.
        kept, switched: objects perceived in two updates in a row, under the same id and under another.
    """

    def __init__(self, camera: str) -> None:
        self.camera = camera
        self.objects = self.right = self.hits = self.claimed = self.real = self.kept = self.switched = 0

    def add(self, updates: list[tuple[SceneGraph, SceneGraph]]) -> None:
        """The updates of one episode."""
        before: dict[str, str] = {}
        for true, perceived in updates:
            names = {
                t: s for t, s in match_names(true, perceived).items() if self._near(true, perceived, t, s)
            }
            visible = [o.id for o in true.objects if self.camera in o.boxes]
            self.objects += len(visible)
            self.right += sum(name in names for name in visible)
            same = {k for k in names if k in before}
            self.kept += sum(names[k] == before[k] for k in same)
            self.switched += sum(names[k] != before[k] for k in same)
            mine = {
                (r.predicate, names[r.subject], names[r.object])
                for r in true.relations
                if r.subject in names and r.object in names
            }
            known = set(names.values())
            theirs = {tuple(r) for r in perceived.relations if r.subject in known and r.object in known}
            self.hits += len(mine & theirs)
            self.claimed += len(theirs)
            self.real += len(mine)
            before = before | names

    def _near(self, true: SceneGraph, perceived: SceneGraph, mine: str, theirs: str) -> bool:
        pairs = [
            (true[mine].boxes[c].center, b.center)
            for c, b in perceived[theirs].boxes.items()
            if c in true[mine].boxes
        ]
        return any(np.hypot(p[0] - q[0], p[1] - q[1]) <= ASTRAY for p, q in pairs)

    def to_json(self) -> dict[str, float]:
        f1 = 2 * self.hits / max(1, self.claimed + self.real)
        counts = {n: getattr(self, n) for n in ("objects", "right", "kept", "switched")}
        return counts | {
            "class_accuracy": round(self.right / max(1, self.objects), 4),
            "relation_f1": round(f1, 4),
        }


@dataclass(frozen=True)
class Config:
    """Options."""

    run: tyro.conf.Positional[Path]
    """Run with System 2."""
    task: str = DEFAULT_TASK
    """Name in the registry; it needs an oracle."""
    scenes: str = "0:60"
    """Dev scenes."""
    split: str = ""
    """Appearance of the scenes; empty: the task's own choice."""
    out: Path = Path("results/dev")
    """Results directory."""


def run(config: Config) -> None:
    """Play the right plans, write the figures."""
    made, task = provenance(config), find_task(config.task)
    split, scenes = config.split or task.default_split, parse_scenes(config.scenes)
    check_scenes(scenes, task.lists(split), final=False)
    runs = (str(config.run),)
    builder = RunBuilder(task=task.name, split=split, runs=runs, perception="true", skill="scripted")
    # Perception needs the images that a run on true graphs would not draw.
    simulation = task.simulation(split)
    parts = builder.build("oracle-plan", 0, simulation)
    perception = load_system2(config.run / "system2")
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    off: dict[str, list[float]] = defaultdict(list)
    strayed: dict[str, int] = defaultdict(int)
    camera = task.schema.cameras[0]
    tally = Tally(camera)
    for scene in scenes:
        streams = Streams.spawn(scene)
        simulation.reset(scene, streams.scene)
        watcher = Watcher(parts.perceiver, perception)
        run_episode(
            simulation, watcher, parts.planner, parts.skill, parts.config, streams, wording=parts.wording
        )
        first_update(*watcher.updates[0], camera, counts)
        mine: dict[str, list[float]] = defaultdict(list)
        during_execution(watcher.updates, mine)
        tally.add(watcher.updates)
        for name, values in mine.items():
            off[name] += values
            strayed[name] += int(np.sum(np.array(values) > ASTRAY) >= 2)
    way = {}
    for name, values in sorted(off.items()):
        found = np.array([v for v in values if np.isfinite(v)])
        way[name] = {
            "updates": len(values),
            "median": round(float(np.median(found)), 4) if len(found) else None,
            "astray": round(float((found > ASTRAY).sum() / len(values)), 4),
            "one_sided": round(1 - len(found) / len(values), 4),
            "scenes_astray_twice": strayed[name],
        }
    record = {
        **made,
        "first_update": dict(sorted(counts.items())),
        "during_execution": way,
        "all_updates": tally.to_json(),
        "scenes": len(scenes),
    }
    write_json(config.out / "perception.json", record)
    for name, (wrong, total) in sorted(counts.items()):
        print(f"{name}: {wrong} of {total}")
    for name, row in way.items():
        print(name, row)
    print(tally.to_json())


if __name__ == "__main__":
    sys.exit(run_study(Config, run, __doc__))
