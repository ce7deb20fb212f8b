"""Where nets run: the device that was asked for, or one line that says why it cannot be had."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from vine_vla.core.errors import VineError

CPU = torch.device("cpu")


def usable_device(name: str | None = None) -> torch.device:
    """The device called `name` (`cpu`, `cuda`, `cuda:1`, `mps`); None: cuda if there is one, else cpu.

    Raises:
        VineError: it is not there, or nothing can be computed on it (`meta`).
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        float(torch.zeros(1, device=device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise VineError(
            f"no device {name!r}: {str(error).splitlines()[0]}", where="--device", hint="give --device cpu"
        ) from error
    return device


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """`array` as a tensor on `device`; on the CPU the two share their memory."""
    return torch.from_numpy(array).to(device)


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """`tensor`, which no gradient goes through, as an array; the two share their memory on the CPU."""
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
