"""openpi's wire format: msgpack maps in which an array is its bytes, dtype and shape. Nothing is unpickled.

    array   {b"__ndarray__": True, b"data": bytes, b"dtype": str, b"shape": [int]}
    scalar  {b"__npgeneric__": True, b"data": number, b"dtype": str}

Whatever comes from the network is checked before memory is taken for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from vine_vla.core.errors import VineError

ARRAY, SCALAR = b"__ndarray__", b"__npgeneric__"
KINDS = "biuf"
"""Kinds of dtype that pass: booleans, integers and floats."""


@dataclass(frozen=True)
class WireLimits:
    """What a message may hold.

    Args:
        message_bytes: size of a message. array_bytes: of an array in it. dims: axes of an array.
        entries: of a map or list. text: characters of a string.
    """

    message_bytes: int = 32 * 2**20
    array_bytes: int = 24 * 2**20
    dims: int = 4
    entries: int = 256
    text: int = 10_000


def pack_message(message: Mapping[str, Any]) -> bytes:
    """A message as bytes; arrays and NumPy scalars at any depth.

    Raises:
        VineError: a value is of a kind that the format has no place for.
    """
    try:
        packed: bytes = msgpack.packb(message, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise VineError(f"cannot be sent: {error}", where="message") from error
    return packed


def unpack_message(data: bytes | str, limits: WireLimits | None = None) -> dict[str, Any]:
    """Inverse of `pack_message`; arrays are read-only views of `data`.

    Raises:
        VineError: not a msgpack map with text as keys, or over a limit.
    """
    limits = limits or WireLimits()
    if isinstance(data, str):
        raise VineError("a text frame", where="message", hint="send a binary msgpack map")
    if len(data) > limits.message_bytes:
        raise VineError(f"{len(data)} bytes, at most {limits.message_bytes} are taken", where="message")
    try:
        message = msgpack.unpackb(
            data,
            object_hook=lambda entry: _decode(entry, limits),
            raw=False,
            strict_map_key=False,
            max_str_len=limits.text,
            max_bin_len=limits.array_bytes,
            max_array_len=limits.entries,
            max_map_len=limits.entries,
            max_ext_len=0,
        )
    except VineError:
        raise
    except (ValueError, TypeError, RecursionError, UnicodeDecodeError, msgpack.UnpackException) as error:
        detail = str(error).split("\n")[0][:200] or type(error).__name__
        raise VineError(f"not msgpack as it should be: {detail}", where="message") from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise VineError("not a map with text as keys", where="message")
    return message


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in KINDS + "US":
        raise TypeError(f"dtype {value.dtype}")
    if isinstance(value, np.ndarray):
        plain = np.asarray(value, order="C")
        return {ARRAY: True, b"data": plain.tobytes(), b"dtype": plain.dtype.str, b"shape": plain.shape}
    if isinstance(value, np.generic):
        return {SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"type {type(value).__name__}")


def _decode(entry: dict[Any, Any], limits: WireLimits) -> Any:
    if ARRAY in entry:
        dtype, data, shape = _dtype(entry), entry.get(b"data"), entry.get(b"shape")
        if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > limits.dims:
            raise VineError(f"an array needs bytes and at most {limits.dims} axes", where="message")
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= 2**31 for n in shape):
            raise VineError(f"shape {shape} of an array", where="message")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise VineError(f"{len(data)} bytes for an array {shape} of {dtype}", where="message")
        return np.frombuffer(data, dtype).reshape(shape)
    if SCALAR in entry:
        dtype, value = _dtype(entry), entry.get(b"data")
        if not isinstance(value, bool | int | float):
            raise VineError("a scalar that is no number", where="message")
        try:
            return dtype.type(value)
        except (OverflowError, ValueError) as error:
            raise VineError(f"a scalar that is no {dtype}", where="message") from error
    return entry


def _dtype(entry: dict[Any, Any]) -> np.dtype[Any]:
    name = entry.get(b"dtype")
    try:
        # Names alone: a list or a comma would make a structured dtype.
        if not isinstance(name, str) or "," in name or len(name) > 8:
            raise TypeError
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError) as error:
        raise VineError(f"dtype {str(name)[:20]!r} of an array", where="message") from error
    if dtype.kind not in KINDS or dtype.itemsize > 8:
        raise VineError(f"dtype {dtype} of an array", where="message", hint="send numbers or booleans")
    return dtype
