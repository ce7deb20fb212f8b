"""Constant policies of PlugInsertion, on perceived graphs: fixed choices that any learned one must beat.

They respect the socket's kind, since it is plain to see. Share of the 200 dev scenes (seen, unseen) in which
the choice on true graphs is one that no neighbour spoils: long-nearest .43 and .41, short-nearest .59 and
.64, long-clear .51 and .49, short-clear .73 and .79.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vine_vla.core.graph import SceneGraph, SceneObject
from vine_vla.core.options import Subgoal
from vine_vla.tasks.base import ConstantPolicy
from vine_vla.tasks.plug.spec import ROLES

AROUND = 0.12
"""Image widths between the centres of a socket and of what counts as standing around it."""


@dataclass(frozen=True)
class FixedChoice:
    """Always the same grasp and the same kind of socket.

    Args:
        grasp: `long` or `short`.
        place: `nearest`: the fitting socket nearest to the plug in the image; `clear`: the one with the least
            height of blocks around it, the nearest of several.
    """

    grasp: Literal["long", "short"]
    place: Literal["nearest", "clear"]

    def __call__(self, graph: SceneGraph, instruction: str) -> Sequence[Subgoal]:
        """Grasp and insertion that are left to do; a plug in the other grasp is put back first."""
        plugs, sockets = graph.of_class("plug"), graph.of_class("socket")
        if not plugs or not sockets:
            return ()
        plug = plugs[0]
        fitting = [socket for socket in sockets if socket.attributes.get("kind") == "two_pin"]
        socket = min(fitting or sockets, key=lambda item: self._cost(graph, plug, item))
        insert = Subgoal("insert", (plug.id, socket.id))
        grasp = Subgoal(f"grasp_{self.grasp}", (plug.id,))
        held = plug.attributes.get("grasp", "none")
        if held == self.grasp:
            return (insert,)
        return (grasp, insert) if held == "none" else (Subgoal("put_back", (plug.id,)), grasp, insert)

    def _cost(self, graph: SceneGraph, plug: SceneObject, socket: SceneObject) -> tuple[float, float, str]:
        around = [b for b in graph.of_class("block") if _distance(b, socket) < AROUND]
        height = sum(b.boxes[ROLES[0]].y_max - b.boxes[ROLES[0]].y_min for b in around)
        return (height if self.place == "clear" else 0.0, _distance(plug, socket), socket.id)


def _distance(a: SceneObject, b: SceneObject) -> float:
    """Between centres in the front image, in image widths; infinite where one is not visible."""
    if ROLES[0] not in a.boxes or ROLES[0] not in b.boxes:
        return float("inf")
    return float(np.hypot(*np.subtract(a.boxes[ROLES[0]].center, b.boxes[ROLES[0]].center)))


CONSTANTS: Mapping[str, ConstantPolicy] = {
    "long-nearest": FixedChoice("long", "nearest"),
    "short-nearest": FixedChoice("short", "nearest"),
    "long-clear": FixedChoice("long", "clear"),
    "short-clear": FixedChoice("short", "clear"),
}
