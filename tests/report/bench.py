"""A results directory made the real way: the paired runner over a small drawn world, with real searches.

`DrawnWorld` is the line world of the agent's tests with cameras that show something; `HunchModel` is its
model with members that are each somewhat wrong, so that intervals, cuts and reliability plots have
something to say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from agent.line_world import LENGTH, SCHEMA, LineModel, LineSkill, LineWorld
from PIL import Image, ImageDraw

from vine_vla.agent import AgentConfig, Streams, run_subgoal
from vine_vla.core.graph import Box
from vine_vla.core.options import Outcome
from vine_vla.core.packing import pack
from vine_vla.core.protocols import Observation
from vine_vla.core.text import describe
from vine_vla.evaluation.arms import find_arm
from vine_vla.evaluation.episodes import FEASIBILITY_COLUMNS, Parts
from vine_vla.evaluation.runner import Schedule, evaluate
from vine_vla.evaluation.world import TruePerceiver, true_outcome
from vine_vla.search.config import SearchConfig
from vine_vla.search.planners import make_planner
from vine_vla.storage.tables import read_table, write_table

ARMS = ("imitate", "success-only", "success-only (slips-removed)", "greedy", "vine", "oracle-skill")
WIDE, HIGH = 160, 120
JAMS = 0.12
"""Share of insertions that jam although nothing stands in the way."""


class DrawnWorld(LineWorld):
    """Three sockets on a bench, some with a block beside them, seen from the front and from the wrist."""

    instruction = "plug it in"

    def reset(self, scene, seed):
        super().reset(scene, seed)
        layout = np.random.default_rng([scene, 7])
        places = [int(p) for p in (8, 12, 16) + layout.integers(0, 3, 3)]
        sides = ["free" if layout.uniform() < 0.45 else "blocked" for _ in places]
        self.sockets = {f"socket_{i + 1}": (p, s) for i, (p, s) in enumerate(zip(places, sides, strict=True))}
        return self.observe()

    def true_graph(self, earlier=None):
        graph = super().true_graph(earlier)
        tall = {"socket": (0.6, 0.82), "plug": (0.52, 0.66), "gripper": (0.2, 0.54)}
        objects = []
        for item in graph.objects:
            top, bottom = tall[item.cls]
            x = item.boxes["front"].x_min
            objects.append(replace(item, boxes={"front": Box(x, top, x + 0.1, bottom)}))
        return replace(graph, objects=tuple(objects))

    def _let_go(self):
        super()._let_go()
        if self.seated and self.rng.uniform() < JAMS:
            self.seated, self.lost = "", True

    def observe(self):
        image = Image.new("RGB", (WIDE, HIGH), (214, 208, 196))
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 98, WIDE, HIGH), fill=(150, 134, 116))
        if self.render:
            for place, side in self.sockets.values():
                x = place / LENGTH * WIDE
                draw.rectangle((x, 74, x + 15, 98), fill=(66, 92, 150))
                draw.rectangle((x + 5, 78, x + 10, 84), fill=(20, 26, 40))
                if side == "blocked":
                    draw.rectangle((x + 16, 70, x + 20, 98), fill=(176, 70, 54))
            x = self.hand / LENGTH * WIDE
            draw.line((x + 8, 0, x + 8, 30), fill=(90, 96, 102), width=7)
            draw.rectangle((x, 26, x + 15, 40), fill=(70, 76, 82))
            for side in (x, x + 12):
                draw.rectangle((side, 40, side + 3, 64), fill=(70, 76, 82))
            if self.plug >= 0 and not self.lost:
                x = self.plug / LENGTH * WIDE
                draw.rectangle((x + 3, 62, x + 12, 78), fill=(232, 190, 60))
        front = np.asarray(image, np.uint8)
        left = int(np.clip(self.hand / LENGTH * WIDE - 32, 0, WIDE - 80))
        return Observation(
            {"front": front, "wrist": front[40:, left : left + 80]},
            np.array([self.hand, self.grip, self.plug], np.float32),
        )


@dataclass
class HunchModel(LineModel):
    """Each member errs in its own way, the same way for the same option in the same scene."""

    members: int = 4
    error: float = 0.7

    def expand(self, graphs, instructions, k, context=None):
        answer = super().expand(graphs, instructions, k)
        p = np.array(answer.p)
        for b, (subgoals, digest) in enumerate(zip(answer.subgoals, graphs.digests(), strict=True)):
            for j, subgoal in enumerate(subgoals):
                seed = hashlib.blake2b(digest + str(subgoal).encode(), digest_size=6).digest()
                rng = np.random.default_rng(int.from_bytes(seed, "big"))
                logits = np.log(p[:, b, j] + [[0.01, 0.01, 0.04, 0.03]])
                noise = rng.normal(0, self.error, 4) + rng.normal(0, self.error / 3, (self.members, 4))
                grown = np.exp(logits + noise) * (logits > -5)
                p[:, b, j] = grown / grown.sum(-1, keepdims=True)
        value = np.clip(answer.value, 0, 1)
        return answer._replace(p=p.astype(np.float32), value=value.astype(np.float32))

    def _options(self, scene):
        luck = {
            "grasp": lambda c: (0, 0.8, 0.17, 0.03),
            "insert": lambda c: (0.8 * c[0], 0, 0.17, 0.03 + 0.8 * c[3]),
        }
        return [(s, luck[s.verb.split("_")[0]](c), after, v) for s, c, after, v in super()._options(scene)]


def make_model(variant="all"):
    """The outcome nets of an arm: those that never saw a failure take every insertion for equally good."""
    return HunchModel(blind=variant != "all", tau=0.3, error=1.1 if variant == "withhold-slips" else 0.7)


@dataclass(frozen=True)
class DrawnBuilder:
    """Arms over the drawn world; System 1 misses a fifth of its starts, the scripted expert none."""

    task: str = "line"
    split: str = "unseen"

    def open_task(self):
        return DrawnWorld(self.split)

    def build(self, label, training_seed, task):
        arm = find_arm(label)
        return Parts(
            perceiver=TruePerceiver(task),
            planner=make_planner(arm.planner, make_model(arm.model), SearchConfig(expansions=24)),
            skill=LineSkill(clumsy=0.0 if arm.skill == "scripted" else 0.2, gives_up=True),
            config=AgentConfig(budget=5, max_steps=150, subgoal_steps=40, frames="subgoals"),
            wording=partial(describe, schema=SCHEMA),
            plans=arm.plans,
        )

    def settings(self):
        return {"clumsy": 0.2, "operators_success": [0.55, 0.5, 0.6], "search": {"expansions": 24, "k": 8}}


def probe(split: str, scenes: range) -> list[dict[str, object]]:
    """Probes: a subgoal drawn uniformly from the proposals at the start, executed once."""
    builder = DrawnBuilder(split=split)
    task, rows = builder.open_task(), []
    for scene in scenes:
        streams = Streams.spawn(scene, 1 if split == "seen" else 0)
        task.reset(scene, streams.scene)
        parts = builder.build("vine", 0, task)
        rng = np.random.default_rng(streams.policy)
        graph = parts.perceiver.perceive([task.observe()], [task.instruction])[0]
        for position in range(2):
            answer = make_model().expand(pack([graph], SCHEMA, budget=5), [task.instruction], 8)
            place = int(rng.integers(len(answer.subgoals[0])))
            subgoal = answer.subgoals[0][place]
            reach = answer.p[:, 0, place, :2].sum(-1)
            seed = int(rng.integers(2**31))
            _, graph, _ = run_subgoal(
                task, parts.perceiver, parts.skill, parts.config, subgoal, str(subgoal), seed, graph
            )
            reached = true_outcome(task, subgoal) is Outcome.REACHED
            rows.append(
                {
                    **{"task": "line", "split": split, "scene": scene, "arm": "vine", "training_seed": 0},
                    **{"source": "probe", "position": position, "lookahead": 1, "subgoal": str(subgoal)},
                    **{"predicted": float(reach.mean()), "spread": float(reach.std()), "q": None},
                    **{"pruned": int(reach.mean() < 0.3), "reached": int(reached)},
                }
            )
            if not reached:
                break
    return rows


def make_results(out: Path, scenes: int = 40) -> Path:
    """A finished run with traces, executed options and probes of both splits."""
    schedule = Schedule(tuple(range(400, 400 + scenes)), ARMS)
    evaluate(DrawnBuilder(), schedule, out, workers=0, progress=False)
    probes = probe("seen", range(200, 200 + 2 * scenes)) + probe("unseen", range(200, 200 + 2 * scenes))
    rows = read_table(out / "feasibility.csv").to_dict("records") + probes
    write_table(out / "feasibility.csv", pd.DataFrame(rows)[list(FEASIBILITY_COLUMNS)])
    return out


__all__ = ["ARMS", "DrawnBuilder", "DrawnWorld", "make_model", "make_results", "probe"]
