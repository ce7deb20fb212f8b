"""Fuzzed messages: bytes changed, cut, put in and drawn, and well-formed messages of the wrong kind.

Used by the load benchmark (`server_load.py`) and by the tests of the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from websockets.sync.client import connect

from vine_vla.system1.adapters.openpi_wire import pack_message, unpack_message

Message = Mapping[str, Any]
MORE_KEYS: tuple[Message, ...] = ({}, {"reset": True}, {"episode_id": "a"}, {"executed": 1}, {"budget": 3})
"""Further keys of good messages, so that fuzzing reaches what reads them."""


def fuzzed(rng: np.random.Generator, good: Sequence[bytes], messages: Sequence[Message]) -> bytes | str:
    """One message that is, as a rule, not what it should be.

    Args:
        good: `messages`, packed.
    """
    data = bytearray(good[int(rng.integers(len(good)))])
    kind = int(rng.integers(6))
    if kind == 0:
        for place in rng.integers(len(data), size=int(rng.integers(1, 8))):
            data[place] = int(rng.integers(256))
    elif kind == 1:
        del data[int(rng.integers(len(data))) :]
    elif kind == 2:
        at = int(rng.integers(len(data)))
        data[at:at] = rng.bytes(int(rng.integers(1, 20)))
    elif kind == 3:
        data = bytearray(rng.bytes(int(rng.integers(1, 200))))
    elif kind == 4:
        return changed(rng, messages[int(rng.integers(len(messages)))])
    elif rng.uniform() < 0.1:
        return "a text frame"
    else:  # a known key under which something of another kind stands
        keys = ["reset", "executed", "episode_id", "budget", "prompt", "images", "observation", "state"]
        keys += ["observation/image", "observation/state", "observation/joint_position"]
        message = dict(messages[int(rng.integers(len(messages)))])
        message[keys[int(rng.integers(len(keys)))]] = strange(rng)
        return pack_message(message)
    return bytes(data)


def changed(rng: np.random.Generator, message: Message) -> bytes:
    """A message with a key left out, renamed, or with another's value."""
    names = list(message)
    name, other = (names[int(i)] for i in rng.integers(len(names), size=2))
    found = dict(message)
    value = found.pop(name)
    kind = int(rng.integers(3))
    if kind == 1:
        found[name[: int(rng.integers(len(name) + 1))]] = value
    elif kind == 2:
        found[name] = found.get(other, value)
    return pack_message(found)


def strange(rng: np.random.Generator) -> object:
    """A value that the format can carry and that hardly any key takes."""
    deep: object = 1
    for _ in range(int(rng.integers(1, 60))):
        deep = [deep]
    some: list[object] = [
        None,
        True,
        -1,
        2**63 - 1,
        float("nan"),
        float("inf"),
        "",
        " ",
        "x" * int(rng.integers(1, 20_000)),
        "\x00\u202e",
        b"bytes",
        [],
        list(range(int(rng.integers(400)))),
        [1.0, [2.0, 3.0]],
        deep,
        {},
        {"front": {"front": 1}},
        {1: 2, b"b": None},
        np.zeros((0,), np.float32),
        np.zeros((0, 16, 3), np.uint8),
        np.array(float("nan"), np.float32),
        np.full(3, np.inf, np.float32),
        np.full(3, 1e308),
        np.zeros((3, 16, 80), bool),
        np.zeros((16, 80, 3), np.int64),
        np.zeros((2, 2, 2, 2), np.float16),
        np.zeros((4097, 1, 3), np.uint8),
        np.array([True, False]),
        np.float64("nan"),
        np.bool_(True),
        np.uint64(2**64 - 1),
    ]
    return some[int(rng.integers(len(some)))]


def run_fuzz(
    port: int, messages: Sequence[Message], count: int, *, seed: int = 0, path: str = "/"
) -> tuple[int, int]:
    """Send fuzzed messages over one connection; how many were answered and how many refused.

    Args:
        messages: what a well-behaved client sends; the fuzzed ones are made from these.
        count: how many fuzzed messages.
        path: the server's endpoint.

    Raises:
        AssertionError: a message got no answer, or came upon a bug in the server.
    """
    rng = np.random.default_rng(seed)
    good = [pack_message(message) for message in messages]
    answered = refused = 0
    with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as client:
        client.recv()
        for _ in range(count):
            sent = fuzzed(rng, good, messages)
            client.send(sent)
            reply = client.recv(30)
            if isinstance(reply, str):
                assert reply.startswith("vine: "), reply
                assert "internal error" not in reply and "\n" not in reply, (reply, sent[:300])
                refused += 1
            else:
                unpack_message(reply)
                answered += 1
    return answered, refused
