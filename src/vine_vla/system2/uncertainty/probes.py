"""Execution calibration: outcomes of single subgoals that System 1 carried out on calibration scenes.

Demonstrations say how often operators reach a subgoal; probes say how often these learned hands do. What is
learned stays, only its scale, the pruning thresholds and `V` follow the probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Demonstration, Split, Subgoal
from vine_vla.core.packing import pack
from vine_vla.storage.files import write_text
from vine_vla.storage.json import write_json
from vine_vla.system2 import EXECUTED
from vine_vla.system2.compact import storage
from vine_vla.system2.compact.card import model_card
from vine_vla.system2.compact.config import OutcomeConfig
from vine_vla.system2.compact.data_warnings import remarks
from vine_vla.system2.compact.features import Int
from vine_vla.system2.compact.fit import FitConfig
from vine_vla.system2.compact.learn import judge_table, revalue, rule_of
from vine_vla.system2.compact.model import GraphModel
from vine_vla.system2.compact.segments import (
    CENSORED,
    Failures,
    SegmentTable,
    choose_episodes,
    hold_out,
    segment_table,
)
from vine_vla.system2.compact.training import CARD, METRICS, PICTURE, System2Config, variant_key
from vine_vla.system2.uncertainty.calibration import cross_calibrated, fit_calibration
from vine_vla.system2.uncertainty.metrics import outcome_scores, plot_reliability


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
    model: GraphModel, table: SegmentTable, usable: Sequence[Demonstration], config: OutcomeConfig
) -> GraphModel:
    """Execution calibration: scaling and pruning thresholds from probes, and `V` learned anew with them.

    Args:
        model: with its demonstration calibration.
        table: of probes on calibration scenes that serve nothing else (`probe_table`).
        usable, config: the episodes that the model was trained with, splits marked, and how.
    """
    logits, _ = judge_table(model.outcome, model.encoder, table)
    found = fit_calibration(
        logits, table.verbs, table.outcome, table.episode, len(model.schema.verbs), "execution"
    )
    model = replace(model, calibration=found)
    model = replace(model, pruning=rule_of(model, table, config))
    train = [d for d in usable if d.split is Split.TRAIN]
    drop_slips = config.failures is Failures.WITHHOLD_SLIPS
    return revalue(model, segment_table(train, model.schema, drop_slips=drop_slips), config)


def calibrate_variant(
    folder: Path, name: str, probes: Sequence[Probe], demonstrations: Sequence[Demonstration]
) -> Path:
    """Write the variant `name` of the System 2 in `folder` once more, with execution calibration.

    Args:
        demonstrations: what the variant was trained on; `V` is learned from their scenes again.

    Returns:
        The folder `NAME-executed`, with metrics, reliability plot and model card as training writes them;
        the scores are of probes, by a calibration that did not see their scene.

    Raises:
        VineError: no such variant, it was trained on other episodes, or there are too few probes.
    """
    info = storage.read_json(folder / storage.INFO)
    metrics = storage.read_json(folder / name / METRICS)
    config = _config_of(metrics)
    splits = hold_out(demonstrations)
    marked = [replace(d, split=s) for d, s in zip(demonstrations, splits, strict=True)]
    own = config.outcomes
    usable = choose_episodes(marked, own.failures, own.episodes)
    if variant_key(config, usable, info["stages"]) != metrics["stage"]:
        raise VineError(
            f"variant {name!r} was trained on other episodes",
            where=str(folder),
            hint="give the dataset that `vine train system2` was given",
        )
    schema = Schema.from_json(info["schema"], where=str(folder / storage.INFO))
    table = probe_table(probes, schema)
    if len(table) < 20:
        raise VineError(f"{len(table)} probes are too few to calibrate on", hint="execute 100 or more")
    model = storage.read_model(folder / name, storage.read_shared(folder, info, schema))
    logits, _ = judge_table(model.outcome, model.encoder, table)
    model = calibrate_on_probes(model, table, usable, own)
    train = [d for d in usable if d.split is Split.TRAIN]
    names = [v.name for v in schema.verbs]
    p = cross_calibrated(logits, table.verbs, table.outcome, table.episode, len(names))
    found, source = folder / f"{name}{EXECUTED}", "probes on calibration scenes, cross-calibrated"
    storage.write_model(found, model)
    told: dict[str, Any] = metrics | {
        "variant": found.name,
        "stage": f"{metrics['stage']} executed",
        "judged_on": source,
        "graphs": "perceived",
        "outcomes": outcome_scores(p, table.outcome, table.verbs, names),
        "remarks": remarks(model, train, table, own.failures),
        "calibration": {
            "kind": model.calibration.kind,
            "source": model.calibration.source,
            "segments": model.calibration.count,
        },
        "pruning": {"tau": dict(model.pruning.tau), "alpha": model.pruning.alpha},
        "value_mu": {"count": 0},
    }
    plot_reliability(found / PICTURE, p, table.outcome, table.verbs, names, f"variant {found.name}: {source}")
    write_text(found / CARD, model_card(told, model))
    write_json(found / METRICS, told)
    return found


def _config_of(metrics: dict[str, Any]) -> System2Config:
    """What a variant was trained with, from its `metrics.json`; perception's settings are left out."""
    data = metrics["config"]
    plain = asdict(OutcomeConfig())
    own = {
        key: FitConfig(**value) if isinstance(plain[key], dict) else value
        for key, value in data["outcomes"].items()
    }
    own["failures"] = Failures(own["failures"])
    seen = {name: data[name] for name in ("calibrate_on_seen", "learn_from_seen")}
    return System2Config(OutcomeConfig(**own), None, **seen)
