"""Collect demonstrations of scripted operators in simulation, failures kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.tasks.registry import DEFAULT_TASK


@dataclass(frozen=True)
class CollectOptions:
    """What to collect. A killed run resumes when started again with the same options, others are refused.
    Labels that people gave the dataset's episodes are kept."""

    out: Path
    """Dataset folder; episodes are staged beside it in OUT.staging until the dataset is assembled."""
    task: str = DEFAULT_TASK
    """Simulated task."""
    episodes: int = 600
    """Episodes in the dataset."""
    split: str = ""
    """Stream of scenes for demonstrations; default: the task's first."""
    workers: int = 2
    """Processes, one thread each; 0: in this one."""
    seed: int = 0
    """Of scenes and operators."""
    skill: str = ".5:1"
    """Noise scale of the operators' control, LEAST:GREATEST: 0 perfect, .5 good, 1 ordinary, 2 poor."""
    awareness: float = 0.0
    """How often operators choose a plan that works because they know why others fail; 0: never."""
    habit: float = 0.85
    """How often operators take their habitual choice."""
    disturbance: float = 1.0
    """Strength of the disturbances while operators act, so that recoveries are recorded; 1: the task's own,
    0: none."""
    assemble: bool = True
    """Assemble the dataset from all staged episodes at the end."""


def run(config: CollectOptions) -> int:
    """Collect and assemble; 0 when done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vine_vla.compute.executor import LocalExecutor
    from vine_vla.tasks.base import OperatorDials
    from vine_vla.tasks.collect import CollectConfig, assemble_episodes, check_alone, collect, missing

    job = CollectConfig(
        staging=config.out.with_name(config.out.name + ".staging"),
        task=config.task,
        episodes=config.episodes,
        split=config.split,
        seed=config.seed,
        operators=OperatorDials(
            skill=_range(config.skill),
            habit=config.habit,
            awareness=config.awareness,
            disturbance=config.disturbance,
        ),
    )
    check_alone(job)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        done = config.episodes - len(missing(job))
        bar = progress.add_task("collecting", total=config.episodes, completed=done)
        for _ in collect(job, LocalExecutor(config.workers)):
            progress.advance(bar)
        if config.assemble:
            bar = progress.add_task("assembling", total=config.episodes)
            assemble_episodes(
                job,
                config.out,
                [job.episode_id(number) for number in range(config.episodes)],
                progress=lambda count, total: progress.update(bar, completed=count, total=total),
            )
    print(config.out if config.assemble else job.staging)
    return 0


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise VineError(f"skill {text!r} is no range", hint="give LEAST:GREATEST, e.g. .5:1") from None
