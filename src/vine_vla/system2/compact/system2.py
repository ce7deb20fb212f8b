"""System 2 as the agent and the planners use it: one folder, eyes shared, a planning model a variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Subgoal
from vine_vla.core.packing import PackedGraphs
from vine_vla.core.protocols import Context, Expansion, Neighbours, Observation, PruningRule
from vine_vla.system2.compact import storage
from vine_vla.system2.compact.model import GraphModel
from vine_vla.system2.compact.perception import Perception

IMITATE_ALL = "imitate-all"
"""Variant `all` with the proposals of all episodes, for the arm that clones them."""


class System2:
    """Perceiver, planning model and evidence: `perceive`, `expand`, `nearest`.

    Args:
        schema: vocabulary. eyes: perception, None if it was trained on graphs alone.
        model: the variant that `expand` uses. folder: where further variants are found.
    """

    def __init__(
        self, schema: Schema, eyes: Perception | None, model: GraphModel, folder: Path, info: dict[str, Any]
    ) -> None:
        self._schema, self.eyes, self.model = schema, eyes, model
        self.folder, self._info = folder, info
        self._variants: dict[str, GraphModel] = {}

    @property
    def schema(self) -> Schema:
        return self._schema

    @property
    def pruning(self) -> PruningRule:
        return self.model.pruning

    @property
    def weights(self) -> str:
        """Hash of perception's weights, empty without any: tells what came of these eyes."""
        return str(self._info.get("hashes", {}).get("perception", ""))

    @property
    def budget(self) -> int:
        """Subgoals that an episode may spend."""
        return self.model.budget

    def perceive(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        earlier: Sequence[SceneGraph | None] | None = None,
    ) -> list[SceneGraph]:
        """The scene graph of each scene; with `earlier`, ids and constant attributes are kept."""
        if self.eyes is None:
            raise VineError(
                "this System 2 has no perception: it was trained on scene graphs alone",
                where=str(self.folder),
                hint="train it with perception, or hand it graphs",
            )
        before = earlier or [None] * len(observations)
        return [self.eyes.perceive_one(o, g) for o, g in zip(observations, before, strict=True)]

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
        found = sorted(p.parent.name for p in self.folder.glob(f"*/{storage.MODEL}"))
        return [*found, IMITATE_ALL] if "all" in found else found

    def variant(self, name: str) -> GraphModel:
        """The planning model of a variant, read once."""
        if name not in self._variants:
            if name == IMITATE_ALL:
                self._variants[name] = self.variant("all").with_prior(imitate_all=True)
            else:
                self._variants[name] = storage.read_model(self._folder_of(name), self.model.shared)
        return self._variants[name]

    def _folder_of(self, name: str) -> Path:
        if name not in self.variants():
            raise VineError(
                f"no variant {name!r}", where=str(self.folder), hint=f"trained: {', '.join(self.variants())}"
            )
        return self.folder / name

    def with_model(self, model: GraphModel) -> System2:
        """The same eyes with another planning model, e.g. one with execution calibration."""
        return System2(self._schema, self.eyes, model, self.folder, self._info)


def load_system2(folder: Path | str, variant: str | None = None) -> System2:
    """System 2 from its folder, or from the run folder that holds it as `system2`.

    Args:
        folder: as `train_system2` wrote it. variant: default `all`, else the first there is.

    Raises:
        VineError: no System 2, no such variant, or files that are damaged or not the ones training wrote.
    """
    path = Path(folder)
    if not (path / storage.INFO).is_file() and (path / "system2" / storage.INFO).is_file():
        path = path / "system2"
    info = storage.read_json(path / storage.INFO)
    if info.get("format") != storage.FORMAT:
        raise VineError(
            f"format {info.get('format')} is not known", where=str(path), hint="train System 2 anew"
        )
    schema = Schema.from_json(info["schema"], where=str(path / storage.INFO))
    if "proposals" not in info.get("stages", {}):
        raise VineError("training has not finished", where=str(path), hint="run `vine train system2` again")
    shared = storage.read_shared(path, info, schema)
    eyes = storage.read_perception(path, info, schema) if "perception" in info["stages"] else None
    there = sorted(p.parent.name for p in path.glob(f"*/{storage.MODEL}"))
    name = variant or ("all" if "all" in there or not there else there[0])
    own = "all" if name == IMITATE_ALL else name
    if own not in there:
        raise VineError(
            f"no variant {name!r}", where=str(path), hint=f"trained: {', '.join(there) or 'none'}"
        )
    model = storage.read_model(path / own, shared)
    found = System2(schema, eyes, model, path, info)
    found._variants[own] = model
    return found.with_model(replace(model, imitate_all=True)) if name == IMITATE_ALL else found
