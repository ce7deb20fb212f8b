"""A subgoal under way, judged as if it began now: its own doing undone, everything else as it is."""

from vine_vla.agent.verify import as_begun
from vine_vla.core.graph import Box, Relation, SceneGraph, SceneObject
from vine_vla.core.options import Subgoal


def box(x, y=0.5):
    return Box(x - 0.05, y - 0.05, x + 0.05, y + 0.05)


def scene(plug_at, state, flank, block_at, grip="open", relations=()):
    """A plug, a socket with what stands at its flank, a block and a gripper; the wrist camera rides along."""
    wrist = {"wrist": box(plug_at)}
    return SceneGraph(
        (
            SceneObject("plug", "plug", {"front": box(plug_at), **wrist}, {"state": state}),
            SceneObject("socket_1", "socket", {"front": box(0.8), **wrist}, {"flank": flank}),
            SceneObject("block_1", "block", {"front": box(block_at), **wrist}, {"height": "tall"}),
            SceneObject("gripper", "gripper", {"front": box(plug_at, 0.3)}, {"grip": grip}),
        ),
        tuple(relations),
    )


HELD = Relation("held", "plug", "gripper")
NEAR = Relation("near", "block_1", "socket_1")
BEFORE = scene(0.2, "rack", "free", 0.5)
GRASPED = scene(0.3, "hand", "free", 0.5, "holding", [HELD])
GRASP, INSERT = Subgoal("grasp", ("plug",)), Subgoal("insert", ("plug", "socket_1"))


def test_what_the_subgoal_does_is_taken_from_its_start_and_what_others_did_from_now():
    now = scene(0.28, "hand", "tall", 0.72, "holding", [HELD, NEAR])
    found = as_begun(BEFORE, GRASPED, now, GRASP, "front")
    assert found["plug"] == BEFORE["plug"] and found["gripper"] == BEFORE["gripper"]
    assert found["socket_1"].attributes == {"flank": "tall"}
    assert found["block_1"].boxes["front"] == box(0.72)  # carried there
    assert found["block_1"].boxes["wrist"] == BEFORE["block_1"].boxes["wrist"]  # as at the start
    assert set(found.relations) == {NEAR}


def test_a_quiet_scene_is_the_start_itself():
    now = scene(0.28, "hand", "free", 0.5, "holding", [HELD])
    found = as_begun(BEFORE, GRASPED, now, GRASP, "front")
    assert found == BEFORE


def test_an_argument_that_stays_is_seen_as_it_is_now_and_one_that_moves_is_not():
    seated = scene(0.8, "seated", "free", 0.5)
    now = scene(0.6, "hand", "tall", 0.72, "holding", [HELD, NEAR])
    found = as_begun(GRASPED, seated, now, INSERT, "front")
    assert found["socket_1"].attributes == {"flank": "tall"} and found["plug"] == GRASPED["plug"]
    assert set(found.relations) == {HELD, NEAR}


def test_without_a_prediction_arguments_stay_and_what_is_not_seen_is_kept():
    now = scene(0.28, "hand", "tall", 0.72, "holding", [HELD])
    part = SceneGraph(tuple(o for o in now.objects if o.id != "block_1"), now.relations)
    found = as_begun(BEFORE, None, part, INSERT, "front")
    assert found["plug"] == BEFORE["plug"] and found["socket_1"] == BEFORE["socket_1"]
    assert found["block_1"] == BEFORE["block_1"]
