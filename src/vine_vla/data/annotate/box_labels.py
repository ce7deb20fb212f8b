"""Boxes from a JSONL file, whoever made them (a person, a detector, a tracker), and graphs from boxes.

One object a frame and camera:

    {"episode_index": 0, "frame_index": 12, "camera": "top", "image_size": [640, 480],
     "objects": [{"label": "cup", "box": [x_min, y_min, x_max, y_max]}]}

Boxes are pixels of an image of `image_size` (width, height), their maxima exclusive. An object may also have

- `id`: its name in this episode (`cup_2`), from a tracker; then every object of the frame has one. Without
  ids objects are named by class, left to right in the episode's first annotated frame, and followed by place;
- `attributes`: words or numbers by name; every frame with the object should say them;
- `held`: true while the gripper holds it. A file that says so anywhere says of all other frames that
  nothing is held there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.core.graph import NAME, Attribute, Box, SceneGraph, SceneObject, Schema
from vine_vla.core.identity import assign_ids, match_identity
from vine_vla.core.relations import GRIP, GRIPPER, HOLDING, with_relations
from vine_vla.data.annotate.label_files import as_list, json_rows


@dataclass(frozen=True)
class LabelledObject:
    """One object in one image.

    Args:
        label: its class. box: where. id: its name in the episode, None to be given one.
        attributes: what was said of it. held: whether the gripper holds it.
    """

    label: str
    box: Box
    id: str | None
    attributes: Mapping[str, Attribute]
    held: bool


@dataclass(frozen=True)
class LabelledFrame:
    """One image's objects; `where` names file and line for errors."""

    episode: Any
    frame: Any
    camera: Any
    objects: tuple[LabelledObject, ...]
    row: Mapping[str, Any]
    where: str


def read_boxes(path: Path) -> list[LabelledFrame]:
    """All lines of a box file, in their order; episode, frame and camera are not checked here.

    Raises:
        VineError: a line is malformed; names it.
    """
    found = []
    for line, row in json_rows(path):
        where = f"{path}, line {line}"
        objects = tuple(_object(o, row, where) for o in as_list(row.get("objects"), where))
        named = [o.id for o in objects if o.id is not None]
        if named and len(named) != len(objects):
            raise VineError("some objects have an id and some have none", where=f"{where}, field objects")
        if len(set(named)) != len(named):
            raise VineError(f"two objects share an id in {named}", where=f"{where}, field id")
        found.append(
            LabelledFrame(
                row.get("episode_index"), row.get("frame_index"), row.get("camera"), objects, row, where
            )
        )
    return found


def attribute_words(frames: Sequence[LabelledFrame]) -> dict[str, tuple[str, ...]]:
    """Attribute -> its categories in alphabetical order, none for numbers.

    Raises:
        VineError: an attribute is now a word, now a number.
    """
    words: dict[str, set[str]] = defaultdict(set)
    numbers: set[str] = set()
    for frame in frames:
        for item in frame.objects:
            for name, value in item.attributes.items():
                if isinstance(value, str):
                    words[name].add(value)
                else:
                    numbers.add(name)
                if name in numbers and name in words:
                    raise VineError(
                        f"attribute {name} is now a word, now a number",
                        where=f"{frame.where}, field attributes",
                    )
    return {name: tuple(sorted(words.get(name, ()))) for name in sorted({*words, *numbers})}


def frame_graph(
    cameras: Mapping[str, Sequence[LabelledObject]],
    earlier: SceneGraph | None,
    empty: str | None,
    schema: Schema,
) -> SceneGraph:
    """The scene graph of one moment from the boxes of all cameras, relations derived.

    Objects are matched over the cameras by id, else left to right within a class.

    Args:
        cameras: role -> objects.
        earlier: the episode's first graph, whose ids are kept where the boxes name none.
        empty: what is said of a gripper that holds nothing; None where that is not known.
        schema: gives the reference camera and the predicates.
    """
    items: dict[tuple[str, str | int], dict[str, LabelledObject]] = defaultdict(dict)
    for role, labelled in cameras.items():
        seen: dict[str, int] = defaultdict(int)
        for o in sorted(labelled, key=lambda o: o.box.center[0]):
            items[o.label, o.id if o.id is not None else seen[o.label]][role] = o
            seen[o.label] += 1
    holding = any(o.held for labelled in cameras.values() for o in labelled)
    grip = HOLDING if holding else empty
    objects = []
    for (cls, name), views in items.items():
        values: dict[str, Attribute] = {GRIP: grip} if cls == GRIPPER and grip is not None else {}
        for o in views.values():
            values |= o.attributes
        boxes = {role: o.box for role, o in views.items()}
        own = name if isinstance(name, str) else f"{cls}_{name}"
        objects.append(SceneObject(own, cls, boxes, values))
    camera = schema.cameras[0]
    if any(isinstance(name, str) for _, name in items):
        named: tuple[SceneObject, ...] = tuple(objects)
    elif earlier is None:
        named = assign_ids(objects, camera)
    else:
        # Ids are kept; what is not seen in this frame is not part of its annotation.
        matched = match_identity(objects, earlier)
        present = [o.boxes for o in objects]
        named = tuple(o for o in matched if any(o.boxes == boxes for boxes in present))
    return with_relations(SceneGraph(named), camera, schema.predicates)


def image_shape(row: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Width and height of a line's image in pixels; VineError if they are not two positive numbers."""
    size = row.get("image_size")
    if isinstance(size, list) and len(size) == 2 and all(type(v) is int and v > 0 for v in size):
        return size[0], size[1]
    raise VineError(
        f"image_size is {size!r}", where=f"{where}, field image_size", hint="give [width, height] in pixels"
    )


def _object(data: Any, row: Mapping[str, Any], where: str) -> LabelledObject:
    width, height = image_shape(row, where)
    try:
        label = str(data["label"])
        x_min, y_min, x_max, y_max = (float(v) for v in data["box"])
        box = Box.from_pixels(x_min, y_min, x_max, y_max, (width, height))
        attributes = dict(data.get("attributes") or {})
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise VineError(f"malformed object: {error!r}", where=f"{where}, field objects") from error
    except VineError as error:
        raise VineError(error.what, where=f"{where}, field box") from error
    if min(box) < -0.01 or max(box) > 1.01:
        raise VineError(
            f"box {data['box']} reaches out of an image of {width} x {height}",
            where=f"{where}, field box",
            hint="image_size is width and height of the image that the box is in; cut boxes at the border",
        )
    name = data.get("id")
    _check_name(label, "label", where)
    if name is not None:
        _check_name(name, "id", where)
    return LabelledObject(label, box, name, _attributes(attributes, where), bool(data.get("held")))


def _attributes(data: Mapping[str, Any], where: str) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {}
    for name, value in data.items():
        _check_name(name, "attribute", where)
        if isinstance(value, str):
            _check_name(value, f"category of {name}", where)
            found[name] = value
        elif isinstance(value, int | float):
            found[name] = float(value)
        else:
            raise VineError(
                f"attribute {name} is {value!r}",
                where=f"{where}, field attributes",
                hint="use a word or a number, and leave out what is not known",
            )
    return found


def _check_name(name: Any, kind: str, where: str) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise VineError(
            f"malformed {kind} {name!r}", where=f"{where}, field {kind.split()[0]}", hint="use a-z, 0-9 and _"
        )
