"""The task `line`: its chances, its exact value, its operators, and that its pictures show what boxes say."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Outcome, Subgoal, check_subgoal
from vine_vla.core.protocols import DONE, FAILED
from vine_vla.tasks.base import OperatorDials
from vine_vla.tasks.line import TASK, rules
from vine_vla.tasks.line.layouts import line_scene
from vine_vla.tasks.line.rules import IN_HAND, LOST, ON_STAND, Move, Situation
from vine_vla.tasks.line.scenes import Post
from vine_vla.tasks.line.world import LineWorld


def execute(world: LineWorld, subgoal: Subgoal, seed: int = 0, scale: float = 0.5) -> Outcome:
    """One subgoal by the scripted expert."""
    for action in TASK.expert(world, scale, 0.0, np.random.default_rng([seed, 1])).run(subgoal):
        world.step(action)
    return world.subgoal_status(subgoal) or Outcome.SLIPPED


def actions_of(world: LineWorld, subgoal: Subgoal) -> list[np.ndarray]:
    """The expert's actions, the last two to lift the hand, found by executing them; the world is put back."""
    state, found = world.save_state(), []
    for action in TASK.expert(world, 0.0, 0.0, np.random.default_rng(0)).run(subgoal):
        found.append(action)
        world.step(action)
    world.restore_state(state)
    return found


def operate(
    world: LineWorld, scene: int, dials: OperatorDials | None = None
) -> list[tuple[Subgoal, Outcome]]:
    """One episode of a scripted operator."""
    world.reset(scene, scene)
    operator = TASK.operator(world, dials or OperatorDials(), np.random.default_rng([scene, 2]))
    history: list[tuple[Subgoal, Outcome]] = []
    while (subgoal := operator.next(history)) is not None:
        history.append((subgoal, execute(world, subgoal, scene)))
    return history


def follow(world: LineWorld, plan: list[Subgoal], budget: int = 8) -> bool:
    """Whether a plan succeeds if what slips is tried again."""
    for _ in range(budget):
        if not plan or world.is_dead():
            break
        plan = plan[1:] if execute(world, plan[0]) is Outcome.REACHED else plan
    return world.is_success()


# ---- scenes --------------------------------------------------------------------------------------
def test_scenes_are_pure_functions_and_can_be_solved():
    for split in TASK.splits:
        scenes = [line_scene(split, number) for number in range(60)]
        line_scene.cache_clear()
        assert scenes == [line_scene(split, number) for number in range(60)]
        assert len(set(scenes)) == 60
        assert all(rules.value(scene, rules.start(scene), 8) > 0.8 for scene in scenes)
        assert 0.3 < np.mean([scene.target is not None for scene in scenes]) < 0.7
        assert {len(scene.balls) for scene in scenes} == {1, 2}


def test_unseen_scenes_speak_and_look_otherwise():
    seen = {w for n in range(300) for w in line_scene("demo", n).instruction.split()}
    unseen = {w for n in range(300) for w in line_scene("unseen", n).instruction.split()}
    assert {"let", "rest", "tidy", "away"} <= unseen - seen
    assert {"ball", "cup", "red", "left"} <= seen & unseen
    assert not {line_scene("seen", n).wall for n in range(99)} & {
        line_scene("unseen", n).wall for n in range(99)
    }


@pytest.mark.parametrize(("split", "number"), [("seen", 1000), ("unseen", -1), ("sunny", 0)])
def test_scenes_outside_the_lists_are_refused(split, number):
    with pytest.raises(VineError):
        line_scene(split, number)


# ---- chances -------------------------------------------------------------------------------------
def example(verb: str, hold: str, spoilt: bool) -> tuple[LineWorld, Move]:
    """A world and a move that finds the hand's way free, or not."""
    world = LineWorld("demo", render=False)
    for number in range(200):
        world.reset(number, 0)
        scene = world.scene
        if scene.target is not None:
            continue
        situations = [rules.start(scene)]
        if verb == "put":
            rest = (ON_STAND,) * (len(scene.balls) - 1)
            situations = [Situation((IN_HAND, *rest), hold)]
        for now in situations:
            for move in rules.possible(scene, now):
                fits = move.verb == verb and (move.hold or hold) == hold
                if fits and rules.is_spoilt(scene, now, move) == spoilt:
                    world.now, world.closed = now, verb == "put"
                    return world, move
    raise AssertionError("no such scene")


@pytest.mark.parametrize(
    ("verb", "hold", "spoilt"),
    [
        *(("grasp", hold, spoilt) for hold in ("sides", "top") for spoilt in (False, True)),
        *(("put", "sides", spoilt) for spoilt in (False, True)),
        ("put", "top", False),
    ],
)
def test_chances_are_those_of_2000_executions(verb, hold, spoilt):
    world, move = example(verb, hold, spoilt)
    expected = rules.chances(world.scene, world.now, move)
    subgoal = world.subgoal_of(move)
    *before, closing, _, _ = actions_of(world, subgoal)
    for action in before:
        world.step(action)
    state, own, counts = world.save_state(), world.rng, Counter()
    for seed in range(2000):
        world.restore_state(state)
        world.rng = np.random.default_rng(seed)
        world.step(closing)
        counts[world.subgoal_status(subgoal) or Outcome.SLIPPED] += 1
    world.rng = own
    shares = [counts[o] / 2000 for o in (Outcome.REACHED, Outcome.SLIPPED, Outcome.DEAD)]
    assert shares == pytest.approx(expected, abs=4 * 0.5 / 2000**0.5)
    assert all(share == 0 for share, p in zip(shares, expected, strict=True) if p == 0)


def test_what_stands_beside_decides():
    """Posts spoil what the fingers do on either side, bolts what the magnet grasps, and nothing else."""
    scene = next(s for s in (line_scene("seen", n) for n in range(99)) if len(s.balls) == 1)
    held = {hold: Situation((IN_HAND,), hold) for hold in ("sides", "top")}
    for x, near, far in ((scene.cups[1].x, 5.5, 14.5), (scene.balls[0], 4.0, 9.5)):
        for away in (-near, near, far):
            post, bolt = Post(x + away, 12.0), Post(x + away, 4.0)
            posts, bolts = replace(scene, posts=(post,), bolts=()), replace(scene, posts=(), bolts=(bolt,))
            beside, cup = abs(away) == near, x == scene.cups[1].x
            for hold in ("sides", "top"):
                now = held[hold] if cup else rules.start(scene)
                move = Move("put", 0, cup=1) if cup else Move("grasp", 0, hold)
                assert rules.is_spoilt(posts, now, move) == (beside and hold == "sides")
                assert rules.is_spoilt(bolts, now, move) == (beside and hold == "top" and not cup)


def test_dropped_and_in_the_wrong_cup():
    world = LineWorld("demo", render=False)
    number = next(
        n for n in range(99) if line_scene("demo", n).target == 0 and len(line_scene("demo", n).balls) == 1
    )
    world.reset(number, 0)
    world.now, world.closed = Situation((IN_HAND,), "top"), True
    state = world.save_state()
    world.step(np.array([0, 0, -1]))
    assert world.is_dead() and world.failure_kind() == "dropped" and world.onset == 0
    assert world.now.balls == (LOST,) and world.steps == 1
    for seed in range(20):
        world.restore_state(state)
        world.rng = np.random.default_rng(seed)
        subgoal = world.subgoal_of(Move("put", 0, cup=1))
        if execute(world, subgoal) is not Outcome.SLIPPED:
            assert world.subgoal_status(subgoal) is Outcome.DEAD and not world.is_success()
            assert world.failure_kind() in ("wrong_cup", "missed_cup")


# ---- value ---------------------------------------------------------------------------------------
def best_move(world: LineWorld, budget: int) -> Move:
    return rules.best_plan(world.scene, world.now, budget)[0]


def test_exact_value_is_what_the_best_moves_reach():
    """Budgets that hardly suffice, so that slips count; posts everywhere in half of the scenes."""
    world, wins, values = LineWorld("seen", render=False), [], []
    for scene in range(200):
        world.reset(scene, 1)
        if scene % 2:
            posts = tuple(Post(cup.x + side * 5.5, 12.0) for cup in world.scene.cups for side in (-1, 1))
            world.reset(replace(world.scene, posts=posts), scene)
        budget = 2 * len(world.scene.balls)
        values.append(TASK.oracle.value(world, world.true_graph(), budget))
        while budget and not world.is_success() and not world.is_dead():
            execute(world, world.subgoal_of(best_move(world, budget)), scene)
            budget -= 1
        wins.append(world.is_success())
    assert min(values) < 0.7 and max(values) > 0.85
    for group in (slice(0, None, 2), slice(1, None, 2)):
        assert np.mean(wins[group]) == pytest.approx(np.mean(values[group]), abs=4 * 0.5 / 100**0.5)


def test_value_of_later_graphs():
    world = LineWorld("seen", render=False)
    for scene in range(20):
        world.reset(scene, 0)
        for subgoal in TASK.oracle.plans(world)[0]:
            graph = world.true_graph()
            assert TASK.oracle.value(world, graph, 8) == rules.value(world.scene, world.now, 8)
            execute(world, subgoal)
        if world.is_success():
            assert TASK.oracle.value(world, world.true_graph(), 0) == 1


# ---- who acts ------------------------------------------------------------------------------------
def test_oracle_plans_succeed_and_fixed_choices_do_not():
    """The numbers that make the task one: dev scenes."""
    world = LineWorld("seen", render=False)
    rates = {}
    for name, policy in {"oracle": None, **TASK.constants}.items():
        wins = []
        for scene in range(100):
            world.reset(scene, 0)
            graph = world.true_graph()
            plan = list(TASK.oracle.plans(world)[0] if policy is None else policy(graph, world.instruction))
            for subgoal in plan:
                check_subgoal(subgoal, graph, TASK.schema)
            wins.append(follow(world, plan))
        rates[name] = np.mean(wins)
    oracle = rates.pop("oracle")
    assert oracle > 0.9
    assert all(0.4 < rate < 0.75 for rate in rates.values()), rates


def test_constant_policies_resume():
    """From every moment of an episode they name what is left, and nothing when all is done."""
    world = LineWorld("seen", render=False)
    for scene in range(30):
        world.reset(scene, 0)
        for subgoal in TASK.oracle.plans(world)[0]:
            for policy in TASK.constants.values():
                rest = policy(world.true_graph(), world.instruction)
                now = world.now
                for choice in rest:
                    move = world.move_of(choice)
                    assert move in list(rules.possible(world.scene, now))
                    now = rules.after(now, move)
                assert rules.is_goal(world.scene, now)
            world.now = rules.after(world.now, world.move_of(subgoal))
        assert world.is_success()
        assert all(policy(world.true_graph(), world.instruction) == [] for policy in TASK.constants.values())


def test_operators_fail_as_often_as_meant_and_awareness_helps():
    world = LineWorld("demo", render=False)
    rates, alternatives = {}, []
    for awareness in (0.0, 0.5, 1.0):
        wins = []
        for scene in range(100):
            history = operate(world, scene, OperatorDials(awareness=awareness))
            wins.append(world.is_success())
            if awareness == 0:
                alternatives += [s.verb == "grasp_top" for s, _ in history if s.verb != "put"]
        rates[awareness] = np.mean(wins)
    assert 0.4 < rates[0.0] < 0.65
    assert rates[0.0] < rates[0.5] < rates[1.0] and rates[0.0] + 0.15 < rates[1.0]
    assert 0.1 < np.mean(alternatives) < 0.35


def test_operators_do_not_see_the_causes():
    """The same choices whatever stands beside: posts are taken away and nothing changes."""
    world, bare = LineWorld("demo", render=False), LineWorld("demo", render=False)
    for scene in range(100):
        chosen = []
        for here in (world, bare):
            full = line_scene("demo", scene)
            here.reset(full if here is world else replace(full, posts=(), bolts=()), scene)
            operator = TASK.operator(here, OperatorDials(), np.random.default_rng(scene))
            history: list[tuple[Subgoal, Outcome]] = []
            while (subgoal := operator.next(history)) is not None:
                move = here.move_of(subgoal)
                here.now = rules.after(here.now, move)  # everything is reached, so that all choices show
                history.append((subgoal, Outcome.REACHED))
            chosen.append([s for s, _ in history])
        assert chosen[0] == chosen[1]


def test_skill_says_truly_how_it_ended():
    world = LineWorld("seen", render=False)
    ends = Counter()
    for scene in range(60):
        world.reset(scene, 0)
        skill, subgoal = TASK.skill(world, 0.3), TASK.constants["sides-nearest"](world.true_graph(), "")[0]
        skill.start(subgoal, "", scene)
        for _ in range(TASK.subgoal_steps):
            output = skill.act(world.observe(), world.true_graph())
            if output.done[DONE] == 1 or output.done[FAILED] == 1:
                break
            world.step(output.actions[0])
        reached = world.subgoal_status(subgoal) is Outcome.REACHED
        assert output.done[DONE] == reached and output.done[FAILED] == (not reached)
        ends[reached] += 1
    assert min(ends.values()) > 5


# ---- determinism ---------------------------------------------------------------------------------
def snapshot(world: LineWorld) -> tuple[SceneGraph, bytes, bool]:
    observation = world.observe()
    images = b"".join(image.tobytes() for image in observation.images.values())
    return world.true_graph(), images + observation.proprioception.tobytes(), world.is_success()


def test_episodes_repeat_bit_for_bit():
    runs = []
    for _ in range(2):
        world = LineWorld("demo")
        runs.append([(operate(world, scene), snapshot(world)) for scene in range(5)])
    assert runs[0] == runs[1]
    world.reset(3, 4)
    first = world.x
    world.reset(3, 5)
    assert world.x != first


def test_saved_states_are_returned_to_exactly():
    world = LineWorld("seen")
    world.reset(5, 0)
    plan = TASK.constants["sides-nearest"](world.true_graph(), world.instruction)
    actions = actions_of(world, plan[0])
    for action in actions[:3]:
        world.step(action)
    state, ends = world.save_state(), []
    for _ in range(3):
        world.restore_state(state)
        assert world.steps == 3
        for action in actions[3:]:
            world.step(action)
        ends.append((snapshot(world), world.steps))
        world.reset(7, 1)
    assert ends[0] == ends[1] == ends[2]


def test_ids_are_kept():
    world = LineWorld("seen", render=False)
    world.reset(3, 0)
    first = world.true_graph()
    operate(world, 3)
    later = world.true_graph()
    assert [o.id for o in first.objects] == [o.id for o in later.objects]
    assert [o.cls for o in first.objects] == [o.cls for o in later.objects]


# ---- pictures ------------------------------------------------------------------------------------
@pytest.mark.parametrize("split", ["demo", "unseen"])
def test_pictures_show_what_the_boxes_say(split):
    """A box is as large as what is seen of its body in that image."""
    world, compared = TASK.simulation(split), 0
    for scene in range(6):
        world.reset(scene, 0)
        first = TASK.oracle.plans(world)[0][0]
        for action in TASK.expert(world, 1.0, 0.0, np.random.default_rng(0)).run(first):
            world.step(action)
            images, boxes = world.observe().images, world.true_boxes()
            cups = {name: b for name, b in zip(world.names, world.bodies(), strict=True) if b.kind == "cup"}
            for role, image in images.items():
                assert image.shape == TASK.cameras[role] and image.dtype == np.uint8
                for name, body in cups.items():  # each has a colour of its own
                    rgb = (255 * np.array(body.rgb)).round().astype(np.uint8)
                    rows, columns = np.nonzero((image == rgb).all(-1))
                    assert bool(len(rows)) == (name in boxes[role])
                    if len(rows):
                        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                        assert np.allclose(np.array(boxes[role][name]) * 64, edges)
                        compared += 1
    assert compared > 100


def test_the_schema_names_no_cause():
    assert set(TASK.schema.attributes) == {"colour", "hold", "grip"}


@pytest.mark.parametrize("subgoal", [Subgoal("put", ("ball", "post_1")), Subgoal("fly", ("ball",))])
def test_subgoals_that_do_not_fit_are_refused(subgoal):
    world = LineWorld("seen", render=False)
    world.reset(0, 0)
    with pytest.raises(VineError):
        world.subgoal_status(subgoal)


@pytest.mark.parametrize("action", [[0, 0], [np.nan, 0, 0]])
def test_actions_that_do_not_fit_are_refused(action):
    world = LineWorld("seen", render=False)
    world.reset(0, 0)
    with pytest.raises(VineError):
        world.step(action)
