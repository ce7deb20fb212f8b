"""A policy on an openpi server as System 1; the subgoal's sentence is its prompt."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Observation, SkillOutput
from vine_vla.system1.adapters.skills import RUNNING_ALWAYS, DoneSignal

EXECUTE = 8
"""Actions of a chunk that are executed before the server is asked again, unless told otherwise."""

API_KEY = "VINE_SKILL_API_KEY"
"""Environment variable with the key that is sent to the server (`Authorization: Api-Key KEY`)."""

STATE = "state"
CAMERA_KEYS = ("observation/image", "observation/wrist_image")
"""openpi's names (LIBERO) of a fixed camera and of one on the wrist."""

Infer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def server_keys(cameras: tuple[str, ...], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Camera role, or `state`, to the key of the server's observations; openpi's own names by default.

    Raises:
        VineError: a given name is no camera and not `state`.
    """
    found = dict(zip(cameras, CAMERA_KEYS, strict=False)) | {STATE: "observation/state"}
    unknown = sorted(set(given or {}) - {*cameras, STATE})
    if unknown:
        raise VineError(f"no camera {unknown[0]!r}", hint=f"there are {', '.join((*cameras, STATE))}")
    return found | dict(given or {})


class OpenpiSkill:
    """The low-level policy behind `infer`.

    Args:
        infer: message -> reply; `connect` makes one.
        names: camera role -> key of the server's observations; `state`: key of the state.
        execute: actions of a chunk that are executed before it is asked again, at least 1.
        done: tells the end of a subgoal; None: never.
    """

    def __init__(
        self,
        infer: Infer,
        *,
        names: Mapping[str, str],
        execute: int = EXECUTE,
        done: DoneSignal | None = None,
    ) -> None:
        if execute < 1:
            raise VineError(f"execute is {execute}", hint="give 1 or more")
        self._infer, self.names, self.horizon, self._done = infer, dict(names), execute, done
        self._text = ""
        self._fresh = True

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        names: Mapping[str, str],
        execute: int = EXECUTE,
        done: DoneSignal | None = None,
    ) -> Self:
        """A skill on the server at `url` (ws://host:port); raises VineError if nobody answers there."""
        return cls(OpenpiClient(url, os.environ.get(API_KEY)), names=names, execute=execute, done=done)

    def another(self) -> Self:
        """A connection of its own for another episode that runs at the same time."""
        infer = self._infer.another() if isinstance(self._infer, OpenpiClient) else self._infer
        done = self._done.another() if self._done is not None else None
        return type(self)(infer, names=self.names, execute=self.horizon, done=done)

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None:
        """Begin `subgoal`; the server is asked to forget (`reset`), which openpi's own ignores."""
        self._text, self._fresh = text, True
        if self._done is not None:
            self._done.start(subgoal, text, seed)

    def act(self, observation: Observation, graph: SceneGraph) -> SkillOutput:
        """The server's next chunk; raises VineError if its answer is no chunk of finite actions."""
        message: dict[str, Any] = {
            self.names[role]: image for role, image in observation.images.items() if role in self.names
        }
        message |= {self.names.get(STATE, "observation/state"): observation.proprioception}
        message |= {"prompt": self._text} | ({"reset": True} if self._fresh else {})
        self._fresh = False
        actions = read_actions(self._infer(message))
        done = RUNNING_ALWAYS if self._done is None else self._done.done(observation, graph)
        return SkillOutput(actions, min(self.horizon, len(actions)), done)


def read_actions(reply: Mapping[str, Any]) -> NDArray[np.float32]:
    """`actions` of a server's reply, float32 [T, A]; raises VineError if they are not finite numbers."""
    actions = np.asarray(reply.get("actions"))
    if actions.ndim != 2 or not actions.size or actions.dtype.kind not in "fiu":
        raise VineError(f"actions of shape {list(actions.shape)}", where="openpi server")
    if not np.isfinite(actions).all():
        raise VineError("actions with NaN or infinity", where="openpi server")
    return np.array(actions, np.float32)


class OpenpiClient:
    """A blocking client of openpi's protocol; connects once, and again after a broken connection.

    Raises:
        VineError: nobody answers at `url`, or the server reports an error.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 60.0) -> None:
        self.url, self.api_key, self.timeout = url, api_key, timeout
        self.metadata: Mapping[str, Any] = {}
        self._open = ExitStack()
        self._socket: Any = None
        self._connect()

    def __call__(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """One request and its reply."""
        from websockets.exceptions import ConnectionClosed

        from vine_vla.system1.adapters.openpi_wire import pack_message, unpack_message

        data = pack_message(message)
        try:
            self._socket.send(data)
            reply = self._socket.recv(self.timeout)
        except ConnectionClosed:
            self._connect()
            self._socket.send(data)
            reply = self._socket.recv(self.timeout)
        except TimeoutError as error:
            raise VineError(f"no answer within {self.timeout:g} s", where=self.url) from error
        if isinstance(reply, str):
            raise VineError(f"the server reports: {reply.strip().splitlines()[-1][:300]}", where=self.url)
        return unpack_message(reply)

    def another(self) -> OpenpiClient:
        """A connection of its own to the same server."""
        return OpenpiClient(self.url, self.api_key, self.timeout)

    def close(self) -> None:
        """End the connection."""
        self._open.close()

    def _connect(self) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        from vine_vla.system1.adapters.openpi_wire import unpack_message

        headers = {"Authorization": f"Api-Key {self.api_key}"} if self.api_key else None
        try:
            opened = connect(
                self.url, compression=None, max_size=None, additional_headers=headers, open_timeout=10
            )
            self._open.close()
            self._socket = self._open.enter_context(opened)
            self.metadata = unpack_message(self._socket.recv(10))
        except (OSError, TimeoutError, WebSocketException) as error:
            raise VineError(
                f"no openpi server answers: {error}", where=self.url, hint="start it, or give another URL"
            ) from error
