"""Training a done head on the segments of a skills dataset, and its figures on clips that were held out.

Held out are all clips of some source episodes, since the segments of one episode show the same scene.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE
from numpy.typing import NDArray
from torch import Tensor

from vine_vla.compute.progress import Report
from vine_vla.core.errors import VineError
from vine_vla.core.protocols import DONE, FAILED, Float
from vine_vla.data.export.crops import LAYOUT, CropLayout
from vine_vla.data.export.skills import EXPORT
from vine_vla.data.lerobot.tables import read_files
from vine_vla.data.sidecars.files import SEGMENTS
from vine_vla.learning.device import usable_device
from vine_vla.learning.loop import Checkpoint, LoopConfig, adamw, train_module
from vine_vla.learning.schedule import cosine_schedule
from vine_vla.storage.json import write_json
from vine_vla.system1.done.figures import Stopping, figures
from vine_vla.system1.done.head import INFO, DoneNet, load_net, read_info, save_net
from vine_vla.system1.settings import DoneTraining
from vine_vla.system1.vine_skill.labels import IGNORED, FrameLabels, frame_labels
from vine_vla.system1.vine_skill.memory import FramesInMemory
from vine_vla.system1.vine_skill.waypoints import Clip
from vine_vla.system1.vine_skill.windows import WindowNoise

METRICS = "metrics.json"
CHECKPOINT = "training.safetensors"
"""What a killed run resumes from, in its folder."""

WARMUP = 50
"""Steps in which the learning rate rises to its peak."""

EVALUATED_AT_ONCE = 256
"""Frames a batch outside training."""


class _Data(NamedTuple):
    """A skills dataset in memory. `learned`, `held`: clips to learn from and to judge by."""

    frames: FramesInMemory
    layout: CropLayout
    labels: FrameLabels
    learned: list[Clip]
    held: list[Clip]


def train_done(
    dataset: Path,
    out: Path,
    config: DoneTraining,
    stopping: Stopping,
    *,
    device: str | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train a done head and evaluate it; resumes a killed run, keeps a finished head and evaluates it again.

    Args:
        dataset: skills dataset, crops at the subgoal's target, as `vine export skills` writes it.
        out: folder of the head, for `DoneHead.load`.
        stopping: how the agent will stop, for the figures.
        device: see `usable_device`.
        report: called with what is done, its steps done, and its steps.

    Returns:
        What `metrics.json` then holds; see `done_figures.figures`.

    Raises:
        VineError: no such dataset, one without crops or segments, whose features differ from its layout, or
            too small; or `out` holds a head that was trained otherwise.
    """
    layout = _check_dataset(dataset)
    place = usable_device(device)
    settings = _settings(dataset, config)
    if (out / INFO).is_file() and read_info(out).get("settings") != settings:
        raise VineError(
            "holds a done head trained otherwise", where=str(out), hint="choose another folder or remove it"
        )
    report = report or (lambda name, done, total=1.0: None)
    data = _read(dataset, layout, config)
    out.mkdir(parents=True, exist_ok=True)
    if (out / INFO).is_file():
        net = load_net(out).to(place)
    else:
        net = _fit(data, out, config, settings, place, report)
        save_net(net, out, {"settings": settings, "versions": _versions()})
        (out / CHECKPOINT).unlink(missing_ok=True)
    probabilities = _probabilities(net.eval(), data, place, report)
    found = figures(probabilities, data.labels.done, data.held, stopping)
    held = sorted({_source(clip.name) for clip in data.held})
    result = {
        "held_out": {"episodes": len(held), "names": held} | found,
        "trained_on": {"clips": len(data.learned), "frames": sum(c.last - c.first for c in data.learned)},
        "stopping": asdict(stopping),
        "done_frames": config.done_frames,
        "failed_frames": config.failed_frames,
        "steps": config.steps,
    }
    write_json(out / METRICS, result)
    return result


def _check_dataset(dataset: Path) -> CropLayout:
    """The layout of a skills dataset that can be learned from; VineError for everything else."""
    features = read_files(dataset).features
    hint = "make one with `vine export skills`"
    if not (dataset / SEGMENTS).is_file():
        raise VineError("the dataset has no segments", where=str(dataset / SEGMENTS), hint=hint)
    path = dataset / LAYOUT
    if not path.is_file():
        raise VineError("the dataset has no crops at subgoals' targets", where=str(path), hint=hint)
    layout = CropLayout.from_json(path.read_text(encoding="utf-8"), str(path))
    if layout.slots:
        raise VineError("the dataset holds whole episodes, not subgoals", where=str(dataset), hint=hint)
    wanted = {f"observation.images.{c}": [layout.pixels, layout.pixels, 3] for c in layout.cameras}
    wanted |= {OBS_ENV_STATE: [layout.width]}
    present = {n: list(f["shape"]) for n, f in features.items() if n.startswith("observation.")}
    if OBS_STATE not in present or any(present.get(n) != shape for n, shape in wanted.items()):
        asked = [f"{n} {shape}" for n, shape in wanted.items()] + [f"{OBS_STATE} [any]"]
        raise VineError(
            f"the layout asks for {', '.join(asked)}; the dataset has "
            f"{', '.join(f'{n} {shape}' for n, shape in present.items()) or 'no observation'}",
            where=str(dataset / "meta/info.json"),
            hint="export it anew with `vine export skills`",
        )
    return layout


def _settings(dataset: Path, config: DoneTraining) -> dict[str, Any]:
    """What makes two heads the same head."""
    export = dataset / EXPORT
    data = json.loads(export.read_text(encoding="utf-8")) if export.is_file() else str(dataset.resolve())
    return {k: v for k, v in asdict(config).items() if k != "save_every"} | {"data": data}


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("lerobot", "torch", "numpy")}


def _read(dataset: Path, layout: CropLayout, config: DoneTraining) -> _Data:
    frames = FramesInMemory(LeRobotDatasetMetadata(f"vine/{dataset.name}", root=dataset))
    episodes = frames.meta.episodes
    starts = [int(i) for i in episodes["dataset_from_index"]]
    ends = [int(i) for i in episodes["dataset_to_index"]]
    labels = frame_labels(dataset, starts, ends, config.done_frames, config.failed_frames)
    learned, held = _hold_out(labels, dataset, config)
    return _Data(frames, layout, labels, learned, held)


def _hold_out(labels: FrameLabels, dataset: Path, config: DoneTraining) -> tuple[list[Clip], list[Clip]]:
    """Clips to learn from and clips to judge by, apart by source episode, failures in both if there are."""
    failing = {_source(c.name): False for c in labels.clips}
    for clip in labels.clips:
        failing[_source(clip.name)] |= bool((labels.done[clip.first : clip.last] == FAILED).any())
    names = sorted(failing)
    if len(names) < 2:
        raise VineError(
            f"{len(names)} source episode, of which none can be held out",
            where=str(dataset),
            hint="export more episodes",
        )
    order = np.random.default_rng(config.seed).permutation(names)
    order = sorted(order, key=lambda name: failing[name])  # stable: drawn at random within both kinds
    count = min(max(1, round(config.held_out * len(order))), len(order) - 1)
    chosen = {order[int((i + 0.5) * len(order) / count)] for i in range(count)}
    held = [c for c in labels.clips if _source(c.name) in chosen]
    learned = [c for c in labels.clips if _source(c.name) not in chosen]
    if not any((labels.done[c.first : c.last] == DONE).any() for c in learned):
        raise VineError(
            "no segment to learn from was reached",
            where=str(dataset / SEGMENTS),
            hint="export reached segments too; `vine inspect` counts outcomes",
        )
    return learned, held


def _source(name: str) -> str:
    """The source episode of an exported clip, `e1` of `e1.02`."""
    stem, _, number = name.rpartition(".")
    return stem if stem and number.isdigit() else name


def _fit(
    data: _Data,
    out: Path,
    config: DoneTraining,
    settings: dict[str, Any],
    device: torch.device,
    report: Report,
) -> DoneNet:
    """The trained net; resumes from the checkpoint in `out` if it is of this very training."""
    torch.manual_seed(config.seed)
    states = data.frames.column(OBS_STATE)
    net = DoneNet(data.layout, states.shape[1], config.width)
    inside = np.concatenate([np.arange(c.first, c.last) for c in data.learned])
    net.state_mean.copy_(states[inside].mean(0))
    net.state_spread.copy_(states[inside].std(0).clamp(min=1e-3))
    net.to(device).train()
    rows = inside[data.labels.done[inside] != IGNORED]
    labels = torch.from_numpy(data.labels.done).to(device)
    noise = WindowNoise()

    def batches(first: int) -> Iterator[NDArray[np.int64]]:
        for step in itertools.count(first):
            yield np.random.default_rng((config.seed, step)).choice(rows, config.batch_size)

    def loss(batch: NDArray[np.int64]) -> tuple[Tensor, dict[str, float]]:
        logits = net(*_inputs(data, batch, device), noise)
        return F.cross_entropy(logits, labels[torch.from_numpy(batch)]), {}

    optimizer = adamw(net.parameters(), config.learning_rate, config.weight_decay)
    train_module(
        net,
        batches,
        loss,
        optimizer,
        cosine_schedule(optimizer, config.steps, min(WARMUP, config.steps)),
        LoopConfig(config.steps, config.seed, save_every=config.save_every),
        Checkpoint(out / CHECKPOINT, settings),
        what="done head",
        report=report,
    )
    return net


def _inputs(
    data: _Data, rows: NDArray[np.int64], device: torch.device
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Pictures, environment vector and state of some frames, as `DoneNet` takes them."""
    batch = data.frames.batch(rows.tolist())
    pictures = [batch[f"observation.images.{c}"].to(device) for c in data.layout.cameras]
    return pictures, batch[OBS_ENV_STATE].to(device), batch[OBS_STATE].to(device)


def _probabilities(net: DoneNet, data: _Data, device: torch.device, report: Report) -> Float:
    """Probabilities on the held-out frames; float32 [N, 3], zero for all others."""
    found = np.zeros((len(data.frames), 3), np.float32)
    rows = np.concatenate([np.arange(c.first, c.last) for c in data.held])
    for start in range(0, len(rows), EVALUATED_AT_ONCE):
        part = rows[start : start + EVALUATED_AT_ONCE]
        with torch.no_grad():
            found[part] = net(*_inputs(data, part, device)).softmax(1).cpu().numpy()
        report("held-out frames", min(start + EVALUATED_AT_ONCE, len(rows)), len(rows))
    return found
