"""One client of the load test in `server_load.py`, a process of its own that imports little.

    PYTHONPATH=tests python benchmarks/server_clients.py PORT NUMBER [--seconds 120] [--frames FILE]

Connects with openpi's client, says `ready`, waits for a line on stdin, plays for so many seconds, and prints
what it saw as JSON: counts, latencies in milliseconds, the error that ended it if one did.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from serving.line_client import SeenWorld, fits, tagged_message

REQUESTS = 8
"""Requests of an episode with recorded frames."""
Spoken = dict[str, Any]


class Tally:
    """What one client saw. A request without a reply is lost."""

    def __init__(self, port: int, number: int) -> None:
        self.client = WebsocketClientPolicy(host=f"ws://127.0.0.1:{port}")
        self.number, self.latencies, self.error = number, list[float](), ""
        names = ("sent", "checked", "crossed", "episodes", "solved", "late", "surplus")
        self.counts = dict.fromkeys(names, 0)

    def ask(self, message: Spoken) -> Spoken:
        self.counts["sent"] += 1
        begin = time.perf_counter()
        reply: Spoken = self.client.infer(message)
        self.latencies.append(1000 * (time.perf_counter() - begin))
        self.counts["late"] += bool(reply["late"])
        return reply

    def check(self, right: bool) -> None:
        self.counts["checked"] += 1
        self.counts["crossed"] += not right

    def listen(self) -> None:
        """Count a reply that comes though nobody asks for one."""
        try:
            self.client._ws.recv(timeout=0.5)
        except TimeoutError:
            return
        self.counts["surplus"] += 1


def play_line(tally: Tally) -> None:
    """An episode of the line robot; every reply carries back who asked for what."""
    world, me = SeenWorld(), tally.number + 1
    world.reset(100 * tally.number + tally.counts["episodes"], 0)
    status, reset = "", True
    while status != "stopped":
        request = tally.counts["sent"] + 1
        message = tagged_message(world, me, request, reset=reset, prompt=f"task {me}")
        reply = tally.ask(message)
        tally.check(fits(reply, world, me, request))
        status, reset = reply["status"], False
        for action in reply["actions"] if status != "stopped" else ():
            world.step(action)
    tally.counts["solved"] += world.is_success()


def play_frames(tally: Tally, frames: list[list[Spoken]]) -> None:
    """An episode whose robot shows one recorded frame; the first reply's plan is compared."""
    message, expected = frames[(7 * tally.number + tally.counts["episodes"]) % len(frames)]
    for request in range(REQUESTS):
        reply = tally.ask(message | {"reset": request == 0})
        if request == 0 and not reply["late"]:
            near = abs(reply["feasibility"] - expected["feasibility"]) < 1e-6
            tally.check(near and reply["plan"] == expected["plan"])
        if not np.isfinite(reply["actions"]).all():
            raise ValueError("actions with NaN")
        if reply["status"] == "stopped":
            break


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("number", type=int, help="of this client, from 0")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--frames", type=Path, help="messages with what is expected; default: the line robot")
    args = parser.parse_args()
    frames = msgpack_numpy.unpackb(args.frames.read_bytes()) if args.frames else None
    tally = Tally(args.port, args.number)
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + args.seconds
    try:
        while time.monotonic() < end:
            if frames is None:
                play_line(tally)
            else:
                play_frames(tally, frames)
            tally.counts["episodes"] += 1
        tally.listen()
    except Exception as error:
        tally.error = repr(error)
    found = {"counts": tally.counts, "latencies": tally.latencies, "error": tally.error}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
