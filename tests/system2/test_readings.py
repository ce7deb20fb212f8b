"""Doubtful scenes are judged as the mean of what they may be."""

from dataclasses import replace

import numpy as np
import pytest
from system2.worlds import SIDES, sides_scene

from vine_vla import Belief, SceneGraph, pack
from vine_vla.core.packing import attribute_slots
from vine_vla.system2.compact.hypotheses import LEAST, MOST, likeliest, readings
from vine_vla.system2.compact.outcome import table_inputs
from vine_vla.system2.segments import segment_table

TEXT = "put the part into a slot"
CHANCES = {"red": (0.7, 0.3), "green": (0.3, 0.7)}


def painted(scene, colour, name="slot_1"):
    """The scene with the slot in that colour."""
    items = [
        replace(o, attributes={**o.attributes, "colour": colour}) if o.id == name else o
        for o in scene.objects
    ]
    return SceneGraph(tuple(items), scene.relations)


def test_readings_are_the_products_of_the_doubts_of_the_arguments():
    slots = attribute_slots(SIDES)
    graphs = pack([sides_scene(np.random.default_rng(0))[0]] * 2, SIDES, budget=2)
    slot = slots["colour"]
    graphs.attributes[0, 1, slot] = [0.6, 0.4]  # doubtful
    graphs.attributes[0, 2, slot] = [0.7, 0.3]
    graphs.attributes[1, 1, slot] = [1 - LEAST / 2, LEAST / 2]  # as good as known
    rows = np.array([0, 0, 0, 1])
    args = np.array([[0, 1], [0, -1], [2, 1], [0, 1]])
    found = readings(graphs, rows, args, [slot])
    assert found.pair.tolist() == [0, 0, 2, 2, 2, 2]  # no doubt about an argument, no reading
    np.testing.assert_allclose(found.weight, [0.6, 0.4, 0.42, 0.28, 0.18, 0.12], rtol=1e-5)
    for pair, weight, read in zip(found.pair, found.weight, found.attributes, strict=True):
        chances = [graphs.attributes[0, o, slot] @ read[o, slot] for o in args[pair] if o > 0]
        assert np.prod(chances) == pytest.approx(weight)
        assert set(read[1, slot]) == {0.0, 1.0}
        others = np.delete(np.arange(read.shape[0]), args[pair])
        assert (read[others] == graphs.attributes[0, others]).all()
    assert not len(readings(graphs, rows, args, []).pair)  # what subgoals alter is not read
    bare = graphs._replace(attributes=graphs.attributes[..., :0])
    assert readings(bare, rows, args, []).attributes.shape == (0, *bare.attributes.shape[1:])


def test_only_the_likeliest_readings_are_kept():
    graphs = pack([sides_scene(np.random.default_rng(0))[0]], SIDES, budget=2)
    slots = [slice(i, i + 2) for i in range(0, 2 * 4, 2)]  # four doubts of one object: 16 readings
    graphs = graphs._replace(attributes=np.tile(np.float32([0.8, 0.2]), (1, graphs.cls.shape[1], 4)))
    found = readings(graphs, np.array([0]), np.array([[1, -1]]), slots)
    assert len(found.pair) == MOST and (np.diff(found.weight) <= 1e-7).all()
    assert found.weight.sum() == pytest.approx(1) and found.weight[0] > 0.8**4


def test_the_likeliest_scene_is_without_doubt():
    slots = attribute_slots(SIDES)
    sure = pack([sides_scene(np.random.default_rng(s), slots=2)[0] for s in range(2)], SIDES, objects=9)
    assert likeliest(sure, [slots["colour"]]).attributes is sure.attributes
    graphs = sure._replace(attributes=sure.attributes.copy())
    graphs.attributes[0, 1, slots["colour"]] = [0.45, 0.55]
    graphs.attributes[0, 1, slots["grip"]] = [0.4, 0.3, 0.3]  # not among the slots
    found = likeliest(graphs, [slots["colour"]]).attributes
    assert found[0, 1, slots["colour"]].tolist() == [0.0, 1.0]
    found[0, 1, slots["colour"]] = [0.45, 0.55]
    assert (found == graphs.attributes).all()  # nothing else has changed


def test_segments_in_doubt_teach_and_calibrate_as_the_likeliest_scene(sides):
    demonstrations, model = sides
    doubted = [
        replace(d, graphs={f: painted(g, Belief(g["slot_1"].attributes["colour"], CHANCES[c]))
                           for f, g in d.graphs.items() for c in [g["slot_1"].attributes["colour"]]})
        for d in demonstrations[:20]
    ]  # fmt: skip
    plain, soft = (segment_table(some, SIDES) for some in (demonstrations[:20], doubted))
    assert (soft.graphs.attributes != plain.graphs.attributes).any()
    for a, b in zip(table_inputs(model.encoder, plain), table_inputs(model.encoder, soft), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_doubtful_subgoal_is_worth_the_mean_of_its_readings(sides):
    _, model = sides
    scenes = [sides_scene(np.random.default_rng(seed))[0] for seed in range(8)]
    beliefs = {"red": 0.65, "green": 0.35}

    def judged(colour):
        answer = model.expand(
            pack([painted(s, colour) for s in scenes], SIDES, budget=2, objects=9), [TEXT] * 8, 10
        )
        return [
            {str(s): (answer.p[:, b, k], answer.support[b, k]) for k, s in enumerate(subgoals)}
            for b, subgoals in enumerate(answer.subgoals)
        ]

    doubtful, sure = judged(Belief("red", tuple(beliefs.values()))), {c: judged(c) for c in beliefs}
    checked = 0
    for b, options in enumerate(doubtful):
        for name, (p, support) in options.items():
            if "slot_1" in name and all(name in sure[c][b] for c in beliefs):
                mean = sum(w * sure[c][b][name][0] for c, w in beliefs.items())
                np.testing.assert_allclose(p, mean, atol=1e-5)
                least = sum(w * sure[c][b][name][1] for c, w in beliefs.items())
                assert support == pytest.approx(least, abs=1e-4)
                checked += 1
    assert checked >= 8
