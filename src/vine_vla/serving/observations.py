"""From a client's keys to what VINE sees: camera roles, proprioception, instruction.

Clients of openpi name their keys by robot. All of these are understood, and `keys` may name more:

    images     `images` {ROLE: image}, `observation/ROLE`, `observation/images/ROLE`, LeRobot's
               `observation.images.ROLE`, and openpi's own names of LIBERO, DROID and ALOHA
    state      `observation/state`, `observation.state` or `state`; or DROID's joints and gripper together
    task       `prompt`, `instruction` or `task`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.protocols import Observation

FIXED = ("observation/image", "observation/exterior_image_1_left", "cam_high", "image")
"""openpi's names of a camera that does not move: LIBERO, DROID, ALOHA."""
MOVING = ("observation/wrist_image", "observation/wrist_image_left", "cam_left_wrist", "wrist_image")
"""openpi's names of a camera on the wrist."""
JOINTS = ("observation/joint_position", "observation/gripper_position")
SIDES = (16, 4096)
"""Least and greatest side of an image, in pixels."""


@dataclass(frozen=True)
class ObservationKeys:
    """Where a client's message holds what VINE needs.

    Args:
        cameras: roles, the fixed camera first.
        state_size: numbers of proprioception that the model was trained with; 0 takes any.
        keys: further keys a role, or for `state` and `prompt`.
    """

    cameras: tuple[str, ...]
    state_size: int = 0
    keys: Mapping[str, str] = field(default_factory=dict)

    def names_of(self, role: str) -> list[str]:
        """Keys under which an image of `role` may stand, the first found counts."""
        found = [self.keys[role]] if role in self.keys else []
        found += [f"images/{role}", f"observation/{role}", f"observation/images/{role}"]
        found += [f"observation.images.{role}"]
        place = self.cameras.index(role)
        return found + list((FIXED, MOVING)[place] if place < 2 else ())

    def state_names(self) -> list[str]:
        """Keys under which the state may stand, the first found counts."""
        own = [self.keys["state"]] if "state" in self.keys else []
        return [*own, "observation/state", "observation.state", "state"]

    def prompt_names(self) -> list[str]:
        """Keys under which the task may stand, the first found counts."""
        return [*([self.keys["prompt"]] if "prompt" in self.keys else []), "prompt", "instruction", "task"]

    def read(self, message: Mapping[str, Any]) -> Observation:
        """The observation in a client's message.

        Raises:
            VineError: an image or the state is missing or of the wrong kind; names the key.
        """
        flat = dict(message)
        for group in ("images", "observation", "observation/images"):
            inner = flat.get(group)
            if isinstance(inner, dict):
                flat |= {f"{group}/{name}": value for name, value in inner.items()} | inner
        images = {}
        for role in self.cameras:
            name = _first(flat, self.names_of(role))
            if name is not None:
                images[role] = read_image(flat[name], name)
        if self.cameras[0] not in images:
            raise VineError(
                f"no image of {self.cameras[0]}",
                where="observation",
                hint=f"send one of {', '.join(self.names_of(self.cameras[0]))}",
            )
        return Observation(images, self._state(flat))

    def prompt(self, message: Mapping[str, Any]) -> str | None:
        """The task text in a client's message, None where there is none."""
        name = _first(message, self.prompt_names())
        if name is None:
            return None
        if not isinstance(message[name], str) or not message[name].strip():
            raise VineError(f"{name} is no text", where="observation")
        return message[name].strip()

    def _state(self, flat: Mapping[str, Any]) -> NDArray[np.float32]:
        name = _first(flat, self.state_names())
        if name is None and all(key in flat for key in JOINTS):
            name = " and ".join(JOINTS)
            parts = [_numbers(flat[key], key) for key in JOINTS]
            state = np.concatenate(parts)
        elif name is None:
            raise VineError("no state", where="observation", hint="send observation/state")
        else:
            state = _numbers(flat[name], name)
        if self.state_size and len(state) != self.state_size:
            raise VineError(
                f"{name} has {len(state)} numbers, expected {self.state_size}",
                where="observation",
                hint="send the state that the dataset has",
            )
        return state


def read_image(value: Any, name: str) -> NDArray[np.uint8]:
    """An image as uint8 [height, width, 3], from that, from channels first, or from floats in [0, 1]."""
    if not isinstance(value, np.ndarray) or value.ndim != 3:
        raise VineError(f"{name} is no image [height, width, 3]", where="observation")
    if value.shape[2] != 3 and value.shape[0] == 3:
        value = value.transpose(1, 2, 0)
    low, high = SIDES
    if value.shape[2] != 3 or not all(low <= side <= high for side in value.shape[:2]):
        raise VineError(
            f"{name} has shape {list(value.shape)}, expected [height, width, 3] of {low} to {high} pixels",
            where="observation",
        )
    if value.dtype.kind == "f":
        if not (np.isfinite(value).all() and value.min() >= 0 and value.max() <= 1):
            raise VineError(f"{name} has floats outside [0, 1]", where="observation", hint="send uint8")
        value = np.round(value * 255)
    elif value.dtype != np.uint8:
        raise VineError(f"{name} is {value.dtype}", where="observation", hint="send uint8")
    return np.ascontiguousarray(value, np.uint8)


def _numbers(value: Any, name: str) -> NDArray[np.float32]:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal length, or too deep
        array = np.array(None)
    if array.dtype.kind not in "iuf" or array.ndim > 1 or array.size > 1024:
        raise VineError(f"{name} is no list of numbers", where="observation")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity
        state = np.atleast_1d(array).astype(np.float32)
    if not np.isfinite(state).all():
        raise VineError(f"{name} holds NaN or infinity", where="observation")
    return state


def _first(message: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in message), None)
