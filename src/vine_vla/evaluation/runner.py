"""The paired runner: every arm in every scene, resumable, the same row whoever computes it and when.

Rows are appended to `OUT/parts/` as episodes end. When all are there, `episodes.csv`, `feasibility.csv`,
`summary.json` and the kept traces are written at once and the parts removed. A run that was killed
loses at most the episodes that were under way; a finished one can be extended by more arms or scenes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from vine_vla.compute.executor import LocalExecutor
from vine_vla.compute.progress import track
from vine_vla.core.errors import VineError
from vine_vla.evaluation.arms import find_arm
from vine_vla.evaluation.episodes import EPISODE_COLUMNS, FEASIBILITY_COLUMNS, Key, Parts, play
from vine_vla.evaluation.traces import write_trace
from vine_vla.storage.json import RowLog, write_json
from vine_vla.storage.provenance import environment
from vine_vla.storage.tables import read_table, write_table
from vine_vla.tasks.base import Simulation

KEY = ("task", "split", "scene", "arm", "variant", "training_seed", "policy_seed")


class Builder(Protocol):
    """Makes tasks and arms; small and picklable, since every worker builds its own."""

    @property
    def task(self) -> str: ...

    @property
    def split(self) -> str: ...

    def open_task(self) -> Simulation: ...

    def build(self, label: str, training_seed: int, task: Simulation) -> Parts:
        """The parts of an arm, bound to this task object."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """What rows depend on besides their key, JSON-ready; a run may not go on under other settings."""
        ...


@dataclass(frozen=True)
class Schedule:
    """What is to be run: all scenes x arms x seeds.

    Args:
        scenes: numbers in the task's list.
        arms: labels (`vine`, `success-only (slips-removed)`).
        training_seeds: one run directory each.
        policy_seeds: repetitions with other seeds of System 1.
        keep: scenes whose traces are kept at the end, per kind (win, loss, both failed, both succeeded).
    """

    scenes: tuple[int, ...]
    arms: tuple[str, ...]
    training_seeds: tuple[int, ...] = (0,)
    policy_seeds: tuple[int, ...] = (0,)
    keep: int = 3

    def keys(self, task: str, split: str) -> Iterator[Key]:
        """Scene by scene, so that what is there after an interruption is paired."""
        for scene in self.scenes:
            for training_seed in self.training_seeds:
                for policy_seed in self.policy_seeds:
                    for label in self.arms:
                        arm = find_arm(label)
                        yield Key(task, split, scene, arm.name, arm.variant, training_seed, policy_seed)


class EpisodeWorker:
    """One process's task and arms, built when first needed."""

    def __init__(self, builder: Builder, traces: Path | None) -> None:
        self.builder, self.traces = builder, traces
        self.task: Simulation | None = None
        self.parts: dict[tuple[str, int], Parts] = {}

    def __call__(self, key: Key) -> dict[str, Any]:
        """Play one episode; its trace is written under `traces` if given. Row and options, JSON-ready."""
        if self.task is None:
            self.task = self.builder.open_task()
        label = f"{key.arm} ({key.variant})" if key.variant else key.arm
        if (label, key.training_seed) not in self.parts:
            self.parts[label, key.training_seed] = self.builder.build(label, key.training_seed, self.task)
        episode = play(self.task, self.parts[label, key.training_seed], key)
        if self.traces is not None:
            write_trace(episode, self.traces)
        return {"row": asdict(key) | dict(episode.row), "options": list(episode.options)}


def evaluate(
    builder: Builder,
    schedule: Schedule,
    out: Path,
    *,
    workers: int = 2,
    traces: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Run what is missing of `schedule` and finish the tables under `out`.

    Args:
        workers: processes; 0 runs in this one.
        traces: record plans and frames of every episode, and keep a bounded number of them.

    Returns:
        The rows of the schedule (not those of other arms that `out` may hold already).

    Raises:
        VineError: `out` was begun under other settings.
    """
    settings = {"task": builder.task, "split": builder.split, **builder.settings()}
    run = _check_settings(out, settings)
    parts = out / "parts"
    log = RowLog(parts / "episodes.jsonl")
    try:
        finished, options = _finished(out)
        for entry in log.rows:
            finished[_key(entry["row"])] = entry["row"]
            options[_key(entry["row"])] = entry["options"]
        keys = list(schedule.keys(builder.task, builder.split))
        if len(set(keys)) != len(keys):
            raise VineError("an arm or seed stands twice in the schedule", hint="name each once")
        missing = [key for key in keys if _key(asdict(key)) not in finished]
        folder = parts / "traces" if traces else None
        answers = LocalExecutor(workers).map(partial(EpisodeWorker, builder, folder), missing)
        done = len(keys) - len(missing)
        for entry in track(answers, name="episodes", total=len(keys), done=done, show=progress):
            log.append(entry)
            finished[_key(entry["row"])] = entry["row"]
            options[_key(entry["row"])] = entry["options"]
    finally:
        log.close()
    table = pd.DataFrame(list(finished.values())).sort_values(
        ["scene", "training_seed", "policy_seed", "arm", "variant"], ignore_index=True
    )
    executed = [row for rows in options.values() for row in rows]
    if traces:
        _keep_traces(out, table, schedule)
    if executed:
        feasibility = pd.DataFrame(executed).sort_values(
            ["scene", "training_seed", "arm", "source", "position"], ignore_index=True
        )
        write_table(out / "feasibility.csv", feasibility[list(FEASIBILITY_COLUMNS)])
    write_table(out / "episodes.csv", table[list(EPISODE_COLUMNS)])
    write_json(out / "run.json", run | {"schedule": asdict(schedule), "finished": environment()})
    shutil.rmtree(parts)
    wanted = {_key(asdict(key)) for key in keys}
    return table[[_key(row) in wanted for row in table.to_dict("records")]].reset_index(drop=True)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def _check_settings(out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The run's description, from `run.json` if the run has begun before."""
    file = out / "run.json"
    plain = json.loads(json.dumps(settings, default=str))
    if file.is_file():
        run: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for name, value in plain.items():
            if not _extends(value, run.get("settings", {}).get(name)):
                raise VineError(
                    f"the run was begun with another `{name}`",
                    where=str(file),
                    hint="give another --out, or remove this one",
                )
        return run | {"settings": plain}
    run = {"settings": plain, "begun": environment()}
    write_json(file, run)
    return run


def _extends(value: Any, begun: Any) -> bool:
    """Whether `value` is what a run was begun with; run directories may hold more trained parts by now."""
    if isinstance(value, list) and isinstance(begun, list):
        more = value[len(begun) :]  # runs of further training seeds
        grown = all(isinstance(item, dict) for item in more) and len(value) >= len(begun)
        return grown and all(map(_extends, value, begun))
    if isinstance(value, dict) and isinstance(begun, dict):
        return all(name in value and value[name] == begun[name] for name in begun)
    return bool(value == begun)


def _finished(out: Path) -> tuple[dict[tuple[Any, ...], dict[str, Any]], dict[tuple[Any, ...], list[Any]]]:
    """Rows and executed options of the tables already under `out`."""
    try:
        table = read_table(out / "episodes.csv")
    except VineError:
        return {}, {}
    table["variant"] = table["variant"].fillna("")
    rows = {_key(row): row for row in table.astype(object).where(table.notna(), None).to_dict("records")}
    try:
        options = read_table(out / "feasibility.csv")
    except VineError:
        return rows, {}
    # Which of several policy seeds an option came from is not in the table: they stay together.
    return rows, {("table",): options.astype(object).where(options.notna(), None).to_dict("records")}


def _keep_traces(out: Path, table: pd.DataFrame, schedule: Schedule) -> None:
    """Move the traces worth showing to `out/traces`: wins, losses and ties of `vine` over its rivals."""
    chosen = choose_scenes(table, schedule.keep)
    source, target = out / "parts" / "traces", out / "traces"
    if not source.is_dir():
        return
    for file in sorted(source.glob("*.json")):
        if int(file.stem.split("_")[0]) in chosen:
            target.mkdir(parents=True, exist_ok=True)
            if file.with_suffix("").is_dir():
                shutil.rmtree(target / file.stem, ignore_errors=True)
                shutil.move(file.with_suffix(""), target / file.stem)
            os.replace(file, target / file.name)


def choose_scenes(table: pd.DataFrame, keep: int, *, subject: str = "vine") -> list[int]:
    """Scenes that tell most, at most `keep` of each: subject won, lost, all failed, all succeeded.

    The rival is the best `success-only` (else the best other arm that is no oracle).
    """
    labels = table["arm"] + table["variant"].map(lambda v: f" ({v})" if v else "")
    rates = table.assign(label=labels).pivot_table(index="scene", columns="label", values="success")
    others = [name for name in rates if name != subject and not name.startswith(("oracle", "best-of"))]
    rivals = [name for name in others if name.startswith("success-only")] or others
    if subject not in rates or not rivals:
        return [int(s) for s in rates.index[: 4 * keep]]
    rival = max(rivals, key=lambda name: rates[name].mean())
    a, b = rates[subject], rates[rival]
    kinds = (a > b, a < b, (a == b) & (a == 0), (a == b) & (a == 1))
    return sorted({int(s) for kind in kinds for s in rates.index[kind][:keep]})
