"""Training of perception: detector, links between cameras, attributes; thresholds; and how well it sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vine_vla.core.graph import Schema
from vine_vla.core.packing import attribute_slots
from vine_vla.learning.augmentation import augment_colours, augment_objects, regions
from vine_vla.learning.device import CPU, to_device
from vine_vla.learning.precision import half_precision
from vine_vla.system2.compact.attribute_classifier import train_reader
from vine_vla.system2.compact.detector import FEATURES, GRID, Detector, DetectorConfig, Maps, peaks, sample
from vine_vla.system2.compact.frames import Frames
from vine_vla.system2.compact.perception import Perception, PerceptionSetup


@dataclass(frozen=True)
class PerceptionConfig:
    """How perception is trained.

    Args:
        steps: gradient steps. batch: frames a step. rate: highest learning rate.
        frames: annotated frames that are read at most. width: see `DetectorConfig`.
        colour, tone: strength of the colour noise in training (`augment_colours`), 0 for none.
        paint: share of the objects that get paint of their own (`augment_objects`).
        tint: strength of that paint's hue, for classes that are not told apart by attributes.
        state_noise: standard deviation of the noise on scaled proprioception.
        reader: gradient steps of the reader as a share of the detector's, 0 for none. objects: that it learns
            from, at most.
        seed: of weights, order and noise.
    """

    steps: int = 900
    batch: int = 32
    rate: float = 3e-3
    frames: int = 10000
    width: int = 64
    colour: float = 0.15
    tone: float = 0.9
    paint: float = 0.4
    tint: float = 0.25
    state_noise: float = 0.03
    reader: float = 1.5
    objects: int = 20_000
    seed: int = 0


def train_perception(
    frames: Frames,
    schema: Schema,
    constant: frozenset[str],
    config: PerceptionConfig,
    *,
    device: torch.device = CPU,
    report: Callable[[float], None] | None = None,
) -> Perception:
    """Fit the detector on annotated frames.

    Args:
        frames: of training episodes. constant: see `frames.constant_attributes`.
        device: where it is trained, and stays. report: told the share of the steps done.

    The reader learns after the detector, if anything is there to read.
    """
    told = report or (lambda share: None)
    reading = round(config.steps * config.reader)
    both = config.steps + reading
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        detector = Detector(DetectorConfig.of(schema, frames.state.shape[1])).to(device)
        setup = _setup(frames, schema, constant)
        _run(detector, setup, frames, config, lambda share: told(share * config.steps / both))
    detector.eval()
    reader = None
    if reading and len(frames.examples):
        reader = train_reader(
            frames.examples,
            schema,
            steps=reading,
            colour=config.colour,
            tone=config.tone,
            seed=config.seed,
            device=device,
            report=lambda share: told((config.steps + share * reading) / both),
        )
    return Perception(detector, _with_thresholds(detector, setup, frames), reader)


def _setup(frames: Frames, schema: Schema, constant: frozenset[str]) -> PerceptionSetup:
    classes = range(len(schema.classes))
    counts = np.stack([(frames.cls == c).sum(1) for c in classes], 1)  # [N, C]
    slots = attribute_slots(schema)
    allowed, scales = [], {}
    for c in classes:
        of_class = frames.attributes[frames.cls == c]
        allowed.append(tuple(n for n, s in slots.items() if len(of_class) and of_class[:, s].any()))
    for name, slot in slots.items():
        if not schema.attributes[name]:
            there = (frames.attributes[..., slot.start + 1] > 0.5) & (frames.cls >= 0)
            values = frames.attributes[..., slot.start][there]
            scales[name] = (
                (float(values.mean()), float(max(values.std(), 1e-3))) if len(values) else (0.0, 1.0)
            )
    scale = np.maximum(frames.state.std(0), 1e-4)
    return PerceptionSetup(
        schema=schema,
        state_mean=tuple(frames.state.mean(0).tolist()),
        state_scale=tuple(scale.tolist()),
        threshold=(0.3,) * len(schema.classes),
        least=tuple(counts.min(0).tolist()),
        most=tuple(counts.max(0).tolist()),
        least_seen=tuple(int(((frames.cls == c) & frames.seen[..., 0]).sum(1).min()) for c in classes),
        allowed=tuple(allowed),
        constant=tuple(sorted(constant)),
        scales=scales,
    )


def _run(
    detector: Detector,
    setup: PerceptionSetup,
    frames: Frames,
    config: PerceptionConfig,
    report: Callable[[float], None] | None,
) -> None:
    rng = np.random.default_rng(config.seed)
    decayed = [p for p in detector.parameters() if p.dim() > 1]
    plain = [p for p in detector.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 1e-3}, {"params": plain, "weight_decay": 0.0}], lr=config.rate
    )
    detector.train()
    state = to_device(setup.scaled(frames.state), detector.device)
    order: NDArray[np.int64] = np.zeros(0, np.int64)
    for step in range(config.steps):
        if len(order) < config.batch:
            order = np.concatenate([order, rng.permutation(len(frames))])
        index, order = np.sort(order[: config.batch]), order[config.batch :]
        rate = config.rate * min(1.0, (step + 1) / 50)
        rate *= 0.5 * (1 + math.cos(math.pi * step / config.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        noise = rng.normal(0, config.state_noise, (len(index), state.shape[1])).astype(np.float32)
        noisy = state[to_device(index, state.device)] + to_device(noise, state.device)
        loss = _loss(detector, setup, frames, index, noisy, config, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        if report and (step % 20 == 0 or step == config.steps - 1):
            report((step + 1) / config.steps)


def _loss(
    detector: Detector,
    setup: PerceptionSetup,
    frames: Frames,
    index: NDArray[np.int64],
    state: Tensor,
    config: PerceptionConfig,
    rng: np.random.Generator,
) -> Tensor:
    cls, boxes, seen = frames.cls[index], frames.boxes[index], frames.seen[index]
    cameras, device = boxes.shape[2], detector.device
    total = torch.zeros((), device=device)
    # Hues may name things (a red shelf), so only classes without a describing attribute are tinted.
    plain = np.array([not set(names) & set(setup.schema.describing) for names in setup.allowed])
    n, o = np.nonzero(cls >= 0)
    rows = to_device(n, device)
    one_hot = F.one_hot(to_device(cls[n, o], device), detector.config.classes).float()
    views = torch.zeros(len(n), cameras, FEATURES + 5, device=device)
    for c in range(cameras):
        images = _images(frames.images[index, c], device)
        if config.paint > 0:
            chosen = (cls >= 0) & seen[:, :, c] & (rng.random(cls.shape) < config.paint)
            painted = to_device(regions(frames.images[index, c], boxes[:, :, c], chosen), device)
            tint = to_device(np.where(plain[cls], config.tint, 0.0).astype(np.float32), device)
            images = augment_objects(images, painted, tint, config.tone, rng)
        images = augment_colours(images, config.colour, config.tone, rng)
        with half_precision(images, True):
            maps = detector.maps(c, images)
        maps = Maps(*(m.float() for m in maps))
        total = total + _detection_loss(maps, cls, boxes[:, :, c], seen[:, :, c])
        there = to_device(seen[n, o, c], device)
        box = to_device(boxes[n, o, c], device)
        # Read where a detector would look: half a cell off now and then.
        jitter = to_device(rng.normal(0, 0.25 / GRID, (len(n), 2)).astype(np.float32), device)
        features = sample(maps.features, rows, (box[:, :2] + box[:, 2:]) / 2 + jitter)
        noisy = box + to_device(rng.normal(0, 0.005, box.shape).astype(np.float32), device)
        view = torch.cat([features, torch.ones(len(n), 1, device=device), noisy], -1)
        # Cameras are left out at times, so that one alone is enough.
        keep = there & to_device(rng.random(len(n)) > 0.1, device)
        views[:, c] = view * keep[:, None]
        if c:
            both = there & to_device(seen[n, o, 0], device)
            if bool(both.any()):
                guess = detector.link(c, features[both], noisy[both], one_hot[both], state[rows[both]])
                front = to_device(boxes[n, o, 0], device)[both]
                want = (front[:, :2] + front[:, 2:]) / 2
                total = total + 10 * F.smooth_l1_loss(guess, want, beta=0.03)
    raw = detector.read(one_hot, state[rows], views)
    want, known = frames.attributes[index][n, o], frames.known[index][n, o]
    return total + _attribute_loss(raw, to_device(want, device), to_device(known, device), cls[n, o], setup)


def _images(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """[B, S, S, 3] -> [B, 3, S, S] in [0, 1]."""
    return to_device(np.ascontiguousarray(images), device).permute(0, 3, 1, 2).float().contiguous() / 255


def _detection_loss(
    maps: Maps, cls: NDArray[np.int64], boxes: NDArray[np.float32], seen: NDArray[np.bool_]
) -> Tensor:
    """Focal loss on centres (penalty-reduced), L1 on boxes at the centres."""
    b, classes = maps.heat.shape[:2]
    device = maps.heat.device
    target = np.zeros((b, classes, GRID, GRID), np.float32)
    n, o = np.nonzero((cls >= 0) & seen)
    kind, box = cls[n, o], boxes[n, o]
    center, size = (box[:, :2] + box[:, 2:]) / 2, np.maximum(box[:, 2:] - box[:, :2], 0.01)
    cell = np.clip((center * GRID).astype(np.int64), 0, GRID - 1)
    axis = np.arange(GRID)
    sigma = np.maximum(size * GRID / 6, 0.6)
    gx = np.exp(-((axis - cell[:, :1]) ** 2) / (2 * sigma[:, :1] ** 2))
    gy = np.exp(-((axis - cell[:, 1:]) ** 2) / (2 * sigma[:, 1:] ** 2))
    np.maximum.at(target, (n, kind), (gy[:, :, None] * gx[:, None, :]).astype(np.float32))
    want = to_device(target, device)
    count = max(1, len(n))
    p = maps.heat.sigmoid().clamp(1e-4, 1 - 1e-4)
    hit = (want == 1).float()
    focal = -(hit * (1 - p) ** 2 * p.log()).sum()
    focal = focal - ((1 - hit) * (1 - want) ** 4 * p**2 * (1 - p).log()).sum()
    if not len(n):
        return focal / count
    raw = maps.boxes[
        to_device(n, device),
        to_device(kind, device),
        :,
        to_device(cell[:, 1], device),
        to_device(cell[:, 0], device),
    ]
    offset = to_device((center * GRID - cell - 0.5).astype(np.float32), device)
    off = F.smooth_l1_loss(raw[:, :2], offset, beta=0.1, reduction="sum")
    stretch = F.smooth_l1_loss(raw[:, 2:], to_device(np.log(size), device), beta=0.05, reduction="sum")
    return (focal + off + stretch) / count


def _attribute_loss(
    raw: Tensor, want: Tensor, known: Tensor, cls: NDArray[np.int64], setup: PerceptionSetup
) -> Tensor:
    total = torch.zeros((), device=raw.device)
    for name, slot in attribute_slots(setup.schema).items():
        able = np.array([name in allowed for allowed in setup.allowed])[cls]
        rows = to_device(able, raw.device) & known[:, slot.start]
        if setup.schema.attributes[name]:
            rows = rows & (want[:, slot].sum(-1) > 0.5)
            if bool(rows.any()):
                total = total + F.cross_entropy(raw[rows][:, slot], want[rows][:, slot].argmax(-1))
        elif bool(rows.any()):
            mean, spread = setup.scales[name]
            value, there = want[rows, slot.start], want[rows, slot.start + 1]
            off = F.smooth_l1_loss(raw[rows, slot.start], (value - mean) / spread, reduction="none")
            total = total + (off * there).mean()
            total = total + F.binary_cross_entropy_with_logits(raw[rows, slot.start + 1], there)
    return total


def _with_thresholds(
    detector: Detector, setup: PerceptionSetup, frames: Frames, most: int = 300
) -> PerceptionSetup:
    """Per class the score with the best F1 on training frames: a detection counts if its centre is near."""
    from dataclasses import replace

    index = np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int)
    classes = len(setup.schema.classes)
    scores: list[list[tuple[float, bool]]] = [[] for _ in range(classes)]
    real = np.zeros(classes)
    with torch.inference_mode():
        for i in index:
            maps = detector.maps(0, _images(frames.images[i : i + 1, 0], detector.device))
            view = peaks(maps)
            for c in range(classes):
                there = frames.boxes[i, (frames.cls[i] == c) & frames.seen[i, :, 0], 0]
                center = (there[:, :2] + there[:, 2:]) / 2
                free = np.ones(len(there), bool)
                real[c] += len(there)
                for d in np.flatnonzero(view.classes == c):
                    box = view.boxes[d]
                    gap = np.linalg.norm(center - (box[:2] + box[2:]) / 2, axis=1)
                    gap = np.where(free, gap, np.inf)
                    hit = bool(len(gap)) and bool(gap.min() < 0.04)
                    if hit:
                        free[gap.argmin()] = False
                    scores[c].append((float(view.scores[d]), hit))
    threshold = []
    for c in range(classes):
        ranked = sorted(scores[c], reverse=True)
        best, found, hits = 0.0, 0.3, 0
        for rank, (score, hit) in enumerate(ranked, 1):
            hits += hit
            f1 = 2 * hits / max(rank + real[c], 1)
            if f1 > best:
                best, found = f1, score
        # Unseen scenes score lower than the ones it was trained on.
        threshold.append(float(np.clip(0.7 * found, 0.1, 0.5)))
    return replace(setup, threshold=tuple(threshold))
