"""Scenes are pure functions of (split, number), with the properties the experiment rests on."""

import numpy as np
import pytest

from vine_vla.core.errors import VineError
from vine_vla.tasks.plug.operators import Habits, Operator
from vine_vla.tasks.plug.scenes import COLOURS, FROZEN, GRASPS, NEVER, SPLITS, plug_scene
from vine_vla.tasks.plug.world import BLOCKS

GOLDEN = [("two_pin", "green", 1), ("two_pin", "yellow", 1), ("round", "purple", 1)]
GOLDEN_RACK = (0.39003332360214277, 0.09741528745935961, 0.18483295864222865)


def test_frozen_lists_are_disjoint_and_cover_a_thousand_scenes() -> None:
    numbers = [n for part in FROZEN.values() for n in part]
    assert sorted(numbers) == list(range(1000))
    assert [len(FROZEN[name]) for name in ("dev", "calibration", "test")] == [200, 200, 600]


@pytest.mark.parametrize("split", SPLITS)
def test_scene_is_a_pure_function_of_split_and_number(split: str) -> None:
    assert plug_scene(split, 17) == plug_scene(split, 17)
    assert plug_scene(split, 17) != plug_scene(split, 18)


def test_golden_scene() -> None:
    # The frozen lists must not move under published results.
    scene = plug_scene("seen", 400)
    assert [(s.kind, s.colour, len(s.blocks)) for s in scene.sockets] == GOLDEN
    assert scene.rack == pytest.approx(GOLDEN_RACK, abs=1e-9)


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_pose_the_problem(split: str) -> None:
    scenes = [plug_scene(split, n) for n in range(300)]
    assert all(s.good_plans() for s in scenes)
    assert np.mean([s.needs_lookahead() for s in scenes]) >= 1 / 3
    assert np.mean([s.habit_is_brittle() for s in scenes]) >= 0.5
    assert all(
        len({k.colour for k in s.sockets}) == 3 and {k.colour for k in s.sockets} <= set(COLOURS)
        for s in scenes
    )
    assert all(any(k.kind == "two_pin" for k in s.sockets) for s in scenes)


def test_unseen_looks_differ() -> None:
    seen = [plug_scene("seen", n) for n in range(50)]
    unseen = [plug_scene("unseen", n) for n in range(50)]
    assert not {s.instruction for s in seen} & {s.instruction for s in unseen}
    grey = [
        np.mean([b.rgba for s in scenes for k in s.sockets for b in k.blocks]) for scenes in (seen, unseen)
    ]
    assert grey[0] - grey[1] > 0.3


def test_bad_scene_names_the_mend() -> None:
    with pytest.raises(VineError, match="known splits"):
        plug_scene("sen", 0)
    with pytest.raises(VineError, match="0 to 999"):
        plug_scene("seen", 1000)


def test_operators_follow_habits_and_awareness() -> None:
    """Rates over 600 scenes; three standard errors of a share of 600 are at most .062."""

    def plans(habits: Habits) -> list[tuple[str, int]]:
        found = []
        for number in range(600):
            operator = Operator(habits, np.random.default_rng(number))
            operator.begin(plug_scene("demo", number))
            assert operator._plan is not None
            found.append(operator._plan)
        return found

    scenes = [plug_scene("demo", n) for n in range(600)]
    blind = plans(Habits(other_socket=0.0, colour_blind=0.0))
    assert np.mean([g == GRASPS[0] for g, _ in blind]) == pytest.approx(0.85, abs=0.062)
    assert all(i == s.nearest() for (_, i), s in zip(blind, scenes, strict=True))
    aware = plans(Habits(awareness=1.0))
    assert all(s.sockets[i].good(g) for (g, i), s in zip(aware, scenes, strict=True))
    colour_blind = plans(Habits(other_socket=0.0, colour_blind=1.0))
    assert all(i == s.nearest(False) for (_, i), s in zip(colour_blind, scenes, strict=True))


@pytest.mark.parametrize("split", ["pushed", "pushed-demo"])
def test_a_neighbour_waits_for_a_socket_that_it_spoils_for_one_grasp(split):
    scenes = [plug_scene(split, n) for n in range(200)]
    for scene in scenes:
        push = scene.push
        assert push is not None and push.block.carried and push.block.tall
        after = scene.after_push()
        grasp = "long" if push.block.side == "x" else "short"
        assert scene.sockets[push.socket].good(grasp) and not after.sockets[push.socket].good(grasp)
        assert after.good_plans() and after.blocks == scene.blocks
        assert len(scene.blocks) <= BLOCKS
    moved = np.mean([s.push.step != NEVER for s in scenes])
    assert moved == 1.0 if split == "pushed" else 0.5 < moved < 0.7
