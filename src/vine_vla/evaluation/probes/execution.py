"""Execution calibration of a run: probes on calibration scenes, then every variant scaled by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from vine_vla.core.options import Demonstration
from vine_vla.evaluation.probes.run import PLACES, ExecutedProbe, ProbeConfig, run_probes
from vine_vla.evaluation.runner import Builder
from vine_vla.system2.uncertainty.execution import Probe, calibrate_variant

PROBES = "execution-probes"
"""Folder of a run with the probes that it was calibrated on."""


def calibration_probes(
    builder: Builder, run: Path, config: ProbeConfig, *, workers: int = 2, progress: bool = True
) -> list[ExecutedProbe]:
    """Probes of the run's own perception, proposals and System 1, kept in the run; resumes after a kill."""
    # Executed probes depend on what the variants share (`system2/NAME`); what judges them is no part of it.
    weights = builder.settings()["weights"][config.training_seed]
    used = {name: found for name, found in weights.items() if name == "system1" or name.count("/") == 1}
    text = json.dumps([used, builder.split, config.seed, config.prefix, config.repeats], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    (run / PROBES).mkdir(parents=True, exist_ok=True)
    return run_probes(builder, config, run / PROBES / f"{name}.jsonl", workers=workers, progress=progress)


def as_system2(probes: Sequence[ExecutedProbe]) -> list[Probe]:
    """Probes as System 2 reads them, one an execution."""
    return [
        Probe(p.graph, p.subgoal, p.instruction, PLACES[outcome], p.scene)
        for p in probes
        for outcome in p.outcomes
    ]


def calibrate_run(
    run: Path,
    variants: Sequence[str],
    probes: Sequence[ExecutedProbe],
    data: Sequence[Demonstration],
    *,
    device: str | None = None,
) -> list[Path]:
    """Write `VARIANT-executed` of each of the `variants` that were trained on `data`; see
    `calibrate_variant`."""
    found = as_system2(probes)
    return [calibrate_variant(run / "system2", name, found, data, device=device) for name in variants]
