"""Training of any kind of backend; those with raw probabilities are calibrated and measured from outside."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration, Split
from vine_vla.storage.files import write_text
from vine_vla.storage.json import write_json
from vine_vla.system2.backend import BackendKind, Report, TrainingConfig, TrainingData, silent
from vine_vla.system2.card import model_card
from vine_vla.system2.data_warnings import data_warnings
from vine_vla.system2.folder import (
    CARD,
    EXECUTED,
    INFO,
    METRICS,
    PICTURE,
    read_info,
    read_json,
)
from vine_vla.system2.registry import find_backend
from vine_vla.system2.segments import (
    Failures,
    SegmentTable,
    choose_episodes,
    count_episodes,
    fingerprint,
    hold_out,
    segment_table,
)
from vine_vla.system2.uncertainty.calibration import cross_calibrated
from vine_vla.system2.uncertainty.metrics import outcome_scores, plot_reliability
from vine_vla.system2.uncertainty.wrap import CalibratedBackend, calibrate, judge, logits_of


def train_backend(
    kind: BackendKind,
    dataset: TrainingData,
    out: Path | str,
    config: TrainingConfig | None = None,
    *,
    device: str | None = None,
    report: Report = silent,
) -> Path:
    """Train a variant of a System 2 into `out`; returns the variant's folder.

    Args:
        kind: of the registry. dataset: demonstrations with segments and scene graphs.
        out: folder of System 2; other variants in it stay, what they share is checked and reused.
        config: the kind's own settings, `kind.config()` by default. device: see `load_system2`.
        report: progress by stage.

    Raises:
        VineError: nothing to learn from, or the folder holds a System 2 of another kind, other data or
            other settings.
    """
    folder, config = Path(out), config or kind.config()
    if (folder / INFO).is_file() and (found := read_info(folder)["kind"]) != kind.name:
        raise VineError(
            f"this folder holds a System 2 of the kind {found!r}",
            where=str(folder),
            hint="choose another folder",
        )
    if kind.calibrate is not None:
        return kind.train(dataset, folder, config, device=device, report=report)
    usable = usable_episodes(dataset.demonstrations, config)
    key = hashlib.sha256(
        json.dumps([kind.name, asdict(config), fingerprint(usable)], default=str).encode()
    ).hexdigest()
    metrics = folder / config.failures.value / METRICS
    if metrics.is_file() and read_json(metrics).get("stage") == key:
        report(f"variant {config.failures.value} is up to date", 1.0)
        return metrics.parent
    started = time.monotonic()
    variant = kind.train(dataset, folder, config, device=device, report=report)
    train, held = _tables(usable, dataset.schema, config)
    report("calibration", 0.0)
    inner = kind.load(folder, variant.name, device=device)
    found = calibrate(
        inner, folder, held, train, "demonstration", alpha=config.alpha, tau_stop=config.tau_stop
    )
    found.save(folder)
    settings = json.loads(json.dumps(asdict(config), default=str))
    known = {"stage": key, "seconds": time.monotonic() - started, "config": settings}
    _measure(found, variant, held, usable, config.failures, "held-out episodes, cross-calibrated", known)
    report("calibration", 1.0)
    return variant


def calibrate_from_outside(
    folder: Path,
    name: str,
    probes: SegmentTable,
    demonstrations: Sequence[Demonstration],
    *,
    device: str | None = None,
) -> Path:
    """`calibrate_variant` for a kind whose probabilities are raw."""
    kind = find_backend(read_info(folder)["kind"])
    metrics = read_json(folder / name / METRICS)
    own = metrics["config"]
    config = TrainingConfig(Failures(own["failures"]), own["episodes"], own["alpha"], own["tau_stop"])
    usable = usable_episodes(demonstrations, config)
    if fingerprint(usable) != metrics["data"]:
        raise VineError(
            f"variant {name!r} was trained on other episodes",
            where=str(folder),
            hint="give the dataset that it was trained on",
        )
    train, _ = _tables(usable, probes.schema, config)
    inner = kind.load(folder, name, device=device)
    found = calibrate(inner, folder, probes, train, "execution", alpha=config.alpha, tau_stop=config.tau_stop)
    variant = folder / f"{name}{EXECUTED}"
    found.save(folder, variant.name)
    known = {"stage": f"{metrics['stage']} executed", "seconds": metrics["seconds"], "config": own}
    source = "probes on calibration scenes, cross-calibrated"
    _measure(found, variant, probes, usable, config.failures, source, known)
    return variant


def usable_episodes(demonstrations: Sequence[Demonstration], config: TrainingConfig) -> list[Demonstration]:
    """The episodes that a variant may see, their splits marked; 15 % are held out where none are."""
    splits = hold_out(demonstrations)
    marked = [replace(d, split=s) for d, s in zip(demonstrations, splits, strict=True)]
    return choose_episodes(marked, config.failures, config.episodes)


def _tables(
    usable: Sequence[Demonstration], schema: Any, config: TrainingConfig
) -> tuple[SegmentTable, SegmentTable]:
    """Decided segments of training and of calibration episodes."""
    drop = config.failures is Failures.WITHHOLD_SLIPS
    parts = [[d for d in usable if d.split is split] for split in (Split.TRAIN, Split.CALIBRATION)]
    train, held = (segment_table(part, schema, drop_slips=drop).decided() for part in parts)
    return train, held


def _measure(
    model: CalibratedBackend,
    variant: Path,
    judged: SegmentTable,
    usable: Sequence[Demonstration],
    failures: Failures,
    source: str,
    known: dict[str, Any],
) -> None:
    """Metrics, reliability plot and model card, by a calibration that did not see the episode it judges."""
    schema, info = model.schema, model.info
    names = [v.name for v in schema.verbs]
    raw, _, proposed = judge(model.inner, judged)
    table = judged.where(proposed)
    p = cross_calibrated(logits_of(raw), table.verbs, table.outcome, table.episode, len(names))
    train = [d for d in usable if d.split is Split.TRAIN]
    metrics = {
        **known,
        "kind": info.kind,
        "data": fingerprint(usable),
        "variant": variant.name,
        "episodes": count_episodes(usable),
        "judged_on": source,
        "graphs": "annotated",
        "outcomes": outcome_scores(p, table.outcome, table.verbs, names),
        "calibration": {
            "kind": model.calibration.kind,
            "source": model.calibration.source,
            "segments": model.calibration.count,
        },
        "pruning": {**asdict(model.pruning), "tau": dict(model.pruning.tau)},
        "members": len(raw),
        "budget": info.budget,
        "value_mu": {"count": 0},
        "warnings": data_warnings(schema, model.pruning, info.subgoals_a_plan, train, judged, failures),
        "perception": None,
    }
    if len(table):
        title = f"variant {variant.name}: {source}"
        plot_reliability(variant / PICTURE, p, table.outcome, table.verbs, names, title)
    write_text(variant / CARD, model_card(metrics))
    write_json(variant / METRICS, metrics)  # last: it says that the variant is complete
