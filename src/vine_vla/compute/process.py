"""Child processes that never outlive their parent, know their threads from the start, and answer by messages.

`multiprocessing` imports the parent's main module and unpickles what the child is to run before the child's
own first line runs. Those imports take seconds, and a child whose parent is killed meanwhile would live on.
Here the child begins with nothing but this module: it asks the kernel to be ended with its parent, then
imports.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe, process, spawn
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS")
"""Variables that say how many threads a process computes and (Mesa) renders with."""
WATCH_SECONDS = 0.5
"""How often a child looks whether its parent lives, where the kernel does not tell."""
DEATH_SIGNAL = 1
"""Linux: the option `PR_SET_PDEATHSIG` of `prctl`."""


@dataclass(frozen=True)
class Failure:
    """What ended a child: the error, and the traceback there as text."""

    error: BaseException
    trace: str


class Child:
    """A process that runs `target(connection)` and ends with this one.

    Args:
        target: picklable; gets its end of the connection. What it raises is raised by `receive`.
        name: in messages.
        threads: of the libraries in the child.
        log: file that its output is appended to; None: it comes out here.
        interruptible: whether `interrupt` raises KeyboardInterrupt in it. A terminal's Ctrl-C never does:
            the parent decides what ends.
    """

    def __init__(
        self,
        target: Callable[[Connection], None],
        *,
        name: str = "worker",
        threads: int = 1,
        log: Path | None = None,
        interruptible: bool = False,
    ) -> None:
        self.name, self.log = name, log
        payload = ForkingPickler.dumps(target)
        self.connection, theirs = Pipe()
        end = theirs.fileno()
        # The kernel's signal comes when the *thread* ends that started the child.
        by_kernel = threading.current_thread() is threading.main_thread()
        arguments = f"{end}, {os.getpid()}, {by_kernel}, {interruptible}"
        boot = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from vine_vla.compute.process import child_main; child_main({arguments})"
        )
        environment = os.environ | dict.fromkeys(THREADS, str(threads))
        output = log.open("ab") if log else None
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", boot],
                pass_fds=[end],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
            )
        finally:
            theirs.close()
            if output:
                output.close()
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died, which `receive` reports
            self.connection.send(_preparation())
            self.connection.send_bytes(payload)

    def receive(self) -> Any:
        """The next message.

        Raises:
            VineError: the child has died or was interrupted.
            BaseException: what `target` raised.
        """
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.wait()
            raise VineError(
                f"{self.name}: its process {_end(self.process.returncode)}",
                where=str(self.log or ""),
                hint="often the memory is used up: use fewer workers, then repeat the command",
            ) from None
        if isinstance(message, Failure):
            message.error.add_note(f"in another process ({self.name}):\n{message.trace}")
            raise message.error
        return message

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in an interruptible child."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = 0.0) -> None:
        """End the process: give it `seconds` to end by itself, then kill it."""
        self.connection.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def child_main(end: int, parent: int, by_kernel: bool, interruptible: bool) -> None:
    """The child's side: tie its life to the parent's, then import, then run."""
    tie_to_parent(parent, by_kernel)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if interruptible:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Connection(end) as connection:
        try:
            # While this is set, a main module that starts processes when it is imported is an error.
            process.current_process()._inheriting = True  # type: ignore[attr-defined]
            spawn.prepare(connection.recv())
            target = connection.recv()
            del process.current_process()._inheriting  # type: ignore[attr-defined]
            target(connection)
        except KeyboardInterrupt:
            _send_failure(connection, VineError("was interrupted"))
            sys.exit(1)
        except BaseException as error:
            _send_failure(connection, error)
            sys.exit(1)


def tie_to_parent(parent: int, by_kernel: bool = True) -> None:
    """End this process when process `parent`, which started it, is gone.

    Args:
        by_kernel: ask the kernel (Linux), which also works while an import holds the interpreter. A thread
            watches in any case.
    """
    if by_kernel and sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _preparation() -> Mapping[str, Any]:
    """What `multiprocessing` tells a child: import paths, working directory, the main module."""
    data = spawn.get_preparation_data("child")
    del data["authkey"]  # of multiprocessing's own servers, and not to be written into a pipe
    return data


def _send_failure(connection: Connection, error: BaseException) -> None:
    failure = Failure(error, traceback.format_exc())
    try:
        ForkingPickler.loads(ForkingPickler.dumps(failure))
    except Exception:  # an error with arguments of its own
        failure = Failure(RuntimeError(f"{type(error).__name__}: {error}"), failure.trace)
    with suppress(BrokenPipeError, ConnectionResetError):  # nobody is left to read it
        connection.send(failure)


def _end(code: int) -> str:
    """`returncode` in words."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
