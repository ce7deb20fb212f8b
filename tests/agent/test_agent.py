"""The loop on a small real robot: perceive, plan, execute, verify, replan, stop with a reason."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from agent.line_world import SCHEMA, LineModel, LineSkill, LineWorld, TrueEyes

from vine_vla.agent import (
    Agent,
    AgentConfig,
    Feedback,
    Replanning,
    StopReason,
    Streams,
    Verdict,
    agreement,
    outcome_probabilities,
    run_episode,
)
from vine_vla.core.errors import VineError
from vine_vla.core.graph import Relation, SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Plan, PlanStatus, SkillSignals
from vine_vla.core.text import describe
from vine_vla.search.config import SearchConfig
from vine_vla.search.planners import make_planner

CONFIG = AgentConfig(budget=6, max_steps=200, subgoal_steps=40)
WORDING = partial(describe, schema=SCHEMA)


def run(scene=0, *, model=None, skill=None, config=CONFIG, planner=None, world=None, policy_seed=0):
    world = world or LineWorld()
    streams = Streams.spawn(scene, policy_seed)
    world.reset(scene, streams.scene)
    planner = planner or make_planner("tree", model or LineModel(), SearchConfig(expansions=32))
    record = run_episode(
        world, TrueEyes(world), planner, skill or LineSkill(), config, streams, wording=WORDING
    )
    return world, record


def traps(count):
    """Scenes whose sockets all need the same grasp, so that the wrong one is a dead end."""
    found = []
    for scene in range(200):
        world = LineWorld()
        world.reset(scene, 0)
        if len({side for _, side in world.sockets.values()}) == 1:
            found.append(scene)
    return found[:count]


def test_plans_ahead_and_finishes():
    for scene in range(12):
        world, record = run(scene)
        assert world.is_success() and record.reason is StopReason.FINISHED
        assert len(record.executions) == 2 and record.replans == 0
        assert [e.verdict for e in record.executions] == [Verdict.DONE, Verdict.DONE]
        assert record.executions[0].end == record.executions[1].start and record.steps == world.steps
        assert record.executions[1].text.startswith("insert the plug into the")
        assert record.decisions[0].plan.feasibility == pytest.approx(1.0)
        assert all(e.agreement == 1.0 for e in record.executions)


def test_a_model_without_failures_walks_into_the_trap():
    scenes = traps(40)
    wins = {
        blind: sum(run(s, model=LineModel(blind=blind))[0].is_success() for s in scenes) for blind in (0, 1)
    }
    assert wins[0] == len(scenes)
    assert wins[1] <= 0.8 * len(scenes)  # half the traps need the grasp it does not happen to take


def test_failure_is_replanned_with_the_rest_of_the_budget():
    world, record = run(
        skill=LineSkill(clumsy=0.6, gives_up=True), policy_seed=2, config=replace(CONFIG, budget=12)
    )
    verdicts = [e.verdict for e in record.executions]
    assert Verdict.FAILED in verdicts and world.is_success()
    causes = [d.cause for d in record.decisions]
    assert causes[0] == "start" and causes.count("failure") == verdicts.count(Verdict.FAILED)
    budgets = [d.budget for d in record.decisions]
    assert budgets == sorted(budgets, reverse=True) and budgets[0] == 12


def test_never_retries_the_same_subgoal_without_planning():
    skill = LineSkill(clumsy=0.6, gives_up=True)
    config = replace(CONFIG, replanning=Replanning.NEVER, budget=12)
    world, record = run(skill=skill, policy_seed=2, config=config)
    assert len(record.decisions) == 1 and world.is_success()
    names = [e.subgoal for e in record.executions]
    assert len(names) > 2 and len(set(names)) == 2


def test_fixed_plans_after_every_subgoal():
    _, record = run(config=replace(CONFIG, replanning="fixed"))
    assert [d.cause for d in record.decisions] == ["start", "fixed"]
    assert record.reason is StopReason.FINISHED


def test_bad_settings_are_refused():
    with pytest.raises(VineError, match="budget"):
        AgentConfig(budget=0)
    with pytest.raises(VineError, match="fall is in"):
        AgentConfig(fall=0.0)


def mixed(count):
    """Scenes with a free and a blocked socket, at least 8 steps from where the plug is taken."""
    found = []
    for scene in range(300):
        world = LineWorld()
        world.reset(scene, 0)
        if len({side for _, side in world.sockets.values()}) == 2:
            found.append(scene)
    return found[:count]


def test_uncertainty_replans_when_somebody_turns_the_sockets():
    wins = {}
    for rule in ("on-failure", "uncertainty"):
        config = replace(CONFIG, replanning=rule, watch=2)
        ends = [run(scene, world=LineWorld(turned_at=7), config=config) for scene in mixed(12)]
        wins[rule] = sum(world.is_success() for world, _ in ends)
        causes = [[d.cause for d in record.decisions] for _, record in ends]
        doubted = [Verdict.UNCERTAIN in [e.verdict for e in record.executions] for _, record in ends]
        assert all("uncertainty" in c for c in causes) is (rule == "uncertainty")
        assert any(doubted) is (rule == "uncertainty")
    assert wins["uncertainty"] == 12 and wins["on-failure"] <= 8


def test_uncertainty_is_quiet_when_nothing_happens():
    for scene in mixed(12):
        config = replace(CONFIG, replanning="uncertainty", watch=2)
        world, record = run(scene, config=config)
        assert world.is_success() and [d.cause for d in record.decisions] == ["start"]
        assert record.watch_calls > 2


def test_looking_between_subgoals_alone_is_enough_for_early_changes():
    config = replace(CONFIG, replanning="uncertainty", watch=0)
    scene = mixed(1)[0]
    world, record = run(scene, world=LineWorld(turned_at=1), config=config)
    assert [d.cause for d in record.decisions] == ["start", "uncertainty"] and world.is_success()
    assert [e.verdict for e in record.executions] == [Verdict.DONE, Verdict.DONE]


def test_uncertainty_needs_a_planner_that_looks_ahead():
    class Whole:
        def plan(self, graph, instruction, budget, seed, observation=None):
            return Plan(PlanStatus.PLANNED, (), 1.0, 0.0, 1.0, 1.0)

    with pytest.raises(VineError, match="judges the rest"):
        run(planner=Whole(), config=replace(CONFIG, replanning="uncertainty"))


def test_an_agent_is_driven_from_outside():
    """As a policy server does: observation in, actions out, in its client's time."""
    world, streams = LineWorld(), Streams.spawn(3, 0)
    world.reset(3, streams.scene)
    planner = make_planner("tree", LineModel(), SearchConfig(expansions=32))
    agent = Agent(
        TrueEyes(world), planner, LineSkill(), CONFIG, streams, wording=WORDING, instruction="plug it in"
    )
    with pytest.raises(VineError, match="not stopped"):
        _ = agent.record
    sight = Feedback(world.observe())
    seen = []
    while (actions := agent.act(sight)) is not None:
        assert actions.ndim == 2 and len(actions) >= 1 and agent.subgoal is not None
        seen.append(str(agent.subgoal))
        for action in actions:
            world.step(action)
        sight = Feedback(world.observe(), len(actions))
    assert agent.reason is StopReason.FINISHED and world.is_success()
    record = run(3)[1]
    assert agent.record.steps == record.steps and agent.subgoal is None
    assert [str(e.subgoal) for e in record.executions] == list(dict.fromkeys(seen))
    assert agent.act(sight) is None  # stopped is stopped


def test_timeouts_use_up_the_budget():
    config = replace(CONFIG, subgoal_steps=10, budget=3)
    imitate = make_planner("imitate", LineModel())
    _, record = run(skill=LineSkill(clumsy=1.0), config=config, planner=imitate)
    assert [e.verdict for e in record.executions] == [Verdict.TIMEOUT] * 3
    assert record.reason is StopReason.BUDGET
    assert all(e.end - e.start == 10 for e in record.executions)
    # A planner that looks ahead sees that one subgoal left cannot do it, and says so.
    _, record = run(skill=LineSkill(clumsy=1.0), config=config)
    assert len(record.executions) == 2 and record.reason is StopReason.INFEASIBLE


def test_step_limit_and_robot_stop():
    _, record = run(skill=LineSkill(clumsy=1.0), config=replace(CONFIG, max_steps=25, budget=9))
    assert record.steps == 25 and record.reason is StopReason.STEP_LIMIT
    world, record = run(world=LineWorld(broken_at=3))
    assert world.steps == 3 and record.reason is StopReason.ROBOT
    assert record.executions[-1].verdict is Verdict.INTERRUPTED


def test_hysteresis_asks_for_agreement_in_a_row():
    ends = {}
    for hysteresis in (1, 3):
        _, record = run(config=replace(CONFIG, hysteresis=hysteresis))
        done = record.executions[0].done
        ends[hysteresis] = len(done)
        assert (done[-hysteresis:, 1] > 0.5).all() and done.shape[1] == 3
        assert np.allclose(done.sum(1), 1)
    assert ends[3] == ends[1] + 2


def test_never_done_runs_into_the_limits_not_into_success():
    _, record = run(skill=LineSkill(never_done=True))
    assert record.reason in (StopReason.BUDGET, StopReason.STEP_LIMIT, StopReason.INFEASIBLE)
    assert Verdict.DONE not in [e.verdict for e in record.executions]


def test_stops_with_a_reason_instead_of_a_first_choice():
    class Hopeless(LineModel):
        def expand(self, graphs, instructions, k, context=None):
            found = super().expand(graphs, instructions, k)
            found.p[:] = (0, 0.02, 0, 0.98)
            return found

    _, record = run(model=Hopeless(tau=0.5))
    assert record.reason is StopReason.INFEASIBLE and not record.executions and record.steps == 0
    _, record = run(model=LineModel(support=0.0))
    assert record.reason is StopReason.UNSUPPORTED and not record.executions


def test_done_that_the_graph_contradicts_counts_as_failure():
    class Liar(LineSkill):
        def act(self, observation, graph):
            return super().act(observation, graph)._replace(done=np.array([0.0, 1.0, 0.0], np.float32))

    _, record = run(skill=Liar(), config=replace(CONFIG, budget=3))
    assert record.executions[0].verdict is Verdict.CONTRADICTED and record.executions[0].agreement == 0
    assert record.decisions[1].cause == "failure"
    trusting = replace(CONFIG, budget=3, agreement=0.0)
    assert run(skill=Liar(), config=trusting)[1].executions[0].verdict is Verdict.DONE


def test_streams_are_separate_and_the_same_for_every_arm():
    a, b = Streams.spawn(7, 0), Streams.spawn(7, 1)
    assert a.scene == Streams.spawn(7, 0).scene != b.scene
    assert a.policy.generate_state(2).tolist() != a.planner.generate_state(2).tolist()
    tree, imitate = LineSkill(), LineSkill()
    run(3, skill=tree)
    run(3, skill=imitate, planner=make_planner("imitate", LineModel()))
    assert [s[2] for s in tree.started] == [s[2] for s in imitate.started][: len(tree.started)]


def test_the_same_seeds_give_the_same_record():
    def facts(record):
        return [(e.subgoal, e.start, e.end, e.verdict) for e in record.executions], record.reason

    skill = partial(LineSkill, clumsy=0.5, gives_up=True)
    assert facts(run(5, skill=skill())[1]) == facts(run(5, skill=skill())[1])


def test_frames_are_kept_where_asked():
    _, record = run(config=replace(CONFIG, frames="subgoals"))
    ends = [0, *(e.end for e in record.executions)]
    assert [f.step for f in record.frames] == ends
    assert record.frames[0].images["front"].dtype == np.uint8
    assert not run()[1].frames
    assert len(run(config=replace(CONFIG, frames="chunks"))[1].frames) > 3
    assert set(record.seconds) == {"perceive", "plan", "act", "robot"}


def test_imitation_plans_one_subgoal_at_a_time_and_still_ends():
    world, record = run(planner=make_planner("imitate", LineModel()))
    assert [d.cause for d in record.decisions] == ["start", "plan ended"]
    assert record.reason in (StopReason.FINISHED, StopReason.INFEASIBLE)


def test_probabilities_come_from_the_plans_own_tree():
    _, record = run()
    plan = record.decisions[0].plan
    assert outcome_probabilities(plan, 0) == pytest.approx((0, 1, 0, 0))
    assert outcome_probabilities(plan, 1) == pytest.approx((1, 0, 0, 0))
    assert outcome_probabilities(plan, 2) is None
    bare = Plan(PlanStatus.PLANNED, (Subgoal("insert", ("plug", "socket_1")),), 1, 0, 1, 1)
    assert outcome_probabilities(bare, 0) is None


def test_agreement_reads_only_what_was_predicted_to_change():
    world = LineWorld()
    world.reset(0, 0)
    before, grasp = world.true_graph(), Subgoal("grasp_long", ("plug",))
    model = LineModel()
    predicted = model._options(before)[0][2]
    assert agreement(before, predicted, predicted, grasp, "front") == 1.0
    assert agreement(before, predicted, before, grasp, "front") == 0.0
    assert agreement(before, before, predicted, grasp, "front") is None
    # A short grasp where a long one was wanted: held and the grip agree, the way of holding does not.
    short = model._options(before)[1][2]
    assert agreement(before, predicted, short, grasp, "front") == pytest.approx(2 / 3)
    # Relations other than `held` follow from boxes and do not count.
    extra = SceneGraph(before.objects, (Relation("inside", "plug", "socket_1"),))
    assert agreement(before, extra, before, grasp, "front") is None


class AwareSkill(LineSkill):
    """Knows how many times it was asked."""

    asked = 0

    def signals(self):
        self.asked += 1
        return SkillSignals(0.25, float(self.asked))


def test_what_a_skill_knows_of_itself_is_on_record():
    for skill, wanted in ((AwareSkill(), True), (AwareSkill(), False), (LineSkill(), True)):
        _, record = run(0, skill=skill, config=replace(CONFIG, signals=wanted))
        for execution in record.executions:
            if not wanted:
                assert execution.signals is None
            elif isinstance(skill, AwareSkill):
                assert execution.signals.shape == (len(execution.done), 2)
                assert (execution.signals[:, 0] == 0.25).all() and (
                    np.diff(execution.signals[:, 1]) == 1
                ).all()
            else:
                assert np.isnan(execution.signals).all()
        assert getattr(skill, "asked", 0) == (
            sum(len(e.done) for e in record.executions) if wanted and isinstance(skill, AwareSkill) else 0
        )
