"""Camera images with the scene graph over them: boxes, ids, and what the gripper holds."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.report.traces import HINT, Frame

WIDTH = 224.0
"""Width of a drawn frame in SVG units; the height follows the image."""

MAX_SIDE = 320
"""Larger images are scaled down before they are embedded, in pixels."""

TONES = 4
"""Colours of boxes, one a class, in turn."""


class DrawnBox(NamedTuple):
    """A box with its label, in SVG units; `left` and `top` are the label's corner."""

    x: float
    y: float
    width: float
    height: float
    name: str
    title: str
    tone: str
    held: bool
    left: float
    top: float


class DrawnFrame(NamedTuple):
    """One camera's image as a data URI, with the boxes over it."""

    uri: str
    height: float
    boxes: list[DrawnBox]


def drawn_frame(frame: Frame | None, camera: str, focus: Sequence[str] = ()) -> DrawnFrame | None:
    """One camera's image with the graph over it; None if there is no image.

    Args:
        frame: images and graph of a step.
        camera: role; another camera is taken if this one has no image.
        focus: ids of the subgoal's arguments, drawn stronger.
    """
    if frame is None or not frame.images:
        return None
    role = camera if camera in frame.images else next(iter(frame.images))
    uri, ratio = embedded(Path(frame.images[role]))
    height, graph = WIDTH * ratio, frame.graph
    return DrawnFrame(uri, height, _boxes(graph, role, height, focus) if graph else [])


def embedded(file: Path) -> tuple[str, float]:
    """The image as a JPEG data URI, and its height over its width; VineError if it is no image."""
    try:
        with Image.open(file) as image:
            rgb = image.convert("RGB")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise VineError(f"not an image: {error}", where=str(file), hint=HINT) from error
    rgb.thumbnail((MAX_SIDE, MAX_SIDE))
    packed = io.BytesIO()
    rgb.save(packed, "JPEG", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode(), rgb.height / rgb.width


def held_objects(graph: SceneGraph) -> set[str]:
    return {relation.subject for relation in graph.relations if relation.predicate == "held"}


def _boxes(graph: SceneGraph, role: str, height: float, focus: Sequence[str]) -> list[DrawnBox]:
    held, classes = held_objects(graph), sorted({item.cls for item in graph.objects})
    visible = [item for item in graph.objects if role in item.boxes]
    drawn: list[DrawnBox] = []
    for item in sorted(visible, key=lambda item: (item.id in focus, -item.boxes[role].area)):
        box = item.boxes[role]
        x, y = box.x_min * WIDTH, box.y_min * height
        name = f"{item.id} · held" if item.id in held else item.id
        values = ", ".join(
            f"{key} {value if isinstance(value, str) else f'{value:.2f}'}"
            for key, value in item.attributes.items()
        )
        drawn.append(
            DrawnBox(
                *(x, y, box.width * WIDTH, box.height * height),
                name=name,
                title=f"{name} ({item.cls}){': ' + values if values else ''}",
                tone=f"c{classes.index(item.cls) % TONES}{' focus' if item.id in focus else ''}",
                held=item.id in held,
                **_label_place(x, y, name, drawn, height),
            )
        )
    return drawn


def _label_place(x: float, y: float, name: str, drawn: Sequence[DrawnBox], height: float) -> dict[str, float]:
    """Corner of a label above its box, moved down line by line until it covers no earlier one."""
    width = _label_width(name)
    left = min(max(x, 0.0), WIDTH - width)
    top = min(max(y - 11.0, 0.0), height - 11.0)
    for _ in range(12):
        if all(
            abs(top - b.top) >= 10 or left + width <= b.left or b.left + _label_width(b.name) <= left
            for b in drawn
        ):
            break
        top = top + 10.0 if top + 21.0 <= height else 0.0
    return {"left": left, "top": top}


def _label_width(name: str) -> float:
    return 5.2 * len(name) + 4
