"""`vine train system2`: options and work; `train.py` hands over to it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vine_vla.cli._options import Device
from vine_vla.system2.backend import TrainingConfig
from vine_vla.system2.registry import find_backend


@dataclass(frozen=True)
class System2[Settings: TrainingConfig]:
    """Options of `vine train system2`; `Settings` are those of the backend."""

    dataset: tyro.conf.Positional[Path]
    """LeRobot dataset with segments, scene graphs and boxes."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of System 2, RUN/system2; further variants go into the same one and share what can be shared."""
    settings: Annotated[Settings, tyro.conf.arg(name=""), tyro.conf.EnumChoicesFromValues]
    """What the backend lets one set."""
    backend: str = "compact"
    """Kind of planning model, of this package or an installed one; `vine train system2 --backend NAME --help`
    lists its options."""
    device: Device = None
    threads: int = 2
    """Threads of torch; 1 is faster on a machine that does other work."""
    json: bool = False
    """Print the metrics as JSON."""


def options_of(arguments: Sequence[str]) -> Any:
    """The options that `vine train system2 ARGUMENTS` has: those of the backend it names are among them.

    Raises:
        VineError: there is no such backend.
    """
    name = "compact"
    for place, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option == "--backend":
            name = value if equals else next(iter(arguments[place + 1 :]), name)
    return System2[find_backend(name).config]  # type: ignore[misc]


def train_planner(config: System2[Any]) -> int:
    """Train, show the figures, and say where the result is."""
    from vine_vla.data import open_dataset

    dataset = open_dataset(config.dataset)  # first: bad input is told at once
    import torch

    from vine_vla.compute.progress import progress_bars
    from vine_vla.system2 import train_backend
    from vine_vla.system2.folder import METRICS, read_json

    torch.set_num_threads(config.threads)
    started = time.monotonic()
    with progress_bars() as report:
        folder = train_backend(
            find_backend(config.backend),
            dataset,
            config.out,
            config.settings,
            device=config.device,
            report=report,
        )
    metrics = read_json(folder / METRICS)
    if config.json:
        print(json.dumps(metrics, indent=1))
    else:
        print("\n".join(_lines(metrics)), file=sys.stderr)
        for warning in metrics.get("warnings", ()):
            print(f"vine: warning: {warning}", file=sys.stderr)
        print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
        print(folder)
    return 0


def _lines(metrics: dict) -> list[str]:
    lines = [f"on {metrics['judged_on']}, {metrics['graphs']} graphs:"]
    rows = {"all verbs": metrics["outcomes"]["reach"], **metrics["outcomes"]["by_verb"]}
    for name, scores in rows.items():
        if scores["count"]:
            auroc = "   -" if scores["auroc"] is None else f"{scores['auroc']:.3f}"
            lines.append(
                f"  {name:<16} n {scores['count']:>4}  reached {scores['rate']:.2f}  "
                f"Brier {scores['brier']:.3f}  log-loss {scores['log_loss']:.3f}  "
                f"ECE {scores['ece']:.3f}  AUROC {auroc}"
            )
    perception = metrics.get("perception")
    if perception:
        px = ", ".join(f"{camera} {value:.1f} px" for camera, value in perception["box_error_px"].items())
        boxes = f"off by {px}" if px else "not found"
        lines.append(
            f"  perception: boxes {boxes}; classes {perception['class_accuracy']:.3f}, attributes "
            f"{perception['attribute_accuracy']:.3f}, relation F1 {perception['relation_f1']:.3f}"
        )
    return lines
