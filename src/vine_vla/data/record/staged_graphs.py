"""Staged episodes as training data for what learns from scene graphs alone; nothing is assembled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Box, Schema
from vine_vla.core.options import Demonstration
from vine_vla.core.protocols import Float
from vine_vla.data.record.staging import read_staged_labels, staged_path


@dataclass(frozen=True)
class StagedGraphs:
    """Demonstrations with their annotated scene graphs, for `vine_vla.system2.train_backend`.

    Args:
        schema: vocabulary. demonstrations: in the order of their ids.
    """

    schema: Schema
    demonstrations: tuple[Demonstration, ...]

    def images(self, episode_index: int, frames: Sequence[int] | None, camera_role: str) -> NDArray[np.uint8]:
        """There are none; raises VineError."""
        raise _graphs_alone("images")

    def proprioception(self, episode_index: int) -> Float:
        """There is none; raises VineError."""
        raise _graphs_alone("proprioception")

    def boxes(self, episode_index: int) -> Mapping[int, Mapping[str, Mapping[str, Box]]]:
        """There are none beside those of the graphs; raises VineError."""
        raise _graphs_alone("boxes")


def open_staged(staging: Path, ids: Sequence[str]) -> StagedGraphs:
    """The staged episodes `ids`, each in the split that `assemble` would give it.

    Raises:
        VineError: an episode is not staged or damaged, or schemas differ.
    """
    if not ids:
        raise VineError("no episodes are asked for", where=str(staging))
    demonstrations: list[Demonstration] = []
    schemas: list[Any] = []
    for index, name in enumerate(sorted(ids)):
        found, schema = read_staged_labels(staged_path(staging, name))
        if schemas and schema != schemas[0]:
            raise VineError("schema differs from the first episode's", where=f"episode {name}")
        schemas.append(schema)
        demonstrations.append(replace(found, episode_index=index))
    return StagedGraphs(schemas[0], tuple(demonstrations))


def _graphs_alone(what: str) -> VineError:
    return VineError(
        f"staged episodes are read for their scene graphs alone, not for {what}",
        hint="assemble a dataset of them: `vine collect`",
    )
