"""VINE: feasibility-guided planning over subgoals, learned from demonstrations with their failures."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vine_vla.core.errors import VineError

if TYPE_CHECKING:
    from vine_vla.core.graph import Belief, Box, Relation, SceneGraph, SceneObject, Schema, Verb
    from vine_vla.core.options import (
        Collector,
        Demonstration,
        EpisodeOutcome,
        Option,
        Outcome,
        OutcomeSource,
        Segment,
        Split,
        Subgoal,
    )
    from vine_vla.core.packing import PackedGraphs, pack, unpack
    from vine_vla.core.protocols import (
        Expansion,
        Observation,
        Perceiver,
        Plan,
        Planner,
        PlanningModel,
        PlanStatus,
        Robot,
        Skill,
    )
    from vine_vla.system2.backend import Backend

__all__ = [
    "Belief",
    "Box",
    "Collector",
    "Demonstration",
    "EpisodeOutcome",
    "Expansion",
    "Observation",
    "Option",
    "Outcome",
    "OutcomeSource",
    "PackedGraphs",
    "Perceiver",
    "Plan",
    "PlanStatus",
    "Planner",
    "PlanningModel",
    "Relation",
    "Robot",
    "SceneGraph",
    "SceneObject",
    "Schema",
    "Segment",
    "Skill",
    "Split",
    "Subgoal",
    "Verb",
    "VineError",
    "load",
    "pack",
    "unpack",
]


_HOMES = ("graph", "options", "packing", "protocols")
"""Modules of the names above; read when a name is asked for, so that `vine --help` waits for no NumPy."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.core.{home}")
            if getattr(module.__dict__.get(name), "__module__", None) == module.__name__:
                return module.__dict__[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: Path | str, variant: str | None = None, *, device: str | None = None) -> Backend:
    """A trained System 2 of any kind: `Perceiver`, `PlanningModel` and `Evidence` in one.

    Args:
        path: run folder, or the folder `vine train system2` wrote.
        variant: default `all`, else the first there is.
        device: where nets run, e.g. `cpu`; default: cuda if there is one.

    Raises:
        VineError: there is none, or its files are damaged.
    """
    from vine_vla.system2.load import load_system2  # late: importing the package does not import torch

    return load_system2(path, variant, device=device)
