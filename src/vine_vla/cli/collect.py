"""Collect demonstrations of scripted operators in simulation, failures kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vine_vla.core.errors import VineError


@dataclass(frozen=True)
class CollectOptions:
    """What to collect. A killed run resumes when started again with the same options, others are refused.
    Labels that people gave the dataset's episodes are kept."""

    out: Path
    """Dataset folder; episodes are staged beside it in OUT.staging until the dataset is assembled."""
    task: Literal["plug"] = "plug"
    """Simulated task."""
    episodes: int = 600
    """Episodes in the dataset."""
    split: Literal["demo", "pushed-demo"] = "demo"
    """Scenes; in pushed-demo somebody carries a neighbour to a socket now and then."""
    workers: int = 2
    """Processes, one thread each; 0: in this one."""
    seed: int = 0
    """Of scenes, operators and hands."""
    skill: str = ".5:1"
    """Noise scale of the operators' hands, LEAST:GREATEST: 0 perfect, .5 good, 1 ordinary, 2 poor."""
    awareness: float = 0.0
    """How often operators choose a plan that works because they know why others fail; 0 is blind."""
    habit_rate: float = 0.85
    """How often operators take their habitual grasp."""
    push: float = 6.0
    """Standard deviation, in millimetres, of pushes on the hand, so that recoveries are recorded; 0: none."""
    assemble: bool = True
    """Assemble the dataset from all staged episodes at the end."""


def run(config: CollectOptions) -> int:
    """Collect and assemble; 0 when done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vine_vla.tasks.collect import (
        ACTION_NAMES,
        ROBOT_TYPE,
        STATE_NAMES,
        CollectConfig,
        check_alone,
        collect,
        missing,
    )
    from vine_vla.tasks.plug.operators import Habits

    for name in ("awareness", "habit_rate"):
        if not 0 <= getattr(config, name) <= 1:
            raise VineError(f"{name} {getattr(config, name)}", hint="give a share between 0 and 1")
    job = CollectConfig(
        staging=config.out.with_name(config.out.name + ".staging"),
        episodes=config.episodes,
        split=config.split,
        seed=config.seed,
        skill=_range(config.skill),
        habits=Habits(awareness=config.awareness, grasp_rate=config.habit_rate),
        push=config.push / 1000,
    )
    check_alone(job)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        done = config.episodes - len(missing(job))
        bar = progress.add_task("collecting", total=config.episodes, completed=done)
        for _ in collect(job, config.workers):
            progress.advance(bar)
        if config.assemble:
            from vine_vla.data import assemble

            bar = progress.add_task("assembling", total=config.episodes)
            assemble(
                job.staging,
                config.out,
                robot_type=ROBOT_TYPE,
                ids=[job.episode_id(number) for number in range(config.episodes)],
                state_names=STATE_NAMES,
                action_names=ACTION_NAMES,
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
