"""The true scene graph of PlugInsertion: for annotation, tests and oracle arms, never for learned code."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import Box, SceneGraph, SceneObject
from vine_vla.core.identity import assign_ids
from vine_vla.core.relations import derive_relations
from vine_vla.tasks.plug.cameras import Cameras
from vine_vla.tasks.plug.scenes import Block, Socket
from vine_vla.tasks.plug.sim import PlugSim
from vine_vla.tasks.plug.spec import PLUG_SCHEMA, ROLES
from vine_vla.tasks.plug.world import (
    PLUG_HALF,
    PRONG_LENGTH,
    PRONG_RADIUS,
    PRONG_X,
    ROUND_RADIUS,
    SOCKET_HALF,
    SOCKET_HEIGHT,
)

Array = NDArray[np.float64]

_FIXED = ROLES[0]
"""The camera that does not move: boxes of parts that do not move either are computed once an episode."""


def _corners(low: tuple[float, float, float], high: tuple[float, float, float]) -> Array:
    return np.array(list(itertools.product(*zip(low, high, strict=True))))


_SOCKET_BOX = _corners(
    (-SOCKET_HALF[0], -SOCKET_HALF[1], 0.0), (SOCKET_HALF[0], SOCKET_HALF[1], SOCKET_HEIGHT)
)
_ROUND = np.array(
    [
        (ROUND_RADIUS * np.cos(a), ROUND_RADIUS * np.sin(a), z)
        for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)
        for z in (0.0, SOCKET_HEIGHT)
    ]
)
_PLUG = np.concatenate(
    [
        _corners((-PLUG_HALF[0], -PLUG_HALF[1], -PLUG_HALF[2]), PLUG_HALF),
        _corners(
            (-PRONG_X - PRONG_RADIUS, -PRONG_RADIUS, -PLUG_HALF[2] - PRONG_LENGTH),
            (PRONG_X + PRONG_RADIUS, PRONG_RADIUS, -PLUG_HALF[2]),
        ),
    ]
)
_FINGER = {
    "left": _corners((-0.009, 0.0, 0.0), (0.009, 0.016, 0.056)),
    "right": _corners((-0.009, -0.016, 0.0), (0.009, 0.0, 0.056)),
}


class PlugGraphs:
    """Makes true graphs of one simulation; ids are given at the first graph of an episode and kept."""

    def __init__(self, sim: PlugSim, cameras: Cameras) -> None:
        self.sim, self.cameras = sim, cameras
        self.ids: tuple[str, ...] = ()
        self._static: list[Array] = []
        self._fixed: list[Box | None] | None = None

    def begin(self) -> None:
        """New episode: find the points of what does not move, and give ids from left to right."""
        scene = self.sim.scene
        assert scene is not None
        self._static, self._fixed = [], None
        for i, socket in enumerate(scene.sockets):
            self._static.append(
                self._world(f"{socket.kind}_{i}", _SOCKET_BOX if socket.kind == "two_pin" else _ROUND)
            )
        for i in range(len(scene.blocks) - (scene.push is not None)):
            self._static.append(self._block(i))
        self.ids = tuple(o.id for o in assign_ids(self._objects(self._named(self._boxes())), ROLES[0]))

    def sockets(self) -> dict[str, int]:
        """Socket id -> index in the scene."""
        assert self.sim.scene is not None
        return {self.ids[2 + i]: i for i in range(len(self.sim.scene.sockets))}

    def graph(self) -> SceneGraph:
        """The scene graph of this moment."""
        objects = self._objects(self._named(self._boxes()))
        return SceneGraph(objects, derive_relations(objects, ROLES[0], PLUG_SCHEMA.predicates))

    def boxes(self) -> dict[str, dict[str, Box]]:
        """Camera role -> object id -> box, of this moment."""
        return {
            role: {name: box for name, box in zip(self.ids, found, strict=True) if box is not None}
            for role, found in self._boxes().items()
        }

    def _block(self, index: int) -> Array:
        half = self.sim.model.geom(f"block_{index}").size
        low, high = tuple(-half), tuple(half)
        return self._world(f"block_{index}", _corners(low, high))

    def _world(self, body: str, points: Array) -> Array:
        index = self.sim.model.body(body).id
        rotation = self.sim.data.xmat[index].reshape(3, 3)
        return np.asarray(points @ rotation.T + self.sim.data.xpos[index])

    def _boxes(self) -> dict[str, list[Box | None]]:
        gripper = np.concatenate([self._world(f"finger_{side}", points) for side, points in _FINGER.items()])
        moving = [self._world("plug", _PLUG), gripper]
        scene = self.sim.scene
        assert scene is not None
        carried = [] if scene.push is None else [self._block(len(scene.blocks) - 1)]
        found = {}
        for role in ROLES:
            if role == _FIXED:
                if self._fixed is None:
                    self._fixed = self.cameras.boxes(role, self._static)
                boxes = self.cameras.boxes(role, [*moving, *carried])
                found[role] = boxes[:2] + self._fixed + boxes[2:]
            else:
                found[role] = self.cameras.boxes(role, [*moving, *self._static, *carried])
        return found

    def _named(self, boxes: dict[str, list[Box | None]]) -> list[dict[str, Box]]:
        count = len(boxes[ROLES[0]])
        return [{role: box for role in ROLES if (box := boxes[role][i]) is not None} for i in range(count)]

    def _objects(self, boxes: list[dict[str, Box]]) -> tuple[SceneObject, ...]:
        sim = self.sim
        assert sim.scene is not None
        ids = self.ids or tuple(f"new_{i}" for i in range(len(boxes)))
        classes = ["plug", "gripper"]
        attributes: list[dict[str, str]] = [self._plug(), {"grip": grip(sim.arm.gripper, sim.arm.width())}]
        for socket in sim.scene.sockets:
            classes.append("socket")
            attributes.append({"kind": socket.kind, "colour": socket.colour, **_beside(socket)})
        for block in sim.scene.blocks:
            classes.append("block")
            attributes.append({"height": _height(block)})
        return tuple(SceneObject(*row) for row in zip(ids, classes, boxes, attributes, strict=True))

    def _plug(self) -> dict[str, str]:
        sim = self.sim
        assert sim.scene is not None
        held = sim.held()
        if held is not None:
            return {"grasp": held, "state": "hand"}
        if any(sim.seated(i) for i in range(len(sim.scene.sockets))):
            state = "seated"
        elif sim.on_rack():
            state = "rack"
        else:
            state = "loose" if sim.plug().up > 0.85 and not sim.dead() else "fallen"
        return {"grasp": "none", "state": state}


def grip(command: float, width: float) -> str:
    """State of the gripper from proprioception alone: `open`, `holding` or `empty` (closed on nothing)."""
    if command < 0:
        return "open"
    return "holding" if width > 0.015 else "empty"


def _height(block: Block) -> str:
    return "tall" if block.tall else "low"


def _beside(socket: Socket) -> dict[str, str]:
    """What stands at its short (x) and long (y) faces: visible, and what feasibility depends on later."""
    found = {b.side: _height(b) for b in socket.blocks}
    return {"end": found.get("x", "free"), "flank": found.get("y", "free")}
