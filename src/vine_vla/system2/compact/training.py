"""`vine train system2`: perception and proposals once, then a folder of nets for each variant.

Each stage is known by a hash of its settings and data; a stage that is up to date is not run again,
so a killed run resumes and a further variant reuses what is shared.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema
from vine_vla.core.options import Demonstration, Split
from vine_vla.learning.device import usable_device
from vine_vla.storage.files import write_text
from vine_vla.storage.json import write_json
from vine_vla.storage.provenance import environment
from vine_vla.system2.backend import Report, TrainingData, silent
from vine_vla.system2.card import model_card
from vine_vla.system2.compact import storage
from vine_vla.system2.compact.config import OutcomeConfig
from vine_vla.system2.compact.frames import constant_attributes, load_frames
from vine_vla.system2.compact.learn import judge_table, train_shared, train_variant
from vine_vla.system2.compact.model import GraphModel, Shared
from vine_vla.system2.compact.perceived import as_perceived
from vine_vla.system2.compact.perception import Perception
from vine_vla.system2.compact.perception_metrics import measure
from vine_vla.system2.compact.perception_training import PerceptionConfig, train_perception
from vine_vla.system2.data_warnings import data_warnings
from vine_vla.system2.folder import CARD, FORMAT, INFO, METRICS, PICTURE, read_info, read_json
from vine_vla.system2.segments import (
    Failures,
    choose_episodes,
    count_episodes,
    fingerprint,
    hold_out,
    segment_table,
)
from vine_vla.system2.uncertainty.calibration import cross_calibrated
from vine_vla.system2.uncertainty.metrics import binary_scores, outcome_scores, plot_reliability


@dataclass(frozen=True)
class System2Config:
    """What `train_system2` does.

    Args:
        outcomes: of proposals, outcomes and values; its `failures` names the variant.
        perception: of the detector; None trains on scene graphs alone.
        calibrate_on_perceived: calibrate and set thresholds on the graphs that perception gives for held-out
            episodes, since those are what a plan starts from; False uses the annotated graphs.
        learn_from_perceived: let the outcome nets learn from perceived graphs beside the annotated ones.
    """

    outcomes: OutcomeConfig = field(default_factory=OutcomeConfig)
    perception: PerceptionConfig | None = field(default_factory=PerceptionConfig)
    calibrate_on_perceived: bool = True
    learn_from_perceived: bool = False


def train_system2(
    dataset: TrainingData,
    out: Path | str,
    config: System2Config | None = None,
    report: Report = silent,
    *,
    device: str | None = "cpu",
) -> Path:
    """Train a variant of System 2 into `out`; returns the variant's folder.

    Args:
        dataset: demonstrations with segments and scene graphs; with images unless perception is None.
        out: folder of System 2; other variants in it stay, what they share is checked and reused.
        config: see `System2Config`. report: progress by stage.
        device: where nets are trained, see `usable_device`.

    Raises:
        VineError: nothing to learn from, or the folder's shared part was trained on other data or settings.
    """
    config, where = config or System2Config(), usable_device(device)
    folder = Path(out)
    schema = dataset.schema
    splits = hold_out(dataset.demonstrations)
    marked = [replace(d, split=s) for d, s in zip(dataset.demonstrations, splits, strict=True)]
    own = config.outcomes
    chosen = choose_episodes(marked, Failures.KEEP, own.episodes)
    info = _open(folder, schema)
    print_of_data = fingerprint(chosen)
    if own.failures is Failures.WITHHOLD_MATCHED and info["stages"]:
        # It comes with episodes that the others have not seen; what all share stays as it is.
        shared = storage.read_shared(folder, info, schema, where)
        perception = storage.read_perception(folder, info, schema, where) if config.perception else None
    else:
        shared = _shared_stage(folder, info, chosen, schema, own, print_of_data, where, report)
        perception = _perception_stage(folder, info, dataset, chosen, config, print_of_data, where, report)
    usable = choose_episodes(marked, own.failures, own.episodes)
    variant = folder / own.failures.value
    key = variant_key(config, usable, info["stages"])
    finished = variant / METRICS
    if finished.is_file() and read_json(finished).get("stage") == key:
        report(f"variant {own.failures.value} is up to date", 1.0)
        return variant
    started = time.monotonic()
    train = [d for d in usable if d.split is Split.TRAIN]
    held = [d for d in usable if d.split is Split.CALIBRATION]
    perceived = None
    if perception is not None and config.calibrate_on_perceived:
        perceived = as_perceived(
            dataset, held, perception, lambda x: report("perceiving calibration episodes", x)
        )
    extra: list[Demonstration] = []
    if perception is not None and config.learn_from_perceived:
        extra = as_perceived(dataset, train, perception, lambda x: report("perceiving training episodes", x))
    model = train_variant(marked, shared, own, calibration=perceived, extra=extra, report=report)
    variant.mkdir(parents=True, exist_ok=True)
    storage.write_model(variant, model)
    drop_slips = own.failures is Failures.WITHHOLD_SLIPS
    judged = segment_table(perceived or held, model.schema, drop_slips=drop_slips).decided()
    metrics = {
        "variant": own.failures.value,
        "stage": key,
        "seconds": time.monotonic() - started,
        "episodes": count_episodes(usable),
        **evaluate(model, usable, own, variant / PICTURE, perceived=perceived),
        "warnings": data_warnings(schema, model.pruning, shared.subgoals_a_plan, train, judged, own.failures),
        "perception": info.get("perception_metrics"),
        "config": json.loads(json.dumps(asdict(config), default=str)),
    }
    write_text(variant / CARD, model_card(metrics))
    write_json(finished, metrics)  # last: it says that the variant is complete
    return variant


def variant_key(config: System2Config, usable: Sequence[Demonstration], stages: dict[str, str]) -> str:
    """Hash of all that a variant depends on. `usable`: the episodes it may see; `stages`: what it shares."""
    graphs = config.calibrate_on_perceived, config.learn_from_perceived
    return _key("variant", _plain(config.outcomes), *graphs, fingerprint(usable), stages)


def evaluate(
    model: GraphModel,
    chosen: Sequence[Demonstration],
    config: OutcomeConfig,
    picture: Path | None = None,
    perceived: Sequence[Demonstration] | None = None,
) -> dict[str, Any]:
    """Scores on held-out episodes of the variant, and the reliability plot.

    On `test` episodes if there are at least 20 decided segments; else on the calibration episodes with a
    calibration that did not see the episode it is judged on.
    """
    schema = model.schema
    names = [v.name for v in schema.verbs]
    drop = config.failures is Failures.WITHHOLD_SLIPS
    test = segment_table([d for d in chosen if d.split is Split.TEST], schema, drop_slips=drop)
    by_id = {d.episode_id: d for d in perceived or ()}
    held = [by_id.get(d.episode_id, d) for d in chosen if d.split is Split.CALIBRATION]
    calibration = segment_table(held, schema, drop_slips=drop)
    if len(test.decided()) >= 20:
        whole, source = test, "test episodes"
        table = whole.decided()
        p = model.calibration.apply(judge_table(model.outcome, model.encoder, table)[0], table.verbs)
    else:
        whole, source = calibration, "calibration episodes, cross-calibrated"
        table = whole.decided()
        logits = judge_table(model.outcome, model.encoder, table)[0]
        p = cross_calibrated(logits, table.verbs, table.outcome, table.episode, len(names))
    found: dict[str, Any] = {
        "judged_on": source,
        "graphs": "perceived" if perceived else "annotated",
        "outcomes": outcome_scores(p, table.outcome, table.verbs, names),
        "calibration": {
            "kind": model.calibration.kind,
            "source": model.calibration.source,
            "segments": model.calibration.count,
        },
        "pruning": {**asdict(model.pruning), "tau": dict(model.pruning.tau)},
        "members": model.members,
        "budget": model.budget,
        "value_mu": _score_value_mu(model, whole),
    }
    if picture is not None and len(table):
        picture.parent.mkdir(parents=True, exist_ok=True)
        title = f"variant {config.failures.value}: {source}, {found['graphs']} graphs"
        plot_reliability(picture, p, table.outcome, table.verbs, names, title)
    return found


def _score_value_mu(model: GraphModel, table: Any) -> dict[str, Any]:
    """`V_mu` of held-out first graphs against the episodes' outcome."""
    if not len(table):
        return {"count": 0}
    first = np.append(True, table.episode[1:] != table.episode[:-1])
    starts = table.where(first & (table.success[table.episode] >= 0))
    if not len(starts):
        return {"count": 0}
    _, mu = model.feasibility(starts.graphs.with_budget(model.budget), starts.instructions)
    return dict(binary_scores(mu, starts.success[starts.episode]))


def _shared_stage(
    folder: Path,
    info: dict[str, Any],
    chosen: Sequence[Demonstration],
    schema: Schema,
    config: OutcomeConfig,
    data: str,
    device: torch.device,
    report: Report,
) -> Shared:
    settings = {
        name: _plain(getattr(config, name))
        for name in ("proposal_width", "noise", "seed", "proposal", "episodes")
    }
    key = _key("proposals", settings, data)
    if _is_up_to_date(info, "proposals", key, folder):
        return storage.read_shared(folder, info, schema, device)
    shared = train_shared(chosen, schema, replace(config, episodes=None), device=device, report=report)
    info["proposals"], info["hashes"]["proposals"] = storage.write_shared(folder, shared)
    _finish(folder, info, "proposals", key)
    return shared


def _perception_stage(
    folder: Path,
    info: dict[str, Any],
    dataset: TrainingData,
    chosen: Sequence[Demonstration],
    config: System2Config,
    data: str,
    device: torch.device,
    report: Report,
) -> Perception | None:
    if config.perception is None:
        return None
    key = _key("perception", asdict(config.perception), data)
    if _is_up_to_date(info, "perception", key, folder):
        return storage.read_perception(folder, info, dataset.schema, device)
    train = [d for d in chosen if d.split is Split.TRAIN]
    held = [d for d in chosen if d.split is not Split.TRAIN]
    own = config.perception
    frames = load_frames(
        dataset,
        train,
        most=own.frames,
        seed=own.seed,
        objects=own.objects if own.reader else 0,
        report=lambda x: report("reading frames", x),
    )
    perception = train_perception(
        frames,
        dataset.schema,
        constant_attributes(train),
        own,
        device=device,
        report=lambda x: report("perception", x),
    )
    if held:
        views = load_frames(dataset, held, most=400, seed=own.seed)
        info["perception_metrics"] = measure(perception, views)
        at_plans = views.with_graph()
        if at_plans.any():
            info["perception_metrics"]["at_plans"] = measure(perception, views.where(at_plans))
    info["perception"], info["hashes"]["perception"] = storage.write_perception(folder, perception)
    _finish(folder, info, "perception", key)
    return perception


def _open(folder: Path, schema: Schema) -> dict[str, Any]:
    """The folder's description, a fresh one if there is none."""
    path = folder / INFO
    if not path.is_file():
        return {
            "format": FORMAT,
            "kind": storage.KIND,
            "provenance": environment(),
            "schema": schema.to_json(),
            "hashes": {},
            "stages": {},
        }
    info = read_info(folder)
    if json.dumps(info.get("schema")) != json.dumps(schema.to_json()):  # in the same order, too
        raise VineError(
            "this folder holds a System 2 with another vocabulary",
            where=str(path),
            hint="choose another folder",
        )
    return info


def _is_up_to_date(info: dict[str, Any], stage: str, key: str, folder: Path) -> bool:
    known = info["stages"].get(stage)
    if known is not None and known != key and any(folder.glob(f"*/{METRICS}")):
        raise VineError(
            f"the {stage} in this folder were trained on other data or settings, and variants depend on them",
            where=str(folder),
            hint="train into another folder",
        )
    return bool(known == key)


def _finish(folder: Path, info: dict[str, Any], stage: str, key: str) -> None:
    info["stages"][stage] = key
    write_json(folder / INFO, info)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _plain(value: object) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value  # type: ignore[call-overload]
