"""Perception on drawn scenes: boxes, classes, attributes, both cameras, tracking, bad input."""

from dataclasses import replace

import numpy as np
import pytest
from system2.pictures import PICTURES, PictureSource, scene, view

from vine_vla import Belief, VineError
from vine_vla.core.options import Split
from vine_vla.core.packing import attribute_slots
from vine_vla.core.protocols import Observation
from vine_vla.system2.compact.detector import SIZE, shrink
from vine_vla.system2.compact.frames import choose_frames, constant_attributes, load_frames
from vine_vla.system2.compact.perceived import as_perceived
from vine_vla.system2.compact.perception_metrics import measure
from vine_vla.system2.compact.perception_training import PerceptionConfig, train_perception


@pytest.fixture(scope="module")
def source():
    return PictureSource(100)


@pytest.fixture(scope="module")
def eyes(source):
    train = [d for d in source.demonstrations if d.split is Split.TRAIN]
    frames = load_frames(source, train, most=600, seed=0, objects=1500)
    config = PerceptionConfig(steps=80, frames=600, width=48, reader=1.25)
    return train_perception(frames, PICTURES, constant_attributes(train), config)


def test_sees_unseen_scenes(source, eyes):
    held = [d for d in source.demonstrations if d.split is not Split.TRAIN]
    found = measure(eyes, load_frames(source, held, most=80, seed=0))
    assert found["box_iou"]["front"] > 0.6 and found["box_iou"]["wrist"] > 0.5
    assert found["class_accuracy"] > 0.9
    assert found["attribute_accuracy_by_name"]["brick.colour"] > 0.9
    assert found["attribute_accuracy_by_name"]["brick.mark"] > 0.9
    assert found["relation_f1"] > 0.75
    assert found["attribute_error_by_name"]["plate.size"] < 0.03


def test_perceives_and_tracks(eyes):
    same, kept = [], []
    for seed in range(12):
        rng = np.random.default_rng([1, seed])
        items = scene(rng)
        first, second = view(items, rng), view(items, rng)
        graph = eyes.perceive_one(Observation(first[0], first[1]))
        later = eyes.perceive_one(Observation(second[0], second[1]), graph)
        assert [o.id for o in later.objects] == [o.id for o in graph.objects]
        for o in graph.objects:
            if o.cls != "gripper" and "front" in o.boxes and "front" in later[o.id].boxes:
                gap = np.subtract(o.boxes["front"].center, later[o.id].boxes["front"].center)
                same.append(np.hypot(*gap) < 0.1)  # nothing but the hand has moved
                kept.append(o.attributes["colour"] == later[o.id].attributes["colour"])
    assert np.mean(same) > 0.95 and np.mean(kept) == 1.0


def test_what_is_seen_badly_is_believed_not_known(eyes):
    doubts = {"clear": [], "blurred": []}
    for seed in range(12):
        rng = np.random.default_rng([2, seed])
        images, state, _ = view(scene(rng), rng)
        grey = {c: (0.1 * i + 0.9 * i.mean((0, 1))).astype(np.uint8) for c, i in images.items()}
        for name, shown in (("clear", images), ("blurred", grey)):
            graph = eyes.perceive_one(Observation(shown, state))
            values = [o.attributes["mark"] for o in graph.of_class("brick")]
            doubts[name] += [isinstance(v, Belief) for v in values]
            for v in values:
                if isinstance(v, Belief):
                    chances = dict(zip(PICTURES.attributes["mark"], v.probabilities, strict=True))
                    assert max(chances, key=chances.get) == v and sum(chances.values()) == pytest.approx(1)
    assert np.mean(doubts["blurred"]) > np.mean(doubts["clear"])


def test_any_image_size(eyes):
    rng = np.random.default_rng(5)
    items = scene(rng)
    images, state, _ = view(items, rng)
    large = {c: np.repeat(np.repeat(i, 3, 0), 2, 1) for c, i in images.items()}
    a, b = (eyes.perceive_one(Observation(x, state)) for x in (images, large))
    assert [o.id for o in a.objects] == [o.id for o in b.objects]
    for o in a.objects:
        for camera in o.boxes:
            assert o.boxes[camera].iou(b[o.id].boxes[camera]) > 0.7


def test_one_camera_is_enough_and_the_reference_is_needed(eyes):
    rng = np.random.default_rng(6)
    images, state, truth = view(scene(rng), rng)
    alone = eyes.perceive_one(Observation({"front": images["front"]}, state))
    assert len(alone.of_class("plate")) == len(truth.of_class("plate"))
    with pytest.raises(VineError, match="no image of camera front"):
        eyes.perceive_one(Observation({"wrist": images["wrist"]}, state))
    with pytest.raises(VineError, match="proprioception"):
        eyes.perceive_one(Observation(images, state[:2]))


def test_shrinking_keeps_the_mean_and_the_size():
    image = np.random.default_rng(0).integers(0, 255, (2, 192, 288, 3), dtype=np.uint8)
    small = shrink(image)
    assert small.shape == (2, SIZE, SIZE, 3)
    assert abs(small.mean() - image.mean()) < 0.6


def test_frames_come_from_the_chosen_episodes_alone(source):
    chosen = [d for d in source.demonstrations if d.split is Split.TRAIN]
    plan = choose_frames(source, chosen, 100, seed=0)
    assert sum(map(len, plan.values())) <= 100
    assert set(plan) <= {d.episode_index for d in chosen}
    frames = load_frames(source, chosen, most=100, seed=0)
    held = {d.episode_id for d in source.demonstrations if d.split is not Split.TRAIN}
    assert not held & set(frames.episode)
    assert frames.with_graph().any() and not frames.with_graph().all()


def test_constant_attributes_hold_for_all_frames_changing_ones_only_where_annotated(source):
    constant = constant_attributes(source.demonstrations)
    assert constant == {"colour", "size", "mark"}
    frames = load_frames(source, source.demonstrations[:10], most=60, seed=0)
    plain = ~frames.with_graph()
    grip = frames.known[plain][..., attribute_slots(PICTURES)["grip"]]
    colour = frames.known[plain][..., :3]
    there = frames.cls[plain] >= 0
    assert not grip.any() and colour[there & (frames.cls[plain] != 2)].all()


def test_without_boxes_there_is_nothing_to_learn(source):
    bare = PictureSource(3)
    bare.boxes = lambda episode_index: {}
    stripped = [replace(d, graphs={}) for d in bare.demonstrations]
    with pytest.raises(VineError, match="no frame has boxes"):
        load_frames(bare, stripped, most=10, seed=0)


def test_demonstrations_as_seen_keep_segments_and_ids(source, eyes):
    held = [d for d in source.demonstrations if d.split is not Split.TRAIN][:8]
    for before, after in zip(held, as_perceived(source, held, eyes), strict=True):
        assert after.graphs.keys() == before.graphs.keys()
        assert after.graphs[before.length] is before.graphs[before.length]  # no image there
        for segment in after.segments:
            graph, truth = after.graphs[segment.start], before.graphs[segment.start]
            for name in segment.subgoal.args:
                a, b = graph[name].boxes["front"].center, truth[name].boxes["front"].center
                assert np.hypot(a[0] - b[0], a[1] - b[1]) < 0.15 or segment.start > 0
