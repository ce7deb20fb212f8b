"""When an expert takes over from another policy in PlugInsertion, and what counts as a slip of that one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Float

if TYPE_CHECKING:
    from vine_vla.tasks.plug.task import PlugInsertion


class PlugTakeover:
    """The expert takes over before the end of most subgoals, and sees a drop of the plug coming."""

    def limit(self, subgoal: Subgoal, rng: np.random.Generator) -> int:
        """0.4 to 6 s of a grasp, 1.2 to 11 s of bringing the plug somewhere."""
        return int(rng.uniform(4, 60) if subgoal.verb.startswith("grasp") else rng.uniform(12, 110))

    def about_to_slip(self, simulation: PlugInsertion, subgoal: Subgoal, action: Float) -> bool:
        """Whether `action` opens the hand although the plug is not where the subgoal wants it."""
        if action[4] >= 0 or simulation.sim.held() is None:
            return False
        return not _in_place(simulation, subgoal)

    def has_slipped(self, simulation: PlugInsertion, subgoal: Subgoal) -> bool:
        """Whether the plug that the subgoal carries has been let go, and is not where it should be."""
        if subgoal.verb.startswith("grasp") or simulation.sim.held() is not None:
            return False
        return not _in_place(simulation, subgoal)


def _in_place(simulation: PlugInsertion, subgoal: Subgoal) -> bool:
    """Whether the plug is where `subgoal` brings it: in its socket, else on the rack."""
    socket = simulation.choice(subgoal)[1]
    return simulation.sim.on_rack() if socket is None else simulation.sim.seated(socket)
