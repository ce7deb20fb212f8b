"""Observations to plan from: frames of a dataset, or image files and a state file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema
from vine_vla.core.protocols import Observation
from vine_vla.data.lerobot.dataset import open_dataset


def read_frames(
    path: Path, schema: Schema, episodes: Iterable[int], frame: int
) -> list[tuple[Observation, str]]:
    """The same frame of some episodes of a dataset, each with its instruction.

    Args:
        schema: whose cameras are read; the dataset must have the first.
        frame: from 0.

    Raises:
        VineError: a camera that the dataset lacks, or no such episode or frame.
    """
    dataset = open_dataset(path)
    found = []
    for episode in episodes:
        if not 0 <= episode < len(dataset.demonstrations):
            raise VineError(f"episode {episode} of {len(dataset.demonstrations)}", where="--episode")
        demonstration = dataset.demonstrations[episode]
        if not 0 <= frame < demonstration.length:
            raise VineError(f"frame {frame} of {demonstration.length} in episode {episode}", where="--frame")
        images = {
            role: dataset.images(episode, [frame], role)[0]
            for role in schema.cameras
            if role in dataset.cameras or role == schema.cameras[0]
        }
        state = dataset.proprioception(episode)[frame]
        found.append((Observation(images, state), demonstration.instruction))
    return found


def read_images(pairs: Sequence[str], schema: Schema) -> dict[str, NDArray[np.uint8]]:
    """The images given as CAMERA=FILE; uint8 [height, width, 3]. The first camera must be there.

    Raises:
        VineError: a camera is unknown or given twice, the first one is missing, or a file is no image.
    """
    wanted = " ".join(f"--image {camera}=FILE" for camera in schema.cameras)
    images: dict[str, NDArray[np.uint8]] = {}
    for pair in pairs:
        camera, equals, file = pair.partition("=")
        if not equals or camera not in schema.cameras:
            raise VineError(f"{pair!r} names no camera of the model", where="--image", hint=f"give {wanted}")
        if camera in images:
            raise VineError(f"camera {camera} is given twice", where="--image", hint=f"give {wanted}")
        try:
            with Image.open(file) as image:
                images[camera] = np.array(image.convert("RGB"))
        except OSError as error:
            raise VineError(f"cannot read the image: {error}", where=f"--image {pair}") from error
    if schema.cameras[0] not in images:
        raise VineError(f"no image of {schema.cameras[0]}", where="--image", hint=f"give {wanted}")
    return images


def read_proprioception(file: Path) -> NDArray[np.float32]:
    """The robot's state from a JSON list; float32 [P].

    Raises:
        VineError: the file cannot be read or is no list of numbers.
    """
    where = f"--proprioception {file}"
    try:
        state = np.array(json.loads(file.read_text(encoding="utf-8")), np.float32)
    except OSError as error:
        raise VineError(f"cannot read the state: {error.strerror}", where=where) from error
    except (ValueError, TypeError) as error:
        raise VineError(f"not a JSON list of numbers: {error}", where=where) from error
    if state.ndim != 1 or not len(state) or not np.isfinite(state).all():
        raise VineError("not a flat list of finite numbers", where=where, hint="e.g. [0.1, 0.2, 0.3]")
    return state
