"""A Panda-kinematics arm from primitive geoms, and its Cartesian set-point controller.

The link offsets, joint limits and finger travel are Panda's; every link is a capsule or a box, so nothing has
to be downloaded and a frame renders in about a millisecond. Arm links do not collide; finger pads and finger
backs do.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CONTROL_DT = 0.05  # seconds per Cartesian set-point (20 Hz)
PHYSICS_DT = 0.002
SLICES = 5  # joint targets are interpolated in this many slices of a set-point
FINGER_OPEN = 0.032  # finger travel at "open", metres per finger; clears the plug's long side by 10 mm
FINGER_CLOSED = -0.01  # below zero, so that the 30 N force limit acts on whatever is held
RELEASE_OPENING = 0.008  # metres per finger beyond the held width while the hand is still low
RELEASE_CLEAR_Z = 0.13  # TCP height (m) from which the gripper may open fully again
PUSH_LIMIT = 0.0093
"""How far (m) the set-point may be below the measured TCP: the controller's force limit.

A hand that presses on a neighbouring part is deflected sideways by about two thirds of this; that is what
makes an insertion beside a tall neighbour brittle, whatever the height of the grasp."""
HOME_POSTURE = np.array([0.0, -0.45, 0.0, -2.35, 0.0, 1.9, 0.785])
JOINT_LOW = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
JOINT_HIGH = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])

_DAMPING = 1e-4 * np.eye(6)
_H = "0.70710678"
_LINKS = (  # position, quaternion, visual geoms
    ("0 0 .333", "1 0 0 0", '<geom type="capsule" fromto="0 0 -.19 0 0 -.02" size=".055" class="white"/>'),
    (
        "0 0 0",
        f"{_H} -{_H} 0 0",
        '<geom type="capsule" fromto="0 0 -.06 0 0 .06" size=".055" class="white"/>',
    ),
    (
        "0 -.316 0",
        f"{_H} {_H} 0 0",
        '<geom type="capsule" fromto="0 0 -.2 0 0 -.06" size=".055" class="white"/>',
    ),
    (
        "0.0825 0 0",
        f"{_H} {_H} 0 0",
        '<geom type="capsule" fromto="0 0 -.05 0 0 .05" size=".05" class="grey"/>',
    ),
    (
        "-0.0825 .384 0",
        f"{_H} -{_H} 0 0",
        '<geom type="capsule" fromto="0 0 -.26 0 .04 -.05" size=".045" class="white"/>',
    ),
    ("0 0 0", f"{_H} {_H} 0 0", '<geom type="capsule" fromto="0 0 -.05 0 0 .03" size=".045" class="white"/>'),
    ("0.088 0 0", f"{_H} {_H} 0 0", '<geom type="capsule" fromto="0 0 .0 0 0 .06" size=".04" class="grey"/>'),
)


def arm_defaults() -> str:
    """The `<default>` classes that the arm's geoms use."""
    return """
  <default class="visual"><geom contype="0" conaffinity="0" group="2"/>
    <default class="white"><geom rgba=".88 .88 .9 1"/></default>
    <default class="grey"><geom rgba=".35 .36 .4 1"/></default>
  </default>"""


def arm_body(wrist_camera: bool = True) -> str:
    """MJCF of the arm's body tree, based at the origin, hand pointing down at yaw 0."""
    text = ""
    for index, (pos, quat, geoms) in enumerate(_LINKS):
        low, high = JOINT_LOW[index], JOINT_HIGH[index]
        text += (
            f'<body name="link{index + 1}" pos="{pos}" quat="{quat}" gravcomp="1">'
            f'<inertial pos="0 0 0" mass="{2.5 if index < 5 else 1.2}" diaginertia=".02 .02 .02"/>'
            f'<joint name="joint{index + 1}" axis="0 0 1" range="{low} {high}"'
            f' damping="1" armature=".1"/>{geoms}'
        )
    camera = (
        '<camera name="wrist" pos=".09 0 .03" xyaxes="0 -1 0 -.914 0 -.407" fovy="80"/>'
        if wrist_camera
        else ""
    )
    text += (
        '<body name="hand" pos="0 0 .107" quat=".9238795 0 0 -.3826834" gravcomp="1">'
        '<inertial pos="0 0 .03" mass=".6" diaginertia=".002 .002 .001"/>'
        '<geom class="grey" type="box" size=".022 .075 .02" pos="0 0 .035"/>'
        f'<site name="tcp" pos="0 0 .1034" rgba="0 0 0 0"/>{camera}'
    )
    for side, sign in (("left", 1), ("right", -1)):
        text += (
            f'<body name="finger_{side}" pos="0 0 .0584" gravcomp="1">'
            '<inertial pos="0 0 .03" mass=".05" diaginertia="1e-5 1e-5 1e-5"/>'
            f'<joint name="finger_{side}" type="slide" axis="0 {sign} 0" range="0 .04"'
            ' damping="5" armature=".1"/>'
            f'<geom name="pad_{side}" type="box" size=".009 .004 .011" pos="0 {sign * 0.004} .045" condim="6"'
            ' friction="1.5 .05 .001" solref="0.004 1" rgba=".15 .15 .17 1"/>'
            f'<geom name="back_{side}" type="box" size=".009 .004 .028" pos="0 {sign * 0.012} .028"'
            ' friction=".5 .01 .0005" solref="0.004 1" rgba=".3 .3 .34 1"/>'
            "</body>"
        )
    return text + "</body>" + "</body>" * len(_LINKS)


def arm_actuators() -> str:
    """Position servos for the seven joints and the coupled fingers (`ctrl` 0..6 joints, 7 and 8 fingers)."""
    text = ""
    for index in range(7):
        kp, kv, force = (2000, 100, 87) if index < 4 else (800, 25, 12)
        text += f'<position joint="joint{index + 1}" kp="{kp}" kv="{kv}" forcerange="-{force} {force}"/>'
    for side in ("left", "right"):
        text += f'<position joint="finger_{side}" kp="1500" kv="60" forcerange="-30 30"/>'
    return f"<actuator>{text}</actuator>"


def arm_equality() -> str:
    """Couples the fingers: independent ones would let a held object float sideways."""
    return (
        '<equality><joint joint1="finger_left" joint2="finger_right"'
        ' solref="0.004 1" solimp="0.99 0.999 0.0001"/>'
        "</equality>"
    )


def wrap_angle(angle: float) -> float:
    """The same angle in (-pi, pi]."""
    return float(-((-angle + np.pi) % (2 * np.pi) - np.pi))


class ArmKinematics:
    """Damped least squares inverse kinematics on an arm-only model."""

    def __init__(self) -> None:
        xml = (
            f"<mujoco><compiler angle='radian'/><default>{arm_defaults()}</default>"
            f"<worldbody>{arm_body(False)}</worldbody></mujoco>"
        )
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self._site = self.model.site("tcp").id
        self._jacp = np.zeros((3, self.model.nv))
        self._jacr = np.zeros((3, self.model.nv))

    def pose(self, joints: Array) -> tuple[Array, float]:
        """TCP position (3,) in metres and yaw (rad) at the seven joint angles."""
        self.data.qpos[:7] = joints
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        rotation = self.data.site_xmat[self._site].reshape(3, 3)
        return self.data.site_xpos[self._site].copy(), float(np.arctan2(rotation[1, 0], rotation[0, 0]))

    def solve(self, joints: Array, position: Array, yaw: float, iterations: int = 3) -> Array:
        """Joint angles (7,) near `joints` that bring the TCP to `position` and `yaw`, hand pointing down."""
        q = joints.copy()
        cos, sin = np.cos(yaw), np.sin(yaw)
        target = np.array([[cos, sin, 0.0], [sin, -cos, 0.0], [0.0, 0.0, -1.0]])
        sides = np.empty((6, 2))
        for _ in range(iterations):
            self.data.qpos[:7] = q
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            mujoco.mj_jacSite(self.model, self.data, self._jacp, self._jacr, self._site)
            jacobian = np.concatenate([self._jacp[:, :7], self._jacr[:, :7]])
            posture = 0.02 * (HOME_POSTURE - q)
            posture[6] = 0.0
            # Half the sum of the cross products of present and wanted axes is the small rotation between the
            # two frames; it is the antisymmetric part of target x present^T.
            turn = target @ self.data.site_xmat[self._site].reshape(3, 3).T
            sides[:3, 0] = position - self.data.site_xpos[self._site]
            sides[3, 0] = 0.5 * (turn[2, 1] - turn[1, 2])
            sides[4, 0] = 0.5 * (turn[0, 2] - turn[2, 0])
            sides[5, 0] = 0.5 * (turn[1, 0] - turn[0, 1])
            sides[:, 1] = jacobian @ posture
            solved = np.linalg.solve(jacobian @ jacobian.T + _DAMPING, sides)
            step = jacobian.T @ (solved[:, 0] - solved[:, 1]) + posture
            q = np.minimum(np.maximum(q + np.minimum(np.maximum(step, -0.3), 0.3), JOINT_LOW), JOINT_HIGH)
        return q


class SetpointController:
    """Turns Cartesian set-points and a gripper target into servo targets, and holds that commanded state.

    The gripper opens only `RELEASE_OPENING` per finger beyond the held width until the hand is
    `RELEASE_CLEAR_Z` high, as a careful operator would: opening fully beside a neighbouring part would sweep
    it.
    """

    LOW = np.array([0.25, -0.34, 0.005])
    HIGH = np.array([0.75, 0.34, 0.45])

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self.model, self.data = model, data
        self.kinematics = ArmKinematics()
        self._site = model.site("tcp").id
        names = [f"joint{i + 1}" for i in range(7)]
        self._qpos = np.array([model.joint(name).qposadr[0] for name in names])
        self._fingers = np.array([model.joint(f"finger_{side}").qposadr[0] for side in ("left", "right")])
        self.position: Array = np.zeros(3)
        self.yaw = 0.0
        self.joints = HOME_POSTURE.copy()
        self.gripper = -1.0
        self.release_limit = np.inf

    def reset(self, position: Array, yaw: float) -> None:
        """Place the arm at a pose with the gripper open, without simulating the way there."""
        self.position, self.yaw = np.asarray(position, dtype=np.float64).copy(), float(yaw)
        self.joints = self.kinematics.solve(HOME_POSTURE, self.position, self.yaw, 60)
        self.gripper, self.release_limit = -1.0, np.inf
        self.data.qpos[self._qpos] = self.joints
        self.data.qpos[self._fingers] = FINGER_OPEN
        self.data.ctrl[:7] = self.joints
        self.data.ctrl[7:9] = FINGER_OPEN

    def tcp(self) -> Array:
        """Measured TCP position (3,), metres."""
        position: Array = self.data.site_xpos[self._site].copy()
        return position

    def tcp_yaw(self) -> float:
        """Measured yaw of the hand, rad."""
        rotation = self.data.site_xmat[self._site]
        return float(np.arctan2(rotation[3], rotation[0]))

    def width(self) -> float:
        """Measured distance between the pads, metres, 0 to 0.08."""
        return float(self.data.qpos[self._fingers].sum())

    def step(self, delta: Array, turn: float, gripper: float) -> None:
        """Move the set-point by `delta` (m, tool frame) and `turn` (rad) and simulate one control period."""
        if gripper < 0.0 <= self.gripper:
            self.release_limit = 0.5 * self.width() + RELEASE_OPENING
        self.gripper = gripper
        measured = self.tcp()
        if measured[2] > RELEASE_CLEAR_Z:
            self.release_limit = np.inf
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        # The tool frame is the hand's yaw frame with z up, so positive dz lifts.
        world = np.array([cos * delta[0] - sin * delta[1], sin * delta[0] + cos * delta[1], delta[2]])
        position = np.clip(self.position + world, self.LOW, self.HIGH)
        position[2] = max(position[2], min(measured[2] - PUSH_LIMIT, self.position[2]))
        yaw = wrap_angle(self.yaw + turn)
        joints = self.kinematics.solve(self.joints, position, yaw)
        opening = FINGER_CLOSED if gripper >= 0.0 else min(FINGER_OPEN, self.release_limit)
        self.data.ctrl[7:9] = opening
        for index in range(SLICES):
            fraction = (index + 1) / SLICES
            self.data.ctrl[:7] = self.joints + fraction * (joints - self.joints)
            mujoco.mj_step(self.model, self.data, int(round(CONTROL_DT / PHYSICS_DT / SLICES)))
        self.position, self.yaw, self.joints = position, yaw, joints

    def state(self) -> dict[str, object]:
        """Everything `restore` needs besides MuJoCo's own state."""
        return {
            "position": self.position.copy(), "yaw": self.yaw, "joints": self.joints.copy(),
            "gripper": self.gripper, "release_limit": self.release_limit,
        }  # fmt: skip

    def restore(self, state: dict[str, object]) -> None:
        """Return to a state taken by `state`."""
        self.position = np.array(state["position"])
        self.joints = np.array(state["joints"])
        self.yaw, self.gripper = float(state["yaw"]), float(state["gripper"])  # type: ignore[arg-type]
        self.release_limit = float(state["release_limit"])  # type: ignore[arg-type]
