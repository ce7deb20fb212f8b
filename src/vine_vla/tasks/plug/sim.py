"""Simulation of PlugInsertion: reset to a scene, step actions, and the simulator's truth about the plug.

Nothing here is seen by learned code; the gymnasium environment hands out images, proprioception and the
instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from vine_vla.tasks.plug.arm import SetpointController
from vine_vla.tasks.plug.scenes import FACE_GAP, Block, PlugScene, Socket
from vine_vla.tasks.plug.spec import FPS
from vine_vla.tasks.plug.world import (
    BLOCKS,
    KINDS,
    PLUG_HALF,
    RACK_HEIGHT,
    SOCKET_HEIGHT,
    SOCKETS,
    PlugGeometry,
    plug_model,
)

Array = NDArray[np.float64]

STEP_DT = 1 / FPS  # seconds per action
HOME = np.array([0.48, 0.0, 0.30])
SEATED_Z = SOCKET_HEIGHT + PLUG_HALF[2]
RACK_Z = RACK_HEIGHT + PLUG_HALF[2]
TOLERANCE = 0.004
RETREAT = 0.05
_DERIVED = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat"),
    *("site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir"),
)
"""Poses as a step leaves them: those of its beginning, so they do not follow from the state at its end."""
_UNSTABLE = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)
CARRY_STEPS = 10  # of a neighbour that is carried to a socket: a second
CARRY_HEIGHT = 0.12
CLEAR = 0.15  # metres between the hand and the place above which a neighbour is to be lowered
FALLEN_STEPS = 4  # a plug is lost when it has lain for this many steps (0.4 s)


@dataclass(frozen=True)
class PlugPose:
    """Pose of the plug: position (3,) m, yaw (rad), `up` = cosine of its tilt."""

    position: Array
    yaw: float
    up: float


def _beside(socket: Socket, block: Block) -> tuple[float, float, float]:
    """Where a neighbour of `socket` stands: x, y (m), yaw (rad)."""
    along_x = block.side == "x"
    distance = block.sign * (PLUG_HALF[0 if along_x else 1] + FACE_GAP + block.depth / 2)
    axis = socket.yaw if along_x else socket.yaw + np.pi / 2
    return socket.x + distance * np.cos(axis), socket.y + distance * np.sin(axis), socket.yaw


class PlugSim:
    """One arm, one plug, up to three sockets with neighbours."""

    def __init__(self, geometry: PlugGeometry | None = None) -> None:
        self.geometry = geometry or PlugGeometry()
        self.model = plug_model(self.geometry)
        self.data = mujoco.MjData(self.model)
        self.arm = SetpointController(self.model, self.data)
        self._plug_body = self.model.body("plug").id
        self._plug_qpos = int(self.model.joint("plug").qposadr[0])
        self._mocap = {
            name: int(self.model.body(name).mocapid[0])
            for name in [
                "rack",
                *(f"{k}_{i}" for k in KINDS for i in range(SOCKETS)),
                *(f"block_{i}" for i in range(BLOCKS)),
            ]
        }
        self.scene: PlugScene | None = None
        self.home = HOME.copy()
        self.steps = 0
        self.lying = 0
        self.unsteady_since = -1
        self.onset = -1
        self.exploded = False
        self.carried_since = -1

    # ---- reset -----------------------------------------------------------------------------------
    def reset(self, scene: PlugScene, seed: int) -> None:
        """Place everything; the seed jitters the home pose and how the plug stands on the rack."""
        rng = np.random.default_rng([seed, 7919])
        mujoco.mj_resetData(self.model, self.data)
        self.scene = scene
        self._place(scene)
        x, y, yaw = scene.rack
        offset = rng.normal(0, 0.0006, 2)
        turn = yaw + rng.normal(0, 0.01)
        at = slice(self._plug_qpos, self._plug_qpos + 7)
        self.data.qpos[at] = [
            x + offset[0], y + offset[1], RACK_Z + 0.0003, np.cos(turn / 2), 0, 0, np.sin(turn / 2),
        ]  # fmt: skip
        self.home = HOME + rng.uniform(-1, 1, 3) * np.array([0.02, 0.03, 0.015])
        self.arm.reset(self.home, float(rng.uniform(-0.15, 0.15)))
        mujoco.mj_forward(self.model, self.data)
        for _ in range(4):  # let the servos and the plug settle
            self.arm.step(np.zeros(3), 0.0, -1.0)
        self.steps, self.lying, self.unsteady_since, self.onset, self.exploded = 0, 0, -1, -1, False
        self.carried_since = -1

    def _put(self, name: str, x: float, y: float, z: float, yaw: float) -> None:
        i = self._mocap[name]
        self.data.mocap_pos[i] = (x, y, z)
        self.data.mocap_quat[i] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))

    def _place(self, scene: PlugScene) -> None:
        model = self.model
        for name, i in self._mocap.items():
            self.data.mocap_pos[i] = (0.3 * i, 0, -1.0)
            self.data.mocap_quat[i] = (1, 0, 0, 0)
            del name
        model.geom_rgba[model.geom("table").id, :3] = scene.table_rgba
        model.geom_rgba[model.geom("plug").id, :3] = scene.plug_rgba
        for rail in ("rail_0", "rail_1"):
            model.geom_rgba[model.geom(rail).id, :3] = scene.rack_rgba
        x, y, yaw = scene.rack
        self._put("rack", x, y, 0.0, yaw)
        used = 0
        for i, socket in enumerate(scene.sockets):
            name = f"{socket.kind}_{i}"
            self._put(name, socket.x, socket.y, 0.0, socket.yaw)
            body = model.body(name)
            for g in range(body.geomadr[0], body.geomadr[0] + body.geomnum[0]):
                if model.geom_contype[g]:
                    model.geom_rgba[g, :3] = socket.rgba
            for block in socket.blocks:
                if not block.carried:
                    self._put_block(used, block, *_beside(socket, block))
                    used += 1
        if scene.push is not None:
            block, socket = scene.push.block, scene.sockets[scene.push.socket]
            self._put_block(
                used, block, *(_beside(socket, block) if block in socket.blocks else scene.push.waits)
            )

    def _put_block(self, index: int, block: Block, x: float, y: float, yaw: float) -> None:
        along_x = block.side == "x"
        half = np.array([block.depth / 2, block.width / 2] if along_x else [block.width / 2, block.depth / 2])
        g = self.model.geom(f"block_{index}").id
        size = np.array([half[0], half[1], block.height / 2])
        self.model.geom_size[g] = size
        self.model.geom_rbound[g] = np.linalg.norm(size)
        self.model.geom_aabb[g, 3:] = size
        self.model.geom_rgba[g, :3] = block.rgba
        self._put(f"block_{index}", x, y, block.height / 2, yaw)

    # ---- stepping --------------------------------------------------------------------------------
    def step(self, action: Array) -> None:
        """One 0.1 s action: (dx, dy, dz) m in the tool frame, dyaw rad, gripper target (>= 0 closes)."""
        if self.exploded:
            self.steps += 1
            return
        for _ in range(2):
            self.arm.step(
                np.asarray(action[:3], dtype=np.float64) / 2, float(action[3]) / 2, float(action[4])
            )
        self.steps += 1
        if any(self.data.warning[kind].number for kind in _UNSTABLE):
            # MuJoCo has thrown the state away; the plug is as lost as one that flew off the table. About 1 in
            # 2,000.
            self.exploded, self.onset = True, self.steps
            return
        self._carry()
        self._watch()

    def _carry(self) -> None:
        """Carry the waiting neighbour to its socket, once it is time and the hand is out of the way."""
        scene = self.scene
        assert scene is not None
        push = scene.push
        if push is None or self.steps < push.step or push.block in scene.sockets[push.socket].blocks:
            return
        x, y, yaw = _beside(scene.sockets[push.socket], push.block)
        if self.carried_since < 0:
            if np.linalg.norm(self.arm.tcp() - (x, y, CARRY_HEIGHT)) < CLEAR:
                return
            self.carried_since = self.steps
        share = min((self.steps - self.carried_since + 1) / CARRY_STEPS, 1.0)
        from_x, from_y, from_yaw = push.waits
        z = push.block.height / 2 + CARRY_HEIGHT * min(1.0, 4 * min(share, 1 - share))
        moved = (from_x + share * (x - from_x), from_y + share * (y - from_y))
        self._put(f"block_{len(scene.blocks) - 1}", *moved, z, from_yaw + share * (yaw - from_yaw))
        if share == 1.0:
            self.scene = scene.after_push()

    def _watch(self) -> None:
        """Follow the plug's stability; the onset of its loss is the first unsteady step before it lay."""
        plug = self.plug()
        if self.held():
            self.unsteady_since, self.lying = -1, 0
            return
        if plug.up < 0.95 or plug.position[2] < RACK_Z - 0.004:
            if self.unsteady_since < 0:
                self.unsteady_since = self.steps
        else:
            self.unsteady_since = -1
        lost = (
            plug.up < 0.85 or plug.position[2] < RACK_Z - 0.004 or bool(np.abs(plug.position[:2]).max() > 2.0)
        )
        self.lying = self.lying + 1 if lost else 0
        if self.lying >= FALLEN_STEPS and self.onset < 0:
            self.onset = self.unsteady_since

    # ---- truth -----------------------------------------------------------------------------------
    def plug(self) -> PlugPose:
        """Where the plug is."""
        rotation = self.data.xmat[self._plug_body].reshape(3, 3)
        position = self.data.xpos[self._plug_body].copy()
        return PlugPose(position, float(np.arctan2(rotation[1, 0], rotation[0, 0])), float(rotation[2, 2]))

    def held(self) -> str | None:
        """The grasp by which the plug is held, `long` or `short`; None when it is not."""
        if self.arm.gripper < 0:
            return None
        width = self.arm.width()
        if width < 0.015 or np.linalg.norm(self.plug().position - self.arm.tcp()) > 0.032:
            return None
        return "long" if width > 0.033 else "short"

    def in_socket(self, index: int) -> tuple[Array, float]:
        """Plug position (3,) in the socket's frame, z the remaining depth; yaw error (rad, mod pi)."""
        assert self.scene is not None
        socket, plug = self.scene.sockets[index], self.plug()
        d = plug.position - np.array([socket.x, socket.y, SEATED_Z])
        cos, sin = np.cos(socket.yaw), np.sin(socket.yaw)
        yaw = (plug.yaw - socket.yaw + np.pi / 2) % np.pi - np.pi / 2
        return np.array([cos * d[0] + sin * d[1], -sin * d[0] + cos * d[1], d[2]]), float(yaw)

    def seated(self, index: int) -> bool:
        """Plug fully in socket `index` (which then is of the fitting kind), upright; held or not."""
        assert self.scene is not None
        if self.scene.sockets[index].kind != "two_pin":
            return False
        d, _ = self.in_socket(index)
        return bool(d[2] < TOLERANCE and np.hypot(d[0], d[1]) < TOLERANCE and self.plug().up > 0.98)

    def on_rack(self) -> bool:
        """Plug standing on the rack; held or not."""
        assert self.scene is not None
        x, y, _ = self.scene.rack
        plug = self.plug()
        return bool(
            np.hypot(plug.position[0] - x, plug.position[1] - y) < 0.012
            and abs(plug.position[2] - RACK_Z) < 0.004
            and plug.up > 0.98
        )

    def retreated(self) -> bool:
        """Gripper commanded open and at least 5 cm above the plug's centre."""
        return bool(self.arm.gripper < 0 and self.arm.tcp()[2] > self.plug().position[2] + RETREAT)

    def dead(self) -> bool:
        """The plug has fallen for good."""
        return self.onset >= 0

    def success(self) -> bool:
        """The goal: seated in any fitting socket, released, hand retreated."""
        assert self.scene is not None
        if self.exploded or not self.retreated():
            return False
        return any(self.seated(i) for i in range(len(self.scene.sockets)))

    # ---- state -----------------------------------------------------------------------------------
    def save_state(self) -> dict[str, Any]:
        """Everything that the future depends on, for an exact restore in the same scene."""
        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(self.model, spec))
        mujoco.mj_getState(self.model, self.data, physics, spec)
        return {
            "physics": physics, "derived": {name: getattr(self.data, name).copy() for name in _DERIVED},
            "arm": self.arm.state(), "scene": self.scene, "home": self.home.copy(),
            "steps": self.steps, "lying": self.lying,
            "unsteady_since": self.unsteady_since, "onset": self.onset, "exploded": self.exploded,
            "carried_since": self.carried_since,
        }  # fmt: skip

    def restore_state(self, state: dict[str, Any]) -> None:
        """Inverse of `save_state`, also from another scene."""
        self.scene = state["scene"]
        self._place(state["scene"])
        mujoco.mj_setState(self.model, self.data, state["physics"], mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(self.model, self.data)
        # mj_forward overwrites the warm start, on which the next step depends.
        mujoco.mj_setState(self.model, self.data, state["physics"], mujoco.mjtState.mjSTATE_INTEGRATION)
        for name, values in state["derived"].items():
            getattr(self.data, name)[:] = values
        self.arm.restore(state["arm"])
        self.home = state["home"].copy()
        self.steps, self.lying = state["steps"], state["lying"]
        self.unsteady_since, self.onset = state["unsteady_since"], state["onset"]
        self.exploded, self.carried_since = state["exploded"], state["carried_since"]
        for kind in _UNSTABLE:
            self.data.warning[kind].number = 0
