"""The compact `Backend`: one folder, perception shared, a planning model a variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Subgoal
from vine_vla.core.packing import PackedGraphs
from vine_vla.core.protocols import Context, Expansion, Neighbours, Observation, PruningRule
from vine_vla.learning.device import usable_device
from vine_vla.storage.files import write_bytes
from vine_vla.storage.json import write_json
from vine_vla.system2.backend import BackendInfo, StateSpec
from vine_vla.system2.compact import storage
from vine_vla.system2.compact.model import GraphModel
from vine_vla.system2.compact.perception import Perception
from vine_vla.system2.folder import (
    CARD,
    INFO,
    METRICS,
    PICTURE,
    read_info,
    read_schema,
    trained_variants,
)

IMITATE_ALL = "imitate-all"
"""Variant `all` with the proposals of all episodes, for the arm that clones them."""


class System2:
    """Perceiver, planning model and evidence of one variant.

    Args:
        schema: vocabulary. perception: None if it was trained on graphs alone.
        model: what `expand` uses. variant: its name.
        folder: where further variants are found. shared: what `system2.json` says.
    """

    def __init__(
        self,
        schema: Schema,
        perception: Perception | None,
        model: GraphModel,
        variant: str,
        folder: Path,
        shared: Mapping[str, Any],
    ) -> None:
        self._schema, self.perception, self.model = schema, perception, model
        self.folder, self._shared = folder, shared
        state = None if perception is None else StateSpec(tuple(perception.setup.state_mean))
        self._info = BackendInfo(
            kind=storage.KIND,
            schema=schema,
            variant=variant,
            state=state,
            budget=model.budget,
            subgoals_a_plan=model.shared.subgoals_a_plan,
            provenance=shared.get("provenance", {}),
        )
        self._variants: dict[str, System2] = {variant: self}

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def weights(self) -> str:
        """Hash of perception's weights, "" without any."""
        return str(self._shared.get("hashes", {}).get("perception", ""))

    @property
    def schema(self) -> Schema:
        return self._schema

    @property
    def pruning(self) -> PruningRule:
        return self.model.pruning

    def perceive(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        earlier: Sequence[SceneGraph | None] | None = None,
    ) -> list[SceneGraph]:
        """The scene graph of each scene; with `earlier`, ids and constant attributes are kept."""
        if self.perception is None:
            raise VineError(
                "this System 2 has no perception: it was trained on scene graphs alone",
                where=str(self.folder),
                hint="train it with perception, or hand it graphs",
            )
        before = earlier or [None] * len(observations)
        return [self.perception.perceive_one(o, g) for o, g in zip(observations, before, strict=True)]

    def expand(
        self, graphs: PackedGraphs, instructions: Sequence[str], k: int, context: Context | None = None
    ) -> Expansion:
        """At most `k` proposals for each graph, with outcomes, next graphs and values."""
        return self.model.expand(graphs, instructions, k)

    def nearest(self, graph: SceneGraph, subgoal: Subgoal, count: int = 3) -> Neighbours:
        """Recorded episodes nearest to a (graph, subgoal), in which it was reached and was not."""
        return self.model.nearest(graph, subgoal, count)

    def variants(self) -> list[str]:
        """Names of the variants that have been trained."""
        found = trained_variants(self.folder)
        return [*found, IMITATE_ALL] if "all" in found else found

    def variant(self, name: str) -> System2:
        """The same perception with the planning model of another variant, read once."""
        if name not in self._variants:
            found = System2(self._schema, self.perception, self._read(name), name, self.folder, self._shared)
            found._variants = self._variants
            self._variants[name] = found
        return self._variants[name]

    def _read(self, name: str) -> GraphModel:
        if name not in self.variants():
            raise VineError(
                f"no variant {name!r}", where=str(self.folder), hint=f"trained: {', '.join(self.variants())}"
            )
        if name == IMITATE_ALL:
            return self.variant("all").model.with_prior(imitate_all=True)
        return storage.read_model(self.folder / name, self.model.shared)

    def save(self, folder: Path, variant: str | None = None) -> None:
        """Write a folder that `load` reads: perception, proposals, and this variant's nets."""
        info = dict(self._shared)
        folder.mkdir(parents=True, exist_ok=True)
        if self.perception is not None:
            storage.write_perception(folder, self.perception)
        storage.write_shared(folder, self.model.shared)
        own = folder / (variant or self._info.variant)
        own.mkdir(exist_ok=True)
        for name in (METRICS, CARD, PICTURE):
            source = self.folder / self._info.variant / name
            if source.is_file() and source.resolve() != (own / name).resolve():
                write_bytes(own / name, source.read_bytes())
        storage.write_model(own, self.model)
        write_json(folder / INFO, info)


def load(folder: Path, variant: str, *, device: str | None = None) -> System2:
    """The variant of the System 2 in `folder`; see `BackendKind.load`."""
    where = usable_device(device)
    info = read_info(folder)
    schema = read_schema(folder, info)
    if "proposals" not in info.get("stages", {}):
        raise VineError("training has not finished", where=str(folder), hint="run `vine train system2` again")
    shared = storage.read_shared(folder, info, schema, where)
    perception = None
    if "perception" in info["stages"]:
        perception = storage.read_perception(folder, info, schema, where)
    own, there = "all" if variant == IMITATE_ALL else variant, trained_variants(folder)
    if own not in there:
        raise VineError(
            f"no variant {variant!r}", where=str(folder), hint=f"trained: {', '.join(there) or 'none'}"
        )
    found = System2(schema, perception, storage.read_model(folder / own, shared), own, folder, info)
    return found.variant(variant)
