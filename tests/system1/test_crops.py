"""Geometry of crops: what stands where in a window, and what the vector says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from system1.toy import SCHEMA

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Box, SceneGraph, SceneObject
from vine_vla.core.options import Subgoal
from vine_vla.data.export.crops import (
    TARGET,
    CropLayout,
    cut_window,
    graph_boxes,
    joint_layout,
    scene_layout,
    skill_inputs,
    slot_ids,
    target_layout,
    with_windows,
)

SIZES = {"front": (192, 192), "wrist": (192, 192)}


def coordinates(height: int = 192, width: int = 192) -> np.ndarray:
    """An image whose red is the column and whose green is the row; blue marks the inside."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x, y, np.full_like(x, 255)], -1).astype(np.uint8)


@given(st.floats(-0.3, 1.3), st.floats(-0.3, 1.3))
def test_window_shows_its_pixels_and_black_beyond(x: float, y: float) -> None:
    image, out = coordinates(), np.zeros((80, 80, 3), np.uint8)
    center = cut_window(image, (x, y), 80 / 192, out)
    left, top = round(center[0] * 192 - 40), round(center[1] * 192 - 40)
    assert abs(center[0] - x) <= 0.5 / 192 + 1e-9 and abs(center[1] - y) <= 0.5 / 192 + 1e-9
    rows, columns = np.mgrid[top : top + 80, left : left + 80]
    inside = (rows >= 0) & (rows < 192) & (columns >= 0) & (columns < 192)
    assert np.array_equal(out[..., 2] == 255, inside)
    assert np.array_equal(out[..., 0][inside], columns[inside])
    assert np.array_equal(out[..., 1][inside], rows[inside])


def test_window_of_another_resolution_is_resampled_to_the_same_view() -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    image[40:56, 48:64] = 200
    out = np.zeros((80, 80, 3), np.uint8)
    center = cut_window(image, (0.5, 0.5), 80 / 192, out)
    assert center == (0.5, 0.5)
    assert out[24:56, 40:72].min() == 200 and out.sum() == 3 * 200 * 32 * 32


def test_environment_vector() -> None:
    layout = target_layout(SCHEMA, SIZES)
    box = Box(0.25, 0.5, 0.35, 0.6)
    inputs = skill_inputs(
        {c: coordinates() for c in SIZES},
        {"front": {"block_2": box}},
        layout,
        Subgoal("leave", ("block_2",)),
        ("block_2",),
    )
    assert layout.width == len(inputs.environment_state) == 2 + 2 * 7
    verb, front, wrist = np.split(inputs.environment_state, [2, 9])
    assert verb.tolist() == [0, 1]
    assert front[:5] == pytest.approx([*box, 1.0])
    left = round(0.3 * 192 - 40)
    assert front[5:] == pytest.approx([(left + 40) / 192, (round(0.55 * 192 - 40) + 40) / 192])
    assert not wrist.any() and not inputs.crops["wrist"].any()
    assert inputs.crops["front"][0, 40, 0] == left + 40


def test_pixel_size_is_that_of_the_stored_window() -> None:
    square = CropLayout(("front",), ())
    wide = CropLayout(("front",), (), aspects=((640 / 480, 1.0),))
    assert square.pixel_size(0) == pytest.approx((1 / 192, 1 / 192))
    # 80 / 192 of 480 rows are 200 source pixels in 80 stored ones: 2.5 source pixels each.
    assert wide.pixel_size(0) == pytest.approx((2.5 / 640, 2.5 / 480))


def test_scene_slots_are_ordered_by_class_and_number_and_padded() -> None:
    def graph(*ids: str) -> SceneGraph:
        return SceneGraph((SceneObject("gripper", "gripper"), *(SceneObject(i, "block") for i in ids)))

    layout = scene_layout(SCHEMA, SIZES, [graph("block_1"), graph("block_1", "block_2", "block_10")])
    assert layout.slots == ("block",) * 3
    assert layout.width == 3 * 2 * 7
    classes = {"block_10": "block", "block_2": "block", "gripper": "gripper"}
    assert slot_ids(layout, None, classes) == ("block_2", "block_10", None)
    assert CropLayout.from_json(layout.to_json()) == layout


def test_joint_layout_has_the_target_and_then_the_scene() -> None:
    blocks = SceneGraph((SceneObject("block_1", "block"), SceneObject("block_2", "block")))
    layout = joint_layout(SCHEMA, SIZES, [blocks])
    assert layout.slots == (TARGET, "block", "block")
    classes = {o.id: o.cls for o in blocks.objects}
    assert slot_ids(layout, Subgoal("leave", ("block_2",)), classes) == ("block_2", None, None)
    assert slot_ids(layout, None, classes) == (None, "block_1", "block_2")
    assert CropLayout.from_json(layout.to_json()) == layout


def test_a_window_at_the_target_or_the_whole_image() -> None:
    """A joint layout with windows: of the subgoal's target, and of everything for the whole task."""
    blocks = SceneGraph((SceneObject("block_1", "block"), SceneObject("block_2", "block")))
    layout = with_windows(joint_layout(SCHEMA, SIZES, [blocks]), SIZES, 48)
    images = {c: coordinates() for c in SIZES}
    boxes = {"front": {"block_2": Box(0.25, 0.5, 0.35, 0.6)}}
    ids = ("block_2", None, None)
    inputs = skill_inputs(images, boxes, layout, Subgoal("leave", ("block_2",)), ids)
    left, top = round(0.3 * 192 - 24), round(0.55 * 192 - 24)
    assert np.array_equal(inputs.crops["front"], images["front"][top : top + 48, left : left + 48])
    assert not inputs.crops["wrist"].any()  # the camera does not see it
    everything = (None, "block_1", "block_2")
    whole = skill_inputs(images, boxes, layout, None, everything).crops["front"]
    assert whole.shape == (48, 48, 3)
    assert np.abs(whole.astype(int) - images["front"].reshape(48, 4, 48, 4, 3).mean((1, 3))).max() <= 1
    assert not skill_inputs(
        images, boxes, replace(layout, windows=0), None, (None, "block_1", "block_2")
    ).crops
    assert CropLayout.from_json(layout.to_json()) == layout


def test_target_is_the_last_argument() -> None:
    layout = target_layout(SCHEMA, SIZES)
    assert slot_ids(layout, Subgoal("insert", ("plug", "socket_2")), {}) == ("socket_2",)
    with pytest.raises(VineError, match="unknown verb"):
        skill_inputs({}, {}, layout, Subgoal("fly", ("block",)), ("block",))


def test_graph_boxes() -> None:
    box = Box(0, 0, 1, 1)
    graph = SceneGraph((SceneObject("a", "block", {"front": box}), SceneObject("b", "block")))
    assert graph_boxes(graph) == {"front": {"a": box}}


def test_malformed_layout_names_the_file() -> None:
    with pytest.raises(VineError, match="here"):
        CropLayout.from_json('{"cameras": []}', "here")
