"""Colour noise for training: other lamps, other greys, paler or deeper paint.

A dataset shows few materials: where all blocks are light and all plugs dark, brightness alone tells them
apart, and a net never learns their shapes. The random tone curve takes that short cut away, as
domain randomisation does in simulation (Tobin et al. 2017, arXiv 1703.06907); it keeps hues, which name
things.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVELS = 64
"""Steps of a tone curve."""

KNOTS = 5
"""Points between which a tone curve is straight."""


def recolour(x: Tensor, colour: float, tone: float, rng: np.random.Generator) -> Tensor:
    """Images as they might look elsewhere. float32 [B, 3, H, W] in [0, 1], and so is the answer.

    Args:
        colour: deviation of the log gain of channels and light, four times that of the shift; 0: none.
        tone: share of the images, in [0, 1], whose brightness goes through a random curve, and whose
            saturation changes.
    """
    if tone > 0:
        x = _curve(x, tone_curves(len(x), tone, rng))
        grey = x.mean(1, keepdim=True)
        factor = np.where(rng.random(len(x)) < tone, rng.uniform(0.4, 1.3, len(x)), 1.0).astype(np.float32)
        x = grey + torch.from_numpy(factor).to(x.device)[:, None, None, None] * (x - grey)
    if colour > 0:
        shape = (len(x), 3, 1, 1)
        gain = torch.from_numpy(np.exp(rng.normal(0, colour, shape)).astype(np.float32))
        light = torch.from_numpy(np.exp(rng.normal(0, colour, (len(x), 1, 1, 1))).astype(np.float32))
        shift = torch.from_numpy(rng.normal(0, colour / 4, shape).astype(np.float32))
        x = x * gain.to(x.device) * light.to(x.device) + shift.to(x.device)
    return x.clamp(0, 1)


def tone_curves(count: int, tone: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Brightness by brightness, in [0, 1]: a share `tone` random blends, the rest as it is. [B, LEVELS]"""
    at = np.linspace(0, 1, KNOTS)
    blend = rng.uniform(0, 1, (count, 1)) * (rng.random((count, 1)) < tone)
    knots = (1 - blend) * at + blend * rng.uniform(0.05, 1, (count, KNOTS))
    levels = np.linspace(0, 1, LEVELS)
    return np.stack([np.interp(levels, at, k) for k in knots]).astype(np.float32)


def _curve(x: Tensor, curves: NDArray[np.float32]) -> Tensor:
    """Scale every pixel so that its largest channel follows the curve of its image."""
    high = x.amax(1)
    place = (high.clamp(0, 1) * (LEVELS - 1)).round().long().flatten(1)
    wanted = torch.from_numpy(curves).to(x.device).gather(1, place).reshape(high.shape)
    return x * (wanted / high.clamp(min=1 / 255))[:, None]
