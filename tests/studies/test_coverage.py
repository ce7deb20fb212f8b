"""The promise of conformal pruning, checked on drawn scores that keep it and on some that do not."""

import numpy as np
import pytest
from agent.line_world import LineModel, LineWorld

from studies.coverage import Scored, coverage_table, overall, scored
from vine_vla.core.errors import VineError
from vine_vla.core.options import Subgoal
from vine_vla.evaluation.probes.run import ExecutedProbe, Judgement, judge


def drawn(rng, n, shift=0.0):
    verbs = np.where(rng.random(n) < 0.5, "grasp", "insert")
    return Scored(verbs.astype(str), rng.beta(4, 2, n) - shift)


def test_exchangeable_scores_keep_the_promise_and_shifted_ones_do_not():
    rng = np.random.default_rng(0)
    within = {"same": 0, "worse": 0}
    for _ in range(100):
        table = coverage_table(
            drawn(rng, 400), {"same": drawn(rng, 300), "worse": drawn(rng, 300, shift=0.3)}, 2.0
        )
        for name in within:
            within[name] += int(table[table["set"] == name]["within"].all())
    # Six looks a draw (3 alphas, 2 verbs), each over its 97.5 % quantile in at most 1 of 40.
    assert within["same"] >= 80 and within["worse"] <= 2


def test_the_table_by_hand():
    own = Scored(np.array(["a"] * 19), np.linspace(0.05, 0.95, 19))
    new = Scored(np.array(["a", "a", "b"]), np.array([0.01, 0.5, 0.2]))
    table = coverage_table(own, {"new": new}, 1.0, alphas=(0.1, 0.01))
    first, second = table.to_dict("records")
    assert first["tau"] == pytest.approx(0.1) and (first["cut"], first["m"]) == (1, 2)
    assert np.isnan(second["tau"]) and second["cut"] == 0 and second["within"]
    whole = overall(table)
    assert whole["cut"].tolist() == [1, 0] and whole["reached"].tolist() == [2, 2]


def probe(position, outcome="reached"):
    world = LineWorld()
    world.reset(0, 0)
    start = world.true_graph()
    if not position:
        return ExecutedProbe(0, 0, 0, 6, start, Subgoal("grasp_long", ("plug",)), "plug it in", (outcome,))
    model = LineModel()
    after = model._options(start)[0][2]
    return ExecutedProbe(
        0,
        1,
        1,
        5,
        after,
        Subgoal("insert", ("plug", "socket_1")),
        "plug it in",
        (outcome,),
        before=start,
        prefix=Subgoal("grasp_long", ("plug",)),
    )


def test_probes_are_judged_in_imagined_graphs_too():
    (seen,) = judge(LineModel(), [probe(1)])
    (imagined,) = judge(LineModel(), [probe(1)], imagined=True)
    assert seen.predicted == imagined.predicted and seen.upper == imagined.upper
    with pytest.raises(VineError, match="no prefix"):
        judge(LineModel(), [probe(0)], imagined=True)
    again = ExecutedProbe.from_json(probe(1).to_json())
    assert again == probe(1) and ExecutedProbe.from_json(probe(0).to_json()).before is None


def test_only_reached_and_covered_options_count():
    probes = [probe(0), probe(0, "dead"), probe(1)]
    words = [
        Judgement(0.9, 0.0, 0.9, False, upper=0.95, support=0.8),
        Judgement(0.9, 0.0, 0.9, False, upper=0.95, support=0.8),
        Judgement(0.9, 0.0, 0.9, False, upper=0.4, support=0.01),
    ]
    found = scored(probes, words, 0.1)
    assert found.verbs.tolist() == ["grasp_long"] and found.upper.tolist() == [0.95]
