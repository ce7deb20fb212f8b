"""The reader: what windows show, marks in hues never seen, and which objects it learns from."""

import numpy as np
import pytest
from system2.pictures import PICTURES, PictureSource

from vine_vla.core.options import Split
from vine_vla.core.packing import attribute_slots, attribute_width
from vine_vla.system2.compact.attribute_classifier import (
    AROUND,
    SIDE,
    SPARE,
    Examples,
    readable,
    train_reader,
    windows,
)
from vine_vla.system2.compact.frames import load_frames


def test_a_window_shows_the_object_in_its_middle_and_black_outside_the_image():
    image = np.full((120, 160, 3), 90, np.uint8)
    image[40:60, 60:80] = (250, 0, 0)  # 20 pixels square
    image[0:20, 0:20] = (0, 250, 0)
    boxes = np.array([[60 / 160, 40 / 120, 80 / 160, 60 / 120], [0, 0, 20 / 160, 20 / 120]], np.float32)
    first, second = windows(image, boxes)
    assert first.shape == (SIDE, SIDE, 3)
    red = (first == (250, 0, 0)).all(-1)
    assert red[SIDE // 2, SIDE // 2] and red.mean() == pytest.approx(1 / AROUND**2, rel=0.2)
    assert (second[:10] == 0).all() and (second[SIDE // 2, SIDE // 2] == (0, 250, 0)).all()
    # An image of another size, enlarged, gives the same window.
    again = windows(np.repeat(np.repeat(image, 2, 0), 2, 1), boxes)
    assert np.abs(again.astype(int) - np.stack([first, second])).mean() < 3
    wider = windows(image, boxes, spare=SPARE)[0]
    assert np.abs(wider[4:-4, 4:-4].astype(int) - first).mean() < 3


def marked(count, hues, rng):
    """Squares with an upright or a level bar, in front and wrist camera, some seen by one alone."""
    pixels = SIDE + SPARE
    views = np.full((count, 2, pixels, pixels, 3), 128, np.uint8)
    bar = rng.integers(0, 2, count)
    for i in range(count):
        for c in range(2):
            y, x = rng.integers(16, 22, 2)
            patch = views[i, c, y : y + 20, x : x + 20]
            patch[:] = hues[rng.integers(len(hues))]
            if bar[i]:
                patch[:, 8:12] = 20
            else:
                patch[8:12] = 20
    seen = rng.random((count, 2)) > 0.2
    seen[~seen.any(1), 0] = True
    attributes = np.zeros((count, attribute_width(PICTURES)), np.float32)
    slot = attribute_slots(PICTURES)["mark"]
    attributes[np.arange(count), slot.start + bar] = 1.0
    known = np.zeros(attributes.shape, bool)
    known[:, slot] = True
    return Examples(views, seen, np.ones(count, np.int64), attributes, known)


def test_marks_are_read_in_hues_that_training_never_showed():
    rng = np.random.default_rng(0)
    slot = attribute_slots(PICTURES)["mark"]
    reader = train_reader(marked(300, [(220, 60, 40), (200, 90, 60)], rng), PICTURES, steps=80, batch=24)
    new = marked(200, [(40, 80, 230), (60, 200, 90), (230, 230, 210)], rng)
    middle = slice(SPARE // 2, SPARE // 2 + SIDE)
    views = [np.ascontiguousarray(new.views[:, c, middle, middle]) for c in range(2)]
    one_hot = np.eye(3, dtype=np.float32)[new.cls]
    raw = reader.read(views, new.seen.astype(np.float32), one_hot)
    right = raw[:, slot].argmax(-1) == new.attributes[:, slot].argmax(-1)
    assert right.mean() > 0.9


def test_what_no_hue_names_is_read_and_the_gripper_is_left_to_proprioception():
    names = attribute_slots(PICTURES)
    assert readable(PICTURES) == [names["grip"], names["mark"]]
    source = PictureSource(10)
    chosen = [d for d in source.demonstrations if d.split is Split.TRAIN]
    examples = load_frames(source, chosen, most=40, seed=0, objects=60).examples
    assert 0 < len(examples) <= 60
    assert (examples.cls == PICTURES.classes.index("brick")).all()
    assert examples.known[:, names["mark"]].all() and examples.seen.any(1).all()
    shown = examples.views[examples.seen]
    assert (shown.reshape(len(shown), -1).std(1) > 5).all()  # a brick on a table, not nothing
    assert not len(load_frames(source, chosen, most=40, seed=0).examples)
