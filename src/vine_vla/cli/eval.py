"""Compare arms on the same scenes: success rates with intervals, paired differences, calibration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vine_vla.cli._options import Device
from vine_vla.evaluation.settings import ArmSettings
from vine_vla.tasks.registry import DEFAULT_TASK


@dataclass(frozen=True)
class Config:
    """Options of `vine eval`."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories with trained systems, one for each training seed."""
    arms: tuple[str, ...] = ("imitate", "success-only", "vine")
    """Arms, `name` or `name:variant`."""
    task: str = DEFAULT_TASK
    """Name of the simulated task."""
    split: str | None = None
    """Appearance of the scenes, one of the task's splits; default: the task's own choice."""
    scenes: str = "0:60"
    """Scene numbers, `0:60` (end exclusive) or `1,7,9`: dev scenes, or test scenes (with --final)."""
    final: bool = False
    """Run test scenes; appends revision and date to results/final_runs.csv."""
    out: Path | None = None
    """Results directory; default: results/NAME of the first run."""
    policy_seeds: tuple[int, ...] = (0,)
    """Seeds of System 1's noise; every episode is run once with each."""
    workers: int = 2
    """Processes, one thread each; 0: in this one."""
    settings: Annotated[ArmSettings, tyro.conf.OmitArgPrefixes] = ArmSettings()
    update_every: int = 4
    """Robot steps between two perception updates while a subgoal runs, for arms that replan by uncertainty;
    0: between subgoals only."""
    keep: int = 3
    """Scenes whose traces are kept, of each kind (won, lost, both failed, both succeeded)."""
    signals: bool = False
    """Keep what System 1 knows of itself at every chunk in the traces: spread of its actions, distance from
    its training data. Costs half as much as the chunk."""
    probes: int = 0
    """Single subgoals executed on the same scenes to check calibration; 0: none."""
    device: Device = None
    json: bool = False
    """Print the summary as JSON."""


def run(config: Config) -> int:
    """Evaluate; 0 when done."""
    from vine_vla.agent import AgentConfig
    from vine_vla.core.errors import VineError
    from vine_vla.evaluation.arms import find_arm
    from vine_vla.evaluation.build import RunBuilder
    from vine_vla.evaluation.final import check_scenes, record_final
    from vine_vla.evaluation.probes.run import ProbeConfig, evaluate_probes
    from vine_vla.evaluation.runner import Schedule, evaluate
    from vine_vla.evaluation.verdicts import print_summary, write_summary
    from vine_vla.tasks.registry import find_task
    from vine_vla.tasks.scenes import parse_scenes

    task = find_task(config.task)
    split = config.split or task.default_split
    scenes = parse_scenes(config.scenes)
    check_scenes(scenes, task.lists(split), final=config.final)
    labels = tuple(find_arm(name).label for name in config.arms)
    if not config.runs:
        raise VineError("no run directory", hint="give the folder that `vine train` wrote")
    out = config.out or Path("results") / config.runs[0].resolve().name
    builder = RunBuilder(
        task=config.task,
        split=split,
        runs=tuple(str(path) for path in config.runs),
        device=config.device,
        agent=AgentConfig(frames="subgoals", watch=config.update_every, signals=config.signals),
        **vars(config.settings),
    )
    builder.check(labels)
    if config.final:
        log = Path("results") / "final_runs.csv"
        record_final(log, task=config.task, split=split, scenes=scenes, arms=labels, out=out)
    schedule = Schedule(
        scenes=scenes,
        arms=labels,
        training_seeds=tuple(range(len(config.runs))),
        policy_seeds=config.policy_seeds,
        keep=config.keep,
    )
    rows = evaluate(builder, schedule, out, workers=config.workers)
    found = write_summary(out, rows, attempted=scenes)
    if config.probes:
        each = max(1, round(config.probes / len(scenes)))
        models = tuple(label for label in labels if find_arm(label).model)
        probing = ProbeConfig(scenes=scenes, each=each)
        found["calibration"] = evaluate_probes(builder, probing, models, out, workers=config.workers)
    if config.json:
        print(json.dumps(found))
    else:
        print_summary(found, title=f"{config.task}, {split}, {len(scenes)} scenes: {out}")
    return 0
