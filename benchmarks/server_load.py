"""Load and faults of the server: a server process of its own, openpi's client in processes of their own.

    PYTHONPATH=tests python benchmarks/server_load.py load --out results/serving
    PYTHONPATH=tests python benchmarks/server_load.py load --run RUN --dataset DEMOS --out results/serving
    PYTHONPATH=tests python benchmarks/server_load.py fuzz --out results/serving

`load` has `--clients` at once for `--seconds`; meanwhile another client is killed (SIGKILL) in the middle of
a message every `--kill-every` seconds. Who serves:

- without `--run` the tests' line robot, a tabular planner and a scripted skill behind the real agent and
  server, so that the figures are the server's own. Every reply carries back who asked, which request it was
  and whose session it is (`tests/serving/tagged.py`), so a reply of another client or request is told.
- with `--run` this run by `vine serve`, its networks and all. Clients show recorded frames of `--dataset`,
  each another one. What the server sees and plans for each frame was asked before, by one client alone; a
  reply that differs (plan or feasibility) counts as crossed.

`fuzz` sends damaged messages, half of what `--warm` are before the memory is first read.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from server_clients import Tally, play_line

VINE = "import sys; from vine_vla.cli import main; sys.exit(main())"
CLIENTS = str(Path(__file__).with_name("server_clients.py"))
Spoken = dict[str, Any]


def environment() -> dict[str, str]:
    """With the tests on the path, for the line robot."""
    tests = str(Path(__file__).parents[1] / "tests")
    paths = [tests, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def server(*command: str) -> Iterator[tuple[psutil.Process, int]]:
    """A server process and its port; ended by SIGTERM, which must end it well."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        yield psutil.Process(process.pid), port
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, "the server did not end well"
    finally:
        process.kill()
        process.wait()


def state_of(process: psutil.Process) -> dict[str, float]:
    """Memory [MB], open files and threads of the server."""
    return {
        "memory_mb": round(process.memory_info().rss / 2**20, 1),
        "files": process.num_fds(),
        "threads": process.num_threads(),
    }


HALF = """
import socket, sys, time
half = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
half.sendall(
    b"GET / HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n"
)
half.recv(4096)
half.sendall(b"\\x82\\xff" + (10**6).to_bytes(8, "big") + b"mask" + bytes(300_000))
print("half", flush=True)
time.sleep(60)
"""
"""A client that has sent 300,000 of a message's 1,000,000 bytes."""


def kill_in_mid_message(port: int) -> None:
    """Start such a client and kill its process."""
    client = subprocess.Popen(
        [sys.executable, "-S", "-c", HALF, str(port)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "half\n"
    os.kill(client.pid, signal.SIGKILL)
    client.wait()


# ---- the two measurements --------------------------------------------------------------------------------
def recorded(folder: Path, cameras: list[str], most: int = 64) -> list[Spoken]:
    """Messages that show frames of a dataset, spread over its episodes."""
    from lerobot.datasets import LeRobotDataset

    dataset = LeRobotDataset("local/robot", root=folder, video_backend="pyav")
    keys = {key.rpartition(".")[2]: key for key in dataset.meta.camera_keys}
    found = []
    for frame in np.linspace(0, len(dataset) - 1, most).astype(int):
        item = dataset[int(frame)]
        images = {
            role: np.round(item[keys[role]].numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
            for role in cameras
        }
        state = item["observation.state"].numpy()
        found.append({"images": images, "observation/state": state, "prompt": item["task"]})
    return found


def references(port: int, folder: Path) -> list[list[Spoken]]:
    """Each frame's message and what one client alone is answered."""
    client = WebsocketClientPolicy(host=f"ws://127.0.0.1:{port}")
    messages = recorded(folder, list(client.get_server_metadata()["cameras"]))
    found = []
    for message in messages:
        reply = client.infer(message | {"reset": True})
        while reply["late"]:
            reply = client.infer(message)
        found.append([message, {key: reply[key] for key in ("plan", "feasibility")}])
    client._ws.close()
    return found


def load(args: argparse.Namespace) -> Spoken:
    """`clients` at once for `seconds`, others killed meanwhile."""
    command = ["-m", "serving.tagged", "--threads", str(args.threads)]
    if args.run is not None:
        command = ["-c", VINE, "serve", str(args.run), "--threads", str(args.threads)]
        command += ["--port", "0", "--rate", "1e6", "--deadline", str(args.deadline)]
    with tempfile.TemporaryDirectory() as folder, server(*command) as (process, port):
        options = [str(port), "--seconds", str(args.seconds)]
        frames = references(port, args.dataset) if args.run is not None else []
        if frames:
            file = Path(folder) / "frames.msgpack"
            file.write_bytes(msgpack_numpy.packb(frames))
            options += ["--frames", str(file)]
        clients = [start_client(number, options) for number in range(args.clients)]
        for client in clients:
            assert told_by(client) == "ready"
        before, waiting = state_of(process), os.getloadavg()[0]
        for client in clients:
            client.stdin.write("go\n")  # type: ignore[union-attr]
            client.stdin.flush()  # type: ignore[union-attr]
        stop, killed = threading.Event(), [0]

        def kill() -> None:
            while not stop.wait(args.kill_every):
                kill_in_mid_message(port)
                killed[0] += 1

        killer = threading.Thread(target=kill)
        killer.start()
        found = [json.loads(told_by(client)) for client in clients]
        under, after = os.getloadavg()[0], state_of(process)
        stop.set()
        killer.join()
        for client in clients:
            client.wait()
        time.sleep(2)
        alone = state_of(process)
    counts = {name: sum(tally["counts"][name] for tally in found) for name in found[0]["counts"]}
    latencies = np.concatenate([tally["latencies"] for tally in found])
    told: Spoken = {
        "serves": "the tests' line robot: tabular planner, scripted skill, no networks",
        "clients": args.clients,
        "seconds": args.seconds,
        "requests": counts["sent"],
        "requests_per_second": round(counts["sent"] / args.seconds, 1),
        "lost": counts["sent"] - len(latencies),
        "replies_checked": counts["checked"],
        "crossed": counts["crossed"],
        "surplus_replies": counts["surplus"],
        "errors": [tally["error"] for tally in found if tally["error"]],
        "episodes": counts["episodes"],
        "clients_killed_in_mid_message": killed[0],
        "latency_ms": {f"p{q}": round(float(np.percentile(latencies, q)), 1) for q in (50, 95, 99, 100)},
        "server_with_clients_before": before,
        "server_with_clients_after": after,
        "server_without_clients": alone,
        "load_average_before": round(waiting, 1),
        "load_average_after": round(under, 1),
    }
    if not frames:
        return told | {"solved": counts["solved"]}
    plans = {(tuple(expected["plan"]), expected["feasibility"]) for _, expected in frames}
    return told | {
        "serves": f"`vine serve`: {args.agent}",
        "deadline_seconds": args.deadline,
        "replies_with_a_late_planner": counts["late"],
        "frames": len(frames),
        "different_plans_of_frames": len(plans),
    }


def start_client(number: int, options: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, CLIENTS, options[0], str(number), *options[1:]],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told_by(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    return client.stdout.readline().strip()


def fuzz(args: argparse.Namespace) -> Spoken:
    """Damaged messages, a connection each thousand, both endpoints in turn; memory after each tenth."""
    from serving.fuzz import run_fuzz  # slow to import

    answered = refused = number = 0
    with server("-m", "serving.tagged") as (process, port):

        def send(count: int) -> None:
            nonlocal answered, refused, number
            for _ in range(count // 1000):
                some = run_fuzz(port, 1000, seed=number, path=("/", "/plan")[number % 2], tags=2)
                answered, refused, number = answered + some[0], refused + some[1], number + 1

        send(args.warm)
        answered = refused = 0
        before, memory = state_of(process), []
        for _ in range(10):
            send(args.messages // 10)
            memory.append(state_of(process)["memory_mb"])
        time.sleep(1)
        after = state_of(process)
        kill_in_mid_message(port)
        tally = Tally(port, 0)
        play_line(tally)
    assert tally.counts["solved"] and not tally.counts["crossed"]
    assert answered > args.messages / 50, "nearly all were refused, so nothing behind the checks was tried"
    return {
        "serves": "the tests' line robot",
        "warm_up_messages": args.warm,
        "messages": answered + refused,
        "answered": answered,
        "refused": refused,
        "server_before": before,
        "memory_mb_after_each_tenth": memory,
        "server_after": after,
        "client_afterwards": "solved its task",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["load", "fuzz"])
    parser.add_argument("--clients", type=int, default=16, help="at once (default: 16)")
    parser.add_argument("--seconds", type=float, default=120, help="of load (default: 120)")
    parser.add_argument("--kill-every", type=float, default=5, help="seconds (default: 5)")
    parser.add_argument("--messages", type=int, default=100_000, help="fuzzed ones (default: 100000)")
    parser.add_argument("--warm", type=int, default=20_000, help="before memory is read (default: 20000)")
    parser.add_argument("--run", type=Path, help="run to serve; default: the line robot")
    parser.add_argument("--agent", default="a run", help="what --run is, for the record")
    parser.add_argument("--dataset", type=Path, help="whose frames clients show to --run")
    parser.add_argument("--deadline", type=float, default=5, help="of a planning call, seconds (default: 5)")
    parser.add_argument("--threads", type=int, default=4, help="requests worked on at once (default: 4)")
    parser.add_argument("--out", type=Path, default=Path("results/serving"))
    args = parser.parse_args()
    from vine_vla.storage.provenance import revision

    begin = revision()  # of the code that runs, not of what it has become by the end
    found = {"load": load, "fuzz": fuzz}[args.what](args)
    found |= {
        "load_average_at_the_end": round(os.getloadavg()[0], 1),
        "cpus": psutil.cpu_count(),
        "python": platform.python_version(),
        "revision": begin,
        "command": " ".join(["PYTHONPATH=tests python benchmarks/server_load.py", *sys.argv[1:]]),
    }
    name = "fuzz" if args.what == "fuzz" else ("load-agent" if args.run else "load-line")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
