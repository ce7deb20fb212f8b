"""Nouns of the agent: how it acts, what it decided and did, and why it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Plan


class Replanning(StrEnum):
    """When the agent plans again."""

    NEVER = "never"  # plan once, retry a failed subgoal
    ON_FAILURE = "on-failure"  # when the done head or the graph says: not reached
    FIXED = "fixed"  # after every subgoal
    UNCERTAINTY = "uncertainty"  # on failure, or when the rest of the plan has become doubtful


class Verdict(StrEnum):
    """What the agent believes of a subgoal it executed."""

    DONE = "done"
    FAILED = "failed"  # the done head says so
    CONTRADICTED = "contradicted"  # the done head says done, the graph does not show it
    TIMEOUT = "timeout"
    UNCERTAIN = "uncertain"  # broken off, because the rest of the plan had become doubtful
    INTERRUPTED = "interrupted"  # the robot stopped or the episode's steps ran out


class StopReason(StrEnum):
    """Why an episode ended, as far as the agent knows."""

    FINISHED = "finished plan"  # whether the task succeeded is unknown to the agent
    INFEASIBLE = "infeasible"
    UNSUPPORTED = "unsupported"
    BUDGET = "budget"
    STEP_LIMIT = "step limit"
    ROBOT = "robot stopped"


@dataclass(frozen=True)
class AgentConfig:
    """How the agent acts.

    Args:
        replanning: when to plan again.
        budget: subgoals that may be executed in an episode, at least 1.
        max_steps: robot actions in an episode.
        subgoal_steps: robot actions for one subgoal; more is a time-out.
        done_threshold, failed_threshold: probability in (0, 1] of the done head from which `done` or
            `failed` counts; above 1 it never counts.
        hysteresis: decisions in a row that must say so.
        agreement: share in [0, 1] of the changes that the plan predicted which the graph must show; 0 = off.
        goal_share: p(goal) / (p(goal) + p(reached)) from which a done subgoal finishes the task.
        fall: with `uncertainty`, how far the feasibility of the rest must have fallen, in (0, 1].
        rise: with `uncertainty`, how far its spread must have risen too, if nothing in the scene changed
            that the plan did not expect to change.
        watch: robot steps between two looks at the rest; 0 looks between subgoals only.
        camera: role of the fixed camera in which boxes are compared with the prediction.
        frames: which images the record keeps: none, those at plans and subgoals' ends, or every chunk's.
        signals: whether the record keeps what the skill knows of itself (`SkillSignals`) at every chunk.

    Raises:
        VineError: a limit is below 1, or a share not in its range.
    """

    replanning: Replanning = Replanning.ON_FAILURE
    budget: int = 6
    max_steps: int = 600
    subgoal_steps: int = 150
    done_threshold: float = 0.5
    failed_threshold: float = 0.6
    hysteresis: int = 2
    agreement: float = 0.5
    goal_share: float = 0.5
    fall: float = 0.2
    rise: float = 0.02
    watch: int = 4
    camera: str = "front"
    frames: Literal["none", "subgoals", "chunks"] = "none"
    signals: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "replanning", Replanning(self.replanning))
        for name in ("budget", "max_steps", "subgoal_steps", "hysteresis"):
            if getattr(self, name) < 1:
                raise VineError(f"{name} is {getattr(self, name)}", hint="it must be at least 1")
        if not 0 < self.fall <= 1 or self.rise < 0 or self.watch < 0:
            raise VineError(
                f"fall {self.fall}, rise {self.rise}, watch {self.watch}",
                hint="fall is in (0, 1], rise and watch are at least 0",
            )


@dataclass(frozen=True)
class Streams:
    """Independent random streams of one episode, so that arms meet the same noise.

    Args:
        scene: seed of the reset (jitter of pose and home). policy: of System 1. planner: of search.
    """

    scene: int
    policy: np.random.SeedSequence
    planner: np.random.SeedSequence

    @classmethod
    def spawn(cls, scene: int, policy_seed: int = 0) -> Streams:
        """The streams of scene number `scene` under `policy_seed`; the same for every arm."""
        root = np.random.SeedSequence([int(scene), int(policy_seed)])
        reset, policy, planner = root.spawn(3)
        return cls(int(reset.generate_state(1)[0]), policy, planner)


Cause = Literal["start", "failure", "fixed", "plan ended", "uncertainty"]
"""Why the planner was asked."""


@dataclass(frozen=True)
class Decision:
    """One call of the planner: at which step, for what cause, on which graph, with what answer."""

    step: int
    cause: Cause
    graph: SceneGraph
    budget: int
    plan: Plan


@dataclass(frozen=True)
class Execution:
    """One subgoal carried out, robot steps `start` to `end` (exclusive).

    Args:
        decision: index of the decision it came from; place: of the subgoal in that plan.
        done: probabilities of running, done, failed at every chunk. float32 [chunks, 3]
        agreement: share of the predicted changes that the graph shows; None without prediction.
        before, after: graphs at its start and end.
        signals: `SkillSignals` at every chunk, NaN where not known; None if they were not asked for.
            float32 [chunks, 2]
    """

    decision: int
    place: int
    subgoal: Subgoal
    text: str
    start: int
    end: int
    verdict: Verdict
    done: NDArray[np.float32]
    agreement: float | None
    before: SceneGraph
    after: SceneGraph
    signals: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Frame:
    """What the cameras showed at a step, and the graph perceived from it."""

    step: int
    images: Mapping[str, NDArray[np.uint8]]
    graph: SceneGraph


@dataclass(frozen=True)
class EpisodeRecord:
    """Everything decided and done in one episode.

    Args:
        seconds: wall clock spent in `perceive`, `plan`, `act` and `robot`.
        watch_calls: calls of the planning model that looked at the rest of a plan.
    """

    instruction: str
    reason: StopReason
    steps: int
    decisions: tuple[Decision, ...]
    executions: tuple[Execution, ...]
    frames: tuple[Frame, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    watch_calls: int = 0

    @property
    def replans(self) -> int:
        """Calls of the planner after the first."""
        return max(len(self.decisions) - 1, 0)
