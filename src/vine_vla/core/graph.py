"""The scene graph n = phi(s): what System 2 knows of a scene.

Objects carry an id, a class, a 2D box per camera and attributes; relations hold between them. The
gripper is an object like the others, its attributes come from proprioception. Boxes are normalised
to the image, so that a graph does not depend on resolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from vine_vla.core.errors import VineError

NAME = re.compile(r"[a-z][a-z0-9_]*")
"""What ids, classes, attributes, categories, predicates, verbs and camera roles look like."""


class Box(NamedTuple):
    """An axis-aligned box in one image, each coordinate in [0, 1] of the image's width or height.

    `x_max` and `y_max` are exclusive, so the whole image is `Box(0, 0, 1, 1)`. y points down.
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @property
    def center(self) -> tuple[float, float]:
        return (self.x_min + self.x_max) / 2, (self.y_min + self.y_max) / 2

    @property
    def width(self) -> float:
        return self.x_max - self.x_min

    @property
    def height(self) -> float:
        return self.y_max - self.y_min

    @property
    def area(self) -> float:
        return max(self.width, 0.0) * max(self.height, 0.0)

    def intersection(self, other: Box) -> float:
        """Area shared with `other`, in image areas."""
        width = min(self.x_max, other.x_max) - max(self.x_min, other.x_min)
        height = min(self.y_max, other.y_max) - max(self.y_min, other.y_min)
        return max(width, 0.0) * max(height, 0.0)

    def iou(self, other: Box) -> float:
        """Intersection over union in [0, 1]; 0 when both boxes are empty."""
        shared = self.intersection(other)
        union = self.area + other.area - shared
        return shared / union if union > 0 else 0.0

    def gap(self, other: Box) -> float:
        """Euclidean distance between the two rectangles, 0 where they meet or overlap."""
        dx = max(self.x_min - other.x_max, other.x_min - self.x_max, 0.0)
        dy = max(self.y_min - other.y_max, other.y_min - self.y_max, 0.0)
        return float((dx * dx + dy * dy) ** 0.5)

    @classmethod
    def from_pixels(
        cls, x_min: float, y_min: float, x_max: float, y_max: float, size: tuple[int, int]
    ) -> Box:
        """Box from pixel coordinates in an image of `size` (width, height); VineError if it is empty."""
        width, height = size
        if not (x_max > x_min and y_max > y_min and width > 0 and height > 0):
            raise VineError(f"box [{x_min}, {y_min}, {x_max}, {y_max}] is empty in a {width}x{height} image")
        return cls(x_min / width, y_min / height, x_max / width, y_max / height)


class Belief(str):
    """A category that is believed rather than known: the likeliest one, with the probabilities of all.

    Wherever categories are compared it is that category; packed graphs hold the probabilities, so that
    planning knows the doubt.

    Args:
        category: the likeliest. probabilities: of the attribute's categories, in the schema's order.
    """

    probabilities: tuple[float, ...]

    def __new__(cls, category: str, probabilities: Sequence[float]) -> Belief:
        belief = super().__new__(cls, category)
        belief.probabilities = tuple(float(p) for p in probabilities)
        return belief

    def __reduce__(self) -> tuple[type[Belief], tuple[str, tuple[float, ...]]]:
        return Belief, (str(self), self.probabilities)  # for copies and worker processes


Attribute = str | float
"""A category (`blue`), which may be a `Belief`, or a number (`0.25`)."""


@dataclass(frozen=True)
class SceneObject:
    """One thing in the scene.

    Args:
        id: unique in the graph and kept through the episode (`cup`, `shelf_2`).
        cls: its class (`shelf`).
        boxes: camera role -> box; a camera that does not see the object has no entry.
        attributes: attribute name -> category or number; unknown attributes have no entry.
    """

    id: str
    cls: str
    boxes: Mapping[str, Box] = field(default_factory=dict)
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", MappingProxyType(dict(self.boxes)))
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __hash__(self) -> int:
        return hash((self.id, self.cls, frozenset(self.boxes.items()), frozenset(self.attributes.items())))

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy cannot be copied to a worker process; rebuild from plain dictionaries.
        return type(self), (self.id, self.cls, dict(self.boxes), dict(self.attributes))


class Relation(NamedTuple):
    """`predicate(subject, object)`, both by id, e.g. `left_of(shelf_1, shelf_2)`."""

    predicate: str
    subject: str
    object: str

    def __str__(self) -> str:
        return f"{self.predicate}({self.subject}, {self.object})"


@dataclass(frozen=True)
class SceneGraph:
    """A node of the search: the objects, in a fixed order, and the relations between them, sorted.

    Raises:
        VineError: two objects share an id, or a relation names an object that is not there.
    """

    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...] = ()

    def __post_init__(self) -> None:
        ids = [o.id for o in self.objects]
        if len(set(ids)) != len(ids):
            raise VineError(f"two objects share an id in {ids}", hint="give every object its own id")
        for relation in self.relations:
            if relation.subject not in ids or relation.object not in ids:
                raise VineError(
                    f"relation {relation} names an unknown object", hint=f"known: {', '.join(ids)}"
                )
        object.__setattr__(self, "relations", tuple(sorted(set(self.relations))))

    def __getitem__(self, object_id: str) -> SceneObject:
        for candidate in self.objects:
            if candidate.id == object_id:
                return candidate
        raise KeyError(object_id)

    def __contains__(self, object_id: object) -> bool:
        return any(o.id == object_id for o in self.objects)

    def of_class(self, cls: str) -> tuple[SceneObject, ...]:
        return tuple(o for o in self.objects if o.cls == cls)

    def holds(self, predicate: str, subject: str, object: str) -> bool:
        return Relation(predicate, subject, object) in self.relations


@dataclass(frozen=True)
class Verb:
    """A kind of subgoal.

    Args:
        name: `place`.
        arguments: the class of each argument, `("cup", "shelf")`.
        template: its text form with one slot an argument, `place {0} on {1}`.
    """

    name: str
    arguments: tuple[str, ...]
    template: str


@dataclass(frozen=True)
class Schema:
    """The vocabulary of one dataset; `meta/vine.json` holds it and every model is tied to one.

    Args:
        classes: object classes.
        attributes: attribute name -> its categories; an empty tuple means a real number.
        predicates: names of relations.
        verbs: kinds of subgoals.
        cameras: camera roles; the first is the reference for order and relations (`front`).
        describing: attributes that referring expressions may use, most telling first (`colour`).

    Raises:
        VineError: a name is malformed or stands twice, or a verb takes an unknown class.
    """

    classes: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]
    predicates: tuple[str, ...]
    verbs: tuple[Verb, ...]
    cameras: tuple[str, ...]
    describing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        attributes = {name: tuple(values) for name, values in self.attributes.items()}
        object.__setattr__(self, "attributes", MappingProxyType(attributes))
        groups: list[tuple[str, tuple[str, ...]]] = [
            ("class", self.classes),
            ("attribute", tuple(attributes)),
            ("predicate", self.predicates),
            ("verb", tuple(v.name for v in self.verbs)),
            ("camera", self.cameras),
            *[(f"category of {name}", values) for name, values in attributes.items()],
        ]
        for kind, names in groups:
            if len(set(names)) != len(names):
                raise VineError(f"schema names a {kind} twice in {list(names)}")
            for name in names:
                if not NAME.fullmatch(name):
                    raise VineError(
                        f"schema has a malformed {kind} name {name!r}", hint="use lower case, digits and _"
                    )
        for verb in self.verbs:
            unknown = set(verb.arguments) - set(self.classes)
            if unknown:
                raise VineError(f"verb {verb.name} takes unknown classes {sorted(unknown)}")
        if not self.cameras:
            raise VineError("schema names no camera", hint="give at least one camera role, e.g. front")

    def __hash__(self) -> int:
        attributes = frozenset(self.attributes.items())
        return hash((self.classes, attributes, self.predicates, self.verbs, self.cameras, self.describing))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (
            self.classes,
            dict(self.attributes),
            self.predicates,
            self.verbs,
            self.cameras,
            self.describing,
        )

    def verb(self, name: str) -> Verb:
        """The verb called `name`; raises VineError that lists the known ones."""
        for verb in self.verbs:
            if verb.name == name:
                return verb
        raise VineError(
            f"unknown verb {name!r}", hint=f"known verbs: {', '.join(v.name for v in self.verbs)}"
        )

    def to_json(self) -> dict[str, object]:
        return {
            "classes": list(self.classes),
            "attributes": {name: list(values) for name, values in self.attributes.items()},
            "predicates": list(self.predicates),
            "verbs": [
                {"name": v.name, "arguments": list(v.arguments), "template": v.template} for v in self.verbs
            ],
            "cameras": list(self.cameras),
            "describing": list(self.describing),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object], where: str = "schema") -> Schema:
        """Inverse of `to_json`; raises VineError naming `where` if a field is missing or malformed."""
        try:
            verbs: list[Mapping[str, object]] = list(data["verbs"])  # type: ignore[call-overload]
            attributes: Mapping[str, list[str]] = dict(data["attributes"])  # type: ignore[call-overload]
            return cls(
                classes=_names(data["classes"]),
                attributes={str(name): _names(values) for name, values in attributes.items()},
                predicates=_names(data["predicates"]),
                verbs=tuple(Verb(str(v["name"]), _names(v["arguments"]), str(v["template"])) for v in verbs),
                cameras=_names(data["cameras"]),
                describing=_names(data.get("describing", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise VineError(
                f"malformed schema: {error!r}", where=where, hint="write it with Schema.to_json"
            ) from error


def _names(values: object) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, (list, tuple)):
        raise TypeError(f"expected a list of names, got {values!r}")
    return tuple(str(v) for v in values)
