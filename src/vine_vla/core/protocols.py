"""The boundaries: what perception, planning models, planners, skills and robots owe each other.

Everything here is NumPy in and out. A tabular model, the compact nets and a VLM stand behind
`PlanningModel` and `Perceiver`; any policy stands behind `Skill`; a simulator or a robot stands
behind `Robot`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Subgoal
from vine_vla.core.packing import PackedGraphs

Float = NDArray[np.float32]
Int = NDArray[np.int64]

GOAL, REACHED, SLIPPED, DEAD = range(4)
"""Places of the outcomes in `Expansion.p`; `GOAL` is reached with the goal fulfilled."""

AFTER_REACHED, AFTER_SLIPPED = range(2)
"""Places of the next graphs in `Expansion.next` and `Expansion.value`."""


class Expansion(NamedTuple):
    """What a planning model says of a batch of graphs. M members, B problems, K proposals (padded).

    Args:
        subgoals: proposals a problem, at most K. `[B][<= K]`
        prior: probability that a successful demonstrator would choose it; sums to at most 1. [B, K]
        mask: True where there is a proposal. bool [B, K]
        p: calibrated probabilities of goal, reached, slipped, dead; sums to 1. [M, B, K, 4]
        next: graphs after reached and after slipped, shared by the members, budget one less. [B, K, 2]
        value: V of those two, P(reach G before F) in [0, 1]. [M, B, K, 2]
        support: how well the data cover (graph, subgoal), in [0, 1]. [B, K]
    """

    subgoals: list[list[Subgoal]]
    prior: Float
    mask: NDArray[np.bool_]
    p: Float
    next: PackedGraphs
    value: Float
    support: Float


@dataclass(frozen=True)
class PruningRule:
    """Calibrated thresholds of one model.

    Args:
        tau: per verb, the score under which an option is pruned; verbs without one are never pruned.
        alpha: share of plans that may lose a reachable option through pruning, in (0, 1).
        tau_stop: the agent stops as `unsupported` when the best plan's lower bound is below, in [0, 1].
        min_support: options with less support are uncovered: intervals widen, they are never pruned.
    """

    tau: Mapping[str, float] = field(default_factory=dict)
    alpha: float = 0.1
    tau_stop: float = 0.0
    min_support: float = 0.0


def upper_reachable(p: Float, support: Float, min_support: float, *, z: float = 1.0) -> Float:
    """Score u of an option: upper bound of P(goal or reached) over the members.

    One definition for calibration and for search, since the conformal guarantee needs the same score.

    Args:
        p: outcome probabilities. [M, ..., 4]
        support: in [0, 1]. [...]
        min_support: below it the bound is 1, the option is not covered.
        z: standard deviations between members above the mean.

    Returns:
        u in [0, 1]. [...]
    """
    reachable = p[..., GOAL] + p[..., REACHED]
    # As `mean` and `std` do it, in a third of their time: search asks in every round.
    mean = np.add.reduce(reachable, 0) / len(p)
    away = reachable - mean
    spread = np.sqrt(np.add.reduce(away * away, 0) / len(p))
    bound = np.minimum(np.maximum(mean + z * spread, 0.0), 1.0)
    return np.where(support < min_support, 1.0, bound).astype(np.float32)


class Observation(NamedTuple):
    """What learned code may see of the world at one moment.

    Args:
        images: camera role -> RGB image, uint8 [height, width, 3].
        proprioception: the robot's own state, float32 [P]; its meaning belongs to the dataset.
    """

    images: Mapping[str, NDArray[np.uint8]]
    proprioception: Float


class Context:
    """What a planning model prepares once a plan and gets back with every call of that plan.

    Images, cached prefixes, keys and values of an attention: only the model that made it reads it.
    """


class PlanningModel(Protocol):
    """System 2 as search sees it."""

    @property
    def schema(self) -> Schema: ...

    @property
    def pruning(self) -> PruningRule: ...

    def expand(
        self, graphs: PackedGraphs, instructions: Sequence[str], k: int, context: Context | None = None
    ) -> Expansion:
        """At most `k` proposals for each of the B graphs, with outcomes, next graphs and values.

        Args:
            context: what `prepare` gave for the scene that all B graphs come from; None: the graphs alone.
        """
        ...


class Prepares(Protocol):
    """Optional side of a planning model: it looks at more than the graph, and does so once a plan."""

    def prepare(self, observation: Observation, graph: SceneGraph, instruction: str) -> Context:
        """What `expand` reuses in every call of one plan.

        Args:
            observation: the scene that is planned from. graph: as perceived in it. instruction: the task.
        """
        ...


@dataclass(frozen=True)
class ModelInContext:
    """A planning model with the context of one plan bound to it."""

    model: PlanningModel
    context: Context

    @property
    def schema(self) -> Schema:
        return self.model.schema

    @property
    def pruning(self) -> PruningRule:
        return self.model.pruning

    def expand(
        self, graphs: PackedGraphs, instructions: Sequence[str], k: int, context: Context | None = None
    ) -> Expansion:
        """`expand` of the model, in this context unless another one is given."""
        return self.model.expand(graphs, instructions, k, context or self.context)


def in_context(
    model: PlanningModel, observation: Observation | None, graph: SceneGraph, instruction: str
) -> PlanningModel:
    """`model` with what it prepares for a plan from `observation`; itself if it prepares nothing."""
    prepare = getattr(model, "prepare", None)
    if observation is None or prepare is None:
        return model
    return ModelInContext(model, prepare(observation, graph, instruction))


class Neighbours(NamedTuple):
    """Ids of the recorded episodes nearest to a (graph, subgoal): the evidence behind a pruned option."""

    succeeded: tuple[str, ...]
    failed: tuple[str, ...]


class Evidence(Protocol):
    """Optional side of a planning model: which episodes its judgement rests on."""

    def nearest(self, graph: SceneGraph, subgoal: Subgoal, count: int = 3) -> Neighbours: ...


class Perceiver(Protocol):
    """phi: images, proprioception and instruction to a scene graph, for B scenes at once."""

    def perceive(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        earlier: Sequence[SceneGraph | None] | None = None,
    ) -> list[SceneGraph]:
        """The scene graph of each of B scenes.

        Args:
            earlier: graphs of an earlier moment of the same scenes, whose ids are kept by matching
                (`identity.match_identity`); None, for a scene or for all: an episode begins.
        """
        ...


def perceive_one(
    perceiver: Perceiver, observation: Observation, instruction: str, earlier: SceneGraph | None = None
) -> SceneGraph:
    """`perceive` of one scene."""
    return perceiver.perceive([observation], [instruction], [earlier])[0]


class SkillOutput(NamedTuple):
    """One decision of System 1.

    Args:
        actions: chunk of robot actions, float32 [T, A]; the caller runs the first `execute` of them.
        execute: 1 to T.
        done: probabilities of running, done, failed; sums to 1. float32 [3]
    """

    actions: Float
    execute: int
    done: Float


RUNNING, DONE, FAILED = range(3)
"""Places in `SkillOutput.done`."""


class SkillSignals(NamedTuple):
    """What a skill knows about its last decision, besides `SkillOutput.done`; NaN: not known.

    Learned from the training data alone, so that a later execution head may learn from them.

    Args:
        spread: standard deviation of the actions to be executed over draws of the policy's noise, in units of
            the actions' spread in training, mean over steps and dimensions; 0 for a deterministic policy.
        distance: of the policy's features from those of its training data; 1 for training frames (root of
            their mean square).
    """

    spread: float
    distance: float


class Skill(Protocol):
    """pi: System 1, which executes one subgoal at a time.

    A skill may have another method, `signals() -> SkillSignals`: what it knows about the last `act`. Asking
    changes nothing of what it does next.
    """

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None:
        """Begin `subgoal`; drops whatever is queued of an earlier one."""
        ...

    def act(self, observation: Observation, graph: SceneGraph) -> SkillOutput:
        """The next chunk; `graph` has the present boxes of the subgoal's arguments."""
        ...


def skill_signals(skill: Skill) -> SkillSignals:
    """What `skill` knows about its last `act`; NaN for one that has no `signals`."""
    found: SkillSignals = skill.signals() if hasattr(skill, "signals") else SkillSignals(np.nan, np.nan)
    return found


class Robot(Protocol):
    """What the agent moves: a simulator or a robot."""

    @property
    def instruction(self) -> str: ...

    def observe(self) -> Observation: ...

    def step(self, action: Float) -> bool:
        """Execute one action; True when the episode is over (step limit or emergency stop)."""
        ...


class PlanStatus(StrEnum):
    """Whether there is a plan, and if not, why. Never a silent first choice."""

    PLANNED = "planned"
    INFEASIBLE = "infeasible"  # every option was pruned, or the budget is used up
    UNSUPPORTED = "unsupported"  # the data do not cover the best plan: its lower bound is under tau_stop
    LATE = "late"  # the planner did not answer in time; ask again


@dataclass(frozen=True)
class RankedOption:
    """One option at the root of a plan, best first.

    Args:
        subgoal, text: what it is.
        feasibility: P(reach G before F) if it is taken, mean of the reporting members, in [0, 1].
        lower, upper: interval over members, widened where support is low.
        spread: standard deviation over members.
        prior, support: from the model. visits: expansions spent below it.
        pruned: None, or the reason it was pruned.
    """

    subgoal: Subgoal
    text: str
    feasibility: float
    lower: float
    upper: float
    spread: float
    prior: float
    support: float
    visits: int
    pruned: str | None = None


@dataclass(frozen=True)
class Plan:
    """Subgoals with feasibility, spread, reasons, and the tree they came from.

    Args:
        status: whether `subgoals` may be executed.
        subgoals: principal variation along `reached`; empty unless planned.
        feasibility, spread, lower, upper: of the first subgoal, as in RankedOption.
        predicted: the graph expected after each subgoal; as long as `subgoals`.
        reason: one line for people.
        options: all root options, best first, pruned ones last.
        tree: the search tree, JSON-ready (see `search.trace`).
        expansions, model_calls, seconds: what it cost.
    """

    status: PlanStatus
    subgoals: tuple[Subgoal, ...]
    feasibility: float
    spread: float
    lower: float
    upper: float
    predicted: tuple[SceneGraph, ...] = ()
    reason: str = ""
    options: tuple[RankedOption, ...] = ()
    tree: Mapping[str, object] = field(default_factory=dict)
    expansions: int = 0
    model_calls: int = 0
    seconds: float = 0.0


class Forecast(NamedTuple):
    """What the rest of a plan is worth: mean and spread of the reporting members, and what it cost."""

    feasibility: float
    spread: float
    model_calls: int


class Planner(Protocol):
    """`tree`, `greedy`, `exhaustive`, and the arms that only imitate."""

    def plan(
        self,
        graph: SceneGraph,
        instruction: str,
        budget: int,
        seed: int,
        observation: Observation | None = None,
    ) -> Plan:
        """Plan from `graph` with `budget` subgoals left.

        Args:
            observation: what `graph` was perceived in, for models that look at more than the graph.
        """
        ...
