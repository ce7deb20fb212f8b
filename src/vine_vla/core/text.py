"""Text forms: a graph as lines with exact round trip, and subgoals as sentences.

A graph prints as one line an object and one a relation::

    cup: cup {state=full} front[0.41 0.52 0.47 0.61] wrist[0.3 0.3 0.7 0.8]
    shelf_1: shelf {colour=blue, kind=open} front[0.1 0.5 0.2 0.6]
    left_of(shelf_1, cup)

A category that is believed (`graph.Belief`) has its probabilities behind it: `kind=open~0.75~0.25`.

A subgoal's sentence uses referring expressions that are unique in the scene, which is what a
language-conditioned policy needs: `place the cup on the left blue shelf`.
"""

from __future__ import annotations

import itertools
import re

from vine_vla.core.errors import VineError
from vine_vla.core.graph import NAME, Attribute, Belief, Box, Relation, SceneGraph, SceneObject, Schema
from vine_vla.core.options import Subgoal

_OBJECT = re.compile(rf"({NAME.pattern}): ({NAME.pattern})(?: \{{(.*?)\}})?((?: {NAME.pattern}\[[^\]]*\])*)")
_RELATION = re.compile(rf"({NAME.pattern})\(({NAME.pattern}), ({NAME.pattern})\)")
_BOX = re.compile(rf"({NAME.pattern})\[([^\]]*)\]")


def format_graph(graph: SceneGraph) -> str:
    """The graph as text; `parse_graph` gives back an equal graph, floats to the last bit."""
    return "\n".join([_format_object(o) for o in graph.objects] + [str(r) for r in graph.relations])


def parse_graph(text: str) -> SceneGraph:
    """Inverse of `format_graph`; raises VineError with the number of a malformed line."""
    objects, relations = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if match := _OBJECT.fullmatch(line):
            objects.append(_parse_object(match, number))
        elif match := _RELATION.fullmatch(line):
            relations.append(Relation(match[1], match[2], match[3]))
        elif line.strip():
            raise VineError(f"malformed line {line!r}", where=f"scene graph, line {number}")
    return SceneGraph(tuple(objects), tuple(relations))


def _format_object(item: SceneObject) -> str:
    attributes = ", ".join(f"{name}={_format_value(value)}" for name, value in item.attributes.items())
    boxes = "".join(
        f" {camera}[{' '.join(repr(float(v)) for v in box)}]" for camera, box in item.boxes.items()
    )
    return f"{item.id}: {item.cls}" + (f" {{{attributes}}}" if attributes else "") + boxes


def _format_value(value: Attribute) -> str:
    """`blue`, `0.25`, or `blue~0.75~0.25` for a `Belief`."""
    if isinstance(value, Belief):
        return "~".join([value, *(repr(p) for p in value.probabilities)])
    return value if isinstance(value, str) else repr(float(value))


def _parse_value(text: str) -> Attribute:
    name, *chances = text.split("~")
    if not NAME.fullmatch(name) or name in ("nan", "inf"):
        return float(text)
    return Belief(name, [float(p) for p in chances]) if chances else name


def _parse_object(match: re.Match[str], number: int) -> SceneObject:
    attributes: dict[str, Attribute] = {}
    try:
        for pair in match[3].split(", ") if match[3] else []:
            name, value = pair.split("=")
            attributes[name] = _parse_value(value)
        boxes = {}
        for camera, numbers in _BOX.findall(match[4]):
            x_min, y_min, x_max, y_max = (float(v) for v in numbers.split())
            boxes[camera] = Box(x_min, y_min, x_max, y_max)
    except ValueError as error:
        raise VineError(f"malformed object: {error}", where=f"scene graph, line {number}") from error
    return SceneObject(match[1], match[2], boxes, attributes)


def refer(graph: SceneGraph, object_id: str, schema: Schema) -> str:
    """A phrase that singles the object out: `the cup`, `the blue shelf`, `the left blue shelf`.

    Takes the fewest describing attributes that say all that attributes can say, then, if objects are
    left that share them, the place among those from left to right in the reference camera.
    """
    target = graph[object_id]
    usable = [n for n in schema.describing if isinstance(target.attributes.get(n), str)]
    peers = _sharing(graph, target, usable)
    subsets = (list(s) for count in range(len(usable) + 1) for s in itertools.combinations(usable, count))
    names = next(s for s in subsets if _sharing(graph, target, s) == peers)
    words = [str(target.attributes[n]).replace("_", " ") for n in names]
    place = [_place(target, peers, schema.cameras[0])] if len(peers) > 1 else []
    return " ".join(["the", *place, *words, target.cls.replace("_", " ")])


def _sharing(graph: SceneGraph, target: SceneObject, names: list[str]) -> list[SceneObject]:
    return [
        o
        for o in graph.of_class(target.cls)
        if all(o.attributes.get(n) == target.attributes[n] for n in names)
    ]


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def _place(target: SceneObject, peers: list[SceneObject], camera: str) -> str:
    def key(item: SceneObject) -> tuple[float, str]:
        return (item.boxes[camera].center[0] if camera in item.boxes else 2.0, item.id)

    rank = sorted(peers, key=key).index(target)
    if len(peers) <= 3:
        return ("left", "right")[rank] if len(peers) == 2 else ("left", "middle", "right")[rank]
    return _ORDINALS[rank] if rank < len(_ORDINALS) else f"{rank + 1}th"


def describe(subgoal: Subgoal, graph: SceneGraph, schema: Schema) -> str:
    """The subgoal as a sentence for a language-conditioned policy."""
    return schema.verb(subgoal.verb).template.format(*(refer(graph, a, schema) for a in subgoal.args))
