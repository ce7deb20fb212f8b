"""The boundary to tasks: what a simulated task tells collection, evaluation, gym and LeRobot about itself.

A task is a folder with a frozen `Task` and a `Simulation`; nothing outside that folder names it. What learned
code may see of a simulation is `Robot`'s part alone; the rest is the simulator's truth, for recording,
judging and oracle arms.

Copy `tasks/line` to begin a task of your own, and register it (`vine_vla.tasks.registry`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import NAME, Box, SceneGraph, Schema
from vine_vla.core.options import Outcome, Subgoal
from vine_vla.core.protocols import Float, Observation, Robot, Skill

History = Sequence[tuple[Subgoal, Outcome]]
"""Subgoals of an episode so far, each with what became of it."""


class Simulation(Robot, Protocol):
    """One running simulation: numbered scenes, and the truth about them.

    `reset`, `instruction`, `observe` and `step` are all that learned code may see. The same scene and seed
    give the same episode, bit for bit.
    """

    def reset(self, scene: int, seed: int) -> Observation:
        """Start an episode in a numbered scene of the split; `seed` is for what varies beside the scene."""
        ...

    def close(self) -> None:
        """Free renderers and the like."""
        ...

    # ---- the simulator's truth -------------------------------------------------------------------
    @property
    def steps(self) -> int:
        """Actions executed in this episode."""
        ...

    def true_graph(self, earlier: SceneGraph | None = None) -> SceneGraph:
        """The scene graph of this moment; ids stay those of the episode's first graph."""
        ...

    def true_boxes(self) -> Mapping[str, Mapping[str, Box]]:
        """Camera role -> object id -> box."""
        ...

    def subgoal_status(self, subgoal: Subgoal) -> Outcome | None:
        """`reached` or `dead`; None while neither holds (`slipped` once the execution has ended)."""
        ...

    def is_success(self) -> bool:
        """Whether the task is fulfilled."""
        ...

    def is_dead(self) -> bool:
        """Whether the task cannot be fulfilled any more."""
        ...

    @property
    def onset(self) -> int | None:
        """First step of the physical event that ended the chances; None while none has."""
        ...

    def failure_kind(self) -> str | None:
        """How the chances were lost, in a word of the task's; None while they are not."""
        ...

    def save_state(self) -> Any:
        """Everything that the future depends on."""
        ...

    def restore_state(self, state: Any) -> None:
        """Return exactly to a saved state; skills that were running must be started anew."""
        ...


class Operator(Protocol):
    """A scripted teleoperator in one episode: chooses subgoals by habit, blind to what makes them fail."""

    def next(self, history: History) -> Subgoal | None:
        """The next subgoal; None to stop: solved, hopeless, or given up."""
        ...


class Expert(Protocol):
    """A scripted low-level policy that executes one subgoal after the other, from any state."""

    def run(self, subgoal: Subgoal) -> Iterator[Float]:
        """Actions [A] until the subgoal is over; each is to be executed before the next is asked for."""
        ...

    def disturbance(self, rng: np.random.Generator) -> Float | None:
        """What is added to the action just handed out while demonstrations are recorded [A], or None.

        The recorded action stays the expert's, so that the data show how to recover (DART, arXiv 1703.09327).
        `rng` is the recording's stream: the expert's own actions do not depend on what disturbs them.
        """
        ...


class Takeover(Protocol):
    """When an expert takes over from another policy, and what counts as a slip of it."""

    def limit(self, subgoal: Subgoal, rng: np.random.Generator) -> int:
        """Actions that the policy may execute of this subgoal before the expert takes over."""
        ...

    def about_to_slip(self, simulation: Any, subgoal: Subgoal, action: Float) -> bool:
        """Whether a watchful expert would not let `action` be executed."""
        ...

    def has_slipped(self, simulation: Any, subgoal: Subgoal) -> bool:
        """Whether the policy has spoilt this subgoal's attempt, though not the episode."""
        ...


@dataclass(frozen=True)
class OperatorDials:
    """What the operators of a collection are like.

    Raises:
        VineError: a number is out of its range.
    """

    skill: tuple[float, float] = (0.5, 1.0)
    """Least and greatest noise scale of their control, within [0, 5]: 0 perfect, .5 good, 1 ordinary, 2 poor;
    each episode draws its own."""
    habit: float = 0.85
    """How often they take their habitual choice, in [0, 1]."""
    awareness: float = 0.0
    """How often they choose a plan that works because they know why others fail, in [0, 1]; 0: never."""
    disturbance: float = 1.0
    """Strength of the disturbances while they act, so that recoveries are recorded, in [0, 10]; 1: the task's
    own, 0: none."""
    explore: bool = False
    """Choose evenly among all sensible plans, as recovery data want it; `habit` counts for less. They know as
    little of failure causes as ever: who knows what works would teach it."""

    def __post_init__(self) -> None:
        if not 0 <= self.skill[0] <= self.skill[1] <= 5:
            raise VineError(
                f"skill is {self.skill[0]} {self.skill[1]}",
                where="--skill",
                hint="give LEAST GREATEST within 0 and 5, e.g. .5 1",
            )
        for name in ("habit", "awareness"):
            if not 0 <= getattr(self, name) <= 1:
                raise VineError(
                    f"{name} is {getattr(self, name)}", where=f"--{name}", hint="give a share between 0 and 1"
                )
        if not 0 <= self.disturbance <= 10:
            raise VineError(f"disturbance is {self.disturbance}", where="--disturbance", hint="give 0 to 10")


@dataclass(frozen=True)
class SceneLists:
    """Frozen scene numbers of a split: `dev` to look and tune, `calibration`, and `test` for `--final`."""

    dev: range = range(0, 200)
    calibration: range = range(200, 400)
    test: range = range(400, 1000)


@dataclass(frozen=True)
class Split:
    """An appearance of a task's scenes.

    Args:
        about: one line.
        lists: frozen scene numbers; None for the stream that demonstrations come from.
    """

    about: str
    lists: SceneLists | None = field(default_factory=SceneLists)


@dataclass(frozen=True)
class Space:
    """Names and bounds of a state or action vector.

    Args:
        names: one a dimension. low, high: bounds, one a dimension; infinite where there is none.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.low) == len(self.high):
            raise VineError(f"{len(self.names)} names, {len(self.low)} and {len(self.high)} bounds")

    @classmethod
    def unbounded(cls, *names: str) -> Space:
        """A vector without bounds."""
        return cls(names, (-np.inf,) * len(names), (np.inf,) * len(names))

    def clip(self, values: Float | NDArray[np.float64]) -> NDArray[np.float64]:
        """`values` [len(names)] within the bounds; VineError unless they are that many finite numbers."""
        found = np.asarray(values, dtype=np.float32).astype(np.float64)
        if found.shape != (len(self.names),) or not np.isfinite(found).all():
            raise VineError(
                f"{values!r} are not {len(self.names)} finite numbers", hint=", ".join(self.names)
            )
        return np.clip(found, self.low, self.high)


class ConstantPolicy(Protocol):
    """A fixed choice that any learned one must beat, e.g. "the habitual grasp, the nearest fitting place"."""

    def __call__(self, graph: SceneGraph, instruction: str) -> Sequence[Subgoal]:
        """The subgoals left to do in `graph`; empty when it has no choice to offer."""
        ...


@dataclass(frozen=True)
class Oracle:
    """What only the simulator knows, for oracle arms and gates.

    Args:
        plans: plans from the present state that nothing spoils; empty when there is none.
        value: exact P(goal before failure) of the present graph under the best plan; None where unknown.
    """

    plans: Callable[[Simulation], Sequence[Sequence[Subgoal]]]
    value: Callable[[Simulation, SceneGraph, int], float] | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """Everything that the rest of VINE knows of a simulated task.

    Args:
        name: in commands, tables and file names. about: one line.
        schema: vocabulary of its scene graphs and its verbs.
        splits: name -> appearance. Those without lists are streams for demonstrations. The first of each kind
            is the default: of demonstrations, and of calibration, whose scenes look like the demonstrations.
        cameras: camera role -> shape of its images (height, width, channels).
        state, action: names and bounds of proprioception and of actions.
        fps: actions a second. robot_type: as LeRobot's `info.json` has it.
        max_steps, subgoal_steps: limits of an evaluated episode and of one subgoal, in actions.
        open: (split, render) -> a simulation; without rendering observations have no images. Call
            `simulation` instead, which checks the split.
        operator: (simulation after its reset, dials, random stream) -> an operator for this episode.
        expert: (simulation, noise scale, strength of disturbances, random stream) -> a scripted low-level
            policy.
        skill: (simulation, noise scale) -> the expert behind the protocol `Skill`; it reads the simulation.
        novice: (simulation, random stream of one subgoal) -> an expert bad enough that others have to recover
            what it does; None: the expert with up to five times the noise.
        takeover: when an expert takes over from another policy; None: `tasks.interventions.AnyTime`.
        constants: name -> constant policy, the rivals `always-NAME`.
        oracle: what only the simulator knows, where there is something.
        default_split: split that is evaluated unless another is named; empty: the first with lists.
        instructions: task texts that the demonstrations use, the plainest first; empty where scenes differ.
        experiments: name -> values of `evaluation.experiments.registry.Experiment`, besides name and task.
        env_id: gymnasium's name of the task; empty: `vine/NAME-v0`.

    Raises:
        VineError: a part does not fit another.
    """

    name: str
    about: str
    schema: Schema
    splits: Mapping[str, Split]
    cameras: Mapping[str, tuple[int, int, int]]
    state: Space
    action: Space
    fps: float
    robot_type: str
    max_steps: int
    subgoal_steps: int
    open: Callable[[str, bool], Simulation]
    operator: Callable[[Any, OperatorDials, np.random.Generator], Operator]
    expert: Callable[[Any, float, float, np.random.Generator], Expert]
    skill: Callable[[Any, float], Skill]
    novice: Callable[[Any, np.random.Generator], Expert] | None = None
    takeover: Takeover | None = None
    constants: Mapping[str, ConstantPolicy] = field(default_factory=dict)
    oracle: Oracle | None = None
    default_split: str = ""
    instructions: tuple[str, ...] = ()
    experiments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    env_id: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise VineError(f"malformed task name {self.name!r}", hint="use lower case, digits and _")
        if tuple(self.cameras) != self.schema.cameras:
            raise VineError(
                f"task {self.name} has cameras {', '.join(self.cameras)}",
                hint=f"its schema names {', '.join(self.schema.cameras)}",
            )
        if not self.evaluation_splits:
            raise VineError(f"task {self.name} has no split with scene lists")
        object.__setattr__(self, "default_split", self.default_split or self.evaluation_splits[0])
        object.__setattr__(self, "env_id", self.env_id or f"vine/{self.name}-v0")
        self.lists(self.default_split)

    def simulation(self, split: str, *, render: bool = True) -> Simulation:
        """A simulation of `split`, not reset yet; without `render` observations have no images.

        Raises:
            VineError: there is no such split.
        """
        self.split(split)
        return self.open(split, render)

    def split(self, name: str) -> Split:
        """The split called `name`; VineError that lists the known ones."""
        if name not in self.splits:
            raise VineError(f"unknown split {name!r} of {self.name}", hint=f"known: {', '.join(self.splits)}")
        return self.splits[name]

    def lists(self, split: str) -> SceneLists:
        """The frozen scenes of `split`; VineError if it has none."""
        found = self.split(split).lists
        if found is None:
            raise VineError(
                f"split {split!r} of {self.name} is a stream for demonstrations",
                hint=f"splits with scene lists: {', '.join(self.evaluation_splits)}",
            )
        return found

    @property
    def demonstration_splits(self) -> tuple[str, ...]:
        """Splits that are streams for demonstrations, the default one first."""
        return tuple(name for name, split in self.splits.items() if split.lists is None)

    @property
    def evaluation_splits(self) -> tuple[str, ...]:
        """Splits with frozen scene lists, the one that looks like the demonstrations first."""
        return tuple(name for name, split in self.splits.items() if split.lists is not None)
