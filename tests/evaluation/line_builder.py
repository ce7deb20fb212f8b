"""Builds the arms of the small line world; picklable, so that real worker processes can run it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from agent.line_world import SCHEMA, LineModel, LineSkill, LineWorld

from vine_vla.agent import AgentConfig
from vine_vla.core.text import describe
from vine_vla.evaluation.arms import find_arm
from vine_vla.evaluation.episodes import Parts
from vine_vla.evaluation.world import TruePerceiver
from vine_vla.search.config import SearchConfig
from vine_vla.search.planners import make_planner


class SlowSkill(LineSkill):
    def start(self, subgoal, text, seed):
        time.sleep(0.02)
        super().start(subgoal, text, seed)


@dataclass(frozen=True)
class LineBuilder:
    task: str = "line"
    split: str = "seen"
    slow: bool = False
    clumsy: float = 0.2

    def open_task(self):
        return LineWorld(self.split)

    def build(self, label, training_seed, task):
        arm = find_arm(label)
        model = LineModel(blind=arm.model != "all")
        skill = (SlowSkill if self.slow else LineSkill)(clumsy=self.clumsy, gives_up=True)
        return Parts(
            perceiver=TruePerceiver(task),
            planner=make_planner(arm.planner, model, SearchConfig(expansions=16)),
            skill=skill,
            config=AgentConfig(budget=6, max_steps=150, subgoal_steps=40, frames="subgoals"),
            wording=partial(describe, schema=SCHEMA),
            plans=arm.plans,
        )

    def settings(self):
        return {"clumsy": self.clumsy}
