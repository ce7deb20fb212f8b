"""`vine train system2`: options and work; `train.py` hands over to it."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class System2:
    """Options of `vine train system2`."""

    dataset: tyro.conf.Positional[Path]
    """LeRobot dataset with segments, scene graphs and boxes."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of System 2, RUN/system2; further variants go into the same one and share what can be shared."""
    failures: Literal["keep", "withhold", "withhold-slips", "withhold-matched"] = "keep"
    """What the nets may see: all; successful episodes, their slips kept; or removed too; or as many successes
    as --episodes."""
    episodes: int | None = None
    """Use this many episodes; default: all."""
    graphs_only: bool = False
    """Train without perception, on the annotated scene graphs alone: minutes become seconds."""
    members: int = 6
    """Ensemble members."""
    alpha: float = 0.1
    """Share of plans that pruning may rob of a reachable option, in (0, 1)."""
    tau_stop: float = 0.0
    """Stop as `unsupported` when the best plan's lower bound is less, in [0, 1]; 0: never."""
    perception_steps: int = 900
    """Gradient steps of perception."""
    frames: int = 10000
    """Annotated frames that perception learns from, at most."""
    learn_from_seen: bool = False
    """Let the outcome nets learn from perceived graphs too, beside the annotated ones."""
    seed: int = 0
    """Of weights, bootstrap, order and noise."""
    threads: int = 2
    """Threads of torch; 1 is faster on a machine that does other work."""
    json: bool = False
    """Print the metrics as JSON."""


def train_planner(config: System2) -> int:
    """Train, show the figures, and say where the result is."""
    from vine_vla.core.errors import VineError
    from vine_vla.data import open_dataset

    dataset = open_dataset(config.dataset)  # first: bad input is told at once
    import torch

    from vine_vla.compute.progress import progress_bars
    from vine_vla.system2 import Failures, OutcomeConfig, PerceptionConfig, System2Config, train_system2
    from vine_vla.system2.compact.storage import read_json

    for name, low, high in (("alpha", 0, 1), ("members", 0, 1000), ("perception_steps", 0, 10**7)):
        value = getattr(config, name)
        if not low < value < high:
            raise VineError(f"{name} is {value}", where=f"--{name.replace('_', '-')}", hint=f"above {low}")
    torch.set_num_threads(config.threads)
    own = OutcomeConfig(
        failures=Failures.KEEP if config.failures == "keep" else Failures(config.failures),
        episodes=config.episodes,
        members=config.members,
        alpha=config.alpha,
        tau_stop=config.tau_stop,
        seed=config.seed,
    )
    eyes = PerceptionConfig(steps=config.perception_steps, frames=config.frames, seed=config.seed)
    settings = System2Config(
        own, None if config.graphs_only else eyes, learn_from_seen=config.learn_from_seen
    )
    started = time.monotonic()
    with progress_bars() as report:
        folder = train_system2(dataset, config.out, settings, report)
    metrics = read_json(folder / "metrics.json")
    if config.json:
        print(json.dumps(metrics, indent=1))
    else:
        print("\n".join(_lines(metrics)), file=sys.stderr)
        for remark in metrics.get("remarks", ()):
            print(f"vine: remark: {remark}", file=sys.stderr)
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
    eyes = metrics.get("perception")
    if eyes:
        px = ", ".join(f"{camera} {value:.1f} px" for camera, value in eyes["box_error_px"].items())
        boxes = f"off by {px}" if px else "not found"
        lines.append(
            f"  perception: boxes {boxes}; classes {eyes['class_accuracy']:.3f}, attributes "
            f"{eyes['attribute_accuracy']:.3f}, relation F1 {eyes['relation_f1']:.3f}"
        )
    return lines
