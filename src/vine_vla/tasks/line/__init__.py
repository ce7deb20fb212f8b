"""`line`: a hand on a rail puts balls into cups; no physics, tiny pictures, chance.

A ball is grasped by its sides or from above. Held by its sides it is safe, until it is put into a cup beside
which a post stands, where the fingers come down. From above it needs no room, but an iron bolt beside the
ball draws the magnet away.

The task to copy for one of your own: `scenes` says what a scene is, `layouts` where scenes come from, `rules`
what happens with which chances; `world` runs an episode, `drawing` and `graph` show it; `expert` moves,
`operators` choose; `TASK` below is all that the rest of VINE knows.
"""

from __future__ import annotations

from collections.abc import Sequence

from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.tasks.base import Oracle, Split, Task
from vine_vla.tasks.line import rules
from vine_vla.tasks.line.drawing import CAMERAS, SIZE
from vine_vla.tasks.line.experiments import EXPERIMENTS
from vine_vla.tasks.line.expert import SUBGOAL_STEPS, LineExpert, ScriptedSkill
from vine_vla.tasks.line.graph import SCHEMA, situation_of
from vine_vla.tasks.line.operators import FixedChoice, LineOperator
from vine_vla.tasks.line.scenes import HOLDS
from vine_vla.tasks.line.world import ACTION, STATE, LineWorld


def _plans(world: LineWorld) -> Sequence[Sequence[Subgoal]]:
    plan = rules.best_plan(world.scene, world.now, 4 * len(world.scene.balls))
    return [[world.subgoal_of(move) for move in plan]] if plan else []


def _value(world: LineWorld, graph: SceneGraph, budget: int) -> float:
    return rules.value(world.scene, situation_of(graph), budget)


TASK = Task(
    name="line",
    about="a hand on a rail puts balls into cups; no physics, an episode takes milliseconds",
    schema=SCHEMA,
    splits={
        "demo": Split("the stream that demonstrations come from", lists=None),
        "seen": Split("looks like the demonstrations"),
        "unseen": Split("other shades, other arrangements, other words"),
    },
    cameras=dict.fromkeys(CAMERAS, (SIZE, SIZE, 3)),
    state=STATE,
    action=ACTION,
    fps=5.0,
    robot_type="line_hand",
    max_steps=200,
    subgoal_steps=SUBGOAL_STEPS,
    open=LineWorld,
    operator=LineOperator,
    expert=LineExpert,
    skill=ScriptedSkill,
    constants={
        f"{hold}-{'farthest' if far else 'nearest'}": FixedChoice(hold, far)
        for hold in HOLDS
        for far in (False, True)
    },
    oracle=Oracle(plans=_plans, value=_value),
    experiments=EXPERIMENTS,
)
