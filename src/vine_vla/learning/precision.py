"""Whether half precision pays on a device: it must be there in hardware."""

from __future__ import annotations

from functools import cache

import torch


@cache
def bfloat16_pays(device: str) -> bool:
    """Whether autocast to bfloat16 is faster than float32 on a type of device (`cpu`, `cuda`, ...).

    A processor with AVX2 alone takes ten times as long for a convolution in bfloat16 as in float32, one with
    AVX-512 two thirds.
    """
    return device != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
