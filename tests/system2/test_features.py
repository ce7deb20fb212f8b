"""Packed relation rules equal layer 1's; answers do not depend on the order of objects; words."""

import numpy as np
from core.strategies import SCHEMA, graphs
from hypothesis import example, given, settings
from system2.worlds import SIDES, sides_scene

from vine_vla import Box, SceneGraph, SceneObject, pack, unpack
from vine_vla.core.relations import derive_relations
from vine_vla.system2.compact.features import Encoder, jitter
from vine_vla.system2.compact.rules import derive_packed
from vine_vla.system2.compact.words import HASHED, Vocabulary


def two_as_near(*names: str) -> SceneGraph:
    """A gripper that holds one of two things in the same place."""
    place = {"front": Box(0.4, 0.4, 0.6, 0.6)}
    things = [SceneObject(name, name.split("_")[0], place) for name in names]
    return SceneGraph((*things, SceneObject("gripper", "gripper", place, {"grip": "holding"})))


@settings(max_examples=150, deadline=None)
@given(graphs())
@example(two_as_near("socket_10", "plug"))
@example(two_as_near("socket_10", "socket_2"))
def test_packed_rules_equal_those_of_layer_1(graph):
    packed = pack([graph], SCHEMA)
    # float32 boxes are what both rules see
    rounded = unpack(packed, SCHEMA)[0]
    expected = derive_relations(rounded.objects, "front", SCHEMA.predicates)
    found = unpack(packed._replace(relations=derive_packed(packed, SCHEMA)), SCHEMA)[0].relations
    assert set(found) == set(expected)


def test_packed_rules_find_what_is_held():
    graph, _ = sides_scene(np.random.default_rng(0))
    hand = graph["gripper"].boxes["front"]
    items = []
    for o in graph.objects:
        boxes = {"front": hand} if o.id == "part" else o.boxes
        attributes = {"grip": "holding"} if o.id == "gripper" else o.attributes
        items.append(type(o)(o.id, o.cls, boxes, attributes))
    packed = pack([SceneGraph(tuple(items))], SIDES)
    derived = unpack(packed._replace(relations=derive_packed(packed, SIDES)), SIDES)[0]
    assert derived.holds("held", "part", "gripper")


def test_base_features_do_not_depend_on_place_in_the_list():
    graph, _ = sides_scene(np.random.default_rng(1))
    encoder = Encoder(SIDES, Vocabulary(("part",)))
    texts = encoder.texts(["move the part"])
    order = np.random.default_rng(2).permutation(len(graph.objects))
    shuffled = SceneGraph(tuple(graph.objects[i] for i in order), graph.relations)
    a = encoder.base(pack([graph], SIDES), texts)[..., 0]
    b = encoder.base(pack([shuffled], SIDES), texts)[..., 0]
    np.testing.assert_array_equal(a[:, order], b)


def test_widths_are_as_announced():
    graph, _ = sides_scene(np.random.default_rng(1))
    encoder = Encoder(SIDES, Vocabulary(("part",)))
    packed, texts = pack([graph], SIDES), encoder.texts(["part"])
    found = encoder.candidates(packed, {})[0]
    rows = np.zeros(len(found.verbs), np.int64)
    inputs = encoder.subgoal_inputs(packed, rows, found.verbs, found.args, texts)
    assert len(inputs.tokens) == encoder.token_width
    assert len(inputs.context) == encoder.context_width
    assert len(encoder.graph_inputs(packed, texts).pairs) == encoder.pair_width
    assert len(encoder.base(packed, texts)) == encoder.base_width


def test_offsets_are_measured_from_the_argument():
    graph, _ = sides_scene(np.random.default_rng(3))
    encoder = Encoder(SIDES, Vocabulary(()))
    packed, texts = pack([graph], SIDES), encoder.texts([""])
    found = encoder.candidates(packed, {})[0]
    row = next(i for i, s in enumerate(found.subgoals) if s.args == ("part", "slot_1"))
    inputs = encoder.subgoal_inputs(
        packed, np.array([0]), found.verbs[row : row + 1], found.args[row : row + 1], texts
    )
    slot = next(i for i, o in enumerate(graph.objects) if o.id == "slot_1")
    geometry = encoder.base_width + encoder.argument_width + 2  # second argument: role, seen, then offset
    np.testing.assert_allclose(inputs.tokens[geometry : geometry + 2, slot, 0], 0, atol=1e-6)
    part = next(i for i, o in enumerate(graph.objects) if o.id == "part")
    gap = np.subtract(graph["part"].boxes["front"].center, graph["slot_1"].boxes["front"].center)
    np.testing.assert_allclose(
        inputs.tokens[geometry : geometry + 2, part, 0], np.arcsinh(gap / 0.1), atol=1e-4
    )


def test_words_and_what_they_name():
    vocabulary = Vocabulary.of(["put the red part away", "put the part into the slot", "put it"])
    assert "put" in vocabulary.words and "away" not in vocabulary.words
    texts = vocabulary.encode(["put the red parts into a xyzzy"], SIDES)
    assert texts.classes[0, SIDES.classes.index("part")] == 1
    assert texts.classes[0, SIDES.classes.index("block")] == 0
    assert texts.categories[0, 0] == 1 and texts.categories[0, 1] == 0  # red, green
    assert texts.bag[0, -HASHED:].sum() > 0
    again = Vocabulary(vocabulary.words).encode(["put the red parts into a xyzzy"], SIDES)
    np.testing.assert_array_equal(texts.bag, again.bag)


def test_noise_moves_only_what_is_seen():
    graph, _ = sides_scene(np.random.default_rng(4))
    packed = pack([graph], SIDES)
    moved = jitter(packed, 0.01, np.random.default_rng(0))
    assert not moved.boxes[~packed.visible].any()
    assert 0.002 < np.abs(moved.boxes - packed.boxes)[packed.visible].mean() < 0.02
