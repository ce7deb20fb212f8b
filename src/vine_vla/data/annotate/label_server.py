"""The labelling page's server: one page, its frames and its labels, for this machine's user only.

    GET  /TOKEN/                         the page
    GET  /TOKEN/state                    episodes with their labels, as JSON
    GET  /TOKEN/frame/EPISODE/CAMERA/N   frame N of an episode, as JPEG
    POST /TOKEN/label                    {"episode": id, "outcome": word}, or "onset_frame": N or null

It listens on loopback. Other pages in the same browser can reach loopback too, so that every address begins
with a random token, the Host header must name this server (a foreign name that resolves to 127.0.0.1 is
refused), and a post must be JSON from this very page. An answer to a post means that the label is on disk.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration, EpisodeOutcome
from vine_vla.data.annotate.label_frames import FrameStore
from vine_vla.data.annotate.labelling import Labeller

HOST = "127.0.0.1"
POST_BYTES = 4096
"""A label is far smaller."""
FRAME = re.compile(r"frame/(\d{1,9})/([a-z0-9_]+)/(\d{1,9})")


class LabelServer(ThreadingHTTPServer):
    """Listens from construction on; `serve_forever` answers.

    Args:
        labeller: where labels go.
        port: 0 for any free one.

    Raises:
        VineError: the port is taken.
    """

    daemon_threads = True  # open connections of a browser must not keep the process alive

    def __init__(self, labeller: Labeller, port: int = 0) -> None:
        self.labeller = labeller
        self.frames = FrameStore(labeller.dataset)
        self.token = secrets.token_urlsafe(16)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise VineError(
                f"cannot listen on port {port}: {error}", hint="choose another --port, or 0 for any"
            ) from error
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up on a frame it no longer needs is no error; anything else is reported."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes; together they would wait 40 ms
    timeout = 300
    server: LabelServer

    def do_GET(self) -> None:  # noqa: N802
        self._guarded(self._get)

    def do_POST(self) -> None:  # noqa: N802
        self._guarded(self._post)

    def _guarded(self, answer: Callable[[str], None]) -> None:
        """Answer, or say in one line why not."""
        try:
            answer(self._checked_path())
        except _RefusedError as error:
            self._refuse(error.status, str(error))
        except VineError as error:
            disk = isinstance(error.__cause__, OSError)  # it is the disk's fault, not the label's
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR if disk else HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"cannot be read or written: {error}")

    def _checked_path(self) -> str:
        """What follows the token; raises _RefusedError when it is not our page that asks."""
        if self.headers.get("Host") not in self.server.hosts:
            raise _RefusedError(HTTPStatus.FORBIDDEN, f"this server is {self.server.url.split('/')[2]}")
        token, slash, rest = self.path.removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "wrong token: open the address as it was printed")
        return rest

    def _get(self, path: str) -> None:
        if path == "":
            self._page()
        elif path == "state":
            self._json(HTTPStatus.OK, self._state())
        elif match := FRAME.fullmatch(path):
            try:
                jpeg = self.server.frames.jpeg(int(match[1]), match[2], int(match[3]))
            except VineError as error:
                raise _RefusedError(HTTPStatus.NOT_FOUND, str(error)) from error
            self._send(HTTPStatus.OK, "image/jpeg", jpeg, {"Cache-Control": "private, max-age=86400"})
        else:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "nothing is here")

    def _post(self, path: str) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "another page may not label")
        if path != "label":
            raise _RefusedError(HTTPStatus.NOT_FOUND, "nothing is here")
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a label is application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > POST_BYTES:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a label has a length, of at most {POST_BYTES} bytes"
            )
        episode = self._label(self.rfile.read(int(length)))
        self._json(HTTPStatus.OK, _episode(episode))

    def _label(self, body: bytes) -> Demonstration:
        try:
            label = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise VineError(f"no JSON: {error}") from error
        labeller, names = self.server.labeller, set(label) if isinstance(label, dict) else set()
        if not isinstance(label, dict) or not isinstance(label.get("episode"), str):
            raise VineError("no label", hint='give {"episode": id, "outcome": word}')
        if names == {"episode", "outcome"}:
            if label["outcome"] not in list(EpisodeOutcome):
                raise VineError(
                    f"unknown outcome {label['outcome']!r}", hint=f"use {', '.join(EpisodeOutcome)}"
                )
            return labeller.set_outcome(label["episode"], EpisodeOutcome(label["outcome"]))
        if names == {"episode", "onset_frame"}:
            frame = label["onset_frame"]
            if frame is not None and type(frame) is not int:
                raise VineError(f"onset_frame is {frame!r}", hint="give a whole number or null")
            return labeller.set_onset(label["episode"], frame)
        raise VineError(
            f"a label of {', '.join(sorted(names))}", hint="give episode and either outcome or onset_frame"
        )

    def _state(self) -> dict[str, Any]:
        dataset = self.server.labeller.dataset
        return {
            "name": dataset.root.resolve().name,
            "fps": dataset.fps,
            "cameras": list(dataset.cameras),
            "episodes": [_episode(d) for d in self.server.labeller.demonstrations],
        }

    def _page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        page = files("vine_vla.data.annotate").joinpath("label_page.html").read_text(encoding="utf-8")
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self';"
            " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        body = page.replace("{{nonce}}", nonce).encode()
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", body, {"Content-Security-Policy": policy})

    def _json(self, status: HTTPStatus, data: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self._send(status, "application/json; charset=utf-8", body, headers or {})

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True  # a body that was not read would be taken for the next request
        self._json(status, {"error": text}, {"Connection": "close"})

    def _send(self, status: HTTPStatus, kind: str, body: bytes, headers: dict[str, str]) -> None:
        fixed = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        fixed |= {"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin"}
        self.send_response(status)
        for name, value in {"X-Content-Type-Options": "nosniff", **fixed, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests off the terminal."""


def _episode(d: Demonstration) -> dict[str, Any]:
    """What the page shows of an episode."""
    return {
        "id": d.episode_id,
        "index": d.episode_index,
        "instruction": d.instruction,
        "length": d.length,
        "outcome": d.outcome.value,
        "source": d.outcome_source.value if d.outcome_source else None,
        "onset_frame": d.onset_frame,
        "failure_kind": d.failure_kind,
        "segments": [[s.start, s.end, s.text or str(s.subgoal), s.outcome.value] for s in d.segments],
    }
