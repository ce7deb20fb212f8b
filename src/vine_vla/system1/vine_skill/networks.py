"""The nets of System 1: a small encoder for crops and a flow-matching head over action chunks.

The encoder is a patchify stem (8x8, stride 4) with GroupNorm and spatial softmax at two resolutions. It
is shallow because steps per minute decide on a CPU; the crops carry the resolution. The head is a
residual MLP over the flattened chunk, modulated by the condition and the flow time (AdaLN).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vine_vla.learning.precision import half_precision
from vine_vla.system1.vine_skill.waypoints import UNITS

MAPS = 32
"""Points of a spatial softmax."""


class SpatialSoftmax(nn.Module):
    """Expected image position of `MAPS` learned maps: [B, C, H, W] -> [B, 2 * MAPS], in [-1, 1]."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(channels, MAPS, 1)
        line = torch.linspace(-1, 1, size)
        y, x = torch.meshgrid(line, line, indexing="ij")
        self.register_buffer("grid", torch.stack([x.flatten(), y.flatten()], 1), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        weights = self.maps(features).flatten(2).float().softmax(-1)
        return (weights @ self.grid).flatten(1)


class CropEncoder(nn.Module):
    """Features of square crops: [B, 3, size, size] in [0, 1] -> [B, FEATURES], float32."""

    FEATURES = 4 * MAPS + 64

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(3, 32, 8, stride=4, padding=2),
            nn.GroupNorm(4, 32),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.GroupNorm(4, 32),
            nn.SiLU(),
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
        )
        half = size // 8
        self.fine_points = SpatialSoftmax(32, size // 4)
        self.coarse_points = SpatialSoftmax(64, half)
        self.squeeze = nn.Conv2d(64, 4, 1)
        self.flat = nn.Linear(4 * half * half, 64)

    def forward(self, crops: Tensor) -> Tensor:
        fine = self.fine(crops - 0.5)
        coarse = self.coarse(fine)
        flat = self.flat(self.squeeze(coarse).flatten(1))
        points = [self.fine_points(fine), self.coarse_points(coarse)]
        return torch.cat([*points, flat.float()], 1)


class GatedBlock(nn.Module):
    """Residual block whose hidden units are products of two linear maps (SwiGLU, arXiv 2002.05202).

    Where a thing is follows from where it is seen *times* how far it is away; sums of units learn products
    slowly.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, 4 * width)
        self.leave = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.enter(self.norm(x)).chunk(2, -1)
        return x + self.leave(F.silu(gate) * value)


class FlowHead(nn.Module):
    """Velocity of the flow from noise (t = 0) to an action chunk (t = 1).

    Args:
        size: T * A, the flattened chunk.
        condition: width of the condition.
        width, blocks: of the residual MLP.
    """

    FREQUENCIES = 32

    def __init__(self, size: int, condition: int, width: int = 256, blocks: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(size, width)
        self.time = nn.Linear(2 * self.FREQUENCIES, width)
        self.condition = nn.Linear(condition, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(blocks))
        self.modulation = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(blocks))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.leave = nn.Linear(width, size)
        for layer in (*self.modulation, self.leave):  # an untrained head predicts no velocity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        scale = torch.exp(torch.linspace(0, math.log(200.0), self.FREQUENCIES))
        self.register_buffer("frequencies", scale, persistent=False)

    def forward(self, chunk: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Velocity [B, T * A] at `chunk` [B, T * A] and `time` [B], with `condition` [B, condition]."""
        angles = time[:, None] * self.frequencies
        stamp = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        context = F.silu(stamp + self.condition(condition))
        x = self.enter(chunk)
        for norm, modulation, inner, outer in zip(self.norms, self.modulation, self.inner, self.outer):
            shift, scale, gate = modulation(context).chunk(3, 1)
            x = x + gate * outer(F.silu(inner(norm(x) * (1 + scale) + shift)))
        return self.leave(x)


class SlotChoice(nn.Module):
    """Which of several objects to act at: attention over slots, so that aiming is learned once for all.

    A policy that is conditioned on its target has one slot. One that is not (the `flat` arm) would have to
    learn to aim anew for each slot.

    Args:
        slots: how many.
        size: width of what is known of a slot.
        vector: width of what is known besides.
        width: of the hidden layers.
    """

    def __init__(self, slots: int, size: int, vector: int, width: int = 128) -> None:
        super().__init__()
        self.enter = nn.Linear(size, width)
        self.place = nn.Parameter(torch.randn(slots, width) * 0.02)
        self.around = nn.Linear(width + vector, width)
        self.score = nn.Linear(width, 1)

    def forward(self, known: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Slots [B, S, size] and the rest [B, vector] to weights [B, S] and a summary [B, width]."""
        tokens = F.silu(self.enter(known) + self.place)
        summary = self.around(torch.cat([tokens.mean(1), vector], 1))
        weights = self.score(F.silu(tokens + summary[:, None]))[..., 0].softmax(1)
        return weights, summary


class SkillNet(nn.Module):
    """Crops, state and environment vector to a condition, a velocity field and a done signal.

    Args:
        cameras: number of pictures a sample; each camera has its own encoder.
        slots: windows a picture; the slots of a camera share its encoder, and one of them is chosen.
        crop: side of the windows that the encoder sees, pixels.
        numbers: how many numbers go with a slot.
        vector: width of everything else that is concatenated to the features.
        chunk: T * A.
        width, blocks: of trunk and head.
        half: run the encoders under bfloat16 autocast, where that pays.
    """

    def __init__(
        self,
        cameras: int,
        slots: int,
        crop: int,
        numbers: int,
        vector: int,
        chunk: int,
        width: int,
        blocks: int,
        half: bool,
    ) -> None:
        super().__init__()
        self.half = half
        self.encoders = nn.ModuleList(CropEncoder(crop) for _ in range(cameras))
        slot = cameras * CropEncoder.FEATURES + numbers
        self.choice = SlotChoice(slots, slot, vector) if slots > 1 else None
        inputs = slot + vector + (slots + self.choice.around.out_features if self.choice else 0)
        trunk = [GatedBlock(width) for _ in range(blocks)]
        self.trunk = nn.Sequential(nn.Linear(inputs, width), *trunk, nn.LayerNorm(width))
        self.flow = FlowHead(chunk, width, width, blocks)
        self.done = nn.Sequential(nn.Linear(inputs + width, 128), nn.SiLU(), nn.Linear(128, 3))
        self.waypoint = nn.Sequential(nn.Linear(width, 128), nn.SiLU(), nn.Linear(128, len(UNITS)))

    def encode(
        self, crops: list[Tensor], seen: list[Tensor], numbers: Tensor, vector: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Condition of the flow [B, width] and input of the done head, cut off from the gradient.

        Args:
            crops: per camera, [B, slots, 3, crop, crop] in [0, 1].
            seen: per camera, whether the crop shows anything; else it counts as black. bool [B, slots]
            numbers: [B, slots, numbers].
            vector: [B, vector].
        """
        features = []
        for encoder, windows, shown in zip(self.encoders, crops, seen):
            with half_precision(windows, self.half):
                features.append(encode_seen(encoder, windows.flatten(0, 1), shown.flatten()))
            features[-1] = features[-1].reshape(*windows.shape[:2], -1)
        if self.choice is None:
            inputs = torch.cat([*(f[:, 0] for f in features), vector, numbers[:, 0]], 1)
        else:
            known = torch.cat([*features, numbers], 2)
            weights, summary = self.choice(known, vector)
            inputs = torch.cat([(weights[..., None] * known).sum(1), vector, weights, summary], 1)
        condition = self.trunk(inputs)
        return condition, torch.cat([inputs, condition], 1).detach()

    def sample(self, condition: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Integrate the flow from `noise` [B, T * A] in `steps` Euler steps."""
        x = noise
        for step in range(steps):
            time = torch.full((len(x),), step / steps, device=x.device)
            x = x + self.flow(x, time, condition) / steps
        return x


def encode_seen(encoder: nn.Module, windows: Tensor, seen: Tensor) -> Tensor:
    """`encoder` of windows [N, 3, H, W], black where not `seen` [N]: all black ones at the price of one."""
    if bool(seen.all()):
        return encoder(windows)
    black = windows.new_zeros(1, *windows.shape[1:])
    found = encoder(torch.cat([windows[seen], black]))
    place = torch.where(seen, seen.cumsum(0) - 1, len(found) - 1)
    return found[place]
