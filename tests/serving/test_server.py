"""The server and openpi's own client: episodes, plans, sessions, limits, faults and the end."""

import asyncio
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import websockets
from agent.line_world import LineModel, LineSkill
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from serving.line_client import SeenWorld, fits, message_of, tagged_message
from serving.line_service import make_served, running
from serving.tagged import make_tagged
from websockets.sync.client import connect

from benchmarks.fuzzed_messages import MORE_KEYS, run_fuzz
from vine_vla.agent import AgentConfig
from vine_vla.cli.serve import Config
from vine_vla.core.errors import VineError
from vine_vla.core.options import EpisodeOutcome, Outcome
from vine_vla.data import assemble, open_dataset
from vine_vla.search import SearchConfig, make_planner, validate_trace
from vine_vla.serving import DeadlinePlanner, Session, answer_plan, server
from vine_vla.serving.server import PolicyServer, ServeConfig, TokenBucket

UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def start(scene: int) -> SeenWorld:
    world = SeenWorld()
    world.reset(scene, 0)
    return world


def play(client, world, most=200, **more):
    """An episode as a client plays it; the replies. `reset` goes with the first observation alone."""
    replies = []
    while len(replies) < most:
        reply = client.infer(message_of(world, **more))
        more.pop("reset", None)
        replies.append(reply)
        if reply["status"] == "stopped":
            return replies
        for action in reply["actions"]:
            world.step(action)
    return replies


def leaves(value):
    """Everything in a reply that is no map and no list."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [leaf for item in inner for leaf in leaves(item)]
    return [value]


def open_client(port, path="", **options):
    return WebsocketClientPolicy(host=f"ws://127.0.0.1:{port}{path}", **options)


def test_openpis_client_plays_episodes_to_their_end():
    with running() as port:
        client = open_client(port)
        told = client.get_server_metadata()
        assert told["server"] == "vine" and told["action_horizon"] == 2 and "front" in told["cameras"]
        for scene in range(6):
            world = start(scene)
            replies = play(client, world, reset=True)
            assert world.is_success()
            first, last = replies[0], replies[-1]
            assert first["actions"].shape == (2, 2) and first["actions"].dtype == np.float32
            assert len(first["plan"]) == 2 and first["subgoal"] == first["plan"][0]
            assert first["feasibility"] == pytest.approx(1.0) and first["text"].startswith("grasp")
            assert last["reason"] == "finished plan" and last["subgoal"] == ""
            assert first["policy_timing"]["infer_ms"] > 0 and "infer_ms" in first["server_timing"]
            assert "prev_total_ms" in last["server_timing"]
            for value in (v for reply in replies for v in leaves(reply)):  # what openpi's clients can split
                assert isinstance(value, str | bool | int | float) or value.shape == (2, 2)


def test_the_broker_splits_chunks_and_leaves_the_extras_whole():
    with running() as port:
        world = start(1)
        broker = ActionChunkBroker(open_client(port), action_horizon=2)
        for _ in range(60):
            reply = broker.infer(message_of(world))
            assert reply["actions"].shape == (2,) and isinstance(reply["plan"], list)
            world.step(reply["actions"])
            if world.is_success():
                break
        assert world.is_success()


def test_a_plan_for_those_with_a_policy_of_their_own():
    with running() as port:
        client = open_client(port, "/plan")
        reply = client.infer(message_of(start(2)))
        assert reply["status"] == "planned" and len(reply["plan"]) == len(reply["texts"]) == 2
        assert reply["options"][0]["subgoal"] == reply["plan"][0] and "actions" not in reply
        tree = json.loads(json.dumps(reply["tree"]))
        validate_trace(tree)
        none = client.infer(message_of(start(2), budget=0))
        assert none["status"] == "infeasible" and none["plan"] == []


def test_what_is_wrong_is_told_and_the_connection_lives_on():
    with running() as port:
        client, world = open_client(port), start(3)
        good = message_of(world)
        wrong = {
            "no image of front": {k: v for k, v in good.items() if k != "observation/image"},
            "has shape": good | {"observation/image": np.zeros((16, 80, 4), np.uint8)},
            "of 16 to 4096": good | {"observation/image": np.zeros((4, 4, 3), np.uint8)},
            "is int64": good | {"observation/image": np.zeros((16, 80, 3), np.int64)},
            "outside": good | {"observation/image": np.full((16, 80, 3), 2.0)},
            "no state": {k: v for k, v in good.items() if k != "observation/state"},
            "has 2 numbers, expected 3": good | {"observation/state": np.zeros(2)},
            "NaN": good | {"observation/state": np.array([0, np.nan, 0])},
            "no prompt": {k: v for k, v in good.items() if k != "prompt"},
            "no text": good | {"prompt": 7},
            "executed": good | {"executed": -1},
            "reset is neither": good | {"reset": np.array([True, False])},
            "state is no list of numbers": good | {"observation/state": [0.0, [1.0, 2.0]]},
            "state holds NaN or infinity": good | {"observation/state": np.full(3, 1e300)},
            "episode_id": good | {"episode_id": "../../etc"},
        }
        for told, message in wrong.items():
            with pytest.raises(RuntimeError, match=told):
                client.infer(message)
        assert play(client, world)[-1]["status"] == "stopped" and world.is_success()


def test_other_clients_do_not_notice_a_bad_one():
    with running() as port:
        client, world = open_client(port), start(4)
        client.infer(message_of(world))
        with connect(f"ws://127.0.0.1:{port}") as bad:
            bad.recv()
            for data in (b"", b"\xc1", "text", b"\x81\xa1x", os.urandom(300)):
                bad.send(data)
                assert isinstance(bad.recv(), str)
        half = socket.create_connection(("127.0.0.1", port))  # killed in the middle of a frame
        half.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + UPGRADE)
        half.recv(200)
        half.sendall(b"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00abcd123")
        half.close()
        with (
            connect(f"ws://127.0.0.1:{port}", max_size=None) as large,
            pytest.raises(websockets.ConnectionClosed),
        ):
            large.recv()
            large.send(b"\0" * (33 * 2**20))
            large.recv()
        assert large.close_code == 1009
        play(client, world, reset=True, most=1)
        assert play(client, world)[-1]["status"] == "stopped" and world.is_success()


def test_keys_are_compared_in_constant_time_whatever_bytes_they_are(monkeypatch):
    compared = []

    def compare(given, wanted):
        compared.append((given, wanted))
        return hmac.compare_digest(given, wanted)

    monkeypatch.setattr(server, "hmac", SimpleNamespace(compare_digest=compare))
    with running(api_key="secret") as port:
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Api-Key \xff\xfe\r\n" + UPGRADE)
            assert raw.recv(100).startswith(b"HTTP/1.1 401 ")
        assert open_client(port, api_key="secret").get_server_metadata()["server"] == "vine"
    assert [wanted for _, wanted in compared] == [b"Api-Key secret"] * 2
    assert compared[1][0] == b"Api-Key secret" != compared[0][0]


def test_health_keys_paths_and_room():
    def get(port, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, answer.read()

    with running(api_key="secret", connections=1) as port:
        assert get(port, "/healthz") == (200, b"OK\n")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(port, "/")
        with pytest.raises(websockets.InvalidStatus, match="401"):
            open_client(port, api_key="wrong")
        client = open_client(port, api_key="secret")
        assert client.get_server_metadata()["server"] == "vine"
        with pytest.raises(websockets.InvalidStatus, match="503"):
            open_client(port, api_key="secret")
    with running() as port, pytest.raises(websockets.InvalidStatus, match="404"):
        open_client(port, "/other")
    with pytest.raises(VineError, match="VINE_API_KEY"):
        ServeConfig(host="0.0.0.0")
    with running() as port, pytest.raises(VineError, match="another --port"), running(make_served()) as _:
        other = ServeConfig(port=port)
        asyncio.run(_listen(other))


async def _listen(config):
    await PolicyServer(make_served(), config).run()


def test_a_named_episode_survives_its_connection():
    with running() as port:
        world = start(5)
        first = open_client(port)
        before = [first.infer(message_of(world, episode_id="run-7")) for _ in range(1)]
        for action in before[-1]["actions"]:
            world.step(action)
        first._ws.close()
        replies = play(open_client(port), world, episode_id="run-7")
        assert world.is_success() and replies[-1]["status"] == "stopped"
        # Planned once: the second connection went on with the first one's plan.
        assert replies[0]["replans"] == 0 and replies[-1]["cause"] == "start"


def test_a_new_task_or_reset_begins_an_episode():
    with running() as port:
        client, world = open_client(port), start(0)
        play(client, world)
        assert client.infer(message_of(world))["status"] == "stopped"  # stopped is stopped
        again = start(1)
        assert client.infer(message_of(again, prompt="another task"))["status"] == "acting"
        assert client.infer(message_of(start(2), reset=True))["status"] == "acting"


def test_clients_that_execute_less_say_so():
    with running() as port:
        client, world = open_client(port), start(2)
        while True:
            reply = client.infer(message_of(world, executed=1) if world.steps else message_of(world))
            if reply["status"] == "stopped":
                break
            world.step(reply["actions"][0])
        assert world.is_success()


class Slow:
    """A planner that takes `seconds`, and counts."""

    def __init__(self, seconds, inner=None):
        self.inner, self.seconds, self.calls = inner or make_planner("tree", LineModel()), seconds, 0

    def plan(self, *arguments):
        self.calls += 1
        time.sleep(self.seconds)
        return self.inner.plan(*arguments)


def test_over_the_deadline_the_robot_is_held_and_told_so():
    with ThreadPoolExecutor(4) as pool:
        slow = Slow(0.3)
        served = make_served(new_planner=lambda: DeadlinePlanner(slow, pool, 0.05))
        with running(served) as port:
            client, world = open_client(port), start(6)
            begin = time.monotonic()
            first = client.infer(message_of(world))
            assert time.monotonic() - begin < 0.25
            assert first["status"] == "holding" and first["late"] and not first["actions"].any()
            replies = play(client, world)
            assert replies[-1]["reason"] == "finished plan" and world.is_success()
            assert slow.calls == 1  # the late plan was used, not made again


def test_over_the_deadline_the_last_valid_plan_goes_on():
    with ThreadPoolExecutor(4) as pool:
        slow = Slow(0.0)
        config = AgentConfig(budget=6, max_steps=200, subgoal_steps=40, replanning="fixed")
        served = make_served(new_planner=lambda: DeadlinePlanner(slow, pool, 0.05), config=config)
        with running(served) as port:
            client, world = open_client(port), start(6)
            reply = client.infer(message_of(world))
            slow.seconds = 1.0
            late = []
            while reply["status"] != "stopped" and world.steps < 100:
                for action in reply["actions"]:
                    world.step(action)
                reply = client.infer(message_of(world))
                late.append(reply["late"])
                assert reply["status"] != "holding"
            assert any(late) and world.is_success()


def test_late_plans_that_nobody_asks_for_again_do_not_queue_up():
    with ThreadPoolExecutor(1) as pool:
        slow = Slow(0.3)
        served = make_served(new_planner=lambda: DeadlinePlanner(slow, pool, 0.01))
        for scene in range(8):
            assert answer_plan(served, message_of(start(scene)))["status"] == "late"
            session = Session(served, scene)
            assert session.infer(message_of(start(scene)))["late"]
            session.reset()
    assert slow.calls <= 3  # 16 were asked for within the time of one


def test_one_clients_planning_does_not_keep_another_waiting():
    class Picky(Slow):
        def plan(self, graph, instruction, *rest):
            self.seconds = 0.6 if instruction == "slowly" else 0.0
            return super().plan(graph, instruction, *rest)

    with running(make_served(planner=Picky(0.0))) as port:
        slow, quick = open_client(port), open_client(port)
        thread = threading.Thread(target=lambda: slow.infer(message_of(start(0), prompt="slowly")))
        thread.start()
        time.sleep(0.1)
        begin = time.monotonic()
        quick.infer(message_of(start(1)))
        assert time.monotonic() - begin < 0.4 and thread.is_alive()
        thread.join()


class Wild(LineSkill):
    """System 1 gone mad: NaN, infinities and actions out of range."""

    def act(self, observation, graph):
        found = super().act(observation, graph)
        return found._replace(actions=np.array([[np.nan, 9.0], [-np.inf, -5.0]], np.float32))


def test_actions_stay_in_range_and_nan_never_leaves():
    with running(make_served(new_skill=Wild)) as port:
        client, world = open_client(port), start(0)
        for _ in range(3):
            actions = client.infer(message_of(world))["actions"]
            assert np.isfinite(actions).all()
            assert (actions >= [-1, 0]).all() and (actions <= [1, 2]).all()


def test_too_many_requests_are_turned_away():
    with running(rate=1.0, burst=3) as port:
        client, world = open_client(port), start(0)
        for _ in range(3):
            client.infer(message_of(world))
        with pytest.raises(RuntimeError, match="requests a second"):
            client.infer(message_of(world))
    now = [0.0]
    bucket = TokenBucket(2.0, 2, lambda: now[0])
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now[0] = 0.6
    assert [bucket.take() for _ in range(2)] == [True, False]


def test_a_failing_agent_ends_its_episode_and_not_the_server():
    class Broken(LineSkill):
        def act(self, observation, graph):
            raise RuntimeError("a bug")

    skills = iter([Broken(), LineSkill()])
    with running(make_served(new_skill=lambda: next(skills))) as port:
        client, world = open_client(port), start(0)
        with pytest.raises(RuntimeError, match="internal error"):
            client.infer(message_of(world))
        assert play(client, world)[-1]["status"] == "stopped" and world.is_success()


def test_served_episodes_are_recorded_and_can_be_labelled(tmp_path):
    folder = tmp_path / "served"
    with running(record=folder) as port:
        client = open_client(port)
        for scene in range(3):
            world = start(scene)
            play(client, world, prompt=f"plug it in, number {scene}")
        world = start(3)
        for _ in range(2):  # cut off by the client
            for action in client.infer(message_of(world, reset=True))["actions"]:
                world.step(action)
        client._ws.close()
        time.sleep(0.2)
    dataset = open_dataset(assemble(tmp_path / "served.staging", folder, robot_type="line"))
    assert len(dataset.demonstrations) >= 4
    assert all(d.outcome is EpisodeOutcome.UNKNOWN for d in dataset.demonstrations)
    whole = [d for d in dataset.demonstrations if len(d.segments) == 2]
    assert len(whole) == 3
    assert all(s.outcome is Outcome.REACHED for d in whole for s in d.segments)
    assert {d.instruction for d in whole} == {f"plug it in, number {scene}" for scene in range(3)}
    assert any(s.outcome is Outcome.CENSORED for d in dataset.demonstrations for s in d.segments)


SERVER = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = {path!r}
from serving.line_service import make_served
from vine_vla.serving.server import PolicyServer, ServeConfig
from serving.test_server import Slow
served = make_served(planner=Slow(0.5))
config = ServeConfig(port=0, record=Path({record!r}))
asyncio.run(PolicyServer(served, config).run(lambda port: print(port, flush=True)))
print("ended well", flush=True)
"""


def test_sigterm_answers_what_is_under_way_first(tmp_path):
    tests = str(Path(__file__).parent.parent)
    record = tmp_path / "served"
    code = SERVER.format(path=[tests, str(Path(tests).parent / "src")], record=str(record))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        busy, idle = open_client(port), open_client(port)
        replies = []
        thread = threading.Thread(target=lambda: replies.append(busy.infer(message_of(start(0)))))
        thread.start()
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        thread.join(5)
        assert replies and replies[0]["status"] == "acting"
        with pytest.raises(websockets.ConnectionClosed) as closed:
            idle.infer(message_of(start(0)))
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
        assert process.stdout.readline() == "ended well\n" and process.wait(60) == 0
        assert len(list((tmp_path / "served.staging").glob("*.episode.npz"))) == 1
    finally:
        process.kill()


def test_fuzzed_messages_do_no_harm():
    good = [message_of(start(scene), **more) for scene, more in enumerate(MORE_KEYS)]
    with running(rate=1e9, burst=10**9) as port:
        for path, count in (("/", 7_500), ("/plan", 2_500)):
            answered, refused = run_fuzz(port, good, count, path=path)
            assert answered + refused == count and refused > count / 2 and answered > count / 50
        client, world = open_client(port), start(0)
        assert play(client, world)[-1]["status"] == "stopped" and world.is_success()


def test_clients_that_do_not_answer_keep_nobody_waiting_at_the_end():
    with running() as port:
        dead = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        for raw in dead:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + UPGRADE)
            assert raw.recv(4096)
        begin = time.monotonic()
    assert time.monotonic() - begin < 6  # each is given 2 seconds, all at once
    for raw in dead:
        raw.close()


def test_a_crossed_reply_is_told_from_a_right_one():
    """What the next test and the load benchmark stand on."""
    worlds = [start(0), start(0)]
    one, other = (Session(make_tagged(), number) for number in range(2))
    mine = one.infer(tagged_message(worlds[0], 1, 1))
    theirs = other.infer(tagged_message(worlds[1], 2, 1))
    assert fits(mine, worlds[0], 1, 1) and fits(theirs, worlds[1], 2, 1)
    assert not fits(theirs, worlds[0], 1, 1)  # a reply to another client
    again = one.infer(tagged_message(worlds[0], 1, 2, executed=0))
    assert fits(again, worlds[0], 1, 2) and not fits(again, worlds[0], 1, 1)  # to another request
    assert not fits(other.infer(tagged_message(worlds[0], 1, 3)), worlds[0], 1, 3)  # in another's session


def test_many_clients_get_their_own_replies():
    def one(port: int, number: int) -> bool:
        client, world, request = open_client(port), start(number), 0
        for round_ in range(3):
            world.reset(number, round_)
            status = ""
            while status != "stopped":
                request += 1
                message = tagged_message(world, number, request, prompt=f"task {number} {round_}")
                reply = client.infer(message)
                assert fits(reply, world, number, request)
                status = reply["status"]
                for action in reply["actions"] if status != "stopped" else ():
                    world.step(action)
            assert world.is_success()
        return True

    with running(make_tagged()) as port, ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda number: one(port, number), range(1, 17)))


def test_settings_are_checked():
    for options in ({"port": 70000}, {"threads": 0}, {"rate": 0}, {"drain": -1.0}):
        with pytest.raises(VineError):
            ServeConfig(**options)
    assert ServeConfig().host == Config(Path("run")).listen.host == "127.0.0.1"
    assert replace(ServeConfig(), host="0.0.0.0", api_key="k").api_key == "k"
    assert make_planner("tree", LineModel(), SearchConfig()).name == "tree"
