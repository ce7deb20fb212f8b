"""Whether half precision pays on a device, and its use where it does."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def bfloat16_pays(device: str) -> bool:
    """Whether autocast to bfloat16 is faster than float32 on a type of device (`cpu`, `cuda`, ...).

    A processor with AVX2 alone takes ten times as long for a convolution in bfloat16 as in float32, one with
    AVX-512 two thirds.
    """
    return device != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def half_precision(x: Tensor, wanted: bool) -> torch.autocast:
    """bfloat16 autocast on the device of `x`, if it is wanted and pays there."""
    kind = x.device.type
    return torch.autocast(kind, torch.bfloat16, enabled=wanted and bfloat16_pays(kind))
