"""The line agent with tags: every reply carries back who asked, which request it was and whose session it is.

A client puts its number and a count of its requests behind the state; perception and plan do not see them,
System 1 copies them into the actions, together with the client that the session's episode began with. A
reply that went to another client, belongs to another request, or was made in another client's session, is
so told from a right one (`line_client.fits`).
"""

import numpy as np
from agent.line_world import LineSkill
from serving.line_client import TAGS
from serving.line_service import SeeingEyes, make_served

from vine_vla.core.protocols import Observation
from vine_vla.serving import ObservationKeys, ServedAgent


class TaggedEyes(SeeingEyes):
    """Does not see the tags."""

    def perceive(self, observations, instructions, earlier=None):
        bare = [Observation(o.images, o.proprioception[:3]) for o in observations]
        return super().perceive(bare, instructions, earlier)


class TaggedSkill(LineSkill):
    """Actions [T, 5]: the line's two, the client, the request, the client that it first worked for."""

    owner = -1.0

    def act(self, observation, graph):
        found = super().act(observation, graph)
        client, request = observation.proprioception[3:]
        if self.owner < 0:
            self.owner = client
        tags = np.tile(np.array([client, request, self.owner], np.float32), (len(found.actions), 1))
        return found._replace(actions=np.concatenate([found.actions, tags], 1))


def make_tagged(**changes) -> ServedAgent:
    """The line agent with tags; `changes` as in `make_served`."""
    usual = {
        "perceiver": TaggedEyes(),
        "new_skill": TaggedSkill,
        "keys": ObservationKeys(("front",), 5),
        "action_low": np.array([-1, 0, 0, 0, 0], np.float32),
        "action_high": np.array([1, 2, TAGS, TAGS, TAGS], np.float32),
        "switches": (1, 2, 4),  # held still, the robot keeps grip, client and owner; the request is zeroed
    }
    return make_served(**(usual | changes))
