"""The visual input of System 1: image windows at objects, and the vector that says where they were cut.

Export and run time call the same `skill_inputs`, so a policy never receives anything cut differently
from what it was trained on. A layout has one or more *slots*, each an object in every camera:

- target layout (`slots` empty): one slot, the last argument of the subgoal (the cup of
  `pick(cup)`, the shelf of `place(cup, shelf_2)`);
- scene layout: a slot for every object that a subgoal can name, ordered by class and id and padded, for
  policies that are conditioned on the instruction alone (the `flat` arm). What no subgoal can name is
  visible beside them: every slot costs such a policy steps;
- joint layout: the target's slot (`TARGET`) and then the scene's, for policies that are run both ways.
  Under the instruction alone, verb and target are zero. Under a subgoal the scene's slots are, as in the
  target layout: what stands beside the target says what operators choose, not what is asked for.

The windows of a camera are stacked downwards in one picture of `window_count * pixels` rows. In a joint
layout the target's window shows the whole image where the whole task is the target.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Box, SceneGraph, Schema
from vine_vla.core.options import Subgoal
from vine_vla.core.relations import GRIPPER
from vine_vla.storage.json import check_version, decode, typed

Image = NDArray[np.uint8]
Boxes = Mapping[str, Mapping[str, Box]]
"""Camera role -> object id -> box; an object that is not visible in a camera has no entry."""

LAYOUT = "meta/vine_crops.json"
"""Where an exported dataset keeps its crop layout."""

VERSION = 1
"""Of that file; those without one are of version 1."""

TARGET = "*"
"""Stands for a class in `CropLayout.slots`: the slot of the subgoal's target."""

SLOT_FEATURES = 7
"""Numbers per slot and camera: box (4), visible (1), centre of the window (2)."""

WINDOW_PIXELS = 80
"""Side of a stored window. Policies use 64 of them, so that 8 either way are left for shifts."""

WINDOW_SHARE = 80 / 192
"""Side of a window relative to the shorter side of the image: native resolution for 192 px images."""


@dataclass(frozen=True)
class CropLayout:
    """How crops and the environment vector are laid out; saved with datasets and policies.

    Args:
        cameras: camera roles, in order.
        verbs: verbs of the one-hot at the start of the vector; none in the scene layout.
        slots: class of each slot, or `TARGET`; empty for the target layout.
        pixels: side of a window in the stored picture.
        share: side of a window relative to the shorter side of the image.
        aspects: per camera, width and height of the image relative to its shorter side.
        windows: slots, from the first, whose windows are cut; None: all. The others are numbers alone.
    """

    cameras: tuple[str, ...]
    verbs: tuple[str, ...]
    slots: tuple[str, ...] = ()
    pixels: int = WINDOW_PIXELS
    share: float = WINDOW_SHARE
    aspects: tuple[tuple[float, float], ...] = ()
    windows: int | None = None

    @property
    def slot_count(self) -> int:
        return len(self.slots) or 1

    @property
    def window_count(self) -> int:
        """Slots whose windows are cut."""
        return self.slot_count if self.windows is None else self.windows

    @property
    def width(self) -> int:
        """Length E of the environment vector."""
        return len(self.verbs) + self.slot_count * len(self.cameras) * SLOT_FEATURES

    def pixel_size(self, camera: int) -> tuple[float, float]:
        """Width and height of one window pixel in units of the image's width and height."""
        wide, high = self.aspects[camera] if self.aspects else (1.0, 1.0)
        return self.share / self.pixels / wide, self.share / self.pixels / high

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str = "crop layout") -> CropLayout:
        """Inverse of `to_json`; raises VineError naming `where` if a field is missing or malformed."""
        data = decode(text, dict[str, Any], where)
        check_version(data, VERSION, where)
        return typed(data, cls, where)


class SkillInputs(NamedTuple):
    """What System 1 gets besides proprioception.

    Args:
        crops: camera role -> windows of the slots, stacked; none if none are cut. uint8 [window_count *
            pixels, pixels, 3]
        environment_state: verb one-hot, then per slot and camera box, visible, centre. float32 [E]
    """

    crops: dict[str, Image]
    environment_state: NDArray[np.float32]


def target_layout(
    schema: Schema, image_sizes: Mapping[str, tuple[int, int]], pixels: int = WINDOW_PIXELS
) -> CropLayout:
    """One slot at the subgoal's target; `image_sizes` is camera role -> (height, width) in pixels."""
    return CropLayout(
        schema.cameras, tuple(v.name for v in schema.verbs), (), pixels, aspects=_aspects(schema, image_sizes)
    )


def scene_layout(
    schema: Schema,
    image_sizes: Mapping[str, tuple[int, int]],
    graphs: Iterable[SceneGraph],
    pixels: int = WINDOW_PIXELS,
) -> CropLayout:
    """Slots for all arguments: as many of each class that a verb takes as the fullest graph has."""
    taken = {cls for verb in schema.verbs for cls in verb.arguments} - {GRIPPER}
    most: Counter[str] = Counter()
    for graph in graphs:
        for cls, count in Counter(o.cls for o in graph.objects).items():
            most[cls] = max(most[cls], count)
    slots = tuple(cls for cls in schema.classes if cls in taken for _ in range(most[cls]))
    if not slots:
        raise VineError(
            "no graph shows an object that a verb takes",
            hint="annotate scene graphs before exporting `flat`",
        )
    return CropLayout(schema.cameras, (), slots, pixels, aspects=_aspects(schema, image_sizes))


def joint_layout(
    schema: Schema, image_sizes: Mapping[str, tuple[int, int]], graphs: Iterable[SceneGraph]
) -> CropLayout:
    """The target layout's slot and verbs, and the scene layout's slots, without windows."""
    target, scene = target_layout(schema, image_sizes), scene_layout(schema, image_sizes, graphs)
    return replace(target, slots=(TARGET, *scene.slots), windows=0)


def with_windows(layout: CropLayout, image_sizes: Mapping[str, tuple[int, int]], pixels: int) -> CropLayout:
    """A joint layout whose target has a window of `pixels` in the resolution of the smallest image."""
    shortest = min(min(image_sizes[camera]) for camera in layout.cameras)
    return replace(layout, windows=1, pixels=pixels, share=min(1.0, pixels / shortest))


def _aspects(schema: Schema, image_sizes: Mapping[str, tuple[int, int]]) -> tuple[tuple[float, float], ...]:
    sizes = [image_sizes[camera] for camera in schema.cameras]
    return tuple((width / min(height, width), height / min(height, width)) for height, width in sizes)


def graph_boxes(graph: SceneGraph) -> dict[str, dict[str, Box]]:
    """The boxes of a graph, by camera and object id."""
    found: dict[str, dict[str, Box]] = {}
    for item in graph.objects:
        for camera, box in item.boxes.items():
            found.setdefault(camera, {})[item.id] = box
    return found


def slot_ids(
    layout: CropLayout, subgoal: Subgoal | None, classes: Mapping[str, str]
) -> tuple[str | None, ...]:
    """Which object each slot shows; None where the scene has no such object.

    Args:
        layout: of any kind.
        subgoal: whose last argument the target's slot shows.
        classes: object id -> class of the scene's objects, for the scene's slots.
    """
    target = subgoal.args[-1] if subgoal is not None and subgoal.args else None
    if not layout.slots:
        return (target,)
    waiting: dict[str, list[str]] = {} if target is None else {TARGET: [target]}
    if target is None or TARGET not in layout.slots:
        for name in sorted(classes, key=_id_order, reverse=True):
            waiting.setdefault(classes[name], []).append(name)
    return tuple(waiting[cls].pop() if waiting.get(cls) else None for cls in layout.slots)


def _id_order(name: str) -> tuple[str, int]:
    stem, _, number = name.rpartition("_")
    return (stem, int(number)) if stem and number.isdigit() else (name, 0)


def skill_inputs(
    images: Mapping[str, Image],
    boxes: Boxes,
    layout: CropLayout,
    subgoal: Subgoal | None,
    ids: Sequence[str | None],
) -> SkillInputs:
    """Windows at the boxes of `ids` in every camera, and the environment vector.

    Args:
        images: camera role -> RGB image. uint8 [height, width, 3]
        boxes: where the objects are now, normalised.
        layout: slots and sizes; `ids` has one entry a slot (`slot_ids`).
        subgoal: its verb sets the one-hot; None leaves it zero, and the target's window shows the whole
            image.

    A slot whose object the camera does not show is a black window with zeros for its seven numbers.
    """
    size, windows, verbs = layout.pixels, layout.window_count, len(layout.verbs)
    environment = np.zeros(layout.width, np.float32)
    if subgoal is not None and layout.verbs:
        if subgoal.verb not in layout.verbs:
            raise VineError(f"unknown verb {subgoal.verb!r}", hint=f"known verbs: {', '.join(layout.verbs)}")
        environment[layout.verbs.index(subgoal.verb)] = 1.0
    numbers = environment[verbs:].reshape(layout.slot_count, len(layout.cameras), SLOT_FEATURES)
    crops = {}
    for c, camera in enumerate(layout.cameras):
        picture = np.zeros((windows * size, size, 3), np.uint8)
        visible = boxes.get(camera, {})
        for s, name in enumerate(ids):
            box = visible.get(name) if name is not None else None
            window = picture[s * size : (s + 1) * size] if s < windows else None
            if box is not None:
                numbers[s, c] = *box, 1.0, *cut_window(images[camera], box.center, layout.share, window)
            elif window is not None and subgoal is None and layout.slots[s : s + 1] == (TARGET,):
                window[:] = _resample(images[camera], size)
        if windows:
            crops[camera] = picture
    return SkillInputs(crops, environment)


def cut_window(
    image: Image, center: tuple[float, float], share: float, out: Image | None
) -> tuple[float, float]:
    """Cut the square window around `center` out of `image` into `out`; black beyond the border.

    Args:
        image: uint8 [height, width, 3].
        center: x and y, normalised; where the window should be centred.
        share: side of the window relative to the image's shorter side.
        out: where the window is written, zeroed, uint8 [pixels, pixels, 3]; resampled if sizes differ. None:
            nothing is cut.

    Returns:
        x and y of the window's true centre, normalised: windows start at whole pixels.
    """
    height, width = image.shape[:2]
    side = max(1, round(share * min(height, width)))
    left, top = round(center[0] * width - side / 2), round(center[1] * height - side / 2)
    x0, x1 = max(left, 0), min(left + side, width)
    y0, y1 = max(top, 0), min(top + side, height)
    if out is not None and x1 > x0 and y1 > y0:
        if side == len(out):
            out[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
        else:
            window = np.zeros((side, side, 3), np.uint8)
            window[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
            out[:] = _resample(window, len(out))
    return (left + side / 2) / width, (top + side / 2) / height


def _resample(window: Image, pixels: int) -> Image:
    from PIL import Image as Pillow

    return np.asarray(Pillow.fromarray(window).resize((pixels, pixels), Pillow.Resampling.BOX))
