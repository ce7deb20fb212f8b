"""Probes: single subgoals executed by System 1, to see whether the predicted probabilities are true.

On a scene, at the start or after a forced reached prefix, a subgoal is drawn uniformly from the model's
proposals and executed once. Nothing about the draw depends on the predictions, so probes cover bad
options as well as good ones. A probe is executed once and judged by any number of models.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vine_vla.agent import Streams, run_subgoal
from vine_vla.compute.executor import LocalExecutor
from vine_vla.compute.progress import track
from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Outcome, Subgoal, parse_subgoal
from vine_vla.core.packing import PackedGraphs, pack
from vine_vla.core.protocols import (
    AFTER_REACHED,
    DEAD,
    GOAL,
    REACHED,
    SLIPPED,
    PlanningModel,
    perceive_one,
    upper_reachable,
)
from vine_vla.core.text import format_graph, parse_graph
from vine_vla.evaluation.episodes import FEASIBILITY_COLUMNS, Parts
from vine_vla.evaluation.probes.reliability import Ceiling, ceiling, score_table
from vine_vla.evaluation.runner import Builder
from vine_vla.evaluation.world import WatchedSkill
from vine_vla.storage.files import write_bytes
from vine_vla.storage.json import RowLog, without_nan, write_json
from vine_vla.storage.tables import read_table, write_table
from vine_vla.tasks.base import Simulation

PLACES: dict[str, int] = {"goal": GOAL, "reached": REACHED, "slipped": SLIPPED, "dead": DEAD}


@dataclass(frozen=True)
class ProbeConfig:
    """How probes are drawn.

    Args:
        scenes: numbers. each: probes a scene. repeats: executions of each from the same state.
        prefix: longest forced prefix, in subgoals; its length is drawn uniformly from 0 to this.
        tries: executions of a prefix subgoal before the probe is taken where it is.
        label: the arm whose perception, proposals and System 1 are used.
        seed: of the draws.
    """

    scenes: tuple[int, ...]
    each: int = 2
    repeats: int = 1
    prefix: int = 1
    tries: int = 4
    k: int = 16
    label: str = "vine"
    training_seed: int = 0
    seed: int = 0


@dataclass(frozen=True)
class ProbeJob:
    """One probe: its scene and its number there."""

    scene: int
    number: int


@dataclass(frozen=True)
class ExecutedProbe:
    """A probe after execution.

    Args:
        position: length of the prefix. budget: subgoals left.
        outcomes: `goal`, `reached`, `slipped` or `dead`, one a repeat.
        before, prefix: the graph that the last subgoal of the prefix was executed in, and that subgoal;
            None without a prefix.
    """

    scene: int
    number: int
    position: int
    budget: int
    graph: SceneGraph
    subgoal: Subgoal
    instruction: str
    outcomes: tuple[str, ...]
    before: SceneGraph | None = None
    prefix: Subgoal | None = None

    @property
    def reached(self) -> NDArray[np.float64]:
        """1 where the subgoal (or the goal) was reached. [repeats]"""
        return np.array([o in ("goal", "reached") for o in self.outcomes], float)

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.before is not None and self.prefix is not None:
            plain |= {"before": format_graph(self.before), "prefix": str(self.prefix)}
        return plain | {"graph": format_graph(self.graph), "subgoal": str(self.subgoal)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ExecutedProbe:
        made = {"graph": parse_graph(data["graph"]), "subgoal": parse_subgoal(data["subgoal"])}
        if data.get("before") is not None:
            made |= {"before": parse_graph(data["before"]), "prefix": parse_subgoal(data["prefix"])}
        return cls(**(data | made | {"outcomes": tuple(data["outcomes"])}))


class Prober:
    """One process's task and parts; executes probes."""

    def __init__(self, builder: Builder, config: ProbeConfig) -> None:
        self.config = config
        self.task: Simulation = builder.open_task()
        self.parts: Parts = builder.build(config.label, config.training_seed, self.task)
        self.model: PlanningModel = self.parts.planner.model  # type: ignore[attr-defined]

    def __call__(self, job: ProbeJob) -> dict[str, Any]:
        config = self.config
        rng = np.random.default_rng([config.seed, job.scene, job.number, 77])
        self.task.reset(job.scene, Streams.spawn(job.scene, config.seed).scene)
        graph = self._perceive(None)
        position, before, prefix = 0, None, None
        for _ in range(int(rng.integers(config.prefix + 1))):
            found = self._forced(graph, position, rng)
            if found is None:
                break
            before, (prefix, graph), position = graph, found, position + 1
        subgoal = self._draw(graph, position, rng)
        state = self.task.save_state()
        outcomes = []
        for repeat in range(config.repeats):
            if repeat:
                self.task.restore_state(state)
            outcomes.append(self._execute(subgoal, graph, int(rng.integers(2**31)))[0])
        return ExecutedProbe(
            scene=job.scene,
            number=job.number,
            position=position,
            budget=max(self.parts.config.budget - position, 1),
            graph=graph,
            subgoal=subgoal,
            instruction=self.task.instruction,
            outcomes=tuple(outcomes),
            before=before,
            prefix=prefix,
        ).to_json()

    def _perceive(self, earlier: SceneGraph | None) -> SceneGraph:
        return perceive_one(self.parts.perceiver, self.task.observe(), self.task.instruction, earlier)

    def _draw(self, graph: SceneGraph, position: int, rng: np.random.Generator) -> Subgoal:
        packed = pack([graph], self.model.schema, budget=max(self.parts.config.budget - position, 1))
        options = self.model.expand(packed, [self.task.instruction], self.config.k).subgoals[0]
        return options[int(rng.integers(len(options)))]

    def _forced(
        self, graph: SceneGraph, position: int, rng: np.random.Generator
    ) -> tuple[Subgoal, SceneGraph] | None:
        """A drawn subgoal that was reached without ending the task, and the graph after it; None if none."""
        state = self.task.save_state()
        for _ in range(self.config.tries):
            subgoal = self._draw(graph, position, rng)
            outcome, after = self._execute(subgoal, graph, int(rng.integers(2**31)))
            if outcome == "reached":
                return subgoal, after
            self.task.restore_state(state)
        return None

    def _execute(self, subgoal: Subgoal, graph: SceneGraph, seed: int) -> tuple[str, SceneGraph]:
        config = replace(self.parts.config, max_steps=self.parts.config.subgoal_steps, frames="none")
        skill = WatchedSkill(self.parts.skill, self.task)
        text = self.parts.wording(subgoal, graph)
        _, graph, _ = run_subgoal(self.task, self.parts.perceiver, skill, config, subgoal, text, seed, graph)
        skill.close()
        outcome = skill.outcomes[0]
        if outcome is Outcome.REACHED and self.task.is_success():
            return "goal", graph
        return str(outcome), graph


def run_probes(
    builder: Builder, config: ProbeConfig, file: Path, *, workers: int = 2, progress: bool = True
) -> list[ExecutedProbe]:
    """Execute what is missing of the probes; `file` (JSON lines) survives a kill and is read on resume."""
    jobs = [ProbeJob(scene, number) for scene in config.scenes for number in range(config.each)]
    log = RowLog(file)
    try:
        known = {(r["scene"], r["number"]) for r in log.rows}
        missing = [job for job in jobs if (job.scene, job.number) not in known]
        answers = LocalExecutor(workers).map(partial(Prober, builder, config), missing)
        done = len(jobs) - len(missing)
        for row in track(answers, name="probes", total=len(jobs), done=done, show=progress):
            log.append(row)
        wanted = {(job.scene, job.number) for job in jobs}
        found = [ExecutedProbe.from_json(r) for r in log.rows if (r["scene"], r["number"]) in wanted]
    finally:
        log.close()
    return sorted(found, key=lambda probe: (probe.scene, probe.number))


def read_probes(file: Path) -> list[ExecutedProbe]:
    """Probes from a results directory (`probes_x1.jsonl.gz`) or from plain JSON lines.

    Raises:
        VineError: the file is missing or damaged, or holds none.
    """
    try:
        data = file.read_bytes()
        text = gzip.decompress(data) if file.suffix == ".gz" else data
        found = [ExecutedProbe.from_json(json.loads(line)) for line in text.decode().splitlines()]
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise VineError(f"cannot read the probes: {error}", where=str(file)) from error
    if not found:
        raise VineError("there are no probes", where=str(file))
    return found


@dataclass(frozen=True)
class Judgement:
    """What a model says of a probe, before it was executed. NaN where it does not propose the subgoal.

    Args:
        predicted, spread: of P(goal or reached). q: of the plan that begins with it. pruned: is it cut.
        p: goal, reached, slipped, dead. upper: the pruning score u. support: in [0, 1].
    """

    predicted: float
    spread: float
    q: float
    pruned: bool
    p: tuple[float, float, float, float] = field(default=(0.0, 0.0, 0.0, 0.0))
    upper: float = 1.0
    support: float = 0.0


def judge(
    model: PlanningModel, probes: Sequence[ExecutedProbe], *, k: int = 16, imagined: bool = False
) -> list[Judgement]:
    """The model's word on every probe: one batch.

    Args:
        imagined: judge it in the graph that the model expects after the prefix, instead of the perceived one;
            probes must have one.
    """
    graphs = pack([p.graph for p in probes], model.schema, budget=[p.budget for p in probes])
    if imagined:
        graphs = imagined_graphs(model, probes, k)
    answer = model.expand(graphs, [p.instruction for p in probes], k)
    rule = model.pruning
    upper = upper_reachable(answer.p, answer.support, rule.min_support)
    found = []
    for row, probe in enumerate(probes):
        if probe.subgoal not in answer.subgoals[row]:
            found.append(Judgement(float("nan"), float("nan"), float("nan"), False))
            continue
        at = answer.subgoals[row].index(probe.subgoal)
        p = answer.p[:, row, at].astype(np.float64)
        reach = p[:, GOAL] + p[:, REACHED]
        value = answer.value[:, row, at]
        q = p[:, GOAL] + p[:, REACHED] * value[:, 0] + p[:, SLIPPED] * value[:, 1]
        covered = answer.support[row, at] >= rule.min_support
        cut = bool(covered and upper[row, at] < rule.tau.get(probe.subgoal.verb, -np.inf))
        mean = p.mean(0)
        found.append(
            Judgement(
                predicted=float(np.clip(reach.mean(), 0, 1)),
                spread=float(reach.std()),
                q=float(np.clip(q.mean(), 0, 1)),
                pruned=cut,
                p=(float(mean[0]), float(mean[1]), float(mean[2]), float(mean[3])),
                upper=float(upper[row, at]),
                support=float(answer.support[row, at]),
            )
        )
    return found


def imagined_graphs(model: PlanningModel, probes: Sequence[ExecutedProbe], k: int) -> PackedGraphs:
    """What the model expects to see after each probe's prefix was reached. [n]

    Raises:
        VineError: a probe has no prefix, or the model does not propose it.
    """
    befores = [p.before for p in probes]
    if any(graph is None for graph in befores):
        raise VineError("a probe has no prefix", hint="judge those alone that have one")
    known = [graph for graph in befores if graph is not None]
    graphs = pack(known, model.schema, budget=[p.budget + 1 for p in probes])
    answer = model.expand(graphs, [p.instruction for p in probes], k)
    places = []
    for row, probe in enumerate(probes):
        if probe.prefix not in answer.subgoals[row]:
            raise VineError(f"{probe.prefix} is not proposed", where=f"scene {probe.scene}")
        places.append(answer.subgoals[row].index(probe.prefix))
    after = answer.next.select((np.arange(len(probes)), np.array(places), AFTER_REACHED))
    return after.with_budget(np.array([p.budget for p in probes]))


def probe_rows(
    model: PlanningModel,
    probes: Sequence[ExecutedProbe],
    *,
    task: str,
    split: str,
    arm: str,
    training_seed: int,
) -> pd.DataFrame:
    """Rows of `feasibility.csv`, source `probe`: one a probe and repeat; probes not proposed are left out."""
    rows = []
    for probe, verdict in zip(probes, judge(model, probes), strict=True):
        if np.isnan(verdict.predicted):
            continue
        for reached in probe.reached:
            rows.append(
                {
                    "task": task,
                    "split": split,
                    "scene": probe.scene,
                    "arm": arm,
                    "training_seed": training_seed,
                    "source": "probe",
                    "position": probe.position,
                    "lookahead": 1,
                    "subgoal": str(probe.subgoal),
                    "predicted": verdict.predicted,
                    "spread": verdict.spread,
                    "q": verdict.q,
                    "pruned": int(verdict.pruned),
                    "reached": int(reached),
                }
            )
    return pd.DataFrame(rows, columns=list(FEASIBILITY_COLUMNS))


def evaluate_probes(
    builder: Builder,
    config: ProbeConfig,
    labels: Sequence[str],
    out: Path,
    *,
    workers: int = 2,
    progress: bool = True,
) -> dict[str, Any]:
    """Run probes, judge them by the models of the arms `labels`, add the rows to `feasibility.csv`.

    Returns:
        scores by arm and verb, cuts by arm and verb, and the ceiling if probes were repeated; also in
        `OUT/calibration.json`.
    """
    file = out / f"probes_x{config.repeats}.jsonl"
    packed = file.with_name(file.name + ".gz")
    if packed.is_file() and not file.is_file():
        write_bytes(file, gzip.decompress(packed.read_bytes()))
    probes = run_probes(builder, config, file, workers=workers, progress=progress)
    write_bytes(packed, gzip.compress(file.read_bytes(), mtime=0))
    file.unlink()
    task = builder.open_task()
    parts = []
    for label in labels:
        planner = builder.build(label, config.training_seed, task).planner
        named = {"task": builder.task, "split": builder.split, "training_seed": config.training_seed}
        parts.append(probe_rows(planner.model, probes, arm=label, **named))  # type: ignore[attr-defined, arg-type]
    rows = pd.concat(parts, ignore_index=True)
    try:
        old = read_table(out / "feasibility.csv")
        kept = old[(old["source"] != "probe") | ~old["arm"].isin(labels)]
        write_table(out / "feasibility.csv", pd.concat([kept, rows], ignore_index=True))
    except VineError:
        write_table(out / "feasibility.csv", rows)
    found: dict[str, Any] = {
        "scores": score_table(rows).to_dict("records"),
        "pruning": pruning_table(rows).to_dict("records"),
    }
    if config.repeats > 1:
        found["ceiling"] = asdict(probe_ceiling(probes))
    write_json(out / "calibration.json", found)
    plain: dict[str, Any] = without_nan(found)
    return plain


def probe_ceiling(probes: Sequence[ExecutedProbe]) -> Ceiling:
    """What AUROC the true probabilities reach, from probes that were repeated equally often."""
    return ceiling(np.stack([probe.reached for probe in probes]))


def pruning_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an arm and verb: share of *reached* probes that would have been cut, and of all."""
    verbs = rows["subgoal"].str.split("(").str[0]
    found = []
    for (arm, verb), own in rows.assign(verb=verbs).groupby(["arm", "verb"], sort=False):
        reached = own[own["reached"] == 1]
        found.append(
            {
                "arm": arm,
                "verb": verb,
                "n": len(own),
                "cut": float(own["pruned"].mean()),
                "reached": len(reached),
                "reached_cut": float(reached["pruned"].mean()) if len(reached) else float("nan"),
            }
        )
    return pd.DataFrame(found)
