"""Probes on the line world, where the true probabilities are known."""

import json

import numpy as np
import pytest
from agent.line_world import BLOCKED_LUCK, LineModel
from evaluation.line_builder import LineBuilder

from vine_vla.evaluation.probes.reliability import score_table
from vine_vla.evaluation.probes.run import (
    ExecutedProbe,
    ProbeConfig,
    evaluate_probes,
    judge,
    probe_ceiling,
    probe_rows,
    pruning_table,
    run_probes,
)
from vine_vla.evaluation.runner import Schedule, evaluate
from vine_vla.storage.tables import read_table

BUILDER = LineBuilder(clumsy=0.0)


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    config = ProbeConfig(scenes=tuple(range(150)), each=2)
    return run_probes(BUILDER, config, tmp_path_factory.mktemp("p") / "p.jsonl", workers=0, progress=False)


def test_probes_cover_starts_prefixes_and_bad_options(probes):
    assert len(probes) == 300
    starts = [p for p in probes if p.position == 0]
    assert 100 < len(starts) < 200
    assert all(p.subgoal.verb.startswith("grasp") for p in starts)
    inserts = [p for p in probes if p.position == 1]
    assert {p.subgoal.args[1] for p in inserts} == {"socket_1", "socket_2"}
    assert {o for p in inserts for o in p.outcomes} == {"goal", "dead"}


def test_a_true_model_is_calibrated_and_a_blind_one_is_not(probes):
    true, blind = (
        probe_rows(model, probes, task="line", split="seen", arm=arm, training_seed=0)
        for arm, model in (("vine", LineModel()), ("success-only", LineModel(blind=True)))
    )
    found = score_table(true).set_index("verb")
    # Half the inserts have chance .2: sd of the share over 70 or so is .05, so .15 is three of them.
    assert found.loc["insert", "ece"] < 0.1 and found.loc["insert", "auroc"] > 0.85
    assert found.loc["grasp_long", "ece"] == pytest.approx(0, abs=1e-6)
    assert score_table(blind).set_index("verb").loc["insert", "ece"] > 0.25
    brittle = true[np.isclose(true["predicted"], BLOCKED_LUCK)]
    assert abs(brittle["reached"].mean() - BLOCKED_LUCK) < 0.17


def test_repeats_start_from_the_same_state(tmp_path):
    config = ProbeConfig(scenes=tuple(range(30)), each=1, repeats=8, prefix=1)
    probes = run_probes(BUILDER, config, tmp_path / "r.jsonl", workers=0, progress=False)
    assert all(len(p.outcomes) == 8 for p in probes)
    found = probe_ceiling(probes)
    assert found.repeats == 8 and 0.8 < found.left_out <= found.plug_in <= 1


def test_resume_and_workers_give_the_same_probes(tmp_path):
    config = ProbeConfig(scenes=tuple(range(8)), each=1, repeats=2)
    whole = run_probes(BUILDER, config, tmp_path / "a.jsonl", workers=0, progress=False)
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    assert run_probes(BUILDER, config, tmp_path / "b.jsonl", workers=0, progress=False) == whole
    assert run_probes(BUILDER, config, tmp_path / "c.jsonl", workers=2, progress=False) == whole
    assert [ExecutedProbe.from_json(p.to_json()) for p in whole] == whole


def test_probes_join_the_executed_options(tmp_path):
    labels = ("vine", "success-only")
    evaluate(BUILDER, Schedule((0, 1), labels), tmp_path, workers=0, traces=False, progress=False)
    executed = len(read_table(tmp_path / "feasibility.csv"))
    config = ProbeConfig(scenes=tuple(range(20)), each=2)
    found = [evaluate_probes(BUILDER, config, labels, tmp_path, workers=0, progress=False) for _ in range(2)]
    assert found[0] == found[1] == json.loads((tmp_path / "calibration.json").read_text())
    rows = read_table(tmp_path / "feasibility.csv")
    assert (rows["source"] == "executed").sum() == executed
    assert (rows["source"] == "probe").sum() == 2 * 40
    more = Schedule((0, 1, 2), labels)
    evaluate(BUILDER, more, tmp_path, workers=0, traces=False, progress=False)
    assert (read_table(tmp_path / "feasibility.csv")["source"] == "probe").sum() == 2 * 40
    assert sorted(p.name for p in tmp_path.glob("probes*")) == ["probes_x1.jsonl.gz"]


def test_cuts_are_counted_on_reached_probes(probes):
    rows = probe_rows(LineModel(tau=0.5), probes, task="line", split="seen", arm="vine", training_seed=0)
    table = pruning_table(rows).set_index("verb")
    assert table.loc["grasp_long", "cut"] == 0
    lucky = rows[rows["subgoal"].str.startswith("insert") & (rows["reached"] == 1)]
    assert table.loc["insert", "reached_cut"] == pytest.approx((lucky["predicted"] < 0.5).mean())
    assert 0.3 < table.loc["insert", "cut"] < 0.7
    verdicts = judge(LineModel(), probes)
    assert all(0 <= v.q <= 1 and abs(sum(v.p) - 1) < 1e-6 for v in verdicts)
