import pytest
from hypothesis import given

from tests.core.strategies import SCHEMA, boxes, graphs
from vine_vla import Box, Relation, SceneObject
from vine_vla.core.relations import RULES, derive_relations, with_relations

A = Box(0.1, 0.1, 0.2, 0.2)


@pytest.mark.parametrize(
    ("predicate", "a", "b", "holds"),
    [
        ("left_of", A, Box(0.3, 0.1, 0.4, 0.2), True),
        ("left_of", Box(0.3, 0.1, 0.4, 0.2), A, False),
        ("left_of", A, Box(0.14, 0.1, 0.24, 0.2), False),
        ("above", A, Box(0.1, 0.3, 0.2, 0.4), True),
        ("above", A, Box(0.3, 0.3, 0.4, 0.4), False),
        ("inside", A, Box(0.05, 0.05, 0.3, 0.3), True),
        ("inside", Box(0.05, 0.05, 0.3, 0.3), A, False),
        ("near", A, Box(0.22, 0.1, 0.32, 0.2), True),
        ("near", A, Box(0.6, 0.1, 0.7, 0.2), False),
        ("touching", A, Box(0.2, 0.1, 0.3, 0.2), True),
        ("touching", A, Box(0.22, 0.1, 0.32, 0.2), False),
    ],
)
def test_rules(predicate, a, b, holds):
    assert RULES[predicate](a, b) is holds


@given(boxes(), boxes())
def test_rules_are_consistent(a, b):
    assert not (RULES["left_of"](a, b) and RULES["left_of"](b, a))
    assert not (RULES["inside"](a, b) and RULES["inside"](b, a))
    assert not RULES["touching"](a, b) or RULES["near"](a, b)
    for predicate in ("near", "touching"):
        assert RULES[predicate](a, b) == RULES[predicate](b, a)


@given(graphs())
def test_deriving_again_changes_nothing(graph):
    assert with_relations(graph, "front", SCHEMA.predicates) == graph


def scene(grip):
    return [
        SceneObject("plug", "plug", {"front": Box(0.44, 0.5, 0.56, 0.6)}),
        SceneObject("block", "block", {"front": Box(0.3, 0.45, 0.45, 0.7)}),
        SceneObject("gripper", "gripper", {"front": Box(0.42, 0.2, 0.58, 0.52)}, {"grip": grip}),
    ]


def test_held_needs_a_holding_grip_and_takes_the_nearest():
    assert Relation("held", "plug", "gripper") in derive_relations(
        scene("holding"), "front", SCHEMA.predicates
    )
    assert not any(r.predicate == "held" for r in derive_relations(scene("open"), "front", SCHEMA.predicates))


def test_what_the_camera_does_not_see_has_no_relations():
    hidden = [*scene("open"), SceneObject("socket_1", "socket", {"wrist": Box(0, 0, 1, 1)})]
    assert not any("socket_1" in r for r in derive_relations(hidden, "front", SCHEMA.predicates))
