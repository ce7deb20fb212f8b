"""One client of the load test in `server_load.py`, a process of its own that imports little.

    python benchmarks/server_clients.py PORT NUMBER FRAMES [--seconds 120]

FRAMES is a file of the driver: messages, each with the reply expected. Connects with openpi's client, says
`ready`, waits for a line on stdin, plays for so many seconds, and prints what came back as JSON: counts,
latencies in milliseconds, the error that ended it if one did.
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

REQUESTS = 8
"""Requests of an episode."""
Message = dict[str, Any]
Frame = tuple[Message, Message]
"""A message, and the plan and feasibility that one client alone got for it."""


class Tally:
    """What one client saw. A request without a reply is lost."""

    def __init__(self, port: int, number: int) -> None:
        self.client = WebsocketClientPolicy(host=f"ws://127.0.0.1:{port}")
        self.number, self.latencies, self.error = number, list[float](), ""
        names = ("sent", "checked", "crossed", "episodes", "late", "surplus")
        self.counts = dict.fromkeys(names, 0)

    def ask(self, message: Message) -> Message:
        self.counts["sent"] += 1
        begin = time.perf_counter()
        reply: Message = self.client.infer(message)
        self.latencies.append(1000 * (time.perf_counter() - begin))
        self.counts["late"] += bool(reply["late"])
        return reply

    def play(self, frame: Frame) -> None:
        """An episode whose robot shows one recorded frame; the first reply's plan is compared.

        Raises:
            ValueError: actions are not finite.
        """
        message, expected = frame
        for request in range(REQUESTS):
            reply = self.ask(message | {"reset": request == 0})
            if request == 0 and not reply["late"]:
                near = abs(reply["feasibility"] - expected["feasibility"]) < 1e-6
                self.counts["checked"] += 1
                self.counts["crossed"] += not (near and reply["plan"] == expected["plan"])
            if not np.isfinite(reply["actions"]).all():
                raise ValueError("actions with NaN")
            if reply["status"] == "stopped":
                break
        self.counts["episodes"] += 1

    def listen(self) -> None:
        """Count a reply that comes though nobody asks for one."""
        try:
            self.client._ws.recv(timeout=0.5)
        except TimeoutError:
            return
        self.counts["surplus"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("number", type=int, help="of this client, from 0")
    parser.add_argument("frames", type=Path, help="messages with what is expected")
    parser.add_argument("--seconds", type=float, default=120)
    args = parser.parse_args()
    frames = msgpack_numpy.unpackb(args.frames.read_bytes())
    tally = Tally(args.port, args.number)
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + args.seconds
    try:
        while time.monotonic() < end:
            tally.play(frames[(7 * tally.number + tally.counts["episodes"]) % len(frames)])
        tally.listen()
    except Exception as error:
        tally.error = repr(error)
    found = {"counts": tally.counts, "latencies": tally.latencies, "error": tally.error}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
