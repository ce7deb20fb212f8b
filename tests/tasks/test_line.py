"""The task `line`: its chances, its exact value, its operators, and that its pictures show what boxes say."""

import numpy as np
import pytest

from vine_vla.core.options import Outcome, Subgoal
from vine_vla.tasks.base import OperatorDials
from vine_vla.tasks.line import TASK
from vine_vla.tasks.line.world import LineWorld


def execute(world: LineWorld, subgoal: Subgoal, seed: int = 0, scale: float = 0.5) -> Outcome:
    """One subgoal by the scripted expert."""
    for action in TASK.expert(world, scale, 0.0, np.random.default_rng([seed, 1])).run(subgoal):
        world.step(action)
    return world.subgoal_status(subgoal) or Outcome.SLIPPED


def run_operator(world: LineWorld, scene: int, dials: OperatorDials) -> list[tuple[Subgoal, Outcome]]:
    world.reset(scene, scene)
    operator, history = TASK.operator(world, dials, np.random.default_rng([scene, 2])), []
    while (subgoal := operator.next(history)) is not None:
        history.append((subgoal, execute(world, subgoal, scene)))
    return history


@pytest.mark.parametrize("split", ["demo", "unseen"])
def test_recorded_frames_show_what_the_boxes_say(split):
    """A box holds exactly the pixels of its body: outside all boxes nothing has a body's colour."""
    world = TASK.simulation(split)
    for scene in range(8):
        world.reset(scene, 0)
        for action in TASK.expert(world, 1.0, 0.0, np.random.default_rng(0)).run(
            TASK.oracle.plans(world)[0][0]
        ):
            world.step(action)
            images, boxes = world.observe().images, world.true_boxes()
            for role, image in images.items():
                for name, body in zip(world.names, world.bodies(), strict=True):
                    colours = {"ball": world.scene.ball, "post": world.scene.post, "cup": body.rgb}
                    if body.kind not in colours:
                        continue
                    rgb = (255 * np.array(colours[body.kind])).round().astype(np.uint8)
                    rows, columns = np.nonzero((image == rgb).all(-1))
                    if name not in boxes[role]:
                        continue
                    box = np.array(boxes[role][name]) * 64
                    inside = (columns >= box[0]) & (columns < box[2]) & (rows >= box[1]) & (rows < box[3])
                    assert inside.any()
                    edge = [
                        columns[inside].min(),
                        rows[inside].min(),
                        columns[inside].max(),
                        rows[inside].max(),
                    ]
                    assert np.allclose(np.array(edge) + [0, 0, 1, 1], box)
