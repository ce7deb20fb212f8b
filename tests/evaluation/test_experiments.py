"""Named experiments: stages that resume, and a whole one as a user runs it, killed twice on the way."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from vine_vla.compute.stages import find_needs
from vine_vla.core.errors import VineError
from vine_vla.evaluation.episodes import Parts
from vine_vla.evaluation.experiments.comparison import run_builder
from vine_vla.evaluation.experiments.graph import experiment_stages
from vine_vla.evaluation.experiments.registry import Experiment, experiments, find_experiment
from vine_vla.evaluation.experiments.run import run_experiment
from vine_vla.evaluation.experiments.training import executed, variants

TINY = (
    *("--demonstrations", "16", "--system1-steps", "40", "--perception-steps", "20"),
    *("--recovery-episodes", "4", "--dagger-rounds", "1", "--dagger-episodes", "4", "--dagger-steps", "40"),
    *("--flat-steps", "20", "--scenes", "0:2", "--execution-probes", "24"),
    *("--arms", "flat", "imitate", "success-only", "vine", "vine:execution"),
)


def test_unknown_experiments_are_answered_with_the_known_ones():
    with pytest.raises(VineError, match="plug-nothing") as caught:
        find_experiment("plug-nothing")
    assert all(name in str(caught.value) for name in experiments())


def test_only_plug_full_touches_test_scenes():
    assert [name for name, e in experiments().items() if e.final] == ["plug-full"]
    assert not replace(experiments()["plug-full"], scenes="0:60").final
    quick = experiments()["plug-quick"]
    assert quick.with_settings(quick.settings) == quick


def test_arms_decide_which_variants_are_trained():
    assert variants(("vine", "flat")) == ["all"]
    assert variants(("imitate", "success-only:slips-removed")) == ["all", "withhold-slips"]
    assert executed(("vine", "success-only")) == []
    assert variants(("success-only:execution",)) == ["all", "withhold"]
    assert executed(("success-only:execution", "vine")) == ["withhold"]


def test_training_seeds_need_nothing_of_each_other_until_they_are_evaluated(tmp_path):
    e = replace(find_experiment("plug-full"), training_seeds=(2, 0))
    assert e.training_seeds == (0, 2)
    needs = find_needs(experiment_stages(e, tmp_path, tmp_path / "results"))
    for stage, needed in needs.items():
        if stage.startswith("seed_2/") and stage != "seed_2/evaluation":
            assert not any(name.startswith("seed_0/") for name in needed)
    assert {"seed_2/system1 1", "seed_0/system1 1", "seed_0/flat"} <= needs["evaluation"]
    assert "seed_0/flat" not in needs["seed_0/evaluation"]
    with pytest.raises(VineError, match="each once"):
        replace(e, training_seeds=(1, 1))


def test_the_first_training_seed_alone_has_the_stages_that_it_has_among_others(tmp_path):
    one, two = (
        {
            stage.name: (stage.inputs, stage.outputs, stage.settings)
            for stage in experiment_stages(
                replace(find_experiment("plug-full"), training_seeds=seeds), tmp_path, tmp_path / "r"
            )
        }
        for seeds in ((0,), (0, 1))
    )
    assert {name: two[name] for name in one if name != "evaluation"} == {
        name: stage for name, stage in one.items() if name != "evaluation"
    }


TOY = Experiment(
    name="toy",
    about="two training seeds",
    task="line",
    demonstrations=24,
    recovery_episodes=4,
    system1_steps=20,
    perception_steps=20,
    scenes="0:2",
    training_seeds=(0, 1),
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Work folder, results and summary of `TOY`, everything in it trained."""
    root = tmp_path_factory.mktemp("toy")
    return root / "work", root / "results", run_experiment(TOY, root / "work", root / "results")


def shared_weights(parts: Parts) -> dict[str, str]:
    """Hashes of what the arms of a fair comparison have in common: perception, proposals, System 1."""
    backend = parts.planner.model
    nets = {
        "perception": parts.perceiver.perception.detector,
        "proposals": backend.model.shared.proposal,
        "system1": parts.skill.policy,
    }
    return {name: hash_of(net) for name, net in nets.items()}


def hash_of(net) -> str:
    found = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.slow
def test_arms_of_a_run_share_perception_proposals_and_system1(toy):
    """Built from a real run folder they hold the same weights; an arm with its own is found out."""
    builder = run_builder(TOY, toy[0])
    world = builder.open_task()
    built = {label: builder.build(label, 0, world) for label in TOY.arms}
    vine = built["vine"]
    for label in ("imitate", "success-only"):
        rival = built[label]
        assert shared_weights(rival) == shared_weights(vine), label
        assert rival.perceiver is vine.perceiver and rival.skill is vine.skill
        assert rival.config == vine.config  # limits, thresholds of the done head, replanning
    outcomes = {label: hash_of(parts.planner.model.model.outcome) for label, parts in built.items()}
    assert outcomes["imitate"] == outcomes["vine"] != outcomes["success-only"]
    own = shared_weights(builder.build("success-only", 1, world))  # trained on its own, with another seed
    assert all(own[name] != value for name, value in shared_weights(vine).items())


@pytest.mark.slow
def test_a_toy_experiment_with_two_training_seeds(toy):
    """The other task, from demonstrations to a summary; then a third seed is added to the same results."""
    e, (work, results, found), said = TOY, toy, []
    rows = pd.read_csv(results / "episodes.csv")
    assert len(rows) == 12 and set(rows["training_seed"]) == {0, 1}
    assert {arm["arm"] for arm in found["arms"]} == set(e.arms)
    weights = [(work / f"run/seed_{seed}/system1/system1.json").read_text() for seed in (0, 1)]
    assert json.loads(weights[0])["weights_sha256"] != json.loads(weights[1])["weights_sha256"]
    said.clear()
    assert run_experiment(e, work, results, said.append) == found
    assert said and all(line.endswith(": up to date") for line in said)
    said.clear()
    run_experiment(replace(e, training_seeds=(0, 1, 2)), work, results, said.append)
    more = pd.read_csv(results / "episodes.csv")
    assert len(more) == 18 and set(more["training_seed"]) == {0, 1, 2}
    assert "seed_1/system1: up to date" in said and "collect: up to date" in said
    old = more[more["training_seed"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, rows)


def vine(*arguments: object, **more: object) -> subprocess.Popen:
    command = [str(Path(sys.executable).parent / "vine"), *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)


def test_test_scenes_need_final(tmp_path):
    process = vine("experiment", "plug-full", "--work", tmp_path / "w", "--results", tmp_path / "r")
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and "--final" in said and not list(tmp_path.iterdir())


def test_scene_graphs_alone_need_no_dataset_and_no_system1(tmp_path):
    """Stages of an experiment on scene graphs with the scripted expert, and what is refused with it."""
    e = find_experiment("line-quick")
    stages = experiment_stages(e, tmp_path, tmp_path / "results")
    kinds = {stage.name.split("/")[-1] for stage in stages}
    assert kinds == {"collect", "system2 all", "system2 withhold", "evaluation"}
    assert all(stage.about for stage in stages)
    find_needs(stages)
    with pytest.raises(VineError, match="nothing trains System 1"):
        replace(e, arms=("flat", "vine"))


def test_vine_quickstart_as_a_user_runs_it(tmp_path):
    """Small: two training seeds, a few scenes. It says what it leaves out, resumes, and claims nothing."""
    command = ("quickstart", "--demonstrations", "24", "--scenes", "0:10", "--training-seeds", "0", "1")
    process = vine(*command, cwd=tmp_path)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    lines = said.splitlines()
    assert lines[-1] == "runs/quickstart/results/report.html" and (tmp_path / lines[-1]).is_file()
    assert any(line.startswith("No perception from images") for line in lines)
    assert any(line.startswith("vine - success-only: ") for line in lines) and "claim: same" not in said
    assert "Traceback" not in said and "Warning" not in said and "nan" not in said.lower().split()
    assert "stage 1 of 8: 24 demonstrations of operators, failures kept" in said
    rows = pd.read_csv(tmp_path / "runs/quickstart/results/episodes.csv")
    assert len(rows) == 40 and set(rows["arm"]) == {"vine", "success-only"}
    report = (tmp_path / lines[-1]).read_text()
    assert "No perception from images" in report and 'id="tree"' in report
    again = vine(*command, cwd=tmp_path).communicate(timeout=300)[0]
    assert again.count(": up to date") == 8 and again.splitlines()[-1] == lines[-1]


@pytest.mark.slow
def test_a_whole_experiment_survives_being_killed(tmp_path):
    """Killed while collecting and while training; then it ends with rows, figures and a report."""
    work, results = tmp_path / "work", tmp_path / "results"
    command = ("experiment", "plug-quick", *TINY, "--work", work, "--results", results)
    for reached in (work / "demos.staging", work / "seed_0/system1-0"):
        process = vine(*command, start_new_session=True)
        deadline = time.monotonic() + 600
        while not (reached.is_dir() and any(reached.iterdir())):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    staged = {path: path.stat().st_mtime_ns for path in (work / "demos.staging").iterdir()}
    process = vine(*command)
    said = process.communicate(timeout=1500)[0]
    assert process.returncode == 0, said
    assert {path: path.stat().st_mtime_ns for path in (work / "demos.staging").iterdir()} == staged
    rows = pd.read_csv(results / "episodes.csv")
    assert len(rows) == 10 and set(rows["arm"]) == {"flat", "imitate", "success-only", "vine"}
    assert set(rows["scene"]) == {0, 1} and not rows.duplicated(["scene", "arm", "variant"]).any()
    assert "<html" in (results / "report.html").read_text()[:200].lower()
    before = (results / "episodes.csv").read_bytes()
    again = vine(*command)
    assert again.communicate(timeout=300)[0].count(": up to date") >= 5 and again.returncode == 0
    assert (results / "episodes.csv").read_bytes() == before
