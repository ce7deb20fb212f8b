import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.strategies import SCHEMA, graphs
from vine_vla import Belief, SceneGraph, SceneObject, VineError, pack, unpack
from vine_vla.core.packing import attribute_width, concatenate
from vine_vla.core.text import format_graph


def normal(graph: SceneGraph) -> SceneGraph:
    """The graph with attributes in the schema's order, which is all that packing changes."""
    items = [
        SceneObject(
            o.id,
            o.cls,
            {c: o.boxes[c] for c in SCHEMA.cameras if c in o.boxes},
            {n: o.attributes[n] for n in SCHEMA.attributes if n in o.attributes},
        )
        for o in graph.objects
    ]
    return SceneGraph(tuple(items), graph.relations)


@given(st.lists(graphs(), min_size=1, max_size=4), st.integers(0, 12))
def test_pack_round_trips(batch, objects):
    packed = pack(batch, SCHEMA, budget=list(range(len(batch))), objects=objects)
    assert unpack(packed, SCHEMA) == [normal(g) for g in batch]
    assert packed.budget.tolist() == list(range(len(batch)))
    assert packed.attributes.shape[-1] == attribute_width(SCHEMA)


@given(st.lists(graphs(), min_size=2, max_size=4))
def test_rows_are_independent_of_the_batch(batch):
    together = pack(batch, SCHEMA, objects=12)
    alone = concatenate([pack([g], SCHEMA, objects=12) for g in batch])
    assert together.digests() == alone.digests()
    assert [len(k) for k in together.digests()] == [16] * len(batch)


@given(graphs(), graphs())
def test_keys_are_equal_for_equal_graphs_only(a, b):
    packed = pack([a, b, a], SCHEMA, objects=12)
    digests = packed.digests()
    assert digests[0] == digests[2]
    # Graphs compare equal whatever is believed of their categories; texts tell beliefs apart as well.
    assert (digests[0] == digests[1]) == (format_graph(normal(a)) == format_graph(normal(b)))
    assert packed.with_budget(3).digests()[0] != digests[0]


@given(st.lists(graphs(), min_size=6, max_size=6))
def test_reshape_keeps_graphs(batch):
    packed = pack(batch, SCHEMA)
    assert packed.reshape(2, 3).select((1, 0)).cls.tolist() == packed.select(3).cls.tolist()
    assert packed.reshape(3, 2).reshape(-1).digests() == packed.digests()


@pytest.mark.parametrize(
    "item",
    [
        SceneObject("cup", "cup"),
        SceneObject("plug_x", "plug"),
        SceneObject("plug_01", "plug"),
        SceneObject("socket", "plug"),
        SceneObject("plug", "plug", attributes={"colour": "mauve"}),
        SceneObject("plug", "plug", attributes={"taste": "sweet"}),
        SceneObject("plug", "plug", attributes={"weight": "heavy"}),
        SceneObject("plug", "plug", attributes={"colour": Belief("red", (0.4, 0.6))}),
        SceneObject("plug", "plug", attributes={"colour": Belief("red", (0.4, 0.7, 0.1))}),
        SceneObject("plug", "plug", attributes={"colour": Belief("red", (0.0, float("nan"), 0.5))}),
        SceneObject("plug", "plug", attributes={"colour": Belief("red", (0.5, 0.4, 0.1))}),
    ],
)
def test_what_the_schema_lacks_is_refused(item):
    with pytest.raises(VineError):
        pack([SceneGraph((item,))], SCHEMA)


def test_a_belief_is_its_category_and_packs_its_probabilities():
    belief = Belief("red", (0.25, 0.625, 0.125))
    assert belief == "red" and {"red": 1}[belief] == 1
    assert copy.deepcopy(belief).probabilities == belief.probabilities
    packed = pack([SceneGraph((SceneObject("plug", "plug", attributes={"colour": belief}),))], SCHEMA)
    assert packed.attributes[0, 0, :3].tolist() == [0.25, 0.625, 0.125]
    assert unpack(packed, SCHEMA)[0]["plug"].attributes["colour"] == "red"


def test_soft_attributes_are_read_from_one_half():
    packed = pack([SceneGraph((SceneObject("plug", "plug"),))], SCHEMA)
    packed.attributes[0, 0, :3] = [0.2, 0.7, 0.1]
    packed.attributes[0, 0, 3:5] = [0.4, 0.45]
    assert dict(unpack(packed, SCHEMA)[0]["plug"].attributes) == {"colour": "red"}
    assert np.isfinite(packed.attributes).all()
