"""Gate G2: System 1 in closed loop on dev scenes, with true graphs and a plan that no neighbour spoils.

    python benchmarks/system1_closed_loop.py RUN [--scenes 60] [--split seen] [--out gate.json] [--strips DIR]

RUN is a folder of `vine train system1`; `expert` runs the scripted expert instead. Per verb it reports
how often the subgoal was reached when the done head fired or time ran out, how late the head fires after
the simulator first says reached, and its false alarms. Only scenes 0 to 199 are touched.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from statsmodels.stats.proportion import proportion_confint

from vine_vla.core.options import Outcome, Subgoal
from vine_vla.core.protocols import DONE, FAILED, Skill
from vine_vla.core.text import describe
from vine_vla.system1 import FlowSkill, weights_hash
from vine_vla.tasks.plug import TASK
from vine_vla.tasks.plug.task import PlugInsertion

LIMIT = 150
"""Steps a subgoal may take, 15 s."""

THRESHOLD = 0.5


@dataclass(frozen=True)
class Trial:
    """One execution of a subgoal.

    Args:
        scene, verb, position: where, what, and its place in the plan.
        reached: the simulator's verdict when it ended.
        ending: `done`, `failed`, `timeout` or `dead`.
        steps: it took; `first`: step at which it first counted as reached, -1 if never.
    """

    scene: int
    verb: str
    position: int
    reached: bool
    ending: str
    steps: int
    first: int


def run_subgoal(
    task: PlugInsertion, skill: Skill, subgoal: Subgoal, seed: int, strip: list[Any] | None = None
) -> tuple[str, int, int]:
    """Execute `subgoal`; returns its ending, steps, and the step at which it was first reached."""
    graph = task.true_graph()
    skill.start(subgoal, describe(subgoal, graph, TASK.schema), seed)
    steps, first = 0, -1
    while True:
        graph = task.true_graph(graph)
        observation = task.observe()
        output = skill.act(observation, graph)
        if strip is not None:
            strip.append((observation.images, graph, output.done))
        if output.done[DONE] > THRESHOLD:
            return "done", steps, first
        if output.done[FAILED] > THRESHOLD:
            return "failed", steps, first
        for action in output.actions[: output.execute]:
            over = task.step(action)
            steps += 1
            if first < 0 and task.subgoal_status(subgoal) is Outcome.REACHED:
                first = steps
            if task.is_dead():
                return "dead", steps, first
            if over or steps >= LIMIT:
                return "timeout", steps, first


def run_scene(
    task: PlugInsertion, skill: Skill, scene: int, plan: Sequence[Subgoal], strip: list[Any] | None
) -> tuple[list[Trial], bool]:
    """Execute the plan; stops at the first subgoal that is not reached."""
    trials = []
    for position, subgoal in enumerate(plan):
        ending, steps, first = run_subgoal(task, skill, subgoal, 1000 * scene + position, strip)
        reached = task.subgoal_status(subgoal) is Outcome.REACHED
        trials.append(Trial(scene, subgoal.verb, position, reached, ending, steps, first))
        if not reached:
            break
    return trials, task.is_success()


def good_plan(task: PlugInsertion, scene: int, put_back: bool) -> list[Subgoal]:
    """A plan that no neighbour spoils, evenly by scene; with `put_back` a detour over the other grasp."""
    plans = task.oracle_plans()
    grasp, insert = plans[scene % len(plans)]
    if not put_back:
        return [grasp, insert]
    other = "grasp_short" if grasp.verb == "grasp_long" else "grasp_long"
    return [grasp._replace(verb=other), grasp._replace(verb="put_back"), grasp, insert]


def summarize(trials: Sequence[Trial], successes: Sequence[bool]) -> dict[str, Any]:
    """Rates with Wilson intervals, per verb and for the whole task."""

    def rate(count: int, total: int) -> dict[str, Any]:
        low, high = proportion_confint(count, total, method="wilson") if total else (0.0, 1.0)
        return {
            "n": total,
            "rate": round(count / max(1, total), 3),
            "low": round(low, 3),
            "high": round(high, 3),
        }

    verbs: dict[str, Any] = {}
    for verb in sorted({t.verb for t in trials}):
        mine = [t for t in trials if t.verb == verb]
        delays = [t.steps - t.first for t in mine if t.ending == "done" and t.reached]
        verbs[verb] = {
            "reached": rate(sum(t.reached for t in mine), len(mine)),
            "steps": median(t.steps for t in mine),
            "done_delay_steps": {"median": median(delays), "p90": float(np.quantile(delays, 0.9))}
            if delays
            else None,
            "false_done": rate(sum(t.ending == "done" and not t.reached for t in mine), len(mine)),
            "false_failed": rate(sum(t.ending == "failed" and t.reached for t in mine), len(mine)),
            "missed_done": rate(sum(t.ending == "timeout" and t.reached for t in mine), len(mine)),
            "endings": {e: sum(t.ending == e for t in mine) for e in ("done", "failed", "timeout", "dead")},
        }
    return {"task": rate(sum(successes), len(successes)), "verbs": verbs}


def save_strip(frames: Sequence[Any], path: Path, count: int = 12) -> None:
    """Frames of both cameras with the boxes, and the done head's probabilities, as one picture."""
    from PIL import Image, ImageDraw

    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)]
    columns = []
    for images, graph, done in chosen:
        column = []
        for role, image in images.items():
            picture = Image.fromarray(image)
            draw = ImageDraw.Draw(picture)
            for item in graph.objects:
                if role in item.boxes:
                    box = [
                        v * s for v, s in zip(item.boxes[role], (*picture.size, *picture.size), strict=True)
                    ]
                    draw.rectangle(box, outline=(255, 255, 0))
            draw.text((2, 2), " ".join(f"{p:.2f}" for p in done), fill=(255, 255, 255))
            column.append(np.asarray(picture))
        columns.append(np.concatenate(column))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(columns, 1)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--scenes", type=int, default=60, help="dev scenes, from --first")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--split", default="seen", choices=("seen", "unseen"))
    parser.add_argument("--put-back", action="store_true", help="put the plug back between two grasps")
    parser.add_argument("--flow-steps", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=None, help="JSON; a CSV of all trials is written beside it"
    )
    parser.add_argument("--strips", type=Path, default=None, help="folder for filmstrips of failures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.first + options.scenes > 200:
        parser.error("only dev scenes, 0 to 199")
    task = PlugInsertion(options.split)
    run = None if options.run == "expert" else Path(options.run)
    skill = (
        TASK.skill(task, 0.3)
        if run is None
        else FlowSkill.load(run, TASK.schema, flow_steps=options.flow_steps)
    )
    trials: list[Trial] = []
    successes: list[bool] = []
    begin = time.perf_counter()
    for scene in range(options.first, options.first + options.scenes):
        task.reset(scene, seed=scene)
        strip: list[Any] | None = [] if options.strips else None
        plan = good_plan(task, scene, options.put_back)
        found, success = run_scene(task, skill, scene, plan, strip)
        trials += found
        successes.append(success)
        if strip and not success:
            save_strip(
                strip, options.strips / f"{options.split}_{scene:03d}_{found[-1].verb}_{found[-1].ending}.png"
            )
        print(scene, success, *(f"{t.verb}:{t.ending}:{t.steps}/{t.first}" for t in found), flush=True)
    result = {"split": options.split, "scenes": [options.first, options.first + options.scenes]}
    result |= {"weights_sha256": weights_hash(run / "policy") if run else "expert"}
    result |= summarize(trials, successes) | {"seconds": round(time.perf_counter() - begin, 1)}
    print(json.dumps(result, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
        with options.out.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(trials[0])))
            writer.writeheader()
            writer.writerows(asdict(t) for t in trials)


if __name__ == "__main__":
    main()
