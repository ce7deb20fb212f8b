"""The client's side of the served line world; imports little, so that many processes can be clients."""

import numpy as np
from agent.line_world import LENGTH, LineWorld

from vine_vla.core.protocols import Observation

FREE, BLOCKED = (0, 255, 0), (255, 0, 0)
TAGS = 2**24
"""Tags (`tagged.py`) are whole numbers below this: float32 holds them exactly."""


class SeenWorld(LineWorld):
    """Draws its sockets, free ones green and blocked ones red, in images of a size that servers take."""

    def observe(self) -> Observation:
        image = np.zeros((16, LENGTH * 4, 3), np.uint8)
        for place, side in self.sockets.values():
            image[:8, place * 4 : place * 4 + 4] = FREE if side == "free" else BLOCKED
        state = np.array([self.hand, self.grip, self.plug], np.float32)
        return Observation({"front": image}, state)


def message_of(world: LineWorld, **more) -> dict:
    """What a client sends."""
    seen = world.observe()
    return {
        "observation/image": seen.images["front"],
        "observation/state": seen.proprioception,
        "prompt": world.instruction,
        **more,
    }


def tagged_message(world: SeenWorld, client: int, request: int, **more) -> dict:
    """What client `client` sends as its request number `request`, both above 0."""
    state = np.concatenate([world.observe().proprioception, [client, request]]).astype(np.float32)
    return message_of(world, **more) | {"observation/state": state}


def fits(reply: dict, world: SeenWorld, client: int, request: int) -> bool:
    """Whether `reply` answers this request of this client, made in its own session."""
    actions = reply["actions"]
    moved = actions[actions[:, 3] > 0]  # without the padding, which only holds still
    asked = reply["status"] != "acting" or (len(moved) > 0 and bool((moved[:, 3] == request).all()))
    own = bool((actions[:, [2, 4]] == client).all())
    names = set(world.sockets) | {"plug"}
    said = reply["subgoal"].partition("(")[2].rstrip(")")
    return asked and own and (not said or set(said.split(", ")) <= names)
