"""Repairing sidecars that older versions left unreadable, without losing a label.

They could end in segments whose arguments are not in the scene where they begin: grasps of the placeholder
`object` in episodes that were boxed later, or grasps of a class of which the scene has several. Reading
refuses those. A repair names the object where the boxes say which it is. Where they do not, the segment keeps
its frames, text, outcome and its source under a verb without arguments (`grasp_unnamed`), for a person to
name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema, Verb
from vine_vla.core.options import Demonstration, Segment, Subgoal, check_subgoal
from vine_vla.data.annotate.labels import Labels
from vine_vla.data.annotate.placeholder import named_grasps
from vine_vla.data.lerobot.dataset import open_dataset, read_annotated
from vine_vla.data.lerobot.tables import read_files
from vine_vla.storage.transaction import META, NEXT, locked

UNNAMED = "_unnamed"


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a dataset's sidecars.

    Args:
        fault: why it cannot be opened, None if it can.
        changes: what a repair does about it, one line each.
        repairable: whether it then can be opened.
    """

    fault: VineError | None
    changes: tuple[str, ...] = ()
    repairable: bool = True


def examine(root: Path, grasped: str | None = None) -> Diagnosis:
    """Say what is wrong and what `repair` would do; nothing is written.

    Args:
        root: dataset folder.
        grasped: class of what grasps of the placeholder take hold of; default what the boxes say.

    Raises:
        VineError: no LeRobot dataset.
    """
    read_files(root)
    pending = ("finish writing sidecars, which was interrupted",) if (root / META / NEXT).is_dir() else ()
    try:
        open_dataset(root).check_boxes()
    except VineError as fault:
        try:
            return Diagnosis(fault, (*pending, *_repaired(root, grasped)[1]))
        except VineError:
            return Diagnosis(fault, pending, repairable=False)
    return Diagnosis(None, pending)


def repair(root: Path, grasped: str | None = None) -> Diagnosis:
    """Do what `examine` says, in one transaction.

    Raises:
        VineError: it cannot be repaired, or written; nothing has changed then.
    """
    diagnosis = examine(root, grasped)
    if diagnosis.fault is not None and not diagnosis.repairable:
        raise diagnosis.fault
    if diagnosis.changes:
        with locked(root):  # finishes an interrupted write
            if diagnosis.fault is not None:
                _repaired(root, grasped)[0].write(root)
    return diagnosis


def _repaired(root: Path, grasped: str | None) -> tuple[Labels, tuple[str, ...]]:
    """The labels as they can be read, and what was changed; VineError where the fault is another one."""
    dataset = read_annotated(root, read_files(root), check_verbs=False)
    if dataset is None:
        raise VineError("no sidecars", where=str(root))
    dataset.check_boxes()
    labels = Labels(dataset)
    named, schema = named_grasps(labels.demonstrations, labels.schema, grasped, str(root), strict=False)
    fitting = [replace(d, segments=tuple(_fitting(s, d, schema) for s in d.segments)) for d in named]
    used = {s.subgoal.verb: s for d in fitting for s in d.segments}
    fresh = [
        Verb(name, (), s.text or name.replace("_", " "))
        for name, s in sorted(used.items())
        if name not in {v.name for v in schema.verbs}
    ]
    changes = tuple(
        f"episode {d.episode_id}, frames {old.start} to {old.end}: {old.subgoal} becomes {new.subgoal}"
        for d, after in zip(dataset.demonstrations, fitting, strict=True)
        for old, new in zip(d.segments, after.segments, strict=True)
        if old.subgoal != new.subgoal
    )
    labels.demonstrations = fitting
    labels.schema = replace(schema, verbs=(*schema.verbs, *fresh))
    if not changes:
        raise VineError("nothing to repair", where=str(root))
    return labels, changes


def _fitting(segment: Segment, d: Demonstration, schema: Schema) -> Segment:
    """`segment` with arguments that are in the scene where it begins, or without arguments."""
    graph, subgoal = d.graphs.get(segment.start), segment.subgoal
    verb = next((v for v in schema.verbs if v.name == subgoal.verb), None)
    if verb is not None and len(verb.arguments) == len(subgoal.args):
        if graph is None or _fits(subgoal, graph, schema):
            return segment
        ids = [_only(graph, cls, a) for cls, a in zip(verb.arguments, subgoal.args, strict=True)]
        if all(ids):
            return replace(segment, subgoal=Subgoal(verb.name, tuple(i for i in ids if i)))
    return replace(segment, subgoal=Subgoal(subgoal.verb + UNNAMED, ()))


def _fits(subgoal: Subgoal, graph: SceneGraph, schema: Schema) -> bool:
    try:
        check_subgoal(subgoal, graph, schema)
    except VineError:
        return False
    return True


def _only(graph: SceneGraph, cls: str, name: str) -> str | None:
    """The object that `name` can only mean: itself, or where it is a class the only one of it."""
    if name in graph and graph[name].cls == cls:
        return name
    found = graph.of_class(cls)
    return found[0].id if name == cls and len(found) == 1 else None
