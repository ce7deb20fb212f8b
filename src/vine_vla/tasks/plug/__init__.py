"""PlugInsertion: MuJoCo, a plug, sockets with neighbours, scripted operators.

Importing this reads no simulator; MuJoCo is imported when the first simulation is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vine_vla.core.protocols import Skill
from vine_vla.tasks.base import Expert, Operator, OperatorDials, Oracle, SceneLists, Split, Task
from vine_vla.tasks.plug.constants import CONSTANTS
from vine_vla.tasks.plug.experiments import EXPERIMENTS
from vine_vla.tasks.plug.scenes import FROZEN, INSTRUCTIONS
from vine_vla.tasks.plug.spec import ACTION, FPS, PLUG_SCHEMA, ROLES, SIZE, STATE, SUBGOAL_STEPS
from vine_vla.tasks.plug.takeover import PlugTakeover

if TYPE_CHECKING:
    from vine_vla.tasks.plug.task import PlugInsertion

__all__ = ["TASK"]


def _open(split: str, render: bool) -> PlugInsertion:
    from vine_vla.tasks.plug.task import PlugInsertion

    return PlugInsertion(split, render=render)


def _operator(simulation: PlugInsertion, dials: OperatorDials, rng: np.random.Generator) -> Operator:
    from vine_vla.tasks.plug.demonstrators import PlugOperator

    return PlugOperator(simulation, dials, rng)


def _expert(simulation: PlugInsertion, noise: float, disturbance: float, rng: np.random.Generator) -> Expert:
    from vine_vla.tasks.plug.demonstrators import PlugExpert
    from vine_vla.tasks.plug.expert import SkillDial

    return PlugExpert(simulation, SkillDial(scale=noise), rng, disturbance)


def _novice(simulation: PlugInsertion, rng: np.random.Generator) -> Expert:
    from vine_vla.tasks.plug.demonstrators import PlugNovice

    return PlugNovice(simulation, rng)


def _skill(simulation: PlugInsertion, noise: float) -> Skill:
    from vine_vla.tasks.plug.expert import SkillDial
    from vine_vla.tasks.plug.task import ScriptedSkill

    return ScriptedSkill(simulation, SkillDial(scale=noise))


LISTS = SceneLists(**FROZEN)

TASK = Task(
    name="plug",
    about="PlugInsertion: choose a grasp and a socket that the neighbours leave free (MuJoCo)",
    schema=PLUG_SCHEMA,
    splits={
        "demo": Split("demonstrations, with the appearance of `seen`", None),
        "pushed-demo": Split("the same; now and then somebody carries a neighbour to a socket", None),
        "seen": Split("the demonstrations' appearance", LISTS),
        "unseen": Split("other layouts, shades and instructions", LISTS),
        "pushed": Split("as `seen`, but somebody carries a neighbour to a socket meanwhile", LISTS),
    },
    cameras=dict.fromkeys(ROLES, (SIZE, SIZE, 3)),
    state=STATE,
    action=ACTION,
    fps=FPS,
    robot_type="panda_primitive",
    max_steps=400,
    subgoal_steps=SUBGOAL_STEPS,
    open=_open,
    operator=_operator,
    expert=_expert,
    skill=_skill,
    novice=_novice,
    takeover=PlugTakeover(),
    constants=CONSTANTS,
    oracle=Oracle(plans=lambda simulation: simulation.oracle_plans()),
    default_split="unseen",
    instructions=INSTRUCTIONS["seen"],
    experiments=EXPERIMENTS,
    env_id="vine/PlugInsertion-v0",
)
