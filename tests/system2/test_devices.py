"""The compact backend on another device: trained, loaded, asked and saved there, it is what it is here."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from system2.pictures import PictureSource, scene, view
from system2.pretended_device import pretended_device

from vine_vla import pack
from vine_vla.core.protocols import DEAD, REACHED, Observation
from vine_vla.learning import precision
from vine_vla.learning.device import to_numpy, usable_device
from vine_vla.system2 import Probe, calibrate_variant, load_system2
from vine_vla.system2.compact import OutcomeConfig, PerceptionConfig, System2Config, train_system2
from vine_vla.system2.compact.fit import FitConfig

TEXT = "put the brick on a plate"
FAST = FitConfig(epochs=1, least_steps=3)
CONFIG = System2Config(
    OutcomeConfig(
        members=2,
        width=8,
        dynamics_width=8,
        proposal_width=8,
        value_width=8,
        states=20,
        outcome=FAST,
        dynamics=FAST,
        proposal=FAST,
        value=FAST,
        value_mu=FAST,
    ),
    PerceptionConfig(steps=4, batch=8, frames=30, width=16, objects=20),
    calibrate_on_perceived=False,
)


@pytest.fixture(scope="module")
def source():
    return PictureSource(12)


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    """Trained on the CPU in float32, as the pretended device computes."""
    folder = tmp_path_factory.mktemp("run") / "system2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "bfloat16_pays", lambda device: False)
        train_system2(source, folder, CONFIG, device="cpu")
    return folder


@pytest.fixture
def pretended(monkeypatch):
    with pretended_device(monkeypatch) as name:
        yield name


def weights(folder):
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        found |= {f"{file.relative_to(folder)} {name}": value for name, value in load_file(file).items()}
    assert len(found) > 40
    return found


def assert_same_weights(folder, other):
    a, b = weights(folder), weights(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], name)


def answers(system2):
    """What it says of scenes in pictures and in graphs: graphs, arrays, and the nearest episodes."""
    rng = np.random.default_rng(5)
    images, state, graph = view(scene(rng), rng)
    later, state_later, _ = view(scene(rng), rng)
    first = system2.perceive([Observation(images, state)], [TEXT])
    second = system2.perceive([Observation(later, state_later)], [TEXT], first)
    expansion = system2.expand(pack([graph, graph], system2.schema, budget=2), [TEXT] * 2, 5)
    nearest = system2.nearest(graph, expansion.subgoals[0][0])
    arrays = [expansion.prior, expansion.p, expansion.value, expansion.support, *expansion.next]
    return first + second, arrays, nearest


@pytest.mark.parametrize("call", ["numpy", "mixed", "drawn"])
def test_the_pretended_device_is_strict(pretended, call):
    x = torch.ones(3).to(pretended)
    with pytest.raises(RuntimeError):
        {
            "numpy": lambda: x.numpy(),
            "mixed": lambda: x + torch.ones(3),
            "drawn": lambda: torch.rand(3, device=pretended),
        }[call]()
    np.testing.assert_array_equal(to_numpy(2 * x), [2, 2, 2])


def test_trained_elsewhere_it_is_the_same(source, trained, pretended, tmp_path):
    """Perception, proposals, outcomes, next graphs and values: bit for bit, since draws are the CPU's."""
    train_system2(source, tmp_path / "system2", CONFIG, device=pretended)
    assert_same_weights(tmp_path / "system2", trained)


def test_loaded_elsewhere_it_says_and_saves_the_same(trained, monkeypatch, tmp_path):
    here = answers(load_system2(trained, device="cpu"))
    with pretended_device(monkeypatch) as name:
        system2 = load_system2(trained, device=name)
        for net in (system2.model.outcome, system2.model.value_mu, system2.model.shared.proposal_all):
            assert {p.device.type for p in net.parameters()} == {name}
        there = answers(system2)
        system2.save(tmp_path / "saved")
        other = system2.variant("imitate-all").model
    assert there[0] == here[0] and there[2] == here[2]
    for a, b in zip(there[1], here[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert other.device.type == name
    assert_same_weights(tmp_path / "saved", trained)


def test_calibrated_elsewhere_it_is_the_same(source, monkeypatch, tmp_path):
    probes = [
        Probe(d.graphs[0], d.segments[0].subgoal, d.instruction, REACHED if n % 3 else DEAD, n)
        for n, d in enumerate(source.demonstrations * 2)
    ]
    here = tmp_path / "here"
    train_system2(source, here, replace(CONFIG, perception=None), device="cpu")
    there = shutil.copytree(here, tmp_path / "there")
    calibrate_variant(here, "all", probes, source.demonstrations, device="cpu")
    with pretended_device(monkeypatch) as name:
        calibrate_variant(there, "all", probes, source.demonstrations, device=name)
    assert_same_weights(here, there)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_real_device(source, tmp_path):
    folder = tmp_path / "system2"
    train_system2(source, folder, CONFIG, device="cuda")
    (_, there, near), (_, here, near_here) = (
        answers(load_system2(folder, device=name)) for name in ("cuda", "cpu")
    )
    for a, b in zip(there, here, strict=True):
        np.testing.assert_allclose(a.astype(float), b.astype(float), atol=2e-3)
    assert near == near_here


def test_without_a_name_it_runs_on_cuda_or_else_on_the_cpu(trained):
    assert load_system2(trained).model.device.type == usable_device().type
