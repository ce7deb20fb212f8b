"""What a net gets of stored windows: the middle in use; moved and colour-augmented in training.

In training the crop is moved within its stored window as a detector's error would move it, and the boxes
carry the same error. The policy's nets and the done head of an imported policy call the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vine_vla.data.export.crops import SLOT_FEATURES, CropLayout
from vine_vla.learning.augmentation import augment_colours, mix_channels


@dataclass(frozen=True)
class WindowNoise:
    """Augmentation of windows and boxes in training.

    Args:
        box_noise: standard deviation of the box centres, share of the image's shorter side.
        box_dropout: probability that a box is not seen, per slot, camera and sample.
        shift: largest extra shift of the crop, pixels.
        colour_gain: deviation of the log gain of channels and light.
        brightness_curve: share of the crops whose brightness goes through a random curve, in [0, 1].
        channel_mixing: share of the crops whose channels are mixed, in [0, 1]. Colours mean nothing to System
            1: the crop says which object is meant.
    """

    box_noise: float = 1.5 / 96
    box_dropout: float = 0.05
    shift: int = 4
    colour_gain: float = 0.1
    brightness_curve: float = 0.7
    channel_mixing: float = 0.5


def object_windows(
    pictures: Sequence[Tensor],
    environment: Tensor,
    layout: CropLayout,
    crop: int,
    noise: WindowNoise | None = None,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Crops at the slots of `layout` and the numbers that go with them.

    Args:
        pictures: per camera, stacked windows in [0, 1]. float32 [B, 3, slots * pixels, pixels]
        environment: the environment vector of `skill_inputs`. float32 [B, E]
        crop: side of the crops, pixels.
        noise: in training; None leaves everything as it is. Drawn from torch's generator.

    Returns:
        Crops per camera [B, slots, 3, crop, crop], whether each shows anything, bool [B, slots], and the
        numbers of the slots, zero where nothing is seen. float32 [B, slots, cameras * SLOT_FEATURES]
    """
    size, slots, cameras = len(environment), layout.slot_count, len(layout.cameras)
    numbers = environment[:, len(layout.verbs) :].reshape(size, slots, cameras, SLOT_FEATURES)
    room = (layout.pixels - crop) // 2
    moved = torch.zeros(size, slots, cameras, 2, dtype=torch.long, device=environment.device)
    visible = numbers[..., 4:5]
    boxes, centers = numbers[..., :4], numbers[..., 5:]
    pixel = torch.tensor([layout.pixel_size(c) for c in range(cameras)], device=environment.device)
    if noise is not None:
        # Size of a window pixel relative to the shorter side; errors of boxes are in these units.
        short = layout.share / layout.pixels
        error = noise.box_noise / short * torch.randn(size, slots, cameras, 2, device=environment.device)
        extent = noise.box_noise / short * torch.randn(size, slots, cameras, 2, device=environment.device)
        extra = torch.randint(-noise.shift, noise.shift + 1, error.shape, device=environment.device)
        moved = (error.round().long() + extra).clamp(-room, room)
        low, high = (error - extent / 2) * pixel, (error + extent / 2) * pixel
        boxes = boxes + torch.cat([low, high], -1)
        kept = torch.rand(size, slots, cameras, 1, device=environment.device) >= noise.box_dropout
        visible = visible * kept
    centers = centers + moved * pixel
    shown = torch.cat([boxes, centers], -1) * 4 - 2  # [0, 1] to [-2, 2]: positions matter finely
    described = torch.cat([(shown * visible).flatten(2), visible.flatten(2)], 2)
    crops = []
    for c, picture in enumerate(pictures):
        windows = picture.reshape(size, 3, slots, layout.pixels, layout.pixels).transpose(1, 2)
        if noise is not None:
            cut = cut_windows(windows.flatten(0, 1), moved[:, :, c].flatten(0, 1) + room, crop)
            seen = (visible[:, :, c, 0] > 0).flatten()
            if seen.any():
                cut[seen] = augment_crops(cut[seen], noise)  # the others count as black
            cut = cut.reshape(size, slots, 3, crop, crop)
        else:
            cut = windows[..., room : room + crop, room : room + crop]
        crops.append(cut)
    return crops, list((visible[..., 0] > 0).unbind(2)), described


def augment_crops(crops: Tensor, noise: WindowNoise) -> Tensor:
    """Colour augmentation of [N, 3, crop, crop], drawn from torch's generator."""
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    crops = augment_colours(crops, noise.colour_gain, noise.brightness_curve, rng)
    return mix_channels(crops, noise.channel_mixing, rng) if noise.channel_mixing > 0 else crops


def cut_windows(windows: Tensor, corners: Tensor, crop: int) -> Tensor:
    """Windows [N, 3, H, W] cut at `corners` (x, y) [N, 2] to [N, 3, crop, crop]."""
    places = corners.tolist()
    return torch.stack([w[:, y : y + crop, x : x + crop] for w, (x, y) in zip(windows, places)])
