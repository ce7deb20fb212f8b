"""Execution calibration of the compact backend: a variant once more, scaled by executed probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration, Split
from vine_vla.learning.device import usable_device
from vine_vla.storage.files import write_text
from vine_vla.storage.json import write_json
from vine_vla.system2.card import model_card
from vine_vla.system2.compact import storage
from vine_vla.system2.compact.config import OutcomeConfig
from vine_vla.system2.compact.fit import FitConfig
from vine_vla.system2.compact.learn import judge_table, revalue, rule_of
from vine_vla.system2.compact.model import GraphModel
from vine_vla.system2.compact.training import System2Config, variant_key
from vine_vla.system2.data_warnings import data_warnings
from vine_vla.system2.folder import CARD, EXECUTED, METRICS, PICTURE, read_info, read_json, read_schema
from vine_vla.system2.segments import Failures, SegmentTable, choose_episodes, hold_out, segment_table
from vine_vla.system2.uncertainty.calibration import cross_calibrated, fit_calibration
from vine_vla.system2.uncertainty.metrics import outcome_scores, plot_reliability


def calibrate_on_probes(
    model: GraphModel, table: SegmentTable, usable: Sequence[Demonstration], config: OutcomeConfig
) -> GraphModel:
    """Execution calibration: scaling and pruning thresholds from probes, and `V` learned anew with them.

    Args:
        model: with its demonstration calibration.
        table: of probes on calibration scenes that serve nothing else (`uncertainty.execution`).
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
    folder: Path,
    name: str,
    table: SegmentTable,
    demonstrations: Sequence[Demonstration],
    *,
    device: str | None = "cpu",
) -> Path:
    """Write the variant `name` once more, calibrated on the probes `table`; see `BackendKind.calibrate`."""
    where = usable_device(device)
    info = read_info(folder)
    metrics = read_json(folder / name / METRICS)
    config = _config_of(metrics)
    splits = hold_out(demonstrations)
    marked = [replace(d, split=s) for d, s in zip(demonstrations, splits, strict=True)]
    own = config.outcomes
    usable = choose_episodes(marked, own.failures, own.episodes)
    if variant_key(config, usable, info["stages"]) != metrics["stage"]:
        raise VineError(
            f"variant {name!r} was trained on other episodes",
            where=str(folder),
            hint="give the dataset that it was trained on",
        )
    schema = read_schema(folder, info)
    model = storage.read_model(folder / name, storage.read_shared(folder, info, schema, where))
    logits, _ = judge_table(model.outcome, model.encoder, table)
    model = calibrate_on_probes(model, table, usable, own)
    train = [d for d in usable if d.split is Split.TRAIN]
    names = [v.name for v in schema.verbs]
    p = cross_calibrated(logits, table.verbs, table.outcome, table.episode, len(names))
    found, source = folder / f"{name}{EXECUTED}", "probes on calibration scenes, cross-calibrated"
    storage.write_model(found, model)
    scores: dict[str, Any] = metrics | {
        "variant": found.name,
        "stage": f"{metrics['stage']} executed",
        "judged_on": source,
        "graphs": "perceived",
        "outcomes": outcome_scores(p, table.outcome, table.verbs, names),
        "warnings": data_warnings(
            schema, model.pruning, model.shared.subgoals_a_plan, train, table, own.failures
        ),
        "calibration": {
            "kind": model.calibration.kind,
            "source": model.calibration.source,
            "segments": model.calibration.count,
        },
        "pruning": {**asdict(model.pruning), "tau": dict(model.pruning.tau)},
        "value_mu": {"count": 0},
    }
    plot_reliability(found / PICTURE, p, table.outcome, table.verbs, names, f"variant {found.name}: {source}")
    write_text(found / CARD, model_card(scores))
    write_json(found / METRICS, scores)
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
    graphs = {name: data[name] for name in ("calibrate_on_perceived", "learn_from_perceived")}
    return System2Config(OutcomeConfig(**own), None, **graphs)
