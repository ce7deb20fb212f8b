"""The reader: what an object is like, read from windows around it in the images' own resolution.

The detector sees small images and must keep hues, since hues name things. Kinds, and what stands beside an
object, do not hang on hues; the reader learns them in all hues, so that paint never seen does not matter.
"""

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
from vine_vla.core.packing import attribute_slots, attribute_width
from vine_vla.learning.augmentation import (
    augment_colours,
    augment_objects,
    mix_channels,
    negate_channels,
    regions,
)
from vine_vla.learning.device import CPU, to_device, to_numpy
from vine_vla.learning.precision import half_precision
from vine_vla.system2.compact.nets import Dropout

Float = NDArray[np.float32]

SIDE = 48
"""Pixels of a window's side."""
SPARE = 8
"""Further pixels that training keeps, to move windows by: a detector is never quite right."""
AROUND = 2.5
"""Side of a window in longer sides of the object's box: what stands beside it is to be seen."""
LEAST = 0.12
"""Least side of a window, shares of the image's shorter side."""
PAINTED, TINT, TONE = 0.6, 0.3, 0.9
"""Share of the objects that get colours of their own before windows are cut, see `augment_objects`."""


def readable(schema: Schema) -> list[slice]:
    """The slots of what a reader reads: categories that no hue names."""
    return [
        slot
        for name, slot in attribute_slots(schema).items()
        if schema.attributes[name] and name not in schema.describing
    ]


def painted(
    images: NDArray[np.uint8], boxes: Float, seen: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Images in which things have paint of their own, each another one.

    A window mostly shows two things, and what tells their shapes must not be which of them is darker.

    Args:
        images: of one camera. [B, H, W, 3]. boxes: corners in shares. [B, O, 4]. seen: [B, O]
    """
    where = to_device(regions(images, boxes, seen & (rng.random(seen.shape) < PAINTED)), CPU)
    x = to_device(np.ascontiguousarray(images), CPU).permute(0, 3, 1, 2).float() / 255
    x = augment_objects(x, where, torch.full(seen.shape, TINT), TONE, rng)
    return to_numpy((255 * x).round().to(torch.uint8).permute(0, 2, 3, 1))


def windows(image: NDArray[np.uint8], boxes: Float, side: int = SIDE, spare: int = 0) -> NDArray[np.uint8]:
    """Square windows around `boxes`, black where they leave the image.

    Args:
        image: [H, W, 3]. boxes: corners in shares. [K, 4]
        side: pixels that stand for a window's side. spare: pixels more, showing more.

    Returns:
        uint8 [K, side + spare, side + spare, 3]
    """
    height, width = image.shape[:2]
    size = np.array([width, height], np.float32)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2 * size
    longer = ((boxes[:, 2:] - boxes[:, :2]) * size).max(1)
    reach = np.maximum(AROUND * longer, LEAST * min(width, height)) / 2 * (side + spare) / side  # [K]
    pixels = side + spare
    step = torch.linspace(-1 + 1 / pixels, 1 - 1 / pixels, pixels)
    offset = torch.stack(torch.meshgrid(step, step, indexing="xy"), -1)  # [S, S, 2]
    place = to_device(center, CPU)[:, None, None] + to_device(reach, CPU)[:, None, None, None] * offset
    grid = place * 2 / to_device(size, CPU) - 1
    whole = to_device(np.ascontiguousarray(image), CPU).permute(2, 0, 1)[None].float()
    # All windows are rows of one sheet: one image is sampled once.
    sheet = F.grid_sample(whole, grid.reshape(1, -1, pixels, 2), align_corners=False)[0]
    found = sheet.permute(1, 2, 0).reshape(len(boxes), pixels, pixels, 3)
    return to_numpy(found.round().clamp(0, 255).to(torch.uint8))


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Reader(nn.Module):
    """Windows in all cameras -> attributes. Sizes follow from the schema.

    Args:
        classes, cameras, attributes: C, cameras, F of the schema.
    """

    def __init__(self, classes: int, cameras: int, attributes: int) -> None:
        super().__init__()
        self.eyes = nn.ModuleList(
            [
                # Full resolution first: what tells kinds apart, such as a hole, is two pixels wide.
                nn.Sequential(
                    _block(3, 16), _block(16, 32, 2), _block(32, 32, 2), _block(32, 64, 2),
                    _block(64, 64), nn.Conv2d(64, 24, 1), nn.Flatten(), nn.ReLU(),
                )
                for _ in range(cameras)
            ]
        )  # fmt: skip
        view = 24 * (SIDE // 8) ** 2
        self.squeeze = nn.ModuleList([nn.Linear(view, 96) for _ in range(cameras)])
        self.judge = nn.Sequential(
            nn.Linear(cameras * 97 + classes, 128), nn.ReLU(), Dropout(0.1), nn.Linear(128, attributes)
        )

    @classmethod
    def of(cls, schema: Schema) -> Reader:
        return cls(len(schema.classes), len(schema.cameras), attribute_width(schema))

    @property
    def device(self) -> torch.device:
        return self.squeeze[0].weight.device

    def forward(self, views: list[Tensor], seen: Tensor, classes: Tensor) -> Tensor:
        """Logits of the attributes' features. [K, F]

        Args:
            views: a camera's windows each, [K, 3, SIDE, SIDE] in [0, 1]; ignored where not seen.
            seen: 0 or 1. [K, cameras]. classes: one-hot. [K, C]
        """
        parts = [classes]
        for c, (eye, squeeze) in enumerate(zip(self.eyes, self.squeeze, strict=True)):
            there = seen[:, c : c + 1]
            parts += [F.relu(squeeze(eye(views[c] - 0.5))) * there, there]
        answer: Tensor = self.judge(torch.cat(parts, -1))
        return answer

    def read(self, views: list[NDArray[np.uint8]], seen: Float, classes: Float) -> Float:
        """Logits [K, F] of windows as `windows` gives them, one array [K, SIDE, SIDE, 3] a camera."""
        device = self.device
        tensors = [to_device(v, device).permute(0, 3, 1, 2).float() / 255 for v in views]
        with torch.inference_mode():
            found: Float = to_numpy(self(tensors, to_device(seen, device), to_device(classes, device)))
        return found


@dataclass(frozen=True)
class Examples:
    """K objects with their windows: what the reader learns from.

    Args:
        views: uint8 [K, cameras, SIDE + SPARE, SIDE + SPARE, 3]. seen: bool [K, cameras]
        cls: int64 [K]. attributes: as in `PackedGraphs`. float32 [K, F]. known: bool [K, F]
    """

    views: NDArray[np.uint8]
    seen: NDArray[np.bool_]
    cls: NDArray[np.int64]
    attributes: Float
    known: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.cls)


def empty_examples(schema: Schema) -> Examples:
    """No examples at all."""
    cameras, width, pixels = len(schema.cameras), attribute_width(schema), SIDE + SPARE
    return Examples(
        np.zeros((0, cameras, pixels, pixels, 3), np.uint8),
        np.zeros((0, cameras), bool),
        np.zeros(0, np.int64),
        np.zeros((0, width), np.float32),
        np.zeros((0, width), bool),
    )


def train_reader(
    examples: Examples,
    schema: Schema,
    *,
    steps: int,
    batch: int = 64,
    rate: float = 2e-3,
    hues: float = 0.8,
    negative: float = 0.6,
    colour: float = 0.15,
    tone: float = 0.9,
    seed: int = 0,
    device: torch.device = CPU,
    report: Callable[[float], None] | None = None,
) -> Reader:
    """Fit a reader by cross-entropy.

    Args:
        examples: of training episodes. steps, batch, rate: as usual, cosine decay.
        hues: share of the windows whose channels are mixed. negative: share of them in which each channel is
            turned over or not. colour, tone: see `augment_colours`. device: where it is trained, and stays.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        reader = Reader.of(schema).to(device)
        optimizer = torch.optim.AdamW(reader.parameters(), lr=rate, weight_decay=1e-2)
        slots = readable(schema)
        classes = torch.eye(len(schema.classes), device=device)
        order: NDArray[np.int64] = np.zeros(0, np.int64)
        for step in range(steps):
            if len(order) < batch:
                order = np.concatenate([order, rng.permutation(len(examples))])
            index, order = np.sort(order[:batch]), order[batch:]
            now = rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = now
            views = []
            for c in range(examples.views.shape[1]):
                x = _moved(examples.views[index, c], rng, device)
                x = negate_channels(mix_channels(x, hues, rng), negative, rng)
                views.append(augment_colours(x, colour, tone, rng))
            # One camera alone is to be enough.
            seen = examples.seen[index] & (rng.random((len(index), len(views))) > 0.15)
            one_hot = classes[to_device(examples.cls[index], device)]
            with half_precision(one_hot, True):
                raw = reader(views, to_device(seen.astype(np.float32), device), one_hot)
            loss = _loss(raw.float(), examples.attributes[index], examples.known[index], slots)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(reader.parameters(), 5.0)
            optimizer.step()
            if report and (step % 20 == 0 or step == steps - 1):
                report((step + 1) / steps)
    return reader.eval()


def _moved(views: NDArray[np.uint8], rng: np.random.Generator, device: torch.device) -> Tensor:
    """A window of SIDE of each, at random places. [K, 3, SIDE, SIDE] in [0, 1]"""
    corner = rng.integers(0, SPARE + 1, (len(views), 2))
    cut = np.stack([v[y : y + SIDE, x : x + SIDE] for v, (y, x) in zip(views, corner, strict=True)])
    return to_device(cut, device).permute(0, 3, 1, 2).float() / 255


def _loss(raw: Tensor, want: Float, known: NDArray[np.bool_], slots: list[slice]) -> Tensor:
    total = raw.sum() * 0.0
    for slot in slots:
        rows = to_device(known[:, slot.start] & (want[:, slot].sum(-1) > 0.5), raw.device)
        if bool(rows.any()):
            target = to_device(want[:, slot], raw.device)[rows].argmax(-1)
            total = total + F.cross_entropy(raw[rows][:, slot], target, label_smoothing=0.02)
    return total
