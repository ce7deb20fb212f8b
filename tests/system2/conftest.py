"""Models that several tests look at, trained once."""

import pytest
import torch
from system2.worlds import SIDES, sides_demonstrations

from vine_vla.system2.compact import OutcomeConfig, train_outcomes
from vine_vla.system2.compact.fit import FitConfig

QUICK = OutcomeConfig(
    members=4,
    width=32,
    dynamics_width=32,
    proposal_width=24,
    value_width=16,
    states=500,
    outcome=FitConfig(epochs=30, batch=32, decay=0.1, least_steps=400),
    dynamics=FitConfig(epochs=30, least_steps=300, rate=6e-3),
    proposal=FitConfig(epochs=12, least_steps=60),
    value=FitConfig(epochs=6, least_steps=80, batch=64),
    value_mu=FitConfig(epochs=3, least_steps=40),
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sides():
    """600 demonstrations of the world with sides, and the model learned from them."""
    demonstrations = sides_demonstrations(600)
    return demonstrations, train_outcomes(demonstrations, SIDES, QUICK)
