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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from vine_vla.core.errors import VineError
from vine_vla.core.graph import NAME, Attribute, Box, SceneGraph, SceneObject, Schema
from vine_vla.core.identity import assign_ids, match_identity
from vine_vla.core.relations import GRIP, GRIPPER, HOLDING, PREDICATES, with_relations
from vine_vla.data.annotate.label_files import EpisodeRow, json_rows
from vine_vla.data.annotate.labels import Labels, union
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.data.lerobot.tables import image_size
from vine_vla.data.sidecars.boxes import BoxTable

GRIPS = ("open", "holding", "empty")
SHAPE_TOLERANCE = 0.02
"""By which share the width to height of a boxed image may differ from the camera's: sizes are rounded."""


class _BoxedObject(msgspec.Struct):
    label: str
    box: tuple[float, float, float, float]
    id: str | None = None
    attributes: dict[str, str | float | bool] | None = None
    held: bool | None = None


class _BoxedFrame(EpisodeRow, kw_only=True):
    frame_index: int
    camera: str
    objects: list[_BoxedObject]
    image_size: tuple[Annotated[int, msgspec.Meta(gt=0)], Annotated[int, msgspec.Meta(gt=0)]] | None = None


@dataclass(frozen=True)
class LabelledObject:
    """One object in one image.

    Args:
        label: its class. box: where. id: its name in the episode, None to be given one.
        attributes: those that are known. held: whether the gripper holds it.
    """

    label: str
    box: Box
    id: str | None
    attributes: Mapping[str, Attribute]
    held: bool


@dataclass(frozen=True)
class LabelledFrame:
    """One image's objects.

    Args:
        episode, frame: numbers. camera: role. objects: in the image.
        where: file and line, for errors.
    """

    episode: int
    frame: int
    camera: str
    objects: tuple[LabelledObject, ...]
    where: str


def add_boxes(labels: Labels, path: Path, closed: Callable[[], Mapping[tuple[int, int], bool]]) -> set[str]:
    """Add boxes from a file, and a scene graph a frame from the boxes of all its cameras.

    Args:
        labels: of the dataset, added to.
        path: of the boxes, see above.
        closed: gives (episode, frame) -> whether the gripper is commanded to be closed; empty if not known.

    Returns:
        Classes of the objects that are held in some frame.

    Raises:
        VineError: a line is malformed, does not fit the dataset, or boxes an image again.
    """
    frames = _read_frames(labels, path)
    cameras: dict[tuple[int, int], dict[str, LabelledFrame]] = defaultdict(dict)
    for frame in frames:
        here = cameras[frame.episode, frame.frame]
        if earlier := here.get(frame.camera):
            raise VineError(
                f"frame {frame.frame} of episode {frame.episode} is boxed twice for camera {frame.camera}",
                where=f"{frame.where}, frame_index",
                hint=f"put all its objects into one line, see {earlier.where}",
            )
        here[frame.camera] = frame
    objects = [o for frame in frames for o in frame.objects]
    held = {o.label for o in objects if o.held}
    classes = union(labels.schema.classes, {o.label for o in objects})
    labels.extend_schema(
        classes=classes,
        attributes=_new_attributes(labels.schema, frames, GRIPPER in classes),
        predicates=() if labels.schema.predicates else PREDICATES,
    )
    is_closed = closed() if held and GRIPPER in classes else {}
    first: dict[int, SceneGraph] = {}
    rows: dict[int, list[tuple[int, int, str, Box]]] = defaultdict(list)
    for (index, frame_index), views in sorted(cameras.items()):
        empty = ("empty" if is_closed.get((index, frame_index)) else "open") if held else None
        boxed = {role: view.objects for role, view in views.items()}
        graph = frame_graph(boxed, first.get(index), empty, labels.schema)
        first.setdefault(index, graph)
        labels.change(index, graphs={**labels.demonstrations[index].graphs, frame_index: graph})
        rows[index] += [
            (frame_index, labels.schema.cameras.index(role), o.id, box)
            for o in graph.objects
            for role, box in o.boxes.items()
        ]
    for index, some in rows.items():
        labels.boxes[labels.demonstrations[index].episode_id] = BoxTable.of(some)
    return held


def _read_frames(labels: Labels, path: Path) -> list[LabelledFrame]:
    """All lines of a box file, in their order, checked against the dataset."""
    frames = []
    for where, row in json_rows(path, _BoxedFrame):
        index = labels.episode_of(row, where)
        length = labels.demonstrations[index].length
        if not 0 <= row.frame_index < length:
            raise VineError(f"frame {row.frame_index} of {length}", where=f"{where}, field frame_index")
        role = _role(labels.dataset, row.camera, where)
        objects: tuple[LabelledObject, ...] = ()
        if row.objects:
            size = _checked_size(labels.dataset, role, row, where)
            objects = tuple(_object(o, size, where) for o in row.objects)
        ids = [o.id for o in objects if o.id is not None]
        if ids and len(ids) != len(objects):
            raise VineError("some objects have an id and some have none", where=f"{where}, field objects")
        if len(set(ids)) != len(ids):
            raise VineError(f"two objects share an id in {ids}", where=f"{where}, field id")
        frames.append(LabelledFrame(index, row.frame_index, role, objects, where))
    return frames


def _role(dataset: DemoDataset, camera: str, where: str) -> str:
    for role, key in dataset.cameras.items():
        if camera in (role, key):
            return role
    known = ", ".join(dataset.cameras.values())
    raise VineError(f"unknown camera {camera!r}", where=f"{where}, field camera", hint=f"cameras: {known}")


def _checked_size(dataset: DemoDataset, role: str, row: _BoxedFrame, where: str) -> tuple[int, int]:
    """Width and height of the boxed image: a smaller or larger copy of the camera's, of the same shape."""
    true_height, true_width = image_size(dataset.files.features[dataset.cameras[role]])
    if row.image_size is None:
        what = "no image_size"
    else:
        width, height = row.image_size
        if abs(width * true_height / (height * true_width) - 1) <= SHAPE_TOLERANCE:
            return width, height
        what = f"image_size is {width} x {height}"
    raise VineError(
        f"{what}, camera {role} has {true_width} x {true_height}",
        where=f"{where}, field image_size",
        hint="give [width, height] of the image that was boxed, in pixels",
    )


def _new_attributes(
    schema: Schema, frames: Sequence[LabelledFrame], gripper: bool
) -> dict[str, tuple[str, ...]]:
    """Attributes to add to the schema: categories that are new come after the known ones."""
    words = attribute_words(frames)
    if gripper and GRIP not in schema.attributes:
        words[GRIP] = union(GRIPS, words.get(GRIP, ()))
    for name, categories in words.items():
        known = schema.attributes.get(name)
        if known is not None and bool(known) is not bool(categories):
            raise VineError(
                f"attribute {name} of the boxes does not fit the vocabulary, which has"
                f" {'words' if known else 'a number'}",
                where=frames[0].where if frames else "",
            )
        words[name] = union(known or (), categories)
    return words


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
        empty: attribute of a gripper that holds nothing; None where that is not known.
        schema: gives the reference camera and the predicates.
    """
    items: dict[tuple[str, str | int], dict[str, LabelledObject]] = defaultdict(dict)
    for role, labelled in cameras.items():
        count: dict[str, int] = defaultdict(int)
        for o in sorted(labelled, key=lambda o: o.box.center[0]):
            items[o.label, o.id if o.id is not None else count[o.label]][role] = o
            count[o.label] += 1
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
        # Ids are kept; what is not boxed in this frame is not part of its annotation.
        matched = match_identity(objects, earlier)
        present = [o.boxes for o in objects]
        named = tuple(o for o in matched if any(o.boxes == boxes for boxes in present))
    return with_relations(SceneGraph(named), camera, schema.predicates)


def _object(data: _BoxedObject, size: tuple[int, int], where: str) -> LabelledObject:
    try:
        box = Box.from_pixels(*data.box, size)
    except VineError as error:
        raise VineError(error.what, where=f"{where}, field box") from error
    if min(box) < -0.01 or max(box) > 1.01:
        raise VineError(
            f"box {list(data.box)} reaches out of an image of {size[0]} x {size[1]}",
            where=f"{where}, field box",
            hint="image_size is width and height of the image that the box is in; cut boxes at the border",
        )
    attributes = data.attributes or {}
    words = [("label", data.label), *([("id", data.id)] if data.id is not None else [])]
    words += [("attribute", name) for name in attributes]
    words += [(f"category of {name}", value) for name, value in attributes.items() if isinstance(value, str)]
    for kind, word in words:
        if not NAME.fullmatch(word):
            raise VineError(
                f"malformed {kind} {word!r}",
                where=f"{where}, field {kind.split()[0]}",
                hint="use a-z, 0-9 and _",
            )
    values = {name: v if isinstance(v, str) else float(v) for name, v in attributes.items()}
    return LabelledObject(data.label, box, data.id, values, bool(data.held))
