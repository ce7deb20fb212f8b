"""Packed graphs: a batch of scene graphs as arrays, the form in which models and search pass them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Attribute, Belief, Box, Relation, SceneGraph, SceneObject, Schema


class PackedGraphs(NamedTuple):
    """Scene graphs as arrays.

    `...` is any batch shape, O objects (padded), C cameras, F attribute features, P predicates.

    Args:
        cls: index into the schema's classes, -1 where there is no object. int16 [..., O]
        number: the id's number, 0 for an id without one (`cup` -> 0, `shelf_2` -> 2). int16 [..., O]
        boxes: normalised x_min, y_min, x_max, y_max; 0 where not visible. float32 [..., O, C, 4]
        visible: whether the camera sees the object. bool [..., O, C]
        attributes: probabilities of categories, 0 and 1 where known, (value, known) pairs of numbers
            (`attribute_slots`). float32 [..., O, F]
        relations: predicate p holds from object i to object j. bool [..., P, O, O]
        budget: subgoals that may still be executed, >= 0. int16 [...]
    """

    cls: NDArray[np.int16]
    number: NDArray[np.int16]
    boxes: NDArray[np.float32]
    visible: NDArray[np.bool_]
    attributes: NDArray[np.float32]
    relations: NDArray[np.bool_]
    budget: NDArray[np.int16]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.budget.shape

    def select(self, index: object) -> PackedGraphs:
        """The graphs at `index` of the batch axes (any NumPy index over them)."""
        return PackedGraphs(*(array[index] for array in self))  # type: ignore[call-overload]

    def reshape(self, *shape: int) -> PackedGraphs:
        """The same graphs under another batch shape."""
        rank = len(self.batch_shape)
        lead = self.budget.reshape(*shape).shape
        return PackedGraphs(*(a.reshape(lead + a.shape[rank:]) for a in self))  # type: ignore[arg-type]

    def with_budget(self, budget: NDArray[np.integer] | int) -> PackedGraphs:
        return self._replace(budget=np.broadcast_to(np.asarray(budget, np.int16), self.batch_shape).copy())

    def digests(self) -> list[bytes]:
        """A digest a graph, equal for equal graphs; for a flat batch [B]. Shares cached model outputs."""
        arrays = [np.ascontiguousarray(array) for array in self]
        return [
            hashlib.blake2b(b"".join(a[b].tobytes() for a in arrays), digest_size=16).digest()
            for b in range(len(self.budget))
        ]


def concatenate(parts: Sequence[PackedGraphs]) -> PackedGraphs:
    """One batch from several along the first batch axis; the parts must be padded to the same O."""
    return PackedGraphs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def attribute_slots(schema: Schema) -> dict[str, slice]:
    """Where each attribute lies in the F features: one slot a category, or (value, known) for a number."""
    slots, start = {}, 0
    for name, values in schema.attributes.items():
        width = len(values) or 2
        slots[name] = slice(start, start + width)
        start += width
    return slots


def attribute_width(schema: Schema) -> int:
    """F, the number of attribute features."""
    return sum(len(values) or 2 for values in schema.attributes.values())


def pack(
    graphs: Sequence[SceneGraph], schema: Schema, *, budget: int | Sequence[int] = 0, objects: int = 0
) -> PackedGraphs:
    """Graphs as one batch [B].

    Args:
        graphs: B graphs. Ids must be `class` or `class_number`.
        schema: their vocabulary.
        budget: remaining subgoals, one for all or one a graph.
        objects: pad to at least this many objects; 0 pads to the largest graph.

    Raises:
        VineError: a graph uses a class, category, predicate or id that does not fit the schema.
    """
    count = max([objects, 1, *(len(g.objects) for g in graphs)])
    packed = empty_graphs((len(graphs),), count, schema)
    packed.budget[:] = budget
    slots = attribute_slots(schema)
    for b, graph in enumerate(graphs):
        place = {item.id: o for o, item in enumerate(graph.objects)}
        for o, item in enumerate(graph.objects):
            packed.cls[b, o] = _index(schema.classes, item.cls, "class", item.id)
            packed.number[b, o] = _number(item)
            for camera, box in item.boxes.items():
                c = _index(schema.cameras, camera, "camera", item.id)
                packed.boxes[b, o, c], packed.visible[b, o, c] = box, True
            for name, value in item.attributes.items():
                if name not in slots:
                    raise VineError(f"unknown attribute {name!r}", where=f"object {item.id}")
                packed.attributes[b, o, slots[name]] = _encode(value, name, item.id, schema)
        for relation in graph.relations:
            p = _index(schema.predicates, relation.predicate, "predicate", str(relation))
            packed.relations[b, p, place[relation.subject], place[relation.object]] = True
    return packed


def empty_graphs(shape: tuple[int, ...], objects: int, schema: Schema) -> PackedGraphs:
    """A batch of graphs without objects, to be filled in."""
    o, c, p = objects, len(schema.cameras), len(schema.predicates)
    return PackedGraphs(
        cls=np.full((*shape, o), -1, np.int16),
        number=np.zeros((*shape, o), np.int16),
        boxes=np.zeros((*shape, o, c, 4), np.float32),
        visible=np.zeros((*shape, o, c), bool),
        attributes=np.zeros((*shape, o, attribute_width(schema)), np.float32),
        relations=np.zeros((*shape, p, o, o), bool),
        budget=np.zeros(shape, np.int16),
    )


def unpack(packed: PackedGraphs, schema: Schema) -> list[SceneGraph]:
    """Inverse of `pack` for a flat batch [B], up to float32 and the order of attributes.

    A category is read as the largest of its slots if that reaches 0.5 (predicted graphs hold
    probabilities, and a `Belief` comes back without its own), a number if `known` reaches 0.5.
    """
    slots = attribute_slots(schema)
    graphs = []
    for b in range(len(packed.budget)):
        present = np.flatnonzero(packed.cls[b] >= 0)
        ids = {int(o): object_id(schema, int(packed.cls[b, o]), int(packed.number[b, o])) for o in present}
        items = []
        for o, name in ids.items():
            boxes = {
                camera: Box(*(float(v) for v in packed.boxes[b, o, c]))
                for c, camera in enumerate(schema.cameras)
                if packed.visible[b, o, c]
            }
            values = {n: _decode(packed.attributes[b, o, s], n, schema) for n, s in slots.items()}
            known = {n: v for n, v in values.items() if v is not None}
            items.append(SceneObject(name, schema.classes[packed.cls[b, o]], boxes, known))
        relations = [
            Relation(schema.predicates[p], ids[int(i)], ids[int(j)])
            for p, i, j in np.argwhere(packed.relations[b])
            if int(i) in ids and int(j) in ids
        ]
        graphs.append(SceneGraph(tuple(items), tuple(relations)))
    return graphs


def object_id(schema: Schema, cls: int, number: int) -> str:
    """The id that class index and number stand for."""
    return f"{schema.classes[cls]}_{number}" if number else schema.classes[cls]


def _index(names: tuple[str, ...], name: str, kind: str, where: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise VineError(
            f"unknown {kind} {name!r}", where=where, hint=f"the schema knows {', '.join(names)}"
        ) from None


def _number(item: SceneObject) -> int:
    if item.id == item.cls:
        return 0
    head, _, tail = item.id.rpartition("_")
    if head != item.cls or not tail.isdigit() or tail != str(int(tail)) or not 0 < int(tail) < 2**15:
        raise VineError(f"id {item.id!r} is neither {item.cls} nor {item.cls}_NUMBER", hint="use assign_ids")
    return int(tail)


def _encode(value: Attribute, name: str, where: str, schema: Schema) -> NDArray[np.float32]:
    categories = schema.attributes[name]
    if not categories:
        if isinstance(value, str):
            raise VineError(f"attribute {name} must be a number, not {value!r}", where=f"object {where}")
        return np.array([value, 1.0], np.float32)
    place = _index(categories, str(value), f"category of {name}", f"object {where}")
    if isinstance(value, Belief):
        if len(value.probabilities) != len(categories):
            raise VineError(
                f"{len(value.probabilities)} probabilities for the {len(categories)} categories of {name}",
                where=f"object {where}",
            )
        chances = np.array(value.probabilities, np.float32)
        if not (np.isfinite(chances).all() and chances.min() >= 0 and abs(chances.sum() - 1) < 1e-3):
            raise VineError(f"probabilities of {name} do not sum to 1", where=f"object {where}")
        if chances[place] < chances.max():
            raise VineError(f"{value} is not the likeliest {name}", where=f"object {where}")
        return chances
    code = np.zeros(len(categories), np.float32)
    code[place] = 1.0
    return code


def _decode(code: NDArray[np.float32], name: str, schema: Schema) -> Attribute | None:
    categories = schema.attributes[name]
    if categories:
        best = int(np.argmax(code))
        return categories[best] if code[best] >= 0.5 else None
    return float(code[0]) if code[1] >= 0.5 else None
