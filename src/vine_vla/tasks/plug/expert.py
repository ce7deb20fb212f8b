"""The scripted expert: executes any subgoal from the current state, with the faults of a human operator.

It reads the simulator's truth, so it stands for a person who sees the scene. It knows nothing of *why* an
insertion
fails: it lowers the plug, and lets go when nothing moves any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.options import Subgoal
from vine_vla.tasks.plug.arm import wrap_angle
from vine_vla.tasks.plug.sim import RACK_Z, SEATED_Z, STEP_DT, PlugSim

Array = NDArray[np.float64]

CARRY_Z = 0.17  # TCP height (m) at which everything clears every neighbour
GRASP_ABOVE_CENTRE = 0.0055
HOLD_STEPS = 5  # still steps at the end of a subgoal; they are the demonstrator's "done"


@dataclass(frozen=True)
class SkillDial:
    """How good an operator's control is.

    Args:
        scale: s; 0 is perfect, .5 good, 1 ordinary, 2 poor. Scales all of the below.
        align: standard deviation (m) of the alignment before insertion, each axis.
        align_yaw: the same for yaw (rad).
        height: standard deviation (m) of the grasp height, clipped to `height_limit`.
        height_bias: constant added to the grasp height (m); 0 but for measuring the shortcut.
        grasp_yaw: standard deviation (rad) of the hand's yaw at the grasp.
        speed: factor on all speeds; 1 is 0.25 m/s in free space and 0.06 m/s when inserting.
    """

    scale: float = 0.5
    align: float = 0.0015
    align_yaw: float = 0.05
    height: float = 0.003
    height_limit: float = 0.004
    height_bias: float = 0.0
    grasp_yaw: float = 0.1
    speed: float = 1.0


class Expert:
    """Executes subgoals step by step: `for action in expert.run(sim, subgoal, socket): sim.step(action)`.

    It may take over in any pose: it lifts clear, lines up again, grasps again what it has lost, and finishes.
    `moving` says whether the hand is at present moving freely, so that a push may be injected; `aiming`
    whether it is doing so close above the plug or the socket, where recoveries are worth most.
    """

    def __init__(self, dial: SkillDial, rng: np.random.Generator) -> None:
        self.dial, self.rng = dial, rng
        self.moving = self.aiming = False
        self._tremor: Array = np.zeros(3)
        self._speed = 1.0

    def run(self, sim: PlugSim, subgoal: Subgoal, socket: int | None = None) -> Iterator[Array]:
        """Actions (5,) of `subgoal` from any state; `socket` is the index of its socket argument."""
        assert sim.scene is not None
        hurry = float(np.clip(np.exp(self.rng.normal(0, 0.3 * self.dial.scale)), 0.5, 2.0))
        self._speed = self.dial.speed * hurry
        if subgoal.verb in ("grasp_long", "grasp_short"):
            yield from self._grasp(sim, subgoal.verb.removeprefix("grasp_"))
        elif subgoal.verb == "insert" and socket is not None:
            place = sim.scene.sockets[socket]
            yield from self._place(sim, np.array([place.x, place.y, SEATED_Z]), place.yaw)
        elif subgoal.verb == "put_back":
            x, y, yaw = sim.scene.rack
            yield from self._place(sim, np.array([x, y, RACK_Z]), yaw)
        else:
            raise VineError(
                f"the expert cannot execute {subgoal}",
                hint="verbs: grasp_long, grasp_short, insert, put_back",
            )

    # ---- motions ---------------------------------------------------------------------------------
    def _action(self, sim: PlugSim, world: Array, turn: float, gripper: float) -> Array:
        """Tool-frame action for a world-frame set-point step, with the hand's tremor."""
        s = self.dial.scale
        previous = self._tremor
        self._tremor = 0.8 * previous + 0.6 * self.rng.normal(0, 0.0005 * s, 3) if s > 0 else previous
        world = world + self._tremor - previous
        cos, sin = np.cos(sim.arm.yaw), np.sin(sim.arm.yaw)
        return np.array(
            [cos * world[0] + sin * world[1], -sin * world[0] + cos * world[1], world[2], turn, gripper]
        )

    def _go(
        self, sim: PlugSim, target: Array, yaw: float, gripper: float, speed: float, near: float = 0.001
    ) -> Iterator[Array]:
        """Move the set-point to `target` and `yaw`, slower near the end; stops within `near` metres."""
        self.moving = True
        for _ in range(60):
            error = target - sim.arm.position
            turn = wrap_angle(yaw - sim.arm.yaw)
            distance = float(np.linalg.norm(error))
            if distance < near and abs(turn) < 0.015:
                break
            length = min(distance, speed * self._speed * STEP_DT)
            if distance > 0.004:
                length = min(length, 0.7 * distance)
            step = error * (length / max(distance, 1e-9))
            yield self._action(
                sim, step, float(np.clip(0.7 * turn, -0.2, 0.2)) if abs(turn) > 0.02 else turn, gripper
            )
        self.moving = False

    def _wait(self, sim: PlugSim, steps: int, gripper: float) -> Iterator[Array]:
        for _ in range(steps):
            yield self._action(sim, np.zeros(3), 0.0, gripper)

    def _settle(self, sim: PlugSim, gripper: float) -> Iterator[Array]:
        """Wait (at most 0.6 s) until the measured TCP is within 1.5 mm of the set-point."""
        for _ in range(6):
            if float(np.linalg.norm(sim.arm.tcp() - sim.arm.position)) < 0.0015:
                return
            yield self._action(sim, np.zeros(3), 0.0, gripper)

    def _clear(self, sim: PlugSim, target: Array, gripper: float) -> Iterator[Array]:
        """Lift straight up before travelling, unless already above the target."""
        if sim.arm.position[2] < CARRY_Z - 0.01 and np.hypot(*(sim.arm.position - target)[:2]) > 0.004:
            up = np.array([*sim.arm.position[:2], CARRY_Z])
            yield from self._go(sim, up, sim.arm.yaw, gripper, 0.2, near=0.012)

    # ---- subgoals --------------------------------------------------------------------------------
    def _grasp(self, sim: PlugSim, kind: str) -> Iterator[Array]:
        held = sim.held()
        if held is not None and held != kind:
            assert sim.scene is not None
            x, y, yaw = sim.scene.rack
            yield from self._place(sim, np.array([x, y, RACK_Z]), yaw, home=False)
        if held != kind:
            yield from self._take(sim, kind)
        yield from self._go(
            sim, np.array([*sim.arm.position[:2], CARRY_Z]), sim.arm.yaw, 1.0, 0.2, near=0.002
        )
        yield from self._wait(sim, HOLD_STEPS, 1.0)

    def _take(self, sim: PlugSim, kind: str) -> Iterator[Array]:
        """Go to the plug and close the gripper on it."""
        s, rng = self.dial.scale, self.rng
        along = rng.normal(0, (0.006 if kind == "short" else 0.003) * s)
        along = float(np.clip(along, -0.012, 0.012) if kind == "short" else np.clip(along, -0.006, 0.006))
        limit = self.dial.height_limit
        height = float(np.clip(rng.normal(0, self.dial.height * s), -limit, limit)) + self.dial.height_bias
        twist = float(rng.normal(0, self.dial.grasp_yaw * s))

        def target() -> tuple[Array, float]:
            plug = sim.plug()
            base = plug.yaw if kind == "short" else plug.yaw - np.pi / 2
            face = plug.yaw if kind == "short" else plug.yaw + np.pi / 2
            offset = np.array([along * np.cos(face), along * np.sin(face), GRASP_ABOVE_CENTRE + height])
            # The plug is symmetric: take the half turn nearest to the middle of the wrist's range.
            return plug.position + offset, base + np.pi * np.round((-np.pi / 4 - base) / np.pi) + twist

        place, yaw = target()
        yield from self._clear(sim, place, -1.0)
        place, yaw = target()
        yield from self._go(sim, place + np.array([0, 0, 0.06]), yaw, -1.0, 0.25, near=0.003)
        yield from self._settle(sim, -1.0)
        self.aiming = True
        yield from self._go(sim, place, yaw, -1.0, 0.12)
        self.aiming = False
        yield from self._settle(sim, -1.0)
        yield from self._wait(sim, 5, 1.0)

    def _place(self, sim: PlugSim, goal: Array, goal_yaw: float, home: bool = True) -> Iterator[Array]:
        """Bring the held plug to `goal` (its centre), let go, retreat home."""
        if sim.held() is None:
            plug = sim.plug()
            if np.linalg.norm(plug.position - goal) < 0.005 and plug.up > 0.98:
                yield from self._retreat(sim, home)
                return
            across = abs(np.cos(sim.arm.yaw - plug.yaw)) < 0.7
            yield from self._take(sim, "long" if across else "short")
        s, rng = self.dial.scale, self.rng
        error = np.array([*rng.normal(0, self.dial.align * s, 2), 0.0])
        error_yaw = float(rng.normal(0, self.dial.align_yaw * s))

        def target() -> tuple[Array, float]:
            plug = sim.plug()
            turn = (goal_yaw - plug.yaw + np.pi / 2) % np.pi - np.pi / 2 + error_yaw
            # Where the TCP must be so that the plug, as it sits in the hand now, comes to the goal.
            offset = sim.arm.tcp() - plug.position
            cos, sin = np.cos(turn), np.sin(turn)
            rotated = np.array(
                [cos * offset[0] - sin * offset[1], sin * offset[0] + cos * offset[1], offset[2]]
            )
            return goal + error + rotated, sim.arm.tcp_yaw() + turn

        place, yaw = target()
        yield from self._clear(sim, place, 1.0)
        place, yaw = target()
        yield from self._go(sim, place + np.array([0, 0, 0.07]), yaw, 1.0, 0.25, near=0.003)
        yield from self._settle(sim, 1.0)
        place, yaw = target()
        self.aiming = True
        yield from self._go(sim, place + np.array([0, 0, 0.05]), yaw, 1.0, 0.1)
        yield from self._settle(sim, 1.0)
        yield from self._lower(sim, place, yaw)
        self.aiming = False
        yield from self._wait(sim, 4, -1.0)
        yield from self._retreat(sim, home)

    def _retreat(self, sim: PlugSim, home: bool) -> Iterator[Array]:
        up = np.array([*sim.arm.position[:2], max(CARRY_Z, sim.arm.position[2] + 0.03)])
        yield from self._go(sim, up, sim.arm.yaw, -1.0, 0.15, near=0.01)
        if home:
            yield from self._go(sim, sim.home, 0.0, -1.0, 0.3, near=0.004)
            yield from self._wait(sim, HOLD_STEPS, -1.0)

    def _lower(self, sim: PlugSim, place: Array, yaw: float) -> Iterator[Array]:
        """Descend until the set-point arrives or the hand has not moved for 0.4 s."""
        still, last = 0, sim.arm.tcp()[2]
        for _ in range(40):
            below = place[2] - sim.arm.position[2]
            if below > -0.0005 or still >= 4:
                break
            self.moving = bool(below < -0.03)
            aside = (place - sim.arm.position)[:2]
            pause = np.hypot(*aside) > 0.0025  # a push has moved the hand: line up before going on
            down = 0.0 if pause else max(below, -0.06 * self._speed * STEP_DT)
            step = np.array([*aside * (0.7 if pause else 0.3), down])
            yield self._action(sim, step, 0.3 * wrap_angle(yaw - sim.arm.yaw), 1.0)
            now = sim.arm.tcp()[2]
            still = still + 1 if not pause and last - now < 0.0006 else 0
            last = now
        self.moving = False
        yield from self._settle(sim, 1.0)
