"""Half precision only where it pays."""

import torch

from vine_vla.learning import precision
from vine_vla.learning.precision import half_precision


def test_a_processor_without_it_stays_in_float32(monkeypatch):
    x = torch.ones(2, 3, 8, 8)
    layer = torch.nn.Conv2d(3, 4, 3)
    for capability, dtype in (("AVX2", torch.float32), ("AVX512", torch.bfloat16)):
        precision.bfloat16_pays.cache_clear()
        monkeypatch.setattr(
            torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability
        )
        with half_precision(x, True):
            assert layer(x).dtype == dtype
        with half_precision(x, False):
            assert layer(x).dtype == torch.float32
    precision.bfloat16_pays.cache_clear()


def test_other_devices_have_it():
    assert precision.bfloat16_pays("cuda")
