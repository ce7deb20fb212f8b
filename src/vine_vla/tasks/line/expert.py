"""The scripted low-level policy: travels, lowers the hand, closes or opens it, lifts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Outcome, Subgoal
from vine_vla.core.protocols import DONE, FAILED, RUNNING, Float, Observation, SkillOutput
from vine_vla.tasks.line.rules import IN_HAND
from vine_vla.tasks.line.scenes import HIGH, HOLDS, LOW
from vine_vla.tasks.line.world import LineWorld

SUBGOAL_STEPS = 40
_SPEED = 6.0


class LineExpert:
    """Executes subgoals: `for action in expert.run(subgoal): world.step(action)`.

    It knows nothing of what is in the fingers' way: it comes down and hopes.

    Args:
        scale: of the hand's tremor; up to 2 the hand still comes down where it should.
        strength: of the disturbances, a standard deviation in pixels.
    """

    def __init__(self, world: LineWorld, scale: float, strength: float, rng: np.random.Generator) -> None:
        self.world, self.scale, self.strength, self.rng = world, scale, strength, rng
        self._travels = False

    def run(self, subgoal: Subgoal) -> Iterator[Float]:
        """Actions [3] until the subgoal is over; each is to be executed before the next is asked for."""
        world, move = self.world, self.world.move_of(subgoal)
        grasps, holds = move.verb == "grasp", IN_HAND in world.now.balls
        place = world.scene.balls[move.ball] if grasps else world.scene.cups[move.cup].x
        yield from self._travel(place, holds)
        yield from self._lift(LOW[move.hold or world.now.hold or HOLDS[0]], holds)
        if world.closed == grasps:
            yield self._action(0, 0, not grasps)  # after a slip: once more from the beginning
        yield self._action(0, 0, grasps)
        yield from self._lift(HIGH, grasps or IN_HAND in world.now.balls)

    def disturbance(self, rng: np.random.Generator) -> Float | None:
        """A push along the rail while the hand travels, now and then."""
        if not self._travels or self.strength <= 0 or rng.random() > 0.2:
            return None
        return np.array([rng.normal(0, self.strength), 0, 0], np.float32)

    def _travel(self, goal: float, closed: bool) -> Iterator[Float]:
        """Go along the rail until the hand is over `goal`."""
        for _ in range(SUBGOAL_STEPS // 2):
            away = goal - self.world.x
            if abs(away) < 0.3 + 0.3 * self.scale:
                break
            self._travels = True
            tremor = self.rng.normal(0, 0.2 * self.scale)
            yield self._action(float(np.clip(away, -_SPEED, _SPEED)) + tremor, 0, closed)
        self._travels = False

    def _lift(self, height: float, closed: bool) -> Iterator[Float]:
        for _ in range(SUBGOAL_STEPS // 8):
            if abs(self.world.height - height) < 0.1:
                break
            yield self._action(0, height - self.world.height, closed)

    def _action(self, dx: float, dz: float, closed: bool) -> Float:
        return np.array([dx, np.clip(dz, -8, 8), 1 if closed else -1], np.float32)


class ScriptedSkill:
    """The expert behind the protocol `Skill`; its done signal tells the truth."""

    privileged = True
    """Its subgoals are in the simulator's ids, not in perception's."""

    def __init__(self, world: LineWorld, scale: float) -> None:
        self.world, self.scale = world, scale
        self._actions: Iterator[Float] = iter(())
        self._subgoal: Subgoal | None = None

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None:
        """Begin `subgoal` from the present state."""
        expert = LineExpert(self.world, self.scale, 0.0, np.random.default_rng([seed, 3]))
        self._subgoal, self._actions = subgoal, expert.run(subgoal)

    def act(self, observation: Observation, graph: SceneGraph) -> SkillOutput:
        """The expert's next action; a still one with `done` or `failed` when it has finished."""
        done = np.zeros(3, np.float32)
        action: NDArray[np.float32] | None = next(self._actions, None)
        if action is None:
            assert self._subgoal is not None
            reached = self.world.subgoal_status(self._subgoal) is Outcome.REACHED
            done[DONE if reached else FAILED] = 1
            action = np.array([0, 0, 1 if self.world.closed else -1], np.float32)
        else:
            done[RUNNING] = 1
        return SkillOutput(action[None], 1, done)
