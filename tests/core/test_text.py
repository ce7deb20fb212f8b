from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.strategies import SCHEMA, graphs
from vine_vla import Box, SceneGraph, SceneObject, Schema, Subgoal, VineError, pack
from vine_vla.core.options import candidate_subgoals, check_subgoal, parse_subgoal
from vine_vla.core.text import describe, format_graph, parse_graph, refer


@given(graphs())
def test_graph_round_trips_exactly(graph):
    again = parse_graph(format_graph(graph))
    assert again == graph
    assert pack([again], SCHEMA).digests() == pack([graph], SCHEMA).digests()  # beliefs too


@given(graphs())
def test_every_candidate_round_trips_and_fits(graph):
    for subgoal in candidate_subgoals(graph, SCHEMA):
        assert parse_subgoal(str(subgoal)) == subgoal
        check_subgoal(subgoal, graph, SCHEMA)


@given(graphs())
def test_texts_of_different_subgoals_differ(graph):
    subgoals = candidate_subgoals(graph, SCHEMA)
    assert len({describe(s, graph, SCHEMA) for s in subgoals}) == len(subgoals)


def sockets(*colours, kinds=None):
    kinds = kinds or ["two_pin"] * len(colours)
    items = [
        SceneObject(
            f"socket_{i}", "socket", {"front": Box(i / 10, 0.5, i / 10 + 0.05, 0.6)}, {"colour": c, "kind": k}
        )
        for i, (c, k) in enumerate(zip(colours, kinds, strict=True), 1)
    ]
    return SceneGraph((SceneObject("plug", "plug"), *items))


@pytest.mark.parametrize(
    ("graph", "object_id", "phrase"),
    [
        (sockets("blue"), "plug", "the plug"),
        (sockets("blue"), "socket_1", "the socket"),
        (sockets("blue", "blue", "red"), "socket_1", "the left blue socket"),
        (sockets("blue", "blue", "red"), "socket_3", "the red socket"),
        (sockets("blue", "blue", "blue"), "socket_2", "the middle socket"),
        (sockets("blue", "blue", kinds=["two_pin", "round"]), "socket_2", "the round socket"),
        (
            sockets("blue", "red", "red", kinds=["round", "round", "two_pin"]),
            "socket_2",
            "the red round socket",
        ),
        (sockets("blue", "blue", "blue", "blue"), "socket_4", "the fourth socket"),
    ],
)
def test_referring_expressions(graph, object_id, phrase):
    assert refer(graph, object_id, SCHEMA) == phrase


def test_subgoal_as_a_sentence():
    graph = sockets("blue", "blue", "red")
    assert (
        describe(Subgoal("insert", ("plug", "socket_2")), graph, SCHEMA)
        == "insert the plug into the right blue socket"
    )


@pytest.mark.parametrize(
    "text",
    ["", "insert", "insert(plug", "Insert(plug)", "insert(plug,, x)", "insert(plug) x", "insert(plug;x)"],
)
def test_malformed_subgoals_are_refused(text):
    with pytest.raises(VineError, match="not a subgoal"):
        parse_subgoal(text)


@pytest.mark.parametrize("args", [("plug",), ("plug", "plug"), ("plug", "socket_9"), ("socket_1", "plug")])
def test_misfitting_arguments_are_refused(args):
    with pytest.raises(VineError, match="does not fit"):
        check_subgoal(Subgoal("insert", args), sockets("blue"), SCHEMA)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parsers(text):
    for parse in (parse_graph, parse_subgoal):
        try:
            parse(text)
        except VineError as error:
            assert "\n" not in str(error)


def test_schema_round_trips():
    copy = Schema.from_json(SCHEMA.to_json())
    assert copy == SCHEMA
    assert hash(copy) == hash(SCHEMA)
    assert deepcopy(SCHEMA) == SCHEMA  # rebuilt as for a worker process


@pytest.mark.parametrize(
    "spoil",
    [
        {"classes": "plug"},
        {"verbs": [{"name": "x"}]},
        {"classes": ["plug", "plug"]},
        {"cameras": []},
        {"attributes": 3},
    ],
)
def test_malformed_schemas_are_refused(spoil):
    with pytest.raises(VineError):
        Schema.from_json({**SCHEMA.to_json(), **spoil})
