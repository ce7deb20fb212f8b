"""The line world behind a server: perception reads its images, so that clients need nothing but those."""

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from agent.line_world import GRASPS, LENGTH, SCHEMA, LineModel, LineSkill, _box
from serving.line_client import BLOCKED, FREE, SeenWorld, message_of

from vine_vla.agent import AgentConfig
from vine_vla.core.graph import Relation, SceneGraph, SceneObject
from vine_vla.search import SearchConfig, make_planner
from vine_vla.serving import ObservationKeys, ServedAgent
from vine_vla.serving.server import PolicyServer, ServeConfig

__all__ = ["SeeingEyes", "SeenWorld", "make_served", "message_of", "running"]


@dataclass
class SeeingEyes:
    """Reads `SeenWorld`'s images and proprioception."""

    def perceive(self, observations, instructions, earlier=None) -> list[SceneGraph]:
        before = earlier or [None] * len(observations)
        return [self._perceive(o, g) for o, g in zip(observations, before, strict=True)]

    def _perceive(self, observation, earlier) -> SceneGraph:
        row = observation.images["front"][0]
        hand, grip, plug = (
            int(v) for v in np.clip(observation.proprioception, 0, [LENGTH - 1, 2, LENGTH - 1])
        )
        sockets = []
        for place in range(LENGTH):
            colour = tuple(row[place * 4 + 1].tolist())
            if colour in (FREE, BLOCKED):
                sockets.append((place, "free" if colour == FREE else "blocked"))
        objects = [
            SceneObject("plug", "plug", {"front": _box(plug)}, {"held": GRASPS[grip]}),
            *(
                SceneObject(f"socket_{i}", "socket", {"front": _box(place)}, {"side": side})
                for i, (place, side) in enumerate(sockets, 1)
            ),
            SceneObject("gripper", "gripper", {"front": _box(hand)}, {"grip": "holding" if grip else "open"}),
        ]
        relations = [Relation("held", "plug", "gripper")] if grip else []
        return SceneGraph(tuple(objects), tuple(relations))


def make_served(**changes) -> ServedAgent:
    """The line agent; `planner` (a Planner) and `new_skill` may be replaced."""
    planner = changes.pop("planner", None) or make_planner("tree", LineModel(), SearchConfig(expansions=16))
    served = ServedAgent(
        name="line",
        schema=SCHEMA,
        perceiver=SeeingEyes(),
        planner=planner,
        new_skill=LineSkill,
        new_planner=lambda: planner,
        config=AgentConfig(budget=6, max_steps=200, subgoal_steps=40),
        keys=ObservationKeys(SCHEMA.cameras, 3),
        action_low=np.array([-1, 0], np.float32),
        action_high=np.array([1, 2], np.float32),
        horizon=2,
        fps=10.0,
    )
    return replace(served, **changes)


@contextmanager
def running(served: ServedAgent | None = None, **config):
    """A server in a thread; yields its port."""
    server = PolicyServer(served or make_served(), ServeConfig(port=0, **config))
    ports: list[int] = []
    ready = threading.Event()
    failed: list[BaseException] = []
    loops: list[asyncio.AbstractEventLoop] = []

    def on_ready(port: int) -> None:
        ports.append(port)
        ready.set()

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await server.run(on_ready)

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(10)
    if failed:
        raise failed[0]
    try:
        yield ports[0]
    finally:
        loops[0].call_soon_threadsafe(server.stop)
        thread.join(15)
        assert not thread.is_alive()
