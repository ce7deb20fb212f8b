"""Calibration and pruning thresholds around a backend whose outcome probabilities are raw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Subgoal, candidate_subgoals
from vine_vla.core.packing import PackedGraphs, unpack
from vine_vla.core.protocols import (
    Context,
    Expansion,
    Float,
    Neighbours,
    Observation,
    PlanningModel,
    PruningRule,
)
from vine_vla.storage.json import write_json
from vine_vla.system2.backend import Backend, BackendInfo, LearnsValues
from vine_vla.system2.folder import CALIBRATION, read_json
from vine_vla.system2.segments import SegmentTable
from vine_vla.system2.uncertainty.calibration import Calibration, fit_calibration
from vine_vla.system2.uncertainty.conformal import pruning_rule

LEAST_P = 1e-4
"""Raw probabilities count as at least this: a scale cannot move what is 0."""


@dataclass(frozen=True)
class CalibratedBackend:
    """A `Backend` that gives calibrated probabilities and prunes by thresholds fitted to them.

    Args:
        inner: what perceives, proposes and judges. folder: of its System 2.
        calibration, pruning: fitted on held-out segments or on executed probes.
    """

    inner: Backend
    calibration: Calibration
    pruning: PruningRule
    folder: Path

    @property
    def info(self) -> BackendInfo:
        return self.inner.info

    @property
    def weights(self) -> str:
        return self.inner.weights

    @property
    def schema(self) -> Schema:
        return self.inner.schema

    @property
    def prepare(self) -> Any:
        """The inner backend's `prepare`; AttributeError where it has none."""
        return self.inner.prepare  # type: ignore[attr-defined]

    def perceive(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        earlier: Sequence[SceneGraph | None] | None = None,
    ) -> list[SceneGraph]:
        """As the inner backend perceives."""
        return self.inner.perceive(observations, instructions, earlier)

    def expand(
        self, graphs: PackedGraphs, instructions: Sequence[str], k: int, context: Context | None = None
    ) -> Expansion:
        """What the inner backend says, its probabilities calibrated."""
        answer = self.inner.expand(graphs, instructions, k, context)
        verbs = np.array([self._verb(s) for row in answer.subgoals for s in row], np.int64)
        p = answer.p.copy()
        p[:, answer.mask] = self.calibration.apply(logits_of(answer.p[:, answer.mask]), verbs)
        return answer._replace(p=p)

    def nearest(self, graph: SceneGraph, subgoal: Subgoal, count: int = 3) -> Neighbours:
        """The inner backend's evidence."""
        return self.inner.nearest(graph, subgoal, count)

    def variants(self) -> Sequence[str]:
        return self.inner.variants()

    def variant(self, name: str) -> Backend:
        """The same perception with another variant's planning model, calibrated as that variant is."""
        found = self.inner.variant(name)
        calibrated = (self.folder / name / CALIBRATION).is_file()
        return read_calibrated(found, self.folder) if calibrated else found

    def save(self, folder: Path, variant: str | None = None) -> None:
        """The inner backend, with scale and thresholds beside it."""
        self.inner.save(folder, variant)
        plain = {
            "kind": self.calibration.kind,
            "source": self.calibration.source,
            "count": self.calibration.count,
            "temperature": self.calibration.temperature,
            "bias": self.calibration.bias,
            "pruning": {**asdict(self.pruning), "tau": dict(self.pruning.tau)},
        }
        write_json(folder / (variant or self.info.variant) / CALIBRATION, plain)

    def _verb(self, subgoal: Subgoal) -> int:
        return [v.name for v in self.schema.verbs].index(subgoal.verb)


def read_calibrated(inner: Backend, folder: Path) -> CalibratedBackend:
    """`inner` with the calibration that lies beside its variant in `folder`."""
    data = read_json(folder / inner.info.variant / CALIBRATION)
    scale = Calibration(
        data["kind"],
        data["source"],
        np.array(data["temperature"], np.float32),
        np.array(data["bias"], np.float32),
        int(data["count"]),
    )
    return CalibratedBackend(inner, scale, PruningRule(**data["pruning"]), folder)


def calibrate(
    inner: Backend,
    folder: Path,
    held_out: SegmentTable,
    train: SegmentTable,
    source: str,
    *,
    alpha: float,
    tau_stop: float,
) -> CalibratedBackend:
    """Scale and thresholds from decided segments that `inner` has not learned from.

    Args:
        folder: of its System 2. held_out: decided segments, of held-out episodes or executed.
        train: training segments, from whose graphs V is learned again if the backend can (`LearnsValues`).
        source: `demonstration` or `execution`. alpha, tau_stop: see `PruningRule`.
    """
    schema = inner.schema
    p, support, proposed = judge(inner, held_out)
    table = held_out.where(proposed)
    scale = fit_calibration(
        logits_of(p), table.verbs, table.outcome, table.episode, len(schema.verbs), source
    )
    rule = pruning_rule(
        [v.name for v in schema.verbs],
        scale.apply(logits_of(p), table.verbs),
        support,
        table.verbs,
        table.outcome,
        alpha=alpha,
        subgoals_a_plan=inner.info.subgoals_a_plan,
        min_support=inner.pruning.min_support,
        tau_stop=tau_stop,
    )
    found = CalibratedBackend(inner, scale, rule, folder)
    if hasattr(inner, "learn_values"):
        learns: LearnsValues = inner  # type: ignore[assignment]
        found = CalibratedBackend(learns.learn_values(found, train), scale, rule, folder)
    return found


def judge(model: PlanningModel, table: SegmentTable) -> tuple[Float, Float, NDArray[np.bool_]]:
    """What a planning model says of the segments that it proposes.

    Returns:
        p [M, n, 4] and support [n] of the n segments whose subgoal is proposed, and which of all N they are.
    """
    if not len(table):
        return np.zeros((1, 0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.bool_)
    scenes = unpack(table.graphs, table.schema)
    most = max(len(candidate_subgoals(scene, table.schema)) for scene in scenes)
    answer = model.expand(table.graphs, list(table.instructions), most)
    proposed = np.array([s in row for s, row in zip(table.subgoals, answer.subgoals, strict=True)], bool)
    rows = np.flatnonzero(proposed)
    places = np.array([answer.subgoals[row].index(table.subgoals[row]) for row in rows], np.int64)
    return answer.p[:, rows, places], answer.support[rows, places], proposed


def logits_of(p: Float) -> Float:
    """Logits of probabilities, none of them of 0. float32, as `p`"""
    return np.log(np.maximum(p, LEAST_P)).astype(np.float32)
