"""How well perception sees: at the first look of each scene, and while the right plan is carried out.

    python benchmarks/perception.py RUN --scenes 0:60 --split unseen --out results/dev/perception.json

First look: objects that no box of their class covers by .4, and attributes that are read wrongly. On the way
(scripted hands, a look before every chunk of actions, ids followed from look to look): how far the perceived
boxes of plug and sockets are from the true ones; a box is astray when its centre is off by more than .05
image widths. Over all looks: classes (true objects that have a perceived one of their class within .05),
relations (F1 over pairs of objects that both see), and identity switches (an id that names another object
than in the look before).
"""

import argparse
import os
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from vine_vla.agent import Streams, run_episode
from vine_vla.core.graph import SceneGraph
from vine_vla.core.identity import match_names
from vine_vla.evaluation.build import RunBuilder
from vine_vla.evaluation.final import check_scenes
from vine_vla.storage.json import write_json
from vine_vla.storage.provenance import environment
from vine_vla.system2 import load_system2
from vine_vla.tasks.registry import find_task
from vine_vla.tasks.scenes import parse_scenes

COVERED, ASTRAY = 0.4, 0.05
CLASSES = ("plug", "socket")


class Watcher:
    """Eyes that give the skill the true graph and remember what perception saw beside it."""

    def __init__(self, truth, perception) -> None:  # noqa: ANN001
        self.truth, self.perception = truth, perception
        self.looks: list[tuple[SceneGraph, SceneGraph]] = []

    def perceive(self, observations, instructions, earlier=None):  # noqa: ANN001, ANN201
        true = self.truth.perceive(observations, instructions, earlier)
        before = [self.looks[-1][1]] if self.looks else None
        seen = self.perception.perceive(observations, instructions, before)
        self.looks += zip(true, seen, strict=True)
        return true


def first_look(true: SceneGraph, seen: SceneGraph, camera: str, counts: dict[str, list[int]]) -> None:
    """Add to `counts`, name -> [wrong, all]."""
    for item in true.objects:
        if camera not in item.boxes:
            continue
        alike = [o for o in seen.of_class(item.cls) if camera in o.boxes]
        best = max(alike, key=lambda o: o.boxes[camera].iou(item.boxes[camera]), default=None)
        found = best is not None and best.boxes[camera].iou(item.boxes[camera]) > COVERED
        counts[f"{item.cls} not found"][0] += not found
        counts[f"{item.cls} not found"][1] += 1
        if found:
            for name, value in item.attributes.items():
                counts[f"{item.cls}.{name} wrong"][0] += best.attributes.get(name) != value
                counts[f"{item.cls}.{name} wrong"][1] += 1


def on_the_way(looks: list[tuple[SceneGraph, SceneGraph]], off: dict[str, list[float]]) -> None:
    """Add to `off`, "class camera" -> distances of centres in image widths, inf where only one has a box."""
    names = match_names(*looks[0])
    for true, seen in looks:
        for item in (o for cls in CLASSES for o in true.of_class(cls)):
            other = seen[names[item.id]].boxes if names.get(item.id) in seen else {}
            for camera in {*item.boxes, *other}:
                both = camera in item.boxes and camera in other
                a, b = (x[camera].center if both else (0.0, np.inf) for x in (item.boxes, other))
                off[f"{item.cls} {camera}"].append(
                    float(np.hypot(a[0] - b[0], a[1] - b[1])) if both else np.inf
                )


class Tally:
    """Classes, relations and identities over all looks.

    Attributes:
        objects, right: true objects in the reference camera, and those found under their class.
        hits, claimed, real: relations that both see, that perception sees, that there are.
        kept, switched: objects that were seen in two looks running, under the same id and under another.
    """

    def __init__(self, camera: str) -> None:
        self.camera = camera
        self.objects = self.right = self.hits = self.claimed = self.real = self.kept = self.switched = 0

    def add(self, looks: list[tuple[SceneGraph, SceneGraph]]) -> None:
        """The looks of one episode."""
        before: dict[str, str] = {}
        for true, seen in looks:
            names = {t: s for t, s in match_names(true, seen).items() if self._near(true, seen, t, s)}
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
            theirs = {tuple(r) for r in seen.relations if r.subject in known and r.object in known}
            self.hits += len(mine & theirs)
            self.claimed += len(theirs)
            self.real += len(mine)
            before = before | names

    def _near(self, true: SceneGraph, seen: SceneGraph, mine: str, theirs: str) -> bool:
        pairs = [
            (true[mine].boxes[c].center, b.center)
            for c, b in seen[theirs].boxes.items()
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--scenes", default="0:60")
    parser.add_argument("--split", default="unseen")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    scenes = parse_scenes(arguments.scenes)
    check_scenes(scenes, find_task("plug").lists(arguments.split), final=False)
    builder = RunBuilder(
        task="plug", split=arguments.split, runs=(str(arguments.run),), perception="true", skill="scripted"
    )
    # Perception needs the images that a run on true graphs would not draw.
    task = RunBuilder(task="plug", split=arguments.split, runs=(str(arguments.run),)).open_task()
    parts = builder.build("oracle-plan", 0, task)
    perception = load_system2(arguments.run / "system2")
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    off: dict[str, list[float]] = defaultdict(list)
    lost, tally = 0, Tally(find_task("plug").schema.cameras[0])
    for scene in scenes:
        streams = Streams.spawn(scene)
        task.reset(scene, streams.scene)
        eyes = Watcher(parts.perceiver, perception)
        run_episode(task, eyes, parts.planner, parts.skill, parts.config, streams, wording=parts.wording)
        first_look(*eyes.looks[0], find_task("plug").schema.cameras[0], counts)
        before = len(off["plug front"])
        on_the_way(eyes.looks, off)
        tally.add(eyes.looks)
        lost += int(np.sum(np.array(off["plug front"][before:]) > ASTRAY) >= 2)
    way = {}
    for name, values in sorted(off.items()):
        found = np.array([v for v in values if np.isfinite(v)])
        way[name] = {
            "looks": len(values),
            "median": round(float(np.median(found)), 4),
            "astray": round(float((found > ASTRAY).sum() / len(values)), 4),
            "one_sided": round(1 - len(found) / len(values), 4),
        }
    record = {
        "command": f"benchmarks/perception.py RUN --scenes {arguments.scenes} --split {arguments.split}",
        "environment": environment(),
        "first_look": dict(sorted(counts.items())),
        "on_the_way": way,
        "all_looks": tally.to_json(),
        "scenes": len(scenes),
        "scenes_in_which_the_plug_went_astray_twice": lost,
    }
    if arguments.out:
        write_json(arguments.out, record)
    for name, (wrong, total) in record["first_look"].items():
        print(f"{name}: {wrong} of {total}")
    for name, row in way.items():
        print(name, row)
    print(tally.to_json())
    print(f"plug astray at least twice: {lost} of {len(scenes)} scenes")


if __name__ == "__main__":
    main()
