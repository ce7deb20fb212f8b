"""The detector: a small convolutional net a camera, heatmaps of centres by class, boxes, and object features.

Every camera has its own eye, since a fixed camera and a wrist camera have little in common. Boxes are
predicted for each class apart, because centres of different things may fall together (a cup on a
shelf). An object's attributes are read from its features in all cameras and from proprioception. A
detection in a further camera predicts where its object stands in the reference camera, which is how
the cameras' detections are brought together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vine_vla.core.graph import Schema
from vine_vla.core.packing import attribute_width
from vine_vla.learning.device import CPU, to_device, to_numpy

SIZE = 96
"""Pixels: images of any size and shape are brought to SIZE x SIZE."""
STRIDE = 4
GRID = SIZE // STRIDE
FEATURES = 48


@dataclass(frozen=True)
class DetectorConfig:
    """Sizes of the detector.

    Args:
        classes, cameras, attributes: C, cameras, F of the schema. proprioception: P.
        width: channels of the coarse stage.
    """

    classes: int
    cameras: int
    attributes: int
    proprioception: int
    width: int = 64

    @classmethod
    def of(cls, schema: Schema, proprioception: int) -> DetectorConfig:
        return cls(len(schema.classes), len(schema.cameras), attribute_width(schema), proprioception)


def shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images [..., height, width, 3] averaged down (or repeated up) to [..., SIZE, SIZE, 3]."""
    if image.shape[-3:-1] == (SIZE, SIZE):
        return image
    lead = image.shape[:-3]
    flat = to_device(np.ascontiguousarray(image.reshape(-1, *image.shape[-3:])), CPU)
    pooled = F.adaptive_avg_pool2d(flat.permute(0, 3, 1, 2).float(), SIZE)
    small = pooled.round().to(torch.uint8).permute(0, 2, 3, 1).reshape(*lead, SIZE, SIZE, 3)
    return to_numpy(small)


def _block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    pad = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Eye(nn.Module):
    """One camera: images [B, 3, SIZE, SIZE] in [0, 1] -> features [B, FEATURES, GRID, GRID]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_block(3, 16, 5, 2), _block(16, 32, 3, 2))
        self.down = _block(32, width, 3, 2)
        self.deep = nn.ModuleList(
            [_block(width, width), _block(width, width, dilation=2), _block(width, width)]
        )
        self.up = nn.Conv2d(width, FEATURES, 1)
        self.skip = nn.Conv2d(32, FEATURES, 1)
        self.out = _block(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        h = self.down(fine)
        for block in self.deep:
            h = h + block(h)
        coarse = F.interpolate(self.up(h), scale_factor=2.0, mode="nearest")
        answer: Tensor = self.out(F.relu(coarse + self.skip(fine)))
        return answer


class Maps(NamedTuple):
    """One camera's maps.

    Args:
        features: [B, FEATURES, G, G]. heat: logits of centres. [B, C, G, G]
        boxes: centre in cells from the cell's middle, log of size in shares. [B, C, 4, G, G]
    """

    features: Tensor
    heat: Tensor
    boxes: Tensor


class Detector(nn.Module):
    """Eyes, and what is read from their features."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        c, p = config.classes, config.proprioception
        self.eyes = nn.ModuleList([Eye(config.width) for _ in range(config.cameras)])
        self.heat = nn.ModuleList([nn.Conv2d(FEATURES, c, 1) for _ in range(config.cameras)])
        self.boxes = nn.ModuleList([nn.Conv2d(FEATURES, 4 * c, 1) for _ in range(config.cameras)])
        for head in self.heat:
            nn.init.constant_(head.bias, -4.0)
        for head in self.boxes:
            with torch.no_grad():
                head.weight.mul_(0.3)
                head.bias.copy_(torch.tensor([0.0, 0.0, -2.0, -2.0]).repeat(c))
        link = FEATURES + 4 + c + p
        self.links = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(link, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 2))
                for _ in range(config.cameras - 1)
            ]
        )
        read = c + p + config.cameras * (FEATURES + 5)
        self.attributes = nn.Sequential(
            nn.Linear(read, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, config.attributes)
        )

    @property
    def device(self) -> torch.device:
        return self.heat[0].weight.device

    def maps(self, camera: int, images: Tensor) -> Maps:
        """Maps of one camera from images [B, 3, SIZE, SIZE] in [0, 1]."""
        h = self.eyes[camera](images)
        boxes = self.boxes[camera](h).reshape(len(h), self.config.classes, 4, GRID, GRID)
        return Maps(h, self.heat[camera](h), boxes)

    def link(self, camera: int, features: Tensor, boxes: Tensor, classes: Tensor, state: Tensor) -> Tensor:
        """Centre in the reference camera of objects seen in a further `camera` (1 and up). [N, 2]

        Args:
            features: [N, FEATURES]. boxes: corners in shares. [N, 4]. classes: one-hot. [N, C]
            state: scaled proprioception. [N, P]
        """
        inputs = torch.cat([features, 2 * boxes - 1, classes, state], -1)
        return self.links[camera - 1](inputs).add(0.5)

    def read(self, classes: Tensor, state: Tensor, views: Tensor) -> Tensor:
        """Attribute outputs of objects, F each: category logits, (value, known logit) pairs of numbers.

        Args:
            classes: one-hot. [N, C]. state: [N, P].
            views: features, seen (0 or 1) and box in each camera, 0 where not seen.
                [N, cameras, FEATURES + 5]
        """
        answer: Tensor = self.attributes(torch.cat([classes, state, views.flatten(1)], -1))
        return answer


def sample(features: Tensor, rows: Tensor, centers: Tensor) -> Tensor:
    """Features at `centers` (shares of the image, x and y) of images `rows`. [N, FEATURES]

    The nearest cell; centres outside the image take the cell at its edge.
    """
    cell = (centers * GRID).long().clamp(0, GRID - 1)
    return features[rows, :, cell[:, 1], cell[:, 0]]


class Detections(NamedTuple):
    """Peaks of one image, best first.

    Args:
        classes: int64 [D]. scores: in (0, 1). [D]. boxes: corners in shares. [D, 4]
        features: [D, FEATURES]
    """

    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    features: NDArray[np.float32]


def peaks(maps: Maps, index: int = 0, least: float = 0.05, most: int = 64) -> Detections:
    """Local maxima of image `index` of a batch with a score of at least `least`."""
    heat = maps.heat[index].sigmoid()
    top = F.max_pool2d(heat[None], 3, 1, 1)[0]
    score, place = (
        torch.where(heat >= top, heat, torch.zeros_like(heat)).flatten().topk(min(most, heat.numel()))
    )
    place = place[score >= least]
    score = score[score >= least]
    cls, cell = place // (GRID * GRID), place % (GRID * GRID)
    y, x = cell // GRID, cell % GRID
    raw = maps.boxes[index][cls, :, y, x]
    center = torch.stack([(x + 0.5 + raw[:, 0]) / GRID, (y + 0.5 + raw[:, 1]) / GRID], -1)
    half = raw[:, 2:].clamp(-6, 0.7).exp() / 2
    boxes = torch.cat([center - half, center + half], -1)
    features = maps.features[index][:, y, x].T
    return Detections(*(to_numpy(part) for part in (cls, score, boxes, features)))
