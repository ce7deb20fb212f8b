"""Colour augmentation: other light, other greys, paler or deeper colours.

A dataset shows few materials: where all cups are light and all shelves dark, brightness alone tells them
apart, and a net never learns their shapes. The random brightness curve takes that short cut away, as
domain randomisation does in simulation (Tobin et al. 2017, arXiv 1703.06907); it keeps hues, which name
things.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVELS = 64
"""Steps of a brightness curve."""

KNOTS = 5
"""Points between which a brightness curve is straight."""

RIM = 16
"""Levels of 255 by which an object's pixels differ from the rim of its box."""


def augment_colours(x: Tensor, gain: float, curve: float, rng: np.random.Generator) -> Tensor:
    """Images as they might look elsewhere. float32 [B, 3, H, W] in [0, 1], and so is the answer.

    Args:
        gain: deviation of the log gain of channels and light, four times that of the shift; 0: none.
        curve: share of the images, in [0, 1], whose brightness goes through a random curve, and whose
            saturation changes.
    """
    if curve > 0:
        rows = torch.arange(len(x), device=x.device)[:, None, None].expand(-1, *x.shape[2:])
        x = _curve(x, torch.from_numpy(brightness_curves(len(x), curve, rng)).to(x.device), rows)
        grey = x.mean(1, keepdim=True)
        factor = np.where(rng.random(len(x)) < curve, rng.uniform(0.4, 1.3, len(x)), 1.0).astype(np.float32)
        x = grey + torch.from_numpy(factor).to(x.device)[:, None, None, None] * (x - grey)
    if gain > 0:
        shape = (len(x), 3, 1, 1)
        gains = torch.from_numpy(np.exp(rng.normal(0, gain, shape)).astype(np.float32))
        light = torch.from_numpy(np.exp(rng.normal(0, gain, (len(x), 1, 1, 1))).astype(np.float32))
        shift = torch.from_numpy(rng.normal(0, gain / 4, shape).astype(np.float32))
        x = x * gains.to(x.device) * light.to(x.device) + shift.to(x.device)
    return x.clamp(0, 1)


def augment_objects(
    x: Tensor, regions: Tensor, tint: Tensor, curve: float, rng: np.random.Generator
) -> Tensor:
    """Images whose regions each get other colours; the background stays. float32 [B, 3, H, W] in [0, 1].

    `augment_colours` changes all of an image alike, so that a net may still learn that one thing is darker or
    browner than another.

    Args:
        regions: number of each pixel's region in 1..R, 0: background. int64 [B, H, W]
        tint: deviation of the log gain of channels of each region; 0 keeps its hue. [B, R]
        curve: as in `augment_colours`, for each region alone.
    """
    count, regions_each = len(x), tint.shape[1]
    total = count * regions_each
    curves = torch.from_numpy(brightness_curves(total, curve, rng)).to(x.device)
    faded = np.where(rng.random(total) < curve, rng.uniform(0.4, 1.3, total), 1.0).astype(np.float32)
    gains = rng.normal(0, 1, (total, 3)).astype(np.float32) * tint.reshape(total, 1).cpu().numpy()
    dials = torch.from_numpy(np.concatenate([faded[:, None], np.exp(gains)], 1)).to(x.device)
    image = torch.arange(count, device=x.device)[:, None, None]
    rows = (regions - 1).clamp(min=0) + image * regions_each
    saturation, gain = dials[rows].permute(0, 3, 1, 2).split([1, 3], 1)
    changed = _curve(x, curves, rows)
    grey = changed.mean(1, keepdim=True)
    changed = ((grey + saturation * (changed - grey)) * gain).clamp(0, 1)
    return torch.where(regions[:, None] > 0, changed, x)


def regions(
    images: NDArray[np.uint8], boxes: NDArray[np.float32], chosen: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Which object a pixel belongs to: 1 + its column, 0 for none; the smaller box lies on top. [B, H, W]

    Of a box, what is unlike its rim: changed as a whole, its edges would give away what is to be found.

    Args:
        images: [B, H, W, 3]. boxes: corners in shares. [B, O, 4]. chosen: objects that count. [B, O]
    """
    height, width = images.shape[1:3]
    found = np.zeros(images.shape[:3], np.int64)
    size = np.array([width, height, width, height])
    corners = np.clip((boxes * size).round().astype(int), 0, size)
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    for i in range(len(images)):
        for j in np.argsort(-areas[i], kind="stable"):
            if chosen[i, j]:
                x0, y0, x1, y1 = corners[i, j]
                inside = images[i, y0:y1, x0:x1].astype(np.int16)
                if inside.size:
                    rim = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
                    unlike = np.abs(inside - np.median(rim, axis=0)).max(-1) > RIM
                    found[i, y0:y1, x0:x1][unlike] = j + 1
    return found


def mix_channels(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Images in other hues, a `share` of them, for nets that need no colour's name. [B, 3, H, W] in [0, 1]

    Channels are permuted and then blended by random weights, so that of what is pale or dark only the shape
    is kept.
    """
    count = len(x)
    order = np.eye(3)[np.argsort(rng.random((count, 3)), 1)]
    blend = rng.uniform(0, 0.8, (count, 1, 1))
    mixed = (1 - blend) * order + blend * rng.dirichlet(np.ones(3), (count, 3))
    mixed[rng.random(count) >= share] = np.eye(3)
    weights = torch.from_numpy(mixed.astype(np.float32)).to(x.device)
    return torch.bmm(weights, x.flatten(2)).reshape(x.shape)


def negate_channels(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Negatives: in a `share` of the images each channel is turned over or not. [B, 3, H, W] in [0, 1]

    Shapes stay, and what is bright in every picture of a dataset is dark in half of these.
    """
    over = (rng.random((len(x), 3)) < 0.5) & (rng.random((len(x), 1)) < share)
    return torch.where(torch.from_numpy(over).to(x.device)[:, :, None, None], 1 - x, x)


def brightness_curves(count: int, share: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Brightness by brightness, in [0, 1]: a `share` random blends, the rest as it is. [B, LEVELS]"""
    at = np.linspace(0, 1, KNOTS)
    blend = rng.uniform(0, 1, (count, 1)) * (rng.random((count, 1)) < share)
    knots = (1 - blend) * at + blend * rng.uniform(0.05, 1, (count, KNOTS))
    levels = np.linspace(0, 1, LEVELS)
    return np.stack([np.interp(levels, at, k) for k in knots]).astype(np.float32)


def _curve(x: Tensor, curves: Tensor, rows: Tensor) -> Tensor:
    """Scale every pixel so that its largest channel follows the curve of its row [B, H, W]."""
    high = x.amax(1)
    place = (high.clamp(0, 1) * (LEVELS - 1)).round().long()
    wanted = curves.flatten()[rows * LEVELS + place]
    return x * (wanted / high.clamp(min=1 / 255))[:, None]
