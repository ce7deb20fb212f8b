"""What all studies share: the command line, how figures were made, and jobs that a killed study resumes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from vine_vla.compute.executor import LocalExecutor, Worker
from vine_vla.compute.progress import track
from vine_vla.core.errors import VineError
from vine_vla.storage.json import RowLog
from vine_vla.storage.provenance import environment
from vine_vla.storage.settings import keep_settings

PLACES = ("out", "work", "workers")
"""Options that say where and how, not what: no part of a result."""


def run_study[Config](config: Any, run: Callable[[Config], bool | None], about: str | None) -> int:
    """Parse the command line into a `config` (a dataclass, or a union of them) and run the study.

    Returns:
        Exit code: 0; 1 when `run` says False, a gate that is closed; 2 on bad input, in one line.
    """
    try:
        return 1 if run(tyro.cli(config, description=about)) is False else 0
    except VineError as error:
        print(f"{Path(sys.argv[0]).stem}: error: {error}", file=sys.stderr)
        return 2


def provenance(config: Any) -> dict[str, Any]:
    """Command, settings with seeds, revision and versions. Call it first: it names the code that runs.

    Of folders only the last part is kept: where files lay on a machine is no part of a result.
    """
    settings = {k: _portable(v) for k, v in asdict(config).items() if k not in PLACES}
    words = [str(_portable(Path(word))) if "/" in word else word for word in sys.argv[1:]]
    command = " ".join(["python -m studies." + Path(sys.argv[0]).stem, *words])
    return {"command": command, "settings": settings, "environment": environment()}


def _portable(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value) if not value.is_absolute() else value.name
    if isinstance(value, list | tuple):
        return [_portable(v) for v in value]
    return value


def run_jobs[Job, Answer](
    file: Path,
    factory: Callable[[], Worker[Job, Answer]],
    jobs: Mapping[str, Job],
    *,
    settings: Mapping[str, Any],
    workers: int,
    name: str,
    progress: bool = True,
) -> list[Answer]:
    """Answers to all jobs in their order; those that `file` (JSON lines) holds are not run again.

    Args:
        file: kept, with the settings beside it, so that a killed study resumes.
        factory: as in `Executor.map`; answers must be JSON-ready.
        jobs: key -> job.
        settings: what the answers depend on, as JSON values.
        name: of the work, for progress.

    Raises:
        VineError: the file was begun with other settings.
    """
    keep_settings(file.with_suffix(".settings.json"), settings, hint="choose another folder, or remove it")
    log = RowLog(file)
    try:
        known = {row["job"] for row in log.rows}
        missing = [(key, job) for key, job in jobs.items() if key not in known]
        answers = LocalExecutor(workers).map(partial(_Keyed, factory), missing)
        done = len(jobs) - len(missing)
        for key, answer in track(answers, name=name, total=len(jobs), done=done, show=progress):
            log.append({"job": key, "answer": answer})
        found = {row["job"]: row["answer"] for row in log.rows}
    finally:
        log.close()
    return [found[key] for key in jobs]


class _Keyed[Job, Answer]:
    """A worker whose answers carry the job's key, since they come in any order."""

    def __init__(self, factory: Callable[[], Worker[Job, Answer]]) -> None:
        self.work = factory()

    def __call__(self, keyed: tuple[str, Job]) -> tuple[str, Answer]:
        key, job = keyed
        return key, self.work(job)
