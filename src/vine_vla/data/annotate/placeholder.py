"""The placeholder `object`: what grasp labels take hold of while no box has named it.

Grasp attempts say when, not what. Until boxes name the thing it is called `object`; once they do, segments
and verbs take their class, and their argument the id of the object in the scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema, Verb
from vine_vla.core.options import Demonstration, Segment, Subgoal
from vine_vla.core.relations import GRIPPER

PLACEHOLDER = "object"
VERB = "grasp"


def grasp_text(cls: str) -> str:
    """The sentence of a grasp that labels gave none."""
    return f"grasp the {cls.replace('_', ' ')}"


def held_classes(graphs: Iterable[SceneGraph]) -> set[str]:
    """Classes of what the gripper holds in any of the scenes."""
    return {g[r.subject].cls for g in graphs for r in g.relations if r.predicate == "held"}


def grasped_class(demonstrations: Sequence[Demonstration], held: set[str] = frozenset()) -> str | None:
    """What grasps take hold of, by the scenes: what is held, else the only class beside the gripper.

    Args:
        held: classes that are known to be held beside those of the scenes' relations.

    Returns:
        The class; None where the scenes do not say, or name several.
    """
    graphs = [g for d in demonstrations for g in d.graphs.values()]
    held = held | held_classes(graphs)
    named = held or {o.cls for g in graphs for o in g.objects} - {GRIPPER}
    return next(iter(named)) if len(named) == 1 else None


def placed(segment: Segment, cls: str, graph: SceneGraph | None, where: str) -> Segment:
    """A grasp of `cls` with the object's id in the scene where it begins, its class where there is none.

    Raises:
        VineError: the scene has no such object, or several.
    """
    found = graph.of_class(cls) if graph is not None else ()
    if graph is not None and len(found) != 1:
        raise VineError(
            f"{len(found)} objects are a {cls} where a grasp of it begins",
            where=f"{where}, frame {segment.start}",
            hint="box it there, or say by --subgoals which one is grasped; --grasped names another class",
        )
    name = found[0].id if found else cls
    old = segment.subgoal.args[0]
    text = grasp_text(cls) if segment.text == grasp_text(old) else segment.text
    return replace(segment, subgoal=Subgoal(segment.subgoal.verb, (name,)), text=text)


def is_loose(segment: Segment, demonstration: Demonstration) -> bool:
    """Whether a grasp's argument is still the placeholder, with nothing of that name in the scene."""
    graph = demonstration.graphs.get(segment.start)
    return segment.subgoal == Subgoal(VERB, (PLACEHOLDER,)) and (graph is None or PLACEHOLDER not in graph)


def named_grasps(
    demonstrations: Sequence[Demonstration],
    schema: Schema,
    cls: str | None,
    where: str,
    strict: bool = True,
) -> tuple[list[Demonstration], Schema]:
    """Demonstrations whose grasps of the placeholder take hold of what the boxes name, and their schema.

    Grasps in episodes without a scene where they begin are renamed too: a verb takes one class.

    Args:
        cls: the class, None to take `grasped_class`.
        where: dataset, for errors.
        strict: refuse what is ambiguous; without it such grasps are left as they are.

    Raises:
        VineError: it is needed and ambiguous.
    """
    loose = [(d, s) for d in demonstrations for s in d.segments if is_loose(s, d)]
    boxed = [(d, s) for d, s in loose if s.start in d.graphs]
    if not loose:
        return list(demonstrations), schema
    taken = {v.name: v.arguments for v in schema.verbs}.get(VERB)
    if cls is None and taken is not None and len(taken) == 1 and taken != (PLACEHOLDER,):
        cls = taken[0]
    cls = cls or grasped_class(demonstrations)
    if cls is None:
        if not boxed or not strict:
            return list(demonstrations), schema
        d, s = boxed[0]
        raise VineError(
            "the boxes do not say what the labelled grasps take hold of",
            where=f"{where}, episode {d.episode_id}, frame {s.start}",
            hint="name its class by --grasped CLASS, or mark it as held in some frame",
        )

    def named(segment: Segment, d: Demonstration) -> Segment:
        if not is_loose(segment, d):
            return segment
        try:
            return placed(segment, cls, d.graphs.get(segment.start), f"{where}, episode {d.episode_id}")
        except VineError:
            if strict:
                raise
            return segment

    found = [replace(d, segments=tuple(named(s, d) for s in d.segments)) for d in demonstrations]
    return found, _renamed(schema, found, cls)


def _renamed(schema: Schema, demonstrations: Sequence[Demonstration], cls: str) -> Schema:
    """`schema` with grasps of `cls`, and without the placeholder where nothing else is called so."""
    old = {v.name: v for v in schema.verbs}.get(VERB, Verb(VERB, (cls,), "grasp {0}"))
    verbs = tuple(v for v in schema.verbs if v.name != VERB)
    used = any(o.cls == PLACEHOLDER for d in demonstrations for g in d.graphs.values() for o in g.objects)
    used = used or any(PLACEHOLDER in v.arguments for v in verbs)
    kept = tuple(c for c in schema.classes if c != PLACEHOLDER or used)
    classes = kept if cls in kept else (*kept, cls)
    return replace(schema, classes=classes, verbs=(*verbs, replace(old, arguments=(cls,))))
