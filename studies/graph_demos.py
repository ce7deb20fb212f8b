"""Demonstrations with true graphs and no images: what gate G1 learns from, in a tenth of the time.

The same operators as `vine collect`, with the same random streams; only the recorder and the injected
noise (which teaches System 1 recoveries, not System 2 choices) are left out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vine_vla.compute.executor import LocalExecutor
from vine_vla.compute.progress import track
from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import (
    Demonstration,
    EpisodeOutcome,
    Outcome,
    OutcomeSource,
    Segment,
    parse_subgoal,
)
from vine_vla.core.text import describe, format_graph, parse_graph
from vine_vla.storage.json import RowLog, write_json
from vine_vla.tasks.plug.expert import Expert, SkillDial
from vine_vla.tasks.plug.operators import Choice, Habits, Operator
from vine_vla.tasks.plug.rollout import choice_status
from vine_vla.tasks.plug.spec import PLUG_SCHEMA, SUBGOAL_STEPS
from vine_vla.tasks.plug.task import PlugInsertion


@dataclass(frozen=True)
class Dials:
    """What the operators are like.

    Args:
        habits: how they choose. skill: range of the skill dial s, drawn once an episode.
        seed: of the collection.
    """

    habits: Habits = field(default_factory=Habits)
    skill: tuple[float, float] = (0.4, 1.0)
    seed: int = 0


def demonstrate(task: PlugInsertion, number: int, dials: Dials) -> dict[str, Any]:
    """Episode `number` of a scripted operator, JSON-ready; a pure function of the dials and the number."""
    streams = np.random.SeedSequence([dials.seed, number]).spawn(4)
    rng = np.random.default_rng(streams[0])
    task.reset(dials.seed * 1_000_000 + number, number)
    rng.random()  # the recorder's draw: noise or not
    expert = Expert(SkillDial(scale=float(rng.uniform(*dials.skill))), np.random.default_rng(streams[1]))
    operator = Operator(dials.habits, np.random.default_rng(streams[2]))
    operator.begin(task.scene)
    history: list[tuple[Choice, Outcome]] = []
    segments: list[dict[str, Any]] = []
    graphs: dict[int, SceneGraph] = {}
    while (choice := operator.next(task.sim, history)) is not None:
        start, graph, subgoal = task.steps, task.true_graph(), task.subgoal(choice)
        graphs[start] = graph
        for steps, action in enumerate(expert.run(task.sim, subgoal, choice[1])):
            if steps >= SUBGOAL_STEPS:
                break
            task.step(action)
        outcome = choice_status(task.sim, choice) or Outcome.SLIPPED
        history.append((choice, outcome))
        text = describe(subgoal, graph, PLUG_SCHEMA)
        segments.append({"start": start, "end": task.steps, "subgoal": str(subgoal), "text": text})
    graphs[task.steps] = task.true_graph()
    success = task.is_success()
    outcomes = [outcome for _, outcome in history]
    if not success and outcomes[-1] is Outcome.SLIPPED:
        outcomes[-1] = Outcome.DEAD  # the operator gave up: the last segment of a failed episode
    return {
        "number": number,
        "instruction": task.instruction,
        "success": success,
        "length": task.steps + 1,
        "onset": task.onset,
        "segments": [s | {"outcome": str(o)} for s, o in zip(segments, outcomes, strict=True)],
        "graphs": {str(frame): format_graph(graph) for frame, graph in graphs.items()},
    }


def as_demonstration(row: dict[str, Any]) -> Demonstration:
    """A row of `demonstrate` as layer 1 has it."""
    return Demonstration(
        episode_id=f"graph_{row['number']:06d}",
        episode_index=row["number"],
        instruction=row["instruction"],
        length=row["length"],
        outcome=EpisodeOutcome.SUCCESS if row["success"] else EpisodeOutcome.FAILURE,
        outcome_source=OutcomeSource.SIMULATOR,
        segments=tuple(
            Segment(
                s["start"],
                s["end"],
                parse_subgoal(s["subgoal"]),
                s["text"],
                Outcome(s["outcome"]),
                OutcomeSource.SIMULATOR,
            )
            for s in row["segments"]
        ),
        graphs={int(frame): parse_graph(text) for frame, text in row["graphs"].items()},
        onset_frame=min(max(row["onset"] - 1, 0), row["length"] - 1) if row["onset"] is not None else None,
        scene=row["number"],
        seed=row["number"],
    )


class _Demonstrator:
    def __init__(self, dials: Dials) -> None:
        self.task, self.dials = PlugInsertion("demo", render=False), dials

    def __call__(self, number: int) -> dict[str, Any]:
        return demonstrate(self.task, number, self.dials)


def graph_demonstrations(
    count: int, dials: Dials, file: Path, *, workers: int = 2, progress: bool = True
) -> list[Demonstration]:
    """The first `count` episodes of the operators; `file` (JSON lines) keeps them and is read on resume."""
    made_with = file.with_suffix(".dials.json")
    plain = json.loads(json.dumps(asdict(dials)))
    if not made_with.is_file():
        write_json(made_with, plain)
    elif json.loads(made_with.read_text(encoding="utf-8")) != plain:
        raise VineError(
            "holds demonstrations of other operators", where=str(file), hint="choose another --work"
        )
    log = RowLog(file)
    try:
        known = {row["number"] for row in log.rows}
        missing = [n for n in range(count) if n not in known]
        answers = LocalExecutor(workers).map(partial(_Demonstrator, dials), missing)
        bar = {"name": "demonstrations", "total": count, "done": count - len(missing), "show": progress}
        for row in track(answers, **bar):  # type: ignore[arg-type]
            log.append(row)
        rows = sorted((row for row in log.rows if row["number"] < count), key=lambda row: row["number"])
    finally:
        log.close()
    return [as_demonstration(row) for row in rows]
