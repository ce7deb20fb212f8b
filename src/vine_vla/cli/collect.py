"""Collect demonstrations of scripted operators in simulation, failures kept.

A killed run resumes when started again with the same options; others are refused. Labels that people gave the
dataset's episodes are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from vine_vla.core.errors import VineError
from vine_vla.tasks.collect import CollectConfig, assemble_episodes, check_alone, collect, missing


@dataclass(frozen=True)
class Config:
    """Options of `vine collect`."""

    collection: Annotated[CollectConfig, tyro.conf.OmitArgPrefixes]
    workers: int = 2
    """Processes, one thread each; 0: in this one."""
    assemble: bool = True
    """Assemble the dataset from all staged episodes at the end."""


def run(config: Config) -> int:
    """Collect and assemble; 0 when done."""
    from vine_vla.compute.executor import LocalExecutor
    from vine_vla.compute.progress import progress_bars

    job = config.collection
    if config.assemble and not job.images:
        raise VineError(
            "episodes without images make no dataset", where="--no-images", hint="add --no-assemble"
        )
    check_alone(job)
    with progress_bars() as report:
        done = job.episodes - len(missing(job))
        report("collecting", done, job.episodes)
        for count, _ in enumerate(collect(job, LocalExecutor(config.workers)), done + 1):
            report("collecting", count, job.episodes)
        if config.assemble:
            ids = [job.episode_id(number) for number in range(job.episodes)]
            assemble_episodes(
                job, job.out, ids, progress=lambda count, total: report("assembling", count, total)
            )
    print(job.out if config.assemble else job.staging)
    return 0
