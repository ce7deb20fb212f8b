"""Settings of System 2's compact backend."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vine_vla.system2.compact.fit import FitConfig
from vine_vla.system2.segments import Failures


@dataclass(frozen=True)
class OutcomeConfig:
    """How proposals, outcomes, next graphs and values are learned.

    Args:
        failures: which failures the variant may see.
        episodes: use this many episodes, None for all (see `choose_episodes`).
        members: M, size of the ensemble.
        width: d of the outcome nets. dynamics_width, proposal_width, value_width: of the others.
        noise: N(0, noise) on box corners in training, image shares; what a detector is off by.
        shift: of the cameras in training of the outcome nets, image shares (see `move_cameras`).
        alpha: share of plans that may lose a reachable option through pruning.
        max_tau: an option whose upper bound of P(goal or reached) is higher is never cut.
        min_support: options with less support count as uncovered.
        tau_stop: lower bound of the best plan under which the agent stops as unsupported.
        prior_floor: candidates that a successful demonstrator would choose more rarely are not proposed.
        states: at most this many graphs for value learning.
        trace: lambda of V_mu. seed: of all randomness.
        outcome, dynamics, proposal, value, value_mu: see `FitConfig`; `value` counts epochs of one level.
    """

    failures: Failures = Failures.KEEP
    episodes: int | None = None
    members: int = 6
    width: int = 32
    dynamics_width: int = 64
    proposal_width: int = 32
    value_width: int = 48
    noise: float = 0.006
    shift: float = 0.15
    alpha: float = 0.1
    max_tau: float = 0.5
    min_support: float = 0.05
    tau_stop: float = 0.0
    prior_floor: float = 0.01
    states: int = 3000
    trace: float = 0.9
    seed: int = 0
    outcome: FitConfig = field(
        default_factory=lambda: FitConfig(epochs=80, batch=32, decay=0.1, least_steps=800)
    )
    dynamics: FitConfig = field(default_factory=lambda: FitConfig(epochs=50, batch=64, least_steps=500))
    proposal: FitConfig = field(default_factory=lambda: FitConfig(epochs=12, batch=64, least_steps=200))
    value: FitConfig = field(default_factory=lambda: FitConfig(epochs=10, least_steps=100, batch=64))
    value_mu: FitConfig = field(default_factory=lambda: FitConfig(epochs=10, least_steps=150))

    def with_effort(self, share: float) -> OutcomeConfig:
        """The same with `share` of the gradient steps of every net.

        Value learning goes through its graphs at every level: it gets `share` squared of them.
        """
        names = ("outcome", "dynamics", "proposal", "value", "value_mu")
        nets = {name: getattr(self, name).with_effort(share) for name in names}
        return replace(self, states=max(1, round(share**2 * self.states)), **nets)
