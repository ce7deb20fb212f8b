"""Load and faults of the server: many clients for minutes, fuzzed messages, memory.

    PYTHONPATH=tests python benchmarks/serving.py load --seconds 120 --clients 16 --out results/serving
    PYTHONPATH=tests python benchmarks/serving.py fuzz --messages 100000 --out results/serving

Serves the tests' line world (a tabular planner and a scripted skill behind the real agent, images in every
message), so that the figures are the server's own and not the networks'. `load` counts replies that were
lost or belong to another client (every client plays a scene and a task of its own, and the world must be
solved), `fuzz` sends damaged messages and looks at the memory of the process.
"""

import argparse
import json
import platform
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from serving.line_service import SeenWorld, message_of, running
from serving.test_server import open_client, run_fuzz


class Client(threading.Thread):
    """Plays episode after episode; every reply must fit its own world."""

    def __init__(self, port: int, number: int, end: float) -> None:
        super().__init__(daemon=True)
        self.port, self.number, self.end = port, number, end
        self.latencies: list[float] = []
        self.episodes = self.solved = self.crossed = 0
        self.error = ""

    def run(self) -> None:
        try:
            client = open_client(self.port)
            while time.monotonic() < self.end:
                self.episode(client)
        except Exception as error:
            self.error = repr(error)

    def episode(self, client: object) -> None:
        world = SeenWorld()
        world.reset(100 * self.number + self.episodes, 0)
        task = f"client {self.number}, episode {self.episodes}"
        first = True
        while True:
            begin = time.perf_counter()
            reply = client.infer(message_of(world, prompt=task, reset=first))  # type: ignore[attr-defined]
            self.latencies.append(time.perf_counter() - begin)
            first = False
            names = {f"socket_{i + 1}" for i in range(len(world.sockets))} | {"plug"}
            said = reply["subgoal"].partition("(")[2].rstrip(")")
            self.crossed += bool(said) and not set(said.split(", ")) <= names
            if reply["status"] == "stopped":
                break
            for action in reply["actions"]:
                world.step(action)
        self.episodes += 1
        self.solved += world.is_success()


def load(args: argparse.Namespace) -> dict[str, object]:
    """`clients` at once for `seconds`."""
    with running(connections=args.clients, rate=1e6, burst=10**6) as port:
        end = time.monotonic() + args.seconds
        clients = [Client(port, n, end) for n in range(args.clients)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(args.seconds + 60)
    latencies = 1000 * np.concatenate([client.latencies for client in clients])
    return {
        "clients": args.clients,
        "seconds": args.seconds,
        "requests": len(latencies),
        "requests_per_second": round(len(latencies) / args.seconds, 1),
        "episodes": sum(c.episodes for c in clients),
        "solved": sum(c.solved for c in clients),
        "crossed": sum(c.crossed for c in clients),
        "errors": [c.error for c in clients if c.error],
        "latency_ms": {f"p{q}": round(float(np.percentile(latencies, q)), 2) for q in (50, 95, 99, 100)},
    }


def fuzz(args: argparse.Namespace) -> dict[str, object]:
    """`messages` damaged ones in ten parts; memory after each."""
    process, memory = psutil.Process(), []
    answered = refused = 0
    with running(rate=1e9, burst=10**9) as port:
        for part in range(10):
            some = run_fuzz(port, args.messages // 10, seed=part)
            answered, refused = answered + some[0], refused + some[1]
            memory.append(round(process.memory_info().rss / 2**20, 1))
    return {"messages": args.messages, "answered": answered, "refused": refused, "memory_mb": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["load", "fuzz"])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("results/serving"))
    args = parser.parse_args()
    found = {"load": load, "fuzz": fuzz}[args.what](args)
    found |= {"python": platform.python_version(), "cpus": psutil.cpu_count()}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.what}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
