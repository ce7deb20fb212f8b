"""A device that is not there, for tests of where tensors are: its values are computed on the CPU.

It is as strict as a real one and stricter: tensors of two devices do not mix, not even as an index; nothing
on it becomes an array without being moved; and nothing is drawn on it, since what is drawn must not depend on
the device. torch knows devices of the type `lazy` but has no code for them, not even a driver to look for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("lazy", 0)
_ACROSS = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
"""Operations that may take tensors of two devices."""


class Elsewhere(torch.Tensor):
    """A tensor that says that it lies on `DEVICE`; `inner` on the CPU holds its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Makes `Elsewhere` of what is created on `DEVICE` or moved there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if isinstance(x, Elsewhere)]
    wanted = kwargs.get("device")
    there = bool(ours) if wanted is None else torch.device(wanted).type == DEVICE.type
    if func not in _ACROSS:
        strangers = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim() > 0]
        if there and strangers:
            raise RuntimeError(f"{func} takes tensors of two devices: {DEVICE} and cpu")
    if there and torch.Tag.nondeterministic_seeded in func.tags:
        raise RuntimeError(f"{func} draws on {DEVICE}: what is drawn there depends on the device")
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    owners = {id(x.inner): x for x in ours}
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if func is torch.ops.aten.copy_.default:
        return args[0]

    def outer(x: Any) -> Any:
        if not there or not isinstance(x, torch.Tensor):
            return x
        return owners[id(x)] if id(x) in owners else Elsewhere(x)  # in place: what was handed in

    return tree_map(outer, found)


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Elsewhere) else x


@contextmanager
def pretended_device(monkeypatch: Any) -> Iterator[str]:
    """Within it the device that it yields the name of can be used as if it were there."""
    with monkeypatch.context() as patch:
        autocast = torch.autocast
        patch.setattr(
            torch,
            "autocast",
            lambda kind, *a, **k: nullcontext() if kind == DEVICE.type else autocast(kind, *a, **k),
        )
        patch.setattr(torch, "inference_mode", torch.no_grad)  # in which subclasses cannot be viewed
        # A module that moves gets new parameters: those of the CPU cannot become `Elsewhere`.
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with _Mode():
                yield DEVICE.type
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
