"""train_system2 and load_system2: files, resuming, further variants, damage, the command line."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from system2.pictures import PictureSource, scene, view

from vine_vla import VineError, pack
from vine_vla.core.protocols import DEAD, REACHED, Evidence, Observation, Perceiver, PlanningModel
from vine_vla.system2 import EXECUTED, Backend, Failures, Probe, calibrate_variant, load_system2
from vine_vla.system2.compact import OutcomeConfig, PerceptionConfig, System2Config, train_system2
from vine_vla.system2.compact.fit import FitConfig

FAST = FitConfig(epochs=1, least_steps=6)
CONFIG = System2Config(
    OutcomeConfig(
        members=2,
        width=8,
        dynamics_width=8,
        proposal_width=8,
        value_width=8,
        states=60,
        outcome=FAST,
        dynamics=FAST,
        proposal=FAST,
        value=FAST,
        value_mu=FAST,
    ),
    PerceptionConfig(steps=25, frames=120, width=16, objects=100),
    calibrate_on_perceived=False,  # eyes trained this shortly lose most segments
)


def withheld(config=CONFIG, failures=Failures.WITHHOLD):
    return replace(config, outcomes=replace(config.outcomes, failures=failures))


@pytest.fixture(scope="module")
def source():
    return PictureSource(24)


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "system2"
    train_system2(source, folder, CONFIG)
    return folder


def test_writes_what_it_says(trained):
    names = {p.name for p in (trained / "all").iterdir()}
    assert names == {"nets.safetensors", "model.json", "metrics.json", "reliability.png", "MODEL_CARD.md"}
    metrics = json.loads((trained / "all" / "metrics.json").read_text())
    assert {"reach", "four_way", "by_verb"} <= metrics["outcomes"].keys()
    assert {"brier", "log_loss", "ece", "auroc"} <= metrics["outcomes"]["reach"].keys()
    assert {"box_error_px", "class_accuracy", "relation_f1"} <= metrics["perception"].keys()
    card = (trained / "all" / "MODEL_CARD.md").read_text()
    assert "What the probability means" in card and "Calibrated on" in card
    assert (trained / "all" / "reliability.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(trained.rglob(".*"))


def test_loads_and_plans_like_what_was_trained(trained):
    found = load_system2(trained.parent)  # the run folder will do
    perceiver: Perceiver = found
    model: PlanningModel = found
    evidence: Evidence = found
    backend: Backend = found
    assert backend is model is evidence is perceiver and backend.info.budget >= 1
    assert (backend.info.kind, backend.info.variant, backend.info.state.size) == ("compact", "all", 3)
    rng = np.random.default_rng(0)
    images, state, _ = view(scene(rng), rng)
    [graph] = found.perceive([Observation(images, state)], ["put the brick on a plate"])
    a = found.expand(pack([graph], found.schema, budget=2), ["put the brick on a plate"], 4)
    b = load_system2(trained).expand(pack([graph], found.schema, budget=2), ["put the brick on a plate"], 4)
    np.testing.assert_array_equal(a.p, b.p)
    np.testing.assert_array_equal(a.value, b.value)


def test_what_is_loaded_answers_like_what_was_trained(source, tmp_path, monkeypatch):
    from vine_vla.system2.compact import training

    made = []

    def keep(*args, **kwargs):
        made.append(learn(*args, **kwargs))
        return made[-1]

    learn = training.train_variant
    monkeypatch.setattr(training, "train_variant", keep)
    train_system2(source, tmp_path, replace(CONFIG, perception=None))
    loaded = load_system2(tmp_path)
    assert list(loaded.schema.attributes) == list(source.schema.attributes)
    graphs = pack([d.graphs[0] for d in source.demonstrations], source.schema, budget=2)
    texts = [d.instruction for d in source.demonstrations]
    a, b = made[0].expand(graphs, texts, 5), loaded.expand(graphs, texts, 5)
    assert a.subgoals == b.subgoals
    for name in ("prior", "p", "value", "support"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for x, y in zip(a.next, b.next, strict=True):
        np.testing.assert_array_equal(x, y)
    assert loaded.pruning == made[0].pruning


def test_finished_stages_are_skipped_and_a_killed_run_resumes(source, trained):
    told = []
    train_system2(source, trained, CONFIG, lambda stage, share: told.append(stage))
    assert told == ["variant all is up to date"]
    # As after a kill before the end: the variant is made again, perception is not.
    (trained / "all" / "metrics.json").unlink()
    before = (trained / "all" / "nets.safetensors").read_bytes()
    told.clear()
    train_system2(source, trained, CONFIG, lambda stage, share: told.append(stage))
    assert "outcomes" in told and "perception" not in told and "proposals" not in told
    assert (trained / "all" / "nets.safetensors").read_bytes() == before  # the same seed, the same weights


def test_further_variants_share_perception_and_proposals(source, trained):
    shared = [(trained / f"{n}.safetensors").read_bytes() for n in ("perception", "proposals")]
    train_system2(source, trained, withheld())
    assert shared == [(trained / f"{n}.safetensors").read_bytes() for n in ("perception", "proposals")]
    found = load_system2(trained)
    assert found.variants() == ["all", "withhold", "imitate-all"]
    graph = pack([source.demonstrations[0].graphs[0]], found.schema, budget=2)
    text = [source.demonstrations[0].instruction]
    full, less = (found.variant(n).expand(graph, text, 9) for n in ("all", "withhold"))
    assert full.subgoals == less.subgoals
    np.testing.assert_array_equal(full.prior, less.prior)
    assert np.abs(full.p - less.p).max() > 1e-3
    assert found.variant("imitate-all").model.imitate_all
    with pytest.raises(VineError, match="no variant 'nothing'"):
        found.variant("nothing")


def test_other_data_do_not_mix_into_a_folder(source, trained):
    with pytest.raises(VineError, match="other data or settings"):
        train_system2(PictureSource(20, seed=9), trained, withheld())


def test_as_many_successes_come_from_more_episodes_to_the_same_eyes(source, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    shared = [(folder / f"{n}.safetensors").read_bytes() for n in ("perception", "proposals")]
    pool = PictureSource(72, seed=9)
    count = len(source.demonstrations)
    matched = replace(
        CONFIG,
        outcomes=replace(CONFIG.outcomes, failures=Failures.WITHHOLD_MATCHED, episodes=count),
    )
    variant = train_system2(pool, folder, matched)
    assert json.loads((variant / "metrics.json").read_text())["episodes"]["outcome success"] == count
    assert shared == [(folder / f"{n}.safetensors").read_bytes() for n in ("perception", "proposals")]
    assert "withhold-matched" in load_system2(folder).variants()


def test_a_variant_is_written_once_more_with_execution_calibration(source, trained, tmp_path):
    """Hands that reach a third of what they try: that is what the new variant promises, on its card too."""
    folder = shutil.copytree(trained, tmp_path / "run")
    tried = [(d, d.segments[0]) for d in source.demonstrations] * 3
    probes = [
        Probe(d.graphs[s.start], s.subgoal, d.instruction, REACHED if n % 3 == 0 else DEAD, n)
        for n, (d, s) in enumerate(tried)
    ]
    executed = calibrate_variant(folder, "all", probes, source.demonstrations)
    assert executed.name == f"all{EXECUTED}" and executed.name in load_system2(folder).variants()
    metrics = json.loads((executed / "metrics.json").read_text())
    assert metrics["calibration"]["source"] == "execution"
    assert metrics["outcomes"]["reach"]["count"] == len(probes)
    card = (executed / "MODEL_CARD.md").read_text()
    assert "that the learned skills carried out" in card and "Learned from all recorded episodes" in card
    graphs = pack([p.graph for p in probes], load_system2(folder).schema, budget=2)
    p = load_system2(folder, executed.name).expand(graphs, [p.instruction for p in probes], 9)
    first = [row.index(probe.subgoal) for row, probe in zip(p.subgoals, probes, strict=True)]
    told = p.p.mean(0)[np.arange(len(probes)), first][:, :2].sum(1)
    assert told.mean() == pytest.approx(1 / 3, abs=0.08)
    with pytest.raises(VineError, match="trained on other episodes"):
        calibrate_variant(folder, "all", probes, source.demonstrations[1:])
    with pytest.raises(VineError, match="too few"):
        calibrate_variant(folder, "all", probes[:9], source.demonstrations)


def test_graphs_alone_are_enough_to_plan_but_not_to_see(source, tmp_path):
    train_system2(source, tmp_path, replace(CONFIG, perception=None))
    found = load_system2(tmp_path)
    graph = source.demonstrations[1].graphs[0]
    answer = found.expand(pack([graph], found.schema, budget=2), ["put"], 3)
    assert answer.mask.any()
    with pytest.raises(VineError, match="no perception"):
        found.perceive([Observation({}, np.zeros(3, np.float32))], [""])


def test_damage_is_named(source, tmp_path):
    train_system2(source, tmp_path, replace(CONFIG, perception=None))
    nets = tmp_path / "all" / "nets.safetensors"
    data = bytearray(nets.read_bytes())
    data[-1] ^= 1
    nets.write_bytes(bytes(data))
    with pytest.raises(VineError, match="not those that training wrote"):
        load_system2(tmp_path)
    info = json.loads((tmp_path / "system2.json").read_text())
    for old in ({**info, "format": 1}, {k: v for k, v in info.items() if k != "kind"}):
        (tmp_path / "system2.json").write_text(json.dumps(old))
        with pytest.raises(VineError, match="another version of VINE.*train System 2 again"):
            load_system2(tmp_path)
    (tmp_path / "system2.json").write_text(json.dumps({**info, "kind": "guesses"}))
    with pytest.raises(VineError, match="unknown backend 'guesses'.*compact"):
        load_system2(tmp_path)
    (tmp_path / "system2.json").write_text("{")
    with pytest.raises(VineError, match="damaged JSON"):
        load_system2(tmp_path)
    with pytest.raises(VineError, match="no trained System 2"):
        load_system2(tmp_path / "nowhere")


def test_what_is_saved_loads_as_the_same(source, trained, tmp_path):
    found = load_system2(trained)
    found.save(tmp_path / "saved")
    again = load_system2(tmp_path / "saved")
    assert again.info == found.info and list(again.variants()) == ["all", "imitate-all"]
    assert again.weights == found.weights
    graph = pack([source.demonstrations[0].graphs[0]], found.schema, budget=2)
    a, b = (m.expand(graph, ["put"], 9) for m in (found, again))
    np.testing.assert_array_equal(a.p, b.p)
    assert (tmp_path / "saved/all/MODEL_CARD.md").is_file()


def test_a_device_that_is_not_there_is_one_line(trained):
    assert load_system2(trained, device="cpu").info.kind == "compact"
    for name, message in (("meta", "no device 'meta'"), ("toaster", "no device 'toaster'.*--device cpu")):
        with pytest.raises(VineError, match=message):
            load_system2(trained, device=name)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, vine_vla, vine_vla.system2; vine_vla.load; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_command_line_tells_bad_input_in_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "vine_vla.cli",
        "train",
        "system2",
        str(tmp_path),
        "--out",
        str(tmp_path / "x"),
    ]
    code = f"import sys; from vine_vla.cli import main; sys.exit(main({command[3:]!r}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.count("vine: error:") == 1 and not (tmp_path / "x").exists()
