"""Where nets run: the device that was asked for, or one line that says why it cannot be had."""

from __future__ import annotations

import torch

from vine_vla.core.errors import VineError


def usable_device(name: str) -> torch.device:
    """The device called `name` (`cpu`, `cuda`, `cuda:1`, `mps`); raises VineError if it is not there."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise VineError(
            f"no device {name!r}: {str(error).splitlines()[0]}", where="--device", hint="give --device cpu"
        ) from error
    return device
