"""Camera images with the scene graph drawn over them: boxes, ids, and what the gripper holds."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.report.markup import Markup, element
from vine_vla.report.traces import Frame

WIDTH = 224.0
"""Width of a drawn frame in SVG units; the height follows the image."""

MAX_SIDE = 320
"""Larger images are scaled down before they are embedded, in pixels."""


def picture(file: Path) -> tuple[str, float]:
    """The image as a JPEG data URI, and its height over its width; VineError if it is no image."""
    try:
        with Image.open(file) as image:
            rgb = image.convert("RGB")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise VineError(f"not an image: {error}", where=str(file), hint="record the episode again") from error
    rgb.thumbnail((MAX_SIDE, MAX_SIDE))
    packed = io.BytesIO()
    rgb.save(packed, "JPEG", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode(), rgb.height / rgb.width


def held_objects(graph: SceneGraph) -> set[str]:
    return {relation.subject for relation in graph.relations if relation.predicate == "held"}


def drawn_frame(frame: Frame, camera: str, *, focus: tuple[str, ...] = (), alt: str = "") -> Markup:
    """One camera's image with the graph over it.

    Args:
        frame: what was seen.
        camera: role; another camera is taken if this one has no image.
        focus: ids of the subgoal's arguments, drawn stronger.
        alt: sentence for screen readers.
    """
    if not frame.images:
        return element("div", "no image recorded", class_="noimage")
    role = camera if camera in frame.images else next(iter(frame.images))
    uri, ratio = picture(frame.images[role])
    height = WIDTH * ratio
    shown = element("image", href=uri, width=WIDTH, height=height, preserveAspectRatio="none")
    return element(
        "svg",
        element("title", alt or f"{role} camera at step {frame.step}"),
        shown,
        element("g", _boxes(frame.graph, role, height, focus), class_="overlay") if frame.graph else None,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        class_="frame",
        role="img",
    )


def _boxes(graph: SceneGraph, role: str, height: float, focus: tuple[str, ...]) -> list[Markup]:
    held = held_objects(graph)
    classes = sorted({item.cls for item in graph.objects})
    drawn, taken = [], []
    seen = [item for item in graph.objects if role in item.boxes]
    for item in sorted(seen, key=lambda item: (item.id in focus, -item.boxes[role].area)):
        box = item.boxes[role]
        x, y = box.x_min * WIDTH, box.y_min * height
        tone = f"c{classes.index(item.cls) % 4}"
        strong = " focus" if item.id in focus else ""
        holding = " held" if item.id in held else ""
        name = f"{item.id} · held" if item.id in held else item.id
        values = ", ".join(
            f"{key} {value if isinstance(value, str) else f'{value:.2f}'}"
            for key, value in item.attributes.items()
        )
        drawn.append(
            element(
                "rect",
                element("title", f"{name} ({item.cls}){': ' + values if values else ''}"),
                x=x,
                y=y,
                width=box.width * WIDTH,
                height=box.height * height,
                class_=f"box {tone}{strong}{holding}",
            )
        )
        left, top = _place(x, y, 5.2 * len(name) + 4, taken, height)
        drawn.append(element("text", name, x=left + 2, y=top + 8.5, class_=f"id {tone}{strong}"))
    return drawn


def _place(
    x: float, y: float, width: float, taken: list[tuple[float, float, float]], height: float
) -> tuple[float, float]:
    """Top left of a label above the box, moved down line by line until it covers no earlier one."""
    left = min(max(x, 0.0), WIDTH - width)
    top = min(max(y - 11.0, 0.0), height - 11.0)
    for _ in range(12):
        if all(abs(top - t) >= 10 or left + width <= at or at + w <= left for at, t, w in taken):
            break
        top = top + 10.0 if top + 21.0 <= height else 0.0
    taken.append((left, top, width))
    return left, top
