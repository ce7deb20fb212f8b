"""A long run as a graph of stages: what one makes another needs, and what is made is not made again.

`stages/NAME.json` in the run's work folder says under which key a stage was done: a hash of its settings and
of the keys of what it needs. A stage whose key changed is done again, and so are those that need it; what it
had made before is moved to `replaced/`. Stages that do not need each other run beside each other, each in a
process with its share of threads and workers, its output in `stages/NAME.log`. A process takes one stage
after the other, since what a stage imports costs seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from vine_vla.compute.process import Child
from vine_vla.compute.progress import Report, forwarding, progress_bars
from vine_vla.core.errors import VineError
from vine_vla.storage.json import read_json, write_json

STAGES, REPLACED = "stages", "replaced"
FORMAT = 2
"""Of `stages/NAME.json`."""
DONE = "done"
STOP_SECONDS = 60.0
"""How long the stages beside a failed or interrupted one have to finish what they are at."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Share:
    """What a stage may use of the machine.

    Args:
        threads: of torch and the like in its own process.
        workers: processes of one thread each; 0: the stage does their work itself.
    """

    threads: int = 2
    workers: int = 2


@dataclass(frozen=True)
class Stage:
    """A step of a long run.

    Args:
        name: e.g. `seed_0/system1`. about: what it does, for people.
        run: picklable; does the work. It may be called on half-done outputs, and resumes there.
        inputs: outputs of other stages that it reads, or names of stages that must be done before.
        outputs: files and folders that it makes, relative to the work folder.
        settings: what its outputs depend on besides, JSON-ready.
        grows: outputs that were made under other settings are extended, not made anew.
    """

    name: str
    run: Callable[[Share], object]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    grows: bool = False
    about: str = ""

    @property
    def file_name(self) -> str:
        """Its name as part of a file name."""
        return self.name.replace("/", "-").replace(" ", "-")


class StageState:
    """What is done under a work folder, and how long it took."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / STAGES
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob("*.json"):
            if read_json(file).get("format") != FORMAT:
                raise VineError(
                    "stages of another version of VINE",
                    where=str(self.folder),
                    hint="give another work folder, or remove this one",
                )

    def read(self, stage: Stage) -> dict[str, Any]:
        """The stage's entry; empty if it has never begun."""
        file = self.folder / f"{stage.file_name}.json"
        return read_json(file) if file.is_file() else {}

    def is_done(self, stage: Stage, key: str) -> bool:
        """Whether the stage was done under this key, and what it made is there."""
        return self.read(stage).get("key") == key and not self.missing(stage)

    def missing(self, stage: Stage) -> list[str]:
        """Outputs of the stage that are not there."""
        return [output for output in stage.outputs if not (self.root / output).exists()]

    def begin(self, stage: Stage, key: str) -> None:
        """Note that the stage runs; moves what it made under another key out of the way."""
        known = self.read(stage)
        before = known.get("key") or known.get("begun")
        if before not in (key, None) and not stage.grows:
            for output in stage.outputs:
                self._replace(self.root / output, str(before))
        # The time of an interrupted stage counts.
        spent = known["seconds"] if known.get("begun") == key else 0.0
        self._write(stage, {"begun": key, "seconds": spent})

    def end(self, stage: Stage, key: str, seconds: float, *, done: bool) -> None:
        """Note that the stage has run for `seconds`, and whether it is done."""
        spent = round(self.read(stage).get("seconds", 0.0) + seconds, 1)
        self._write(stage, {"key" if done else "begun": key, "seconds": spent})

    def seconds(self) -> dict[str, float]:
        """How long every stage took, in the order in which they ended."""
        files = sorted(self.folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
        return {file.stem: read_json(file)["seconds"] for file in files}

    def _write(self, stage: Stage, entry: dict[str, Any]) -> None:
        write_json(self.folder / f"{stage.file_name}.json", {"format": FORMAT, **entry})

    def _replace(self, output: Path, key: str) -> None:
        if output.exists() and output.is_relative_to(self.root):
            target = self.root / REPLACED / key / output.relative_to(self.root)
            if target.is_dir():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(output, target)


def run_stages(
    stages: Sequence[Stage],
    root: Path,
    *,
    parallel: int = 2,
    share: Share | None = None,
    say: Say | None = None,
) -> dict[str, float]:
    """Run what is missing of `stages`; of several that could run, the first of the list goes first.

    Args:
        root: work folder.
        parallel: stages at a time; 0: in this process, one after the other.
        share: of the whole run; stages beside each other divide it.
        say: told which stages run and which are up to date.

    Returns:
        Seconds of every stage.

    Raises:
        VineError: the graph is malformed, or a stage failed; those beside it were stopped.
    """
    return _Run(stages, root, parallel, share or Share(), say or _print).run()


@dataclass(frozen=True)
class _Running:
    stage: Stage
    child: Child
    threads: int
    started: float


class _Run:
    """One call of `run_stages`."""

    def __init__(self, stages: Sequence[Stage], root: Path, parallel: int, share: Share, say: Say) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.needs = find_needs(stages)
        self.state, self.parallel, self.share, self.say = StageState(root), parallel, share, say
        self.keys: dict[str, str] = {}
        self.begun = 0
        """Stages that are up to date, run or have run."""
        self.running: dict[Connection, _Running] = {}
        self.idle: list[tuple[int, Child]] = []
        """Processes that have done a stage, each with the threads it was made for."""

    def run(self) -> dict[str, float]:
        order, place = TopologicalSorter(self.needs), list(self.stages)
        order.prepare()
        ready: list[str] = []
        ended = 0
        try:
            with progress_bars() as report:
                while order.is_active():
                    ready = sorted({*ready, *order.get_ready()}, key=place.index)
                    done = [name for name in ready if self._up_to_date(name)]
                    if not done and self.parallel == 0:
                        self._run_here(self.stages[ready[0]])
                        done = ready[:1]
                    elif not done:
                        begun = self._start(ready)
                        ready = [name for name in ready if name not in begun]
                        done = self._wait(report)
                    order.done(*done)
                    ended += len(done)
                    if len(self.stages) > 1:
                        report("all stages", ended, len(self.stages))
                    ready = [name for name in ready if name not in done]
        except BaseException:
            self._stop()
            raise
        finally:
            for _, child in self.idle:
                child.stop()
        return self.state.seconds()

    def _up_to_date(self, name: str) -> bool:
        stage = self.stages[name]
        if name not in self.keys:
            text = json.dumps(
                [stage.settings, sorted(self.keys[need] for need in self.needs[name])],
                sort_keys=True,
                default=str,
            )
            self.keys[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
            if self.state.is_done(stage, self.keys[name]):
                self.say(f"{name}: up to date")
                self.begun += 1
                return True
        return False

    def _announce(self, stage: Stage, what: str) -> None:
        self.begun += 1
        text = f"{stage.name}: {what}, stage {self.begun} of {len(self.stages)}"
        self.say(f"{text}: {stage.about}" if stage.about else text)

    def _start(self, ready: Sequence[str]) -> list[str]:
        """Begin as many of the stages as there is room for; returns their names."""
        begun = list(ready[: self.parallel - len(self.running)])
        beside = len(self.running) + len(begun)
        share = Share(max(1, self.share.threads // beside), self._workers(beside))
        for name in begun:
            stage = self.stages[name]
            resumes = self.state.read(stage).get("begun") == self.keys[name]
            self._announce(stage, "resumes" if resumes else "begins")
            self.state.begin(stage, self.keys[name])
            child = self._process(name, share.threads, self.state.folder / f"{stage.file_name}.log")
            child.connection.send((stage, share, child.log))
            self.running[child.connection] = _Running(stage, child, share.threads, time.monotonic())
        return begun

    def _process(self, name: str, threads: int, log: Path) -> Child:
        """A process for a stage: an idle one that was made for as many threads, else a new one."""
        for place, (own, child) in enumerate(self.idle):
            if own == threads and child.process.poll() is None:
                del self.idle[place]
                child.name, child.log = name, log
                return child
        while self.idle:  # they hold memory, and what runs now has other threads
            self.idle.pop()[1].stop()
        return Child(_take_stages, name=name, threads=threads, log=log, interruptible=True)

    def _workers(self, beside: int) -> int:
        """Worker processes of a stage; a stage would only wait for a single one."""
        return max(1, self.share.workers // beside) if self.share.workers > 1 else 0

    def _run_here(self, stage: Stage) -> None:
        key, started = self.keys[stage.name], time.monotonic()
        self._announce(stage, "begins")
        self.state.begin(stage, key)
        try:
            stage.run(self.share)
            self._check_outputs(stage)
        except BaseException:
            self.state.end(stage, key, time.monotonic() - started, done=False)
            raise
        self.state.end(stage, key, time.monotonic() - started, done=True)

    def _wait(self, report: Report) -> list[str]:
        """Show progress until a stage ends; names of those that did."""
        ended: list[str] = []
        while not ended:
            for connection in wait(list(self.running)):
                assert isinstance(connection, Connection)
                running = self.running[connection]
                message = self._receive(running)
                if message != DONE:
                    report(*message)
                    continue
                del self.running[connection]
                self.idle.append((running.threads, running.child))
                self._check_outputs(running.stage)
                self._end(running, done=True)
                ended.append(running.stage.name)
        return ended

    def _receive(self, running: _Running) -> Any:
        try:
            return running.child.receive()
        except Exception as error:
            self._end(running, done=False)
            del self.running[running.child.connection]
            running.child.stop()
            if isinstance(error, VineError):
                where = ", ".join(filter(None, [f"stage {running.stage.name}", error.where]))
                raise VineError(error.what, where=where, hint=error.hint) from error
            raise VineError(
                f"stage {running.stage.name}: {type(error).__name__}: {error}",
                where=str(running.child.log),
                hint="repeat the command to resume; the traceback is in that file",
            ) from error

    def _check_outputs(self, stage: Stage) -> None:
        if missing := self.state.missing(stage):
            raise VineError(f"stage {stage.name} has not made {', '.join(missing)}")

    def _end(self, running: _Running, *, done: bool) -> None:
        key = self.keys[running.stage.name]
        self.state.end(running.stage, key, time.monotonic() - running.started, done=done)

    def _stop(self) -> None:
        """Stop what still runs: each may finish what it is at; a second Ctrl-C ends all at once."""
        try:
            for running in self.running.values():
                self.say(f"{running.stage.name}: stops, to be resumed")
                running.child.interrupt()
            deadline = time.monotonic() + STOP_SECONDS
            for connection, running in list(self.running.items()):
                if self._last_word(running.child, deadline) == DONE:
                    self._end(running, done=True)
                    self.running.pop(connection).child.stop(STOP_SECONDS)
        finally:
            for running in self.running.values():
                self._end(running, done=False)
                running.child.stop()

    @staticmethod
    def _last_word(child: Child, deadline: float) -> object:
        """What a child that was interrupted says at the end; None if it says nothing in time."""
        message: object = None
        with suppress(Exception):  # that it failed at last is no news
            while message != DONE and child.connection.poll(max(0.0, deadline - time.monotonic())):
                message = child.receive()
        return message


def find_needs(stages: Sequence[Stage]) -> dict[str, set[str]]:
    """Names of the stages that each stage needs, from its inputs.

    Raises:
        VineError: two stages have a name or an output in common, an input that no stage makes, a cycle.
    """
    makers = {stage.name: stage.name for stage in stages}
    if len(makers) < len(stages):
        raise VineError("two stages have the same name")
    for stage in stages:
        for output in stage.outputs:
            maker = makers.setdefault(output, stage.name)
            if maker != stage.name:
                raise VineError(f"stages {maker} and {stage.name} both make {output}")
    needs: dict[str, set[str]] = {}
    for stage in stages:
        for name in stage.inputs:
            if name not in makers:
                raise VineError(f"stage {stage.name} reads {name}, which no stage makes")
        needs[stage.name] = {makers[name] for name in stage.inputs}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise VineError(f"stages need each other: {' -> '.join(error.args[1])}") from error
    return needs


def _take_stages(connection: Connection) -> None:
    """The life of a stage's process: one stage after the other, until the driver closes the connection."""
    while True:
        try:
            stage, share, log = connection.recv()
        except EOFError:
            return
        with log.open("ab") as output:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(output.fileno(), stream.fileno())
        _run_stage(stage, share, connection)


def _run_stage(stage: Stage, share: Share, connection: Connection) -> None:
    """Run a stage: its output goes to its log, its progress to the driver."""

    def report(name: str, done: float, total: float = 1.0) -> None:
        text = stage.name if name in stage.name else f"{stage.name}: {name}"
        connection.send((text, done, total))

    try:
        with forwarding(report):
            stage.run(share)
    except Exception:
        traceback.print_exc()
        raise
    connection.send(DONE)


def _print(text: str) -> None:
    sys.stderr.write(text + "\n")
