"""Directions of the physics: what makes an insertion fail, and what must not.

Seeds are fixed, so on one machine and MuJoCo version the results repeat exactly. On others contact is chaotic
and rates are redrawn; the bounds allow for that. With gate G0's rates (good cells 1.00, lower Wilson end
.963; brittle ones at most .40, upper end .50) each comparison below fails by chance with at most the
probability that its test states.
"""

import numpy as np
import pytest

from studies.plug_physics import Cell, as_subgoal, cell_scene, gate_cells, run_choice, run_plan
from vine_vla.core.options import Outcome
from vine_vla.tasks.plug.expert import SkillDial
from vine_vla.tasks.plug.sim import PlugSim

N = 10


@pytest.fixture(scope="module")
def sim() -> PlugSim:
    return PlugSim()


def successes(sim: PlugSim, cell: Cell, n: int = N, **dial: float) -> int:
    skill = SkillDial(scale=cell.scale, height_bias=cell.height_bias, **dial)
    outcomes = [
        run_plan(sim, cell_scene(cell, seed), cell.grasp, 0, skill, seed) for seed in range(500, 500 + n)
    ]
    return sum(o == [Outcome.REACHED, Outcome.REACHED] for o in outcomes)


@pytest.mark.parametrize(("grasp", "side"), [("long", "x"), ("short", "y")])
def test_a_tall_neighbour_at_the_fingers_is_brittle(sim: PlugSim, grasp: str, side: str) -> None:
    # P(more than 8 of 10 | .5) = .011; P(fewer than 8 of 10 | .963) = .005.
    assert successes(sim, Cell(grasp, "two_pin", side, 0.5)) <= 8
    other = {"x": "y", "y": "x"}[side]
    assert successes(sim, Cell(grasp, "two_pin", other, 0.5)) >= 8


@pytest.mark.parametrize(("grasp", "side"), [("long", "x"), ("short", "y")])
def test_grasping_higher_is_no_way_out(sim: PlugSim, grasp: str, side: str) -> None:
    # G0: .16 and .21 at 8 mm, upper end .30. P(more than 7 of 10 | .30) = .002.
    assert successes(sim, Cell(grasp, "two_pin", side, 0.5, height_bias=0.008)) <= 7


def test_the_wrong_kind_never_takes_the_plug(sim: PlugSim) -> None:
    # The top is solid: no success is possible, whatever the noise.
    assert successes(sim, Cell("long", "round", "none", 0.5), 4) == 0


def test_misalignment_spoils_insertion(sim: PlugSim) -> None:
    # 30 mm noise scale (15 mm at s = .5): 2 of 12 measured. P(more than 7 of 10 | .45) = .027, P(fewer than 8
    # | .963) = .005.
    assert successes(sim, Cell("long", "two_pin", "none", 0.5), align=0.03) <= 7
    assert successes(sim, Cell("long", "two_pin", "none", 0.5)) >= 8


def test_grasping_far_too_high_loses_the_plug(sim: PlugSim) -> None:
    # 24 mm above nominal the pads only touch the top edge: 0 of 12 measured.
    assert successes(sim, Cell("long", "two_pin", "none", 0.5, height_bias=0.024), 5) == 0


def test_speed_saves_time_and_costs_nothing_with_this_lead_in(sim: PlugSim) -> None:
    cell = Cell("long", "two_pin", "none", 0.5)
    steps = {}
    for speed in (1.0, 4.0):
        assert successes(sim, cell, 4, speed=speed) >= 3  # P(fewer than 3 of 4 | .963) = .008
        steps[speed] = sim.steps
    assert steps[4.0] < 0.9 * steps[1.0]


def test_a_lost_plug_is_dead_with_an_onset_before_it_lay(sim: PlugSim) -> None:
    cell = Cell("long", "round", "none", 0.5)
    outcomes = run_plan(sim, cell_scene(cell, 1), "long", 0, SkillDial(scale=0.5), 1)
    assert outcomes == [Outcome.REACHED, Outcome.DEAD]
    assert 0 < sim.onset < sim.steps
    assert not sim.success()


def test_put_back_and_grasp_the_other_way(sim: PlugSim) -> None:
    from vine_vla.tasks.plug.expert import Expert

    cell = Cell("long", "two_pin", "x", 0.5)
    reached = 0
    for seed in range(4):
        sim.reset(cell_scene(cell, seed), seed)
        expert = Expert(SkillDial(scale=0.5), np.random.default_rng(seed))
        chain = [("grasp_long", None), ("put_back", None), ("grasp_short", None), ("insert", 0)]
        reached += all(run_choice(sim, expert, choice) is Outcome.REACHED for choice in chain)
    assert reached >= 3  # P(fewer than 3 of 4 | .963) = .008


@pytest.mark.parametrize("moment", [0.2, 0.5, 0.8])
def test_the_expert_recovers_from_a_push_in_mid_air(sim: PlugSim, moment: float) -> None:
    from vine_vla.tasks.plug.expert import Expert

    cell = Cell("short", "two_pin", "none", 0.3)
    sim.reset(cell_scene(cell, 5), 5)
    expert = Expert(SkillDial(scale=0.3), np.random.default_rng(5))
    assert run_choice(sim, expert, ("grasp_short", None)) is Outcome.REACHED
    actions = expert.run(sim, as_subgoal(("insert", 0)), 0)
    for _ in range(int(25 * moment)):
        sim.step(next(actions))
    for _ in range(4):  # somebody moves the hand 40 mm aside
        sim.step(np.array([0.01, 0.0, 0.0, 0.05, 1.0]))
    assert run_choice(sim, expert, ("insert", 0)) is Outcome.REACHED


def test_cells_know_what_to_expect() -> None:
    expected = {(c.grasp, c.kind, c.neighbours): c.expected for c in gate_cells()}
    assert expected["long", "two_pin", "x"] == expected["short", "two_pin", "xy"] == "brittle"
    assert expected["long", "two_pin", "y"] == expected["short", "two_pin", "low"] == "good"
    assert expected["long", "round", "none"] == "wrong"
