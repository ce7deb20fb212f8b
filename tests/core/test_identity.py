from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.strategies import random_boxes
from vine_vla import Box, SceneGraph, SceneObject
from vine_vla.core.identity import assign_ids, linear_assignment, match_identity, match_names


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32 - 1), st.booleans())
def test_no_assignment_costs_less(rows, columns, seed, ties):
    rng = np.random.default_rng(seed)
    cost = rng.integers(0, 3, (rows, columns)).astype(float) if ties else rng.normal(size=(rows, columns))
    pairs = linear_assignment(cost)
    assert len(pairs) == min(rows, columns) and pairs == sorted(pairs)
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
    wide = cost if rows <= columns else cost.T
    choices = permutations(range(wide.shape[1]), wide.shape[0])
    best = min(sum(wide[row, column] for row, column in enumerate(choice)) for choice in choices)
    assert sum(cost[p] for p in pairs) == pytest.approx(best)


def thing(cls, box, object_id="?", camera="front"):
    return SceneObject(object_id, cls, {camera: box})


def test_ids_run_from_left_to_right_per_class():
    row = [thing("socket", Box(x, 0, x + 0.1, 1), f"s{x}") for x in (0.7, 0.1, 0.4)] + [
        thing("plug", Box(0, 0, 1, 1), "p")
    ]
    assert [o.id for o in assign_ids(row, "front")] == ["socket_3", "socket_1", "socket_2", "plug"]


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_identity_survives_shuffling_and_jitter(count, seed):
    rng = np.random.default_rng(seed)
    xs = np.arange(count) / 8
    first = SceneGraph(
        assign_ids([thing("socket", Box(x, 0.4, x + 0.1, 0.5), f"s{i}") for i, x in enumerate(xs)], "front")
    )
    moved = []
    for item in first.objects:
        dx, dy = rng.uniform(-0.05, 0.05, 2)
        b = item.boxes["front"]
        moved.append(
            thing("socket", Box(b.x_min + dx, b.y_min + dy, b.x_max + dx, b.y_max + dy), f"m_{item.id}")
        )
    shuffled = [moved[i] for i in rng.permutation(count)]
    matched = match_identity(shuffled, first)
    assert [o.id for o in matched] == [o.id for o in first.objects]
    assert [o.boxes for o in matched] == [o.boxes for o in moved]


def test_the_unseen_stay_and_the_new_get_fresh_ids():
    boxes = random_boxes(np.random.default_rng(0), 3)
    first = SceneGraph((thing("socket", boxes[0], "socket_1"), thing("socket", boxes[1], "socket_2")))
    later = match_identity([thing("socket", boxes[1], "x"), thing("plug", boxes[2], "y")], first)
    assert [(o.id, o.boxes["front"]) for o in later] == [
        ("socket_1", boxes[0]),
        ("socket_2", boxes[1]),
        ("plug_1", boxes[2]),
    ]


def test_without_a_shared_camera_matching_still_pairs_one_to_one():
    first = SceneGraph((thing("socket", Box(0, 0, 0.1, 0.1), "socket_1"),))
    later = match_identity([thing("socket", Box(0.5, 0.5, 0.6, 0.6), "x", camera="wrist")], first)
    assert [o.id for o in later] == ["socket_1"]


def test_two_observers_call_the_same_thing_by_other_names():
    """One of them misses the left socket, so its numbers are shifted; what it misses has no name."""

    def sockets(*places: float) -> SceneGraph:
        items = [
            thing("socket", Box(x, 0.4, x + 0.1, 0.5), f"socket_{number}")
            for number, x in enumerate(places, 1)
        ]
        return SceneGraph((thing("plug", Box(0, 0, 0.1, 0.1), "plug"), *items))

    full, partial = sockets(0.1, 0.4, 0.7), sockets(0.41, 0.69)
    assert match_names(partial, full) == {"plug": "plug", "socket_1": "socket_2", "socket_2": "socket_3"}
    assert match_names(full, partial) == {"plug": "plug", "socket_2": "socket_1", "socket_3": "socket_2"}
