"""The server: openpi's websocket protocol, many clients at once, safe by default.

On connecting the server speaks first (metadata). A client sends observations and gets actions, one reply a
request; `/plan` answers with a plan instead, for those with a policy of their own. What is wrong with a
request is answered with a text frame, as openpi does, but the connection lives on. HTTP GET `/healthz` is
answered with OK. Inference runs in threads: one client's planning does not keep another waiting.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import itertools
import logging
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from vine_vla.core.errors import VineError
from vine_vla.serving.config import ServeConfig
from vine_vla.serving.recording import SessionRecorder
from vine_vla.serving.session import ServedAgent, Session, answer_plan
from vine_vla.system1.adapters.openpi_wire import pack_message, unpack_message

LOGGER = logging.getLogger("vine.serving")
PATHS = ("/", "/plan")
_EPISODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class PolicyServer:
    """Serves an agent; `run` listens until it is stopped.

    Args:
        served: what all sessions share.
    """

    def __init__(self, served: ServedAgent, config: ServeConfig) -> None:
        self.served, self.config = served, config
        self.port = config.port
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="vine-infer")
        self._metadata = pack_message(served.metadata())
        self._named: dict[str, Session] = {}
        self._naming = threading.Lock()
        self._busy: set[ServerConnection] = set()
        self._open: set[ServerConnection] = set()
        self._numbers = itertools.count()
        self._start = secrets.token_hex(4)
        self._stopping = asyncio.Event()
        self._draining = False

    def stop(self) -> None:
        """Answer what is being worked on, tell clients that the server goes away, and end."""
        self._stopping.set()

    async def run(self, ready: Callable[[int], None] | None = None) -> None:
        """Listen until `stop`, SIGTERM or SIGINT.

        Args:
            ready: called with the port when clients can connect.

        Raises:
            VineError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
        config = self.config
        try:
            server = await serve(
                self._handle,
                config.host,
                config.port,
                process_request=self._admit,
                compression=None,
                max_size=config.limits.message_bytes,
                max_queue=4,
                close_timeout=2,
                logger=logging.getLogger("vine.serving.websockets"),
            )
        except OSError as error:
            raise VineError(
                f"cannot listen on {config.host}:{config.port}: {error.strerror}",
                hint="another program may be using it: give another --port",
            ) from error
        self.port = server.sockets[0].getsockname()[1]
        if ready is not None:
            ready(self.port)
        await self._stopping.wait()
        await self._drain(server)

    async def _drain(self, server: Server) -> None:
        self._draining = True
        server.close(close_connections=False)
        await self._close(self._open - self._busy)
        end = time.monotonic() + self.config.drain
        while self._busy and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await self._close(set(self._open))
        await server.wait_closed()
        for session in self._named.values():
            await asyncio.get_running_loop().run_in_executor(self._pool, session.reset)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _close(self, connections: set[ServerConnection]) -> None:
        # All at once: one client that does not answer keeps the others' close waiting no longer.
        await asyncio.gather(*(c.close(1001, "the server goes away") for c in connections))

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Health, keys and room, before a connection is made."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self.config.api_key:
            given = request.headers.get("Authorization", "")
            wanted = f"Api-Key {self.config.api_key}"
            if not hmac.compare_digest(given.encode(), wanted.encode()):
                return connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong or missing API key\n")
        if path not in PATHS:
            return connection.respond(http.HTTPStatus.NOT_FOUND, f"paths: {', '.join(PATHS)}, /healthz\n")
        if self._draining or len(self._open) >= self.config.connections:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "no room for another client\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        """One client, from the metadata to its end."""
        request = connection.request
        assert request is not None
        plans = request.path.partition("?")[0] == "/plan"
        own = self._new_session()
        tokens = TokenBucket(self.config.rate, self.config.burst)
        self._open.add(connection)
        previous: float | None = None
        try:
            await connection.send(self._metadata)
            async for message in connection:
                start = time.perf_counter()
                self._busy.add(connection)
                try:
                    reply = await self._answer(message, own, plans, tokens)
                except VineError as error:
                    await connection.send(f"vine: {error}")
                except Exception:  # a bug behind one request must not cost the other clients theirs
                    LOGGER.exception("a request failed")
                    await connection.send(
                        "vine: internal error; the episode has ended, send the next observation"
                    )
                else:
                    timing = {"infer_ms": 1000 * (time.perf_counter() - start)}
                    if previous is not None:
                        timing["prev_total_ms"] = previous
                    await connection.send(pack_message(reply | {"server_timing": timing}))
                previous = 1000 * (time.perf_counter() - start)
                self._busy.discard(connection)
                if self._draining:
                    await connection.close(1001, "the server goes away")
        except ConnectionClosed:
            pass  # the client has gone, in the middle of a message perhaps
        finally:
            self._busy.discard(connection)
            self._open.discard(connection)
            await asyncio.get_running_loop().run_in_executor(self._pool, own.reset)

    async def _answer(
        self, message: bytes | str, own: Session, plans: bool, tokens: TokenBucket
    ) -> dict[str, Any]:
        if not tokens.take():
            raise VineError(
                f"more than {self.config.rate:g} requests a second", where="connection", hint="send fewer"
            )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._work, message, own, plans)

    def _work(self, message: bytes | str, own: Session, plans: bool) -> dict[str, Any]:
        """In a thread: read, infer or plan."""
        request = unpack_message(message, self.config.limits)
        if plans:
            return answer_plan(self.served, request)
        return self._session(request, own).infer(request)

    def _session(self, request: Mapping[str, Any], own: Session) -> Session:
        """The session that the request names with `episode_id`, or the connection's own."""
        name = request.get("episode_id")
        if name is None:
            return own
        if not isinstance(name, str) or not _EPISODE.fullmatch(name):
            raise VineError(
                "episode_id is no name", where="observation", hint="letters, digits, . _ and -, at most 64"
            )
        with self._naming:
            gone = [] if name in self._named else self._outdated()
            found = self._named.setdefault(name, self._new_session())
        for session in gone:
            session.reset()
        return found

    def _outdated(self) -> list[Session]:
        """Take out named sessions that are idle, or the least recently used when there are too many."""
        now, gone = time.monotonic(), []
        for name in sorted(self._named, key=lambda n: self._named[n].used):
            if len(self._named) < self.config.sessions and now - self._named[name].used < self.config.idle:
                break
            gone.append(self._named.pop(name))
        return gone

    def _new_session(self) -> Session:
        number = next(self._numbers)
        recorder = None
        if self.config.record is not None:
            name = f"served-{self._start}-{number:05d}"
            recorder = SessionRecorder(
                self.config.record, self.served.schema, name, self.served.fps / self.served.horizon
            )
        return Session(self.served, number, recorder)


class TokenBucket:
    """Lets `rate` a second pass in the long run, `burst` at once."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self.clock = rate, float(burst), clock
        self._left, self._at = self.burst, clock()

    def take(self) -> bool:
        """Whether one more may pass now."""
        now = self.clock()
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
