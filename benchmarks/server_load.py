"""Load and faults of the server: `vine serve` in a process of its own, openpi's clients in others.

    python benchmarks/server_load.py load RUN --task line --out results/serving
    python benchmarks/server_load.py fuzz RUN --task line --out results/serving

RUN is a run folder with `system2` (with perception) and `system1`, of any task. A small one, in minutes:

    vine collect --task line --episodes 24 --out DEMOS
    vine train system2 DEMOS --out RUN/system2 --perception-steps 60 --members 2 --effort 0.1
    vine train system1 DEMOS --out RUN/system1 --steps 40 --batch-size 16

Clients show frames of the task's own simulation, rendered here before the server starts, each another scene.
What the server perceives and plans for each frame is asked first, by one client alone; a reply that differs
(plan or feasibility) counts as crossed.

`load` has `--clients` at once for `--seconds`; meanwhile another client is killed (SIGKILL) in the middle of
a message every `--kill-every` seconds. `fuzz` sends damaged messages, half of what `--warm` are before the
memory is first read, and asks for all frames again at the end. Writes `load-NAME.json` or `fuzz-NAME.json`
with NAME the run folder's.
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

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
from fuzzed_messages import MORE_KEYS, run_fuzz
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from server_clients import Frame, Message, Tally

from vine_vla.storage.provenance import revision
from vine_vla.tasks.registry import find_task

VINE = "import sys; from vine_vla.cli import main; sys.exit(main())"
CLIENTS = str(Path(__file__).with_name("server_clients.py"))


@contextmanager
def server(args: argparse.Namespace) -> Iterator[tuple[psutil.Process, int]]:
    """`vine serve` and its port; ended by SIGTERM, which must end it well."""
    options = ["--threads", str(args.threads), "--deadline", str(args.deadline)]
    options += ["--port", "0", "--rate", "1e9", "--burst", "1000000000"]
    process = subprocess.Popen(
        [sys.executable, "-c", VINE, "serve", str(args.run), *options],
        stdout=subprocess.PIPE,
        text=True,
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
def rendered(name: str, count: int) -> list[Message]:
    """Messages that show `count` scenes of a task as they begin, on the split it is evaluated on."""
    task = find_task(name)
    simulation, found = task.simulation(task.default_split), []
    for scene in range(count):
        seen = simulation.reset(scene, 0)
        images = {role: np.ascontiguousarray(image) for role, image in seen.images.items()}
        state = np.asarray(seen.proprioception, np.float32)
        found.append({"images": images, "observation/state": state, "prompt": simulation.instruction})
    simulation.close()
    return found


def references(port: int, messages: list[Message]) -> list[Frame]:
    """Each message and what one client alone is answered."""
    client = WebsocketClientPolicy(host=f"ws://127.0.0.1:{port}")
    found = []
    for message in messages:
        reply = client.infer(message | {"reset": True})
        while reply["late"]:
            reply = client.infer(message)
        found.append((message, {key: reply[key] for key in ("plan", "feasibility")}))
    client._ws.close()
    return found


def different(frames: list[Frame]) -> int:
    """How many plans (with their feasibility) a crossed reply could be told by."""
    return len({(tuple(expected["plan"]), expected["feasibility"]) for _, expected in frames})


def load(args: argparse.Namespace) -> Message:
    """`clients` at once for `seconds`, others killed meanwhile."""
    messages = rendered(args.task, args.frames)
    with tempfile.TemporaryDirectory() as folder, server(args) as (process, port):
        frames, file = references(port, messages), Path(folder) / "frames.msgpack"
        file.write_bytes(msgpack_numpy.packb(frames))
        options = [str(file), "--seconds", str(args.seconds)]
        clients = [start_client(port, number, options) for number in range(args.clients)]
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
    return {
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
        "deadline_seconds": args.deadline,
        "replies_with_a_late_planner": counts["late"],
        "frames": len(frames),
        "different_plans_of_frames": different(frames),
    }


def start_client(port: int, number: int, options: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, CLIENTS, str(port), str(number), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told_by(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    return client.stdout.readline().strip()


def fuzz(args: argparse.Namespace) -> Message:
    """Damaged messages, a connection each thousand, both endpoints in turn; memory after each tenth."""
    answered = refused = number = 0
    messages = rendered(args.task, args.frames)
    good = [message | more for message, more in zip(messages, MORE_KEYS, strict=False)]
    with server(args) as (process, port):
        frames = references(port, messages)

        def send(count: int) -> None:
            nonlocal answered, refused, number
            for begun in range(0, count, 1000):
                some = run_fuzz(
                    port, good, min(1000, count - begun), seed=number, path=("/", "/plan")[number % 2]
                )
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
        for frame in frames:
            tally.play(frame)
    assert tally.counts["checked"] and not tally.counts["crossed"]
    assert answered > args.messages / 50, "nearly all were refused, so nothing behind the checks was tried"
    return {
        "warm_up_messages": args.warm,
        "messages": answered + refused,
        "answered": answered,
        "refused": refused,
        "server_before": before,
        "memory_mb_after_each_tenth": memory,
        "server_after": after,
        "plans_afterwards_as_before": tally.counts["checked"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["load", "fuzz"])
    parser.add_argument("run", type=Path, help="folder with `system1` and `system2`")
    parser.add_argument("--task", required=True, help="whose scenes clients show; the one of RUN")
    parser.add_argument(
        "--frames", type=int, default=64, help=f"scenes shown, at least {len(MORE_KEYS)} (default: 64)"
    )
    parser.add_argument("--clients", type=int, default=16, help="at once (default: 16)")
    parser.add_argument("--seconds", type=float, default=120, help="of load (default: 120)")
    parser.add_argument("--kill-every", type=float, default=5, help="seconds (default: 5)")
    parser.add_argument("--messages", type=int, default=100_000, help="fuzzed ones (default: 100000)")
    parser.add_argument("--warm", type=int, default=20_000, help="before memory is read (default: 20000)")
    parser.add_argument("--deadline", type=float, default=5, help="of a planning call, seconds (default: 5)")
    parser.add_argument("--threads", type=int, default=4, help="requests worked on at once (default: 4)")
    parser.add_argument("--out", type=Path, default=Path("results/serving"))
    args = parser.parse_args()
    if args.frames < len(MORE_KEYS):
        parser.error(f"--frames {args.frames}: give {len(MORE_KEYS)} or more")
    begin = revision()  # of the code that runs, not of what it has become by the end
    found = {"load": load, "fuzz": fuzz}[args.what](args)
    found |= {
        "serves": f"`vine serve`, a run of {args.task}",
        "load_average_at_the_end": round(os.getloadavg()[0], 1),
        "cpus": psutil.cpu_count(),
        "python": platform.python_version(),
        "revision": begin,
        "command": f"python benchmarks/server_load.py {args.what} RUN --task {args.task}",
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.what}-{args.run.resolve().name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
