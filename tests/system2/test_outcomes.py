"""Outcome nets, proposals and next graphs learn a generated world; members, order, seeds, splits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from system2.conftest import QUICK
from system2.worlds import SIDES, sides_demonstrations, sides_scene

from vine_vla import SceneGraph, Subgoal, VineError, pack, unpack
from vine_vla.core.options import EpisodeOutcome, Outcome, Split
from vine_vla.core.protocols import DEAD, GOAL, REACHED, SLIPPED, Evidence, PlanningModel
from vine_vla.system2 import Failures, Probe
from vine_vla.system2.compact import train_outcomes
from vine_vla.system2.compact.execution import calibrate_on_probes
from vine_vla.system2.compact.fit import FitConfig
from vine_vla.system2.compact.model import NEGLIGIBLE
from vine_vla.system2.compact.nets import SubgoalTensors, member
from vine_vla.system2.compact.outcome import outcome_logits, outcome_net, table_inputs, train_outcome
from vine_vla.system2.segments import CENSORED, choose_episodes, hold_out, segment_table
from vine_vla.system2.uncertainty.execution import probe_table

TEXT = "put the part into a slot"


def fresh(count, seed=99):
    rng = np.random.default_rng(seed)
    scenes = [sides_scene(rng) for _ in range(count)]
    return scenes, pack([s for s, _ in scenes], SIDES, budget=2, objects=9)


def test_knows_which_side_fails(sides):
    _, model = sides
    scenes, graphs = fresh(150)
    answer = model.expand(graphs, [TEXT] * 150, 5)
    works, p = [], []
    for b, (_, good) in enumerate(scenes):
        for k, subgoal in enumerate(answer.subgoals[b]):
            if subgoal.verb != "turn":
                works.append(good[subgoal.verb, subgoal.args[1]] > 0.5)
                p.append(answer.p[:, b, k, [GOAL, REACHED]].sum(-1).mean())
    assert roc_auc_score(works, p) > 0.95


def test_expansion_keeps_the_contract(sides):
    _, model = sides
    _, graphs = fresh(12)
    answer = model.expand(graphs, [TEXT] * 12, 3)
    m, b, k = answer.p.shape[:3]
    assert (m, b, k) == (4, 12, 3)
    np.testing.assert_allclose(answer.p.sum(-1), 1, atol=1e-5)
    assert answer.next.batch_shape == (12, 3, 2)
    assert answer.value.shape == (4, 12, 3, 2)
    assert (answer.value >= 0).all() and (answer.value <= 1).all()
    assert (answer.support >= 0).all() and (answer.support <= 1).all()
    assert [len(s) for s in answer.subgoals] == answer.mask.sum(1).tolist()
    assert (answer.prior.sum(1) <= 1 + 1e-5).all() and (np.diff(answer.prior, axis=1) <= 0).all()
    assert (answer.next.budget == 1).all()
    assert not answer.value[:, ~answer.mask].any() and (answer.p[:, ~answer.mask, DEAD] == 1).all()
    model_: PlanningModel = model
    evidence: Evidence = model
    assert model_.schema is SIDES and evidence is model


def test_no_value_without_budget(sides):
    _, model = sides
    _, graphs = fresh(4)
    assert not model.expand(graphs.with_budget(1), [TEXT] * 4, 3).value.any()
    later = [model.expand(graphs.with_budget(b), [TEXT] * 4, 3).value for b in (1, 2, 3, 9)]
    for less, more in zip(later, later[1:], strict=False):
        assert (more >= less - 1e-6).all()


def test_what_hardly_happens_is_worth_what_was_there_before(sides):
    """V of every next graph that may come; of the others V of the graph before, with one less to spend."""
    _, model = sides
    _, graphs = fresh(20)
    answer = model.expand(graphs, [TEXT] * 20, 5)
    before, _ = model.feasibility(graphs.with_budget(1), [TEXT] * 20)
    rare = (answer.p.mean(0)[..., [REACHED, SLIPPED]] <= NEGLIGIBLE) & answer.mask[..., None]
    happens = answer.mask[..., None] & ~rare
    assert rare.any() and happens.any()
    after, _ = model.feasibility(answer.next.select(happens), [TEXT] * int(happens.sum()))
    np.testing.assert_allclose(answer.value[:, happens], after, atol=1e-6)
    expected = np.broadcast_to(before[:, :, None, None], answer.value.shape)
    np.testing.assert_allclose(answer.value[:, rare], expected[:, rare], atol=1e-6)


def test_rows_of_a_batch_are_independent(sides):
    _, model = sides
    _, graphs = fresh(6)
    whole = model.expand(graphs, [TEXT] * 6, 4)
    for b in range(6):
        alone = model.expand(graphs.select(slice(b, b + 1)), [TEXT], 4)
        assert alone.subgoals[0] == whole.subgoals[b]
        np.testing.assert_allclose(alone.p[:, 0], whole.p[:, b, : alone.p.shape[2]], atol=1e-5)
        np.testing.assert_allclose(alone.value[:, 0], whole.value[:, b, : alone.p.shape[2]], atol=1e-5)


def test_order_of_objects_does_not_matter(sides):
    _, model = sides
    scenes, _ = fresh(5)
    for index, (graph, _) in enumerate(scenes):
        order = np.random.default_rng(index).permutation(len(graph.objects))
        shuffled = SceneGraph(tuple(graph.objects[i] for i in order), graph.relations)
        a = model.expand(pack([graph], SIDES, budget=2), [TEXT], 5)
        b = model.expand(pack([shuffled], SIDES, budget=2), [TEXT], 5)
        assert set(a.subgoals[0]) == set(b.subgoals[0])
        for k, subgoal in enumerate(a.subgoals[0]):
            j = b.subgoals[0].index(subgoal)
            np.testing.assert_allclose(a.p[:, 0, k], b.p[:, 0, j], atol=1e-4)
            np.testing.assert_allclose(a.value[:, 0, k], b.value[:, 0, j], atol=1e-4)
            np.testing.assert_allclose(a.support[0, k], b.support[0, j], atol=1e-3)


def test_next_graphs_move_what_moves_and_keep_the_rest(sides):
    _, model = sides
    scenes, graphs = fresh(40)
    answer = model.expand(graphs, [TEXT] * 40, 5)
    error = []
    for b, (graph, _) in enumerate(scenes):
        for k, subgoal in enumerate(answer.subgoals[b]):
            if subgoal.verb == "turn":
                continue
            reached, slipped = unpack(answer.next.select((b, k)), SIDES)
            part, target = reached["part"], graph[subgoal.args[1]].boxes["front"]
            error.append(np.hypot(*np.subtract(part.boxes["front"].center, target.center)))
            assert part.attributes["weight"] == pytest.approx(0.7, abs=0.15)  # it was 0.3
            for o in graph.objects:
                if o.cls != "part":
                    assert reached[o.id].attributes == dict(o.attributes)
                    np.testing.assert_allclose(reached[o.id].boxes["front"], o.boxes["front"], atol=1e-6)
            moved = np.subtract(slipped["part"].boxes["front"].center, graph["part"].boxes["front"].center)
            assert np.hypot(*moved) < 0.1
    assert np.mean(error) < 0.05


def test_proposals_leave_out_what_nobody_does(sides):
    _, model = sides
    _, graphs = fresh(20)
    answer = model.expand(graphs, [TEXT] * 20, 10)
    assert all(s.verb != "turn" for row in answer.subgoals for s in row)


def test_imitating_all_episodes_is_not_imitating_the_successful_ones():
    """Whoever begins with one verb fails here: the prior of all episodes has it, the other has not."""
    demonstrations = sides_demonstrations(120)
    marked = [replace(d, split=Split.TRAIN) for d in demonstrations]
    bad = {s.subgoal.verb for d in marked for s in d.segments[:1]}
    assert len(bad) > 1
    worst = max(sorted(bad), key=lambda verb: _failed(marked, verb))
    told = [
        replace(d, outcome=EpisodeOutcome.FAILURE) if d.segments[0].subgoal.verb == worst else d
        for d in marked
    ]
    fast = FitConfig(epochs=1, least_steps=5)
    model = train_outcomes(
        told, SIDES, replace(QUICK, outcome=fast, dynamics=fast, value=fast, value_mu=fast)
    )
    _, graphs = fresh(40, seed=3)
    share = []
    for imitate_all in (False, True):
        answer = model.with_prior(imitate_all=imitate_all).expand(graphs, [TEXT] * 40, 6)
        verbs = [[s.verb == worst for s in row] for row in answer.subgoals]
        share.append(
            np.mean(
                [
                    sum(q[k] for k, is_worst in enumerate(v) if is_worst)
                    for q, v in zip(answer.prior, verbs, strict=True)
                ]
            )
        )
    assert share[1] > share[0] + 0.1


def _failed(demonstrations, verb):
    """Episodes that began with `verb` and did not succeed."""
    return sum(
        d.segments[0].subgoal.verb == verb and d.outcome is not EpisodeOutcome.SUCCESS for d in demonstrations
    )


def test_nearest_episodes_are_evidence(sides):
    demonstrations, model = sides
    graph, good = sides_scene(np.random.default_rng(5))
    by_id = {d.episode_id: d for d in demonstrations}
    for verb, slot in good:
        found = model.nearest(graph, Subgoal(verb, ("part", slot)), 3)
        assert len(found.succeeded) == 3 and len(found.failed) == 3
        for name in found.succeeded:
            assert by_id[name].split is Split.TRAIN
            assert any(s.subgoal.verb == verb and s.outcome is Outcome.REACHED for s in by_id[name].segments)
        for name in found.failed:
            assert any(
                s.subgoal.verb == verb and s.outcome is not Outcome.REACHED for s in by_id[name].segments
            )
    with pytest.raises(VineError, match="does not fit"):
        model.nearest(graph, Subgoal("slide", ("slot_1", "part")))


def test_members_at_once_equal_members_one_by_one(sides):
    demonstrations, model = sides
    table = segment_table(demonstrations[:40], SIDES).decided()
    inputs = SubgoalTensors(table_inputs(model.encoder, table))
    with torch.no_grad():
        together, _ = outcome_logits(model.outcome, inputs)
        for m in range(model.members):
            one = outcome_net(model.encoder, 1, model.outcome.width, torch.Generator())
            one.load_state_dict(member(model.outcome, m))
            torch.testing.assert_close(outcome_logits(one, inputs)[0][0], together[m], atol=1e-4, rtol=1e-4)


def test_members_trained_at_once_equal_members_trained_one_by_one(sides, monkeypatch):
    """Gradients of one member do not touch another: the same weights come out when it trains alone."""
    demonstrations, model = sides
    table = segment_table(demonstrations[:60], SIDES).decided()
    monkeypatch.setattr("vine_vla.system2.compact.outcome.DROPOUT", 0.0)
    settings = {"width": 8, "config": FitConfig(epochs=2, least_steps=4, batch=32), "noise": 0.0, "seed": 3}
    both = train_outcome(model.encoder, table, members=2, **settings)

    from vine_vla.system2.compact import outcome as module

    untrained = outcome_net(model.encoder, 2, 8, torch.Generator().manual_seed(3))
    for m in range(2):
        start = member(untrained, m)

        def alone_net(encoder, members, width, generator, start=start):
            net = outcome_net(encoder, 1, width, generator)
            net.load_state_dict(start)
            return net

        def alone_weights(episode, members, rng, m=m):
            from vine_vla.system2.compact.fit import bootstrap

            return bootstrap(episode, 2, rng)[m : m + 1]

        with monkeypatch.context() as patch:
            patch.setattr(module, "outcome_net", alone_net)
            patch.setattr(module, "bootstrap", alone_weights)
            alone = train_outcome(model.encoder, table, members=1, **settings)
        for name, value in member(both, m).items():
            torch.testing.assert_close(alone.state_dict()[name], value, atol=2e-4, rtol=2e-3)


def test_same_seed_same_model_other_seed_another():
    demonstrations = sides_demonstrations(40)
    fast = FitConfig(epochs=1, least_steps=5)
    config = replace(QUICK, outcome=fast, dynamics=fast, proposal=fast, value=fast, value_mu=fast, states=60)
    _, graphs = fresh(3)
    answers = [
        train_outcomes(demonstrations, SIDES, replace(config, seed=seed)).expand(graphs, [TEXT] * 3, 4)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(answers[0].p, answers[1].p)
    np.testing.assert_array_equal(answers[0].value, answers[1].value)
    assert np.abs(answers[0].p - answers[2].p).max() > 1e-3


def test_calibration_and_test_episodes_teach_nothing():
    """Turning the outcomes of held-out episodes around changes no weight of the nets."""
    demonstrations = sides_demonstrations(60)
    turned = []
    for d in demonstrations:
        if d.split is not Split.TRAIN:
            segments = tuple(
                replace(s, outcome=Outcome.DEAD if s.outcome is Outcome.REACHED else Outcome.REACHED)
                for s in d.segments
            )
            d = replace(d, segments=segments, outcome=EpisodeOutcome.FAILURE)
        turned.append(d)
    fast = FitConfig(epochs=1, least_steps=5)
    config = replace(QUICK, outcome=fast, dynamics=fast, proposal=fast, value=fast, value_mu=fast, states=60)
    a, b = (train_outcomes(d, SIDES, config) for d in (demonstrations, turned))
    for net in ("outcome", "dynamics", "value_mu"):
        for name, value in getattr(a, net).state_dict().items():
            torch.testing.assert_close(getattr(b, net).state_dict()[name], value, atol=0, rtol=0)
    assert a.budget == b.budget
    torch.testing.assert_close(a.shared.proposal.state_dict(), b.shared.proposal.state_dict(), atol=0, rtol=0)


def test_variants_see_what_they_may():
    demonstrations = sides_demonstrations(80)
    ids = {
        kind: {d.episode_id for d in choose_episodes(demonstrations, kind)}
        for kind in (Failures.KEEP, Failures.WITHHOLD)
    }
    won = {d.episode_id for d in demonstrations if d.outcome is EpisodeOutcome.SUCCESS}
    assert len(ids[Failures.KEEP]) == 80 and ids[Failures.WITHHOLD] == won
    matched = choose_episodes(demonstrations, Failures.WITHHOLD_MATCHED, 30)
    assert len(matched) == 30 and {d.episode_id for d in matched} <= won
    with pytest.raises(VineError, match="successful episodes, 79 asked for"):
        choose_episodes(demonstrations, Failures.WITHHOLD_MATCHED, 79)
    with pytest.raises(VineError, match="--episodes"):
        choose_episodes(demonstrations, Failures.WITHHOLD_MATCHED)
    lost = [d for d in demonstrations if d.episode_id not in won]
    with pytest.raises(VineError, match="no episode"):
        choose_episodes(lost, Failures.WITHHOLD)
    some = [d for d in demonstrations if d.episode_id in won]
    with_slips = segment_table(some, SIDES)
    without = segment_table(some, SIDES, drop_slips=True)
    assert (with_slips.outcome == 2).any() and not (without.outcome == 2).any()


def test_outcomes_of_segments():
    demonstration = next(d for d in sides_demonstrations(80) if len(d.segments) == 2)
    first, second = demonstration.segments
    assert first.outcome is Outcome.SLIPPED
    last = segment_table([replace(demonstration, outcome=EpisodeOutcome.SUCCESS)], SIDES)
    assert last.outcome.tolist()[0] == 2
    cut = replace(demonstration, segments=(first, replace(second, outcome=Outcome.CENSORED)))
    assert segment_table([cut], SIDES).outcome.tolist() == [2, CENSORED]
    # The failure's onset lies in the first segment: it is dead, and what follows teaches nothing.
    onset = replace(demonstration, outcome=EpisodeOutcome.FAILURE, onset_frame=5)
    assert segment_table([onset], SIDES).outcome.tolist() == [DEAD]


def test_execution_calibration_follows_the_probes(sides):
    """System 1 is worse than the operators: probes say so, and the probabilities come down."""
    demonstrations, model = sides
    rng = np.random.default_rng(11)
    probes = []
    for number in range(150):
        graph, good = sides_scene(rng)
        verb, slot = list(good)[rng.integers(len(good))]
        reached = rng.random() < 0.5 * good[verb, slot]
        probes.append(Probe(graph, Subgoal(verb, ("part", slot)), TEXT, GOAL if reached else DEAD, number))
    splits = hold_out(demonstrations)
    usable = [replace(d, split=split) for d, split in zip(demonstrations, splits, strict=True)]
    executed = calibrate_on_probes(model, probe_table(probes, SIDES), usable, QUICK)
    assert executed.calibration.source == "execution" and executed.calibration.kind != "none"
    _, graphs = fresh(60, seed=12)
    before, after = (m.expand(graphs, [TEXT] * 60, 4) for m in (model, executed))
    mean = [float(a.p[:, a.mask][..., :2].sum(-1).mean()) for a in (before, after)]
    assert mean[1] < mean[0] - 0.15
    assert executed.pruning.tau.keys() == {"slide", "drop"}
