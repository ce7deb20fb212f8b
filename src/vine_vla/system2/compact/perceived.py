"""Demonstrations as perception sees them: the same segments, perceived graphs under the annotated ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Demonstration
from vine_vla.core.protocols import Observation
from vine_vla.core.relations import derive_relations
from vine_vla.system2.backend import TrainingData
from vine_vla.system2.compact.perception import Perception
from vine_vla.system2.compact.perception_metrics import match


def as_perceived(
    source: TrainingData,
    chosen: Sequence[Demonstration],
    perception: Perception,
    report: Callable[[float], None] | None = None,
) -> list[Demonstration]:
    """`chosen` with the graphs that perception gives at their frames, tracked from the first on.

    Objects that perception misses are missing; a segment whose arguments are among them is left out, as
    the agent could not have chosen it. The scene after the last action has no image and keeps its
    annotated graph.
    """
    found = []
    for done, demonstration in enumerate(chosen):
        found.append(_seen(source, demonstration, perception))
        if report:
            report((done + 1) / len(chosen))
    return found


def _seen(source: TrainingData, demonstration: Demonstration, perception: Perception) -> Demonstration:
    schema = perception.schema
    frames = sorted(f for f in demonstration.graphs if f < demonstration.length)
    if not frames:
        return demonstration
    index = demonstration.episode_index
    views = {role: source.images(index, frames, role) for role in schema.cameras}
    state = source.proprioception(index)
    graphs: dict[int, SceneGraph] = {
        f: g for f, g in demonstration.graphs.items() if f >= demonstration.length
    }
    earlier: SceneGraph | None = None
    for place, frame in enumerate(frames):
        view = Observation({role: images[place] for role, images in views.items()}, state[frame])
        graph = perception.perceive_one(view, earlier)
        if earlier is None:
            graph = _renamed(graph, demonstration.graphs[frame], schema.cameras[0], schema.predicates)
        earlier = graphs[frame] = graph
    segments = tuple(
        s
        for s in demonstration.segments
        if s.start not in graphs or all(a in graphs[s.start] for a in s.subgoal.args)
    )
    return replace(demonstration, graphs=dict(sorted(graphs.items())), segments=segments)


def _renamed(graph: SceneGraph, truth: SceneGraph, camera: str, predicates: Sequence[str]) -> SceneGraph:
    """`graph` under the ids of `truth`; objects without a counterpart get numbers that are free."""
    names = {perceived: real for real, perceived in match(truth, graph, camera).items()}
    taken = {o.id for o in truth.objects} | set(names.values())
    for item in graph.objects:
        if item.id not in names:
            number = next(n for n in np.arange(1, 10_000) if f"{item.cls}_{n}" not in taken)
            names[item.id] = f"{item.cls}_{number}"
            taken.add(names[item.id])
    objects = tuple(replace(o, id=names[o.id]) for o in graph.objects)
    return SceneGraph(objects, derive_relations(objects, camera, predicates))
