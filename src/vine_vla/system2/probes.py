"""Execution calibration: outcomes of single subgoals that System 1 carried out on calibration scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from vine_vla.graph import SceneGraph, Schema
from vine_vla.options import Demonstration, Split, Subgoal
from vine_vla.packing import pack
from vine_vla.system2.calibration import fit_calibration
from vine_vla.system2.config import OutcomeConfig
from vine_vla.system2.features import Int
from vine_vla.system2.learn import judge_table, revalue, rule_of
from vine_vla.system2.model import GraphModel
from vine_vla.system2.segments import (
    CENSORED,
    Failures,
    SegmentTable,
    choose_episodes,
    hold_out,
    segment_table,
)


class Probe(NamedTuple):
    """One subgoal executed once by System 1 on a calibration scene.

    Args:
        graph, subgoal, instruction: what was tried, where.
        outcome: GOAL, REACHED, SLIPPED or DEAD (`protocols`); CENSORED ones are left out.
        scene: number of the scene; probes of one scene are not independent.
    """

    graph: SceneGraph
    subgoal: Subgoal
    instruction: str
    outcome: int
    scene: int = 0


def probe_table(probes: Sequence[Probe], schema: Schema) -> SegmentTable:
    """Probes as segments; each scene counts as an episode."""
    probes = [p for p in probes if p.outcome != CENSORED]
    graphs = pack([p.graph for p in probes], schema)
    arity = max([1, *(len(v.arguments) for v in schema.verbs)])
    args = np.full((len(probes), arity), -1, np.int64)
    for row, p in enumerate(probes):
        place = {o.id: slot for slot, o in enumerate(p.graph.objects)}
        args[row, : len(p.subgoal.args)] = [place[a] for a in p.subgoal.args]
    names = [v.name for v in schema.verbs]
    scenes, owner = np.unique([p.scene for p in probes], return_inverse=True)
    verbs: Int = np.array([names.index(p.subgoal.verb) for p in probes], np.int64)
    return SegmentTable(
        schema=schema,
        graphs=graphs,
        after=graphs,
        has_after=np.zeros(len(probes), bool),
        subgoals=tuple(p.subgoal for p in probes),
        verbs=verbs,
        args=args,
        outcome=np.array([p.outcome for p in probes], np.int64),
        episode=owner.astype(np.int64),
        instructions=tuple(p.instruction for p in probes),
        episodes=tuple(f"scene_{s}" for s in scenes),
        success=np.full(len(scenes), -1, np.int64),
        splits=(Split.CALIBRATION,) * len(scenes),
    )


def calibrate_on_probes(
    model: GraphModel,
    probes: Sequence[Probe],
    demonstrations: Sequence[Demonstration],
    config: OutcomeConfig | None = None,
) -> GraphModel:
    """Execution calibration: scaling and pruning thresholds from probes, and `V` learned anew with them.

    Args:
        model: with its demonstration calibration.
        probes: executed on calibration scenes that serve nothing else.
        demonstrations, config: those the model was trained with.
    """
    config = config or OutcomeConfig()
    table = probe_table(probes, model.schema)
    logits, _ = judge_table(model.outcome, model.encoder, table)
    found = fit_calibration(
        logits, table.verbs, table.outcome, table.episode, len(model.schema.verbs), "execution"
    )
    model = replace(model, calibration=found)
    model = replace(model, pruning=rule_of(model, table, config))
    splits = hold_out(demonstrations)
    marked = [replace(d, split=s) for d, s in zip(demonstrations, splits, strict=True)]
    chosen = choose_episodes(marked, config.failures, config.episodes)
    drop_slips = config.failures is Failures.WITHHOLD_SLIPS
    train = [d for d in chosen if d.split is Split.TRAIN]
    return revalue(model, segment_table(train, model.schema, drop_slips=drop_slips), config)
