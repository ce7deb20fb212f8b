"""Training a done head on the segments of a skills dataset, and judging it on clips that were held out.

Held out are all clips of some source episodes, since the segments of one episode show the same scene. The
batch and the noise of a step follow from the seed and the step's number, so that a killed run goes on as if
nothing had happened.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vine_vla.core.errors import VineError
from vine_vla.core.protocols import DONE, FAILED, Float
from vine_vla.data.export.crops import LAYOUT, CropLayout
from vine_vla.data.export.skills import EXPORT
from vine_vla.data.lerobot.tables import read_files
from vine_vla.data.sidecars.files import SEGMENTS
from vine_vla.learning.device import usable_device
from vine_vla.storage.files import write_atomically
from vine_vla.storage.json import write_json
from vine_vla.system1.done.figures import Stopping, figures
from vine_vla.system1.done.head import INFO, DoneNet, load_net, read_info, save_net
from vine_vla.system1.vine_skill.labels import IGNORED, FrameLabels, frame_labels
from vine_vla.system1.vine_skill.memory import InMemoryDataset
from vine_vla.system1.vine_skill.waypoints import Clip
from vine_vla.system1.vine_skill.windows import WindowNoise

METRICS = "metrics.json"
CHECKPOINT = "training.safetensors"
"""What a killed run goes on from: weights, moments of the optimiser, step and settings."""

WARMUP = 50
"""Steps in which the learning rate rises to its peak."""

JUDGED_AT_ONCE = 256
"""Frames a batch outside training."""

Report = Callable[[str, float], None]
"""Called with a stage's name and the share of it that is done."""


@dataclass(frozen=True)
class DoneTraining:
    """How a done head is trained.

    Args:
        steps: gradient steps. batch_size: frames a step.
        learning_rate, weight_decay: of AdamW; the rate falls by half a cosine.
        width: of the hidden layers.
        held_out: share of the source episodes, in (0, 1), that figures are taken on.
        done_frames, failed_frames: frames at the end of a segment that count as done or failed.
        seed: of weights, held-out episodes, order and noise.
        save_every: steps between two checkpoints of a run.

    Raises:
        VineError: a number is out of its range.
    """

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    width: int = 128
    held_out: float = 0.2
    done_frames: int = 5
    failed_frames: int = 5
    seed: int = 0
    save_every: int = 250

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "width", "done_frames", "failed_frames"):
            if getattr(self, name) <= 0:
                raise VineError(f"{name} is {getattr(self, name)}", hint="give more than 0")
        if self.seed < 0:
            raise VineError(f"seed is {self.seed}", hint="give 0 or more")
        if not 0 < self.held_out < 1:
            raise VineError(f"held_out is {self.held_out}", hint="give a share between 0 and 1, e.g. 0.2")


class _Data(NamedTuple):
    """A skills dataset in memory. `learned`, `held`: clips to learn from and to judge by."""

    frames: InMemoryDataset
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
    device: str = "cpu",
    report: Report | None = None,
) -> dict[str, Any]:
    """Train a done head and judge it; a killed run goes on, a finished head is kept and only judged again.

    Args:
        dataset: skills dataset, crops at the subgoal's target, as `vine export skills` writes it.
        out: folder of the head, for `DoneHead.load`.
        stopping: how the agent will stop, for the figures.

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
    out.mkdir(parents=True, exist_ok=True)
    report = report or (lambda stage, share: None)
    with _read(dataset, layout, out, config) as data, torch.random.fork_rng(devices=[]):
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
        told = [f"{n} {shape}" for n, shape in wanted.items()] + [f"{OBS_STATE} [any]"]
        raise VineError(
            f"the layout asks for {', '.join(told)}; the dataset has "
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


@contextmanager
def _read(dataset: Path, layout: CropLayout, out: Path, config: DoneTraining) -> Iterator[_Data]:
    """The dataset in memory, while LeRobot's cache of it lies in `out`, not in the user's home."""
    cache = out / ".cache"
    try:
        with patch.object(datasets.config, "HF_DATASETS_CACHE", cache):
            frames = InMemoryDataset(
                f"vine/{dataset.name}", root=dataset, return_uint8=True, video_backend="pyav"
            )
        episodes = frames.meta.episodes
        starts = [int(i) for i in episodes["dataset_from_index"]]
        ends = [int(i) for i in episodes["dataset_to_index"]]
        labels = frame_labels(dataset, starts, ends, config.done_frames, config.failed_frames)
        learned, held = _hold_out(labels, dataset, config)
        yield _Data(frames, layout, labels, learned, held)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


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
    """The trained net; goes on from the checkpoint in `out` if it is of this very training."""
    torch.manual_seed(config.seed)
    states = data.frames.column(OBS_STATE)
    net = DoneNet(data.layout, states.shape[1], config.width)
    inside = np.concatenate([np.arange(c.first, c.last) for c in data.learned])
    net.state_mean.copy_(states[inside].mean(0))
    net.state_spread.copy_(states[inside].std(0).clamp(min=1e-3))
    net.to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    stamp = json.dumps(settings, sort_keys=True)
    begin = _resume(out / CHECKPOINT, net, optimizer, stamp)
    rows = inside[data.labels.done[inside] != IGNORED]
    labels = torch.from_numpy(data.labels.done).to(device)
    noise = WindowNoise()
    for step in range(begin, config.steps):
        torch.manual_seed(config.seed * 1_000_003 + step)
        batch = np.random.default_rng((config.seed, step)).choice(rows, config.batch_size)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _pace(step, config.steps)
        logits = net(*_inputs(data, batch, device), noise)
        loss = F.cross_entropy(logits, labels[torch.from_numpy(batch)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report("done head", (step + 1) / config.steps)
        if (step + 1) % config.save_every == 0:
            _save(out / CHECKPOINT, net, optimizer, step + 1, stamp)
    return net


def _pace(step: int, steps: int) -> float:
    """Learning rate relative to its peak: a short rise, then half a cosine to 0."""
    return min(1.0, (step + 1) / min(WARMUP, steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _inputs(
    data: _Data, rows: NDArray[np.int64], device: torch.device
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Pictures, environment vector and state of some frames, as `DoneNet` takes them."""
    batch = torch.utils.data.default_collate(data.frames.__getitems__(rows.tolist()))
    pictures = [batch[f"observation.images.{c}"].to(device, torch.float32) / 255 for c in data.layout.cameras]
    return pictures, batch[OBS_ENV_STATE].to(device), batch[OBS_STATE].to(device)


def _probabilities(net: DoneNet, data: _Data, device: torch.device, report: Report) -> Float:
    """What the head says of the held-out frames; float32 [N, 3], zero for all others."""
    found = np.zeros((len(data.frames), 3), np.float32)
    rows = np.concatenate([np.arange(c.first, c.last) for c in data.held])
    for start in range(0, len(rows), JUDGED_AT_ONCE):
        part = rows[start : start + JUDGED_AT_ONCE]
        with torch.no_grad():
            found[part] = net(*_inputs(data, part, device)).softmax(1).cpu().numpy()
        report("held-out clips", min(1.0, (start + JUDGED_AT_ONCE) / len(rows)))
    return found


def _save(path: Path, net: DoneNet, optimizer: torch.optim.Optimizer, step: int, stamp: str) -> None:
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"{kind}.{name}": state[kind] for kind in ("exp_avg", "exp_avg_sq")}
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, lambda file: save_file(kept, file, {"step": str(step), "settings": stamp}))


def _resume(path: Path, net: DoneNet, optimizer: torch.optim.Optimizer, stamp: str) -> int:
    """Put back what `_save` wrote; returns the step to go on with, 0 if there is nothing of this training."""
    if not path.is_file():
        return 0
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            if about.get("settings") != stamp:
                return 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError:
        return 0  # damaged: nothing is lost but time
    step = int(about["step"])
    net.load_state_dict({n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")})
    for name, parameter in net.named_parameters():
        moments = {k: tensors[f"{k}.{name}"].to(parameter.device) for k in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(float(step))} | moments
    return step
