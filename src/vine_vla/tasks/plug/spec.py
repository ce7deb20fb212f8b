"""What PlugInsertion looks like from outside: vocabulary, cameras, state, actions. Needs no simulator."""

from __future__ import annotations

from vine_vla.core.graph import Schema, Verb
from vine_vla.tasks.base import Space
from vine_vla.tasks.plug.scenes import COLOURS

ROLES = ("front", "wrist")
SIZE = 192
"""Side of the images in pixels."""

FPS = 10.0
SUBGOAL_STEPS = 150
"""Actions of one subgoal at most: 15 s."""

STATE = Space.unbounded(
    "x", "y", "z", "cos_yaw", "sin_yaw", "width", "lag_x", "lag_y", "lag_z", "gripper"
)  # fmt: skip
"""TCP (m), its yaw, distance of the pads (m), commanded minus measured TCP in the tool frame (m: what the
hand feels), gripper command."""

_LIMIT = (0.05, 0.05, 0.05, 0.3, 1.0)
ACTION = Space(("dx", "dy", "dz", "dyaw", "gripper"), tuple(-limit for limit in _LIMIT), _LIMIT)
"""Step of the set-point in the tool frame (m, rad), and the gripper's target, below 0 open."""

BESIDE = ("free", "low", "tall")

PLUG_SCHEMA = Schema(
    classes=("plug", "gripper", "socket", "block"),
    attributes={
        "kind": ("two_pin", "round"),  # of a socket
        "colour": COLOURS,  # of a socket
        "height": ("low", "tall"),  # of a block
        "end": BESIDE,  # of a socket: what stands at one of its short faces
        "flank": BESIDE,  # of a socket: what stands at one of its long faces
        "grasp": ("none", "long", "short"),  # of the plug: the faces between the fingers
        "state": ("rack", "hand", "seated", "loose", "fallen"),  # of the plug
        "grip": ("open", "holding", "empty"),  # of the gripper
    },
    predicates=("left_of", "above", "near", "touching", "held"),
    verbs=(
        Verb("grasp_long", ("plug",), "grasp {0} across its long side"),
        Verb("grasp_short", ("plug",), "grasp {0} across its short side"),
        Verb("insert", ("plug", "socket"), "insert {0} into {1}"),
        Verb("put_back", ("plug",), "put {0} back on the rack"),
    ),
    cameras=ROLES,
    describing=("colour",),
)
