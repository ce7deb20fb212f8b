"""The running simulation: a hand on a rail, and what becomes of the balls.

Actions, 5 a second, float32 [3]: step along the rail and step in height (pixels of the front camera), and the
grip (closed above 0, which also switches the magnet on). Proprioception, float32 [4]: place, height and grip
of the hand, and whether it holds something. Chance decides at two moments alone: when the hand closes at a
ball, and when it opens over a cup (`rules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Box, SceneGraph
from vine_vla.core.options import Outcome, Subgoal, check_subgoal
from vine_vla.core.protocols import Float, Observation
from vine_vla.tasks.base import Space
from vine_vla.tasks.line import rules
from vine_vla.tasks.line.drawing import CAMERAS, OUT_OF_SIGHT, Body, draw, visible_boxes
from vine_vla.tasks.line.graph import SCHEMA, name_objects, scene_graph
from vine_vla.tasks.line.layouts import line_scene
from vine_vla.tasks.line.rules import IN_HAND, LOST, ON_STAND, Move, Situation
from vine_vla.tasks.line.scenes import (
    BALL,
    CUP_HEIGHT,
    CUP_WIDTH,
    HAND_HEIGHT,
    HAND_WIDTH,
    HIGH,
    HOLDS,
    LOW,
    POST_WIDTH,
    STAND,
    WIDTH,
    Scene,
)

ACTION = Space(("dx", "dz", "grip"), (-6.0, -8.0, -1.0), (6.0, 8.0, 1.0))
HAND_RGB, BOLT_RGB = (0.95, 0.55, 0.1), (0.1, 0.1, 0.12)
STATE = Space.unbounded("x", "height", "grip", "holds")
NEAR = 1.2
"""The hand acts on what it is beside or over to within this distance."""


class LineWorld:
    """One episode at a time: `reset(scene, seed)`, then `observe` and `step`.

    Args:
        split: where scenes come from. render: without it observations have no images.
    """

    def __init__(self, split: str = "seen", render: bool = True) -> None:
        line_scene(split, 0)  # refuses an unknown split
        self.split, self.render = split, render
        self._scene: Scene | None = None

    # ---- what learned code may see ---------------------------------------------------------------
    @property
    def instruction(self) -> str:
        """The task text of this scene."""
        return self.scene.instruction

    def reset(self, scene: int | Scene, seed: int) -> Observation:
        """Start an episode in a numbered or a given scene; the seed places the hand and draws chances."""
        numbered = not isinstance(scene, Scene)
        self._scene = line_scene(self.split, scene) if numbered else scene
        self.rng = np.random.default_rng([scene if numbered else 0, seed, 2])
        self.x, self.height, self.closed = float(self.rng.uniform(4, WIDTH - 4)), HIGH, False
        self.now = rules.start(self.scene)
        self.steps, self.onset, self._failure = 0, None, None
        self.names = name_objects(self.scene, visible_boxes(self.bodies(), self.x))
        return self.observe()

    def observe(self) -> Observation:
        """Images (none without `render`) and proprioception of this moment."""
        images = {}
        if self.render:
            images = {role: draw(self.scene, self.bodies(), role, self.x) for role in CAMERAS}
        state = np.array([self.x, self.height, self.closed, IN_HAND in self.now.balls], np.float32)
        return Observation(images, state)

    def step(self, action: Float | NDArray[np.float64]) -> bool:
        """Execute one action; the world itself never ends an episode.

        Raises:
            VineError: the action is not three finite numbers.
        """
        dx, dz, grip = ACTION.clip(action)
        self.x = float(np.clip(self.x + dx, 1, WIDTH - 1))
        self.height = float(np.clip(self.height + dz, LOW["sides"], HIGH))
        switched, self.closed = self.closed != (grip > 0), bool(grip > 0)
        if switched and self.closed and IN_HAND not in self.now.balls:
            self._grasp()
        elif switched and not self.closed and IN_HAND in self.now.balls:
            self._put()
        self.steps += 1
        return False

    # ---- what the hand does ----------------------------------------------------------------------
    def _is_at(self, x: float, hold: str) -> bool:
        """Whether the hand is where it grasps and puts in a hold at `x`."""
        return abs(self.x - x) < NEAR and abs(self.height - LOW[hold]) < NEAR

    def _grasp(self) -> None:
        """The hand closes: a ball between its fingers or under its magnet is grasped, or not."""
        for ball, x in enumerate(self.scene.balls):
            for hold in HOLDS:
                if self.now.balls[ball] == ON_STAND and self._is_at(x, hold):
                    self._try(Move("grasp", ball, hold), "knocked_over")
                    return

    def _put(self) -> None:
        """The hand opens: the ball falls into a cup, sticks to the hand, or is lost."""
        ball = self.now.balls.index(IN_HAND)
        for index, cup in enumerate(self.scene.cups):
            if index not in self.now.balls and self._is_at(cup.x, self.now.hold):
                self._try(Move("put", ball, cup=index), "missed_cup")
                return
        self._lose(ball, "dropped")

    def _try(self, move: Move, failure: str) -> None:
        p = rules.chances(self.scene, self.now, move)
        draw = self.rng.random()
        if draw < p.reached:
            self.now = rules.after(self.now, move)
            if self.is_dead():
                self.onset, self._failure = self.steps, "wrong_cup"
        elif draw >= p.reached + p.slipped:
            self._lose(move.ball, failure)

    def _lose(self, ball: int, failure: str) -> None:
        self.now = Situation((*self.now.balls[:ball], LOST, *self.now.balls[ball + 1 :]))
        self.onset, self._failure = self.steps, failure

    # ---- the simulator's truth -------------------------------------------------------------------
    @property
    def scene(self) -> Scene:
        """The scene of this episode; raises VineError before the first reset."""
        if self._scene is None:
            raise VineError("no episode is running", hint="call reset(scene, seed) first")
        return self._scene

    def bodies(self) -> list[Body]:
        """Everything on the line, in the order of its objects."""
        scene = self.scene
        return [
            Body("gripper", self.x, self.height, HAND_WIDTH, HAND_HEIGHT, HAND_RGB),
            *(Body("cup", cup.x, 0.0, CUP_WIDTH, CUP_HEIGHT, cup.rgb) for cup in scene.cups),
            *(Body("post", post.x, 0.0, POST_WIDTH, post.height, scene.post) for post in scene.posts),
            *(Body("bolt", bolt.x, 0.0, POST_WIDTH, bolt.height, BOLT_RGB) for bolt in scene.bolts),
            *(
                Body("ball", *self._place(ball), 2 * BALL, 2 * BALL, scene.ball)
                for ball in range(len(scene.balls))
            ),
        ]

    def _place(self, ball: int) -> tuple[float, float]:
        """x of a ball, and height of its lower end."""
        place = self.now.balls[ball]
        if place == IN_HAND:
            return self.x, self.height - (LOW[self.now.hold] - STAND)
        if place == ON_STAND:
            return self.scene.balls[ball], STAND
        return (0.0, OUT_OF_SIGHT) if place == LOST else (self.scene.cups[place].x, 1.0)

    def true_graph(self, earlier: SceneGraph | None = None) -> SceneGraph:
        """The scene graph of this moment; ids stay those of the episode's first graph."""
        return scene_graph(
            self.scene, self.now, self.closed, self.names, visible_boxes(self.bodies(), self.x)
        )

    def true_boxes(self) -> Mapping[str, Mapping[str, Box]]:
        """Camera role -> object id -> visible box."""
        found = list(zip(self.names, visible_boxes(self.bodies(), self.x), strict=True))
        return {role: {name: boxes[role] for name, boxes in found if role in boxes} for role in CAMERAS}

    def _ids(self, kind: str) -> list[str]:
        return [name for name, body in zip(self.names, self.bodies(), strict=True) if body.kind == kind]

    def move_of(self, subgoal: Subgoal) -> Move:
        """A subgoal by indices; raises VineError for unknown verbs and objects."""
        check_subgoal(subgoal, self.true_graph(), SCHEMA)
        ball = self._ids("ball").index(subgoal.args[0])
        if subgoal.verb == "put":
            return Move("put", ball, cup=self._ids("cup").index(subgoal.args[1]))
        return Move("grasp", ball, subgoal.verb.removeprefix("grasp_"))

    def subgoal_of(self, move: Move) -> Subgoal:
        """Inverse of `move_of`."""
        ball = self._ids("ball")[move.ball]
        if move.verb == "grasp":
            return Subgoal(f"grasp_{move.hold}", (ball,))
        return Subgoal("put", (ball, self._ids("cup")[move.cup]))

    def subgoal_status(self, subgoal: Subgoal) -> Outcome | None:
        """`reached` or `dead`; None while neither holds."""
        move = self.move_of(subgoal)
        if self.is_dead():
            return Outcome.DEAD
        there = rules.after(self.now, move)
        return Outcome.REACHED if self.now == there else None

    def is_success(self) -> bool:
        """Every ball is in a cup, and the named cup, if there is one, is filled."""
        return rules.is_goal(self.scene, self.now)

    def is_dead(self) -> bool:
        """A ball is lost, or the named cup is empty and no ball is left."""
        return rules.is_dead(self.scene, self.now)

    def failure_kind(self) -> str | None:
        """`knocked_over`, `missed_cup`, `dropped` or `wrong_cup`; None while the chances are not lost."""
        return self._failure

    def save_state(self) -> Any:
        """Everything that the future depends on."""
        own = (self._scene, self.x, self.height, self.closed, self.now, self.steps, self.onset, self._failure)
        return own, self.names, self.rng.bit_generator.state

    def restore_state(self, state: Any) -> None:
        """Return exactly to a saved state."""
        own, self.names, bits = state
        self._scene, self.x, self.height, self.closed, self.now, self.steps, self.onset, self._failure = own
        self.rng.bit_generator.state = bits

    def close(self) -> None:
        """Nothing to free."""
