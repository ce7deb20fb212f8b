"""Who acts in PlugInsertion, behind the protocols of `tasks.base`: operators, experts, novices, pushes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Float
from vine_vla.tasks.base import History, OperatorDials
from vine_vla.tasks.plug.expert import Expert, SkillDial
from vine_vla.tasks.plug.operators import Habits, Operator
from vine_vla.tasks.plug.task import PlugInsertion

Array = NDArray[np.float64]

PUSH = 0.006  # standard deviation (m) of a push at strength 1
PUSH_RATE, PUSH_RATE_AIMING = 0.06, 0.2  # pushes a free step; the same close above plug and socket
NOVICE_SCALE = 5.0  # noise of the worst novices: a standard deviation of 7.5 mm at the socket
NOVICE_DRIFT = 0.002  # standard deviation (m) of a novice's constant drift a step


class PlugOperator:
    """A blind operator of one episode."""

    def __init__(self, task: PlugInsertion, dials: OperatorDials, rng: np.random.Generator) -> None:
        if dials.explore:
            habits = Habits(
                grasp_rate=0.5, other_socket=0.5, colour_blind=0.0, second_thoughts=0.1,
                awareness=dials.awareness,
            )  # fmt: skip
        else:
            habits = Habits(grasp_rate=dials.habit, awareness=dials.awareness)
        self.task, self.operator = task, Operator(habits, rng)
        self.operator.begin(task.scene)

    def next(self, history: History) -> Subgoal | None:
        """The next subgoal; None to stop."""
        known = [(self.task.choice(subgoal), outcome) for subgoal, outcome in history]
        choice = self.operator.next(self.task.sim, known)
        return None if choice is None else self.task.subgoal(choice)


class PlugExpert:
    """The scripted expert, and the pushes on its hand while it is recorded."""

    def __init__(
        self, task: PlugInsertion, dial: SkillDial, rng: np.random.Generator, disturbance: float = 0.0
    ) -> None:
        self.task, self.expert = task, Expert(dial, rng)
        self.pushes = Pushes(PUSH * disturbance)

    def run(self, subgoal: Subgoal) -> Iterator[Array]:
        """Actions [5] until the subgoal is over."""
        verb, socket = self.task.choice(subgoal)
        yield from self.expert.run(self.task.sim, Subgoal(verb, subgoal.args), socket)

    def disturbance(self, rng: np.random.Generator) -> Float | None:
        """A push on the hand [5], or None."""
        return self.pushes.next(self.expert.moving, self.expert.aiming, rng)


class Pushes:
    """Random pushes on the hand: each lasts two steps, sideways more than down.

    Args:
        push: standard deviation in metres; 0 for none. rate, rate_aiming: pushes a step that moves freely,
            and a step close above plug or socket, in [0, 1].
    """

    def __init__(self, push: float, rate: float = PUSH_RATE, rate_aiming: float = PUSH_RATE_AIMING) -> None:
        self.push, self.rate, self.rate_aiming = push, rate, rate_aiming
        self._left, self._now = 0, np.zeros(5)

    def next(self, moving: bool, aiming: bool, rng: np.random.Generator) -> Float | None:
        """What is added to this step's action [5], or None."""
        rate = self.rate_aiming if aiming else self.rate
        if self._left == 0 and moving and self.push > 0 and rng.random() < rate:
            self._left = 2
            self._now = np.array([*rng.normal(0, self.push / 2, 3) * (1, 1, 0.5), rng.normal(0, 0.05), 0])
        if self._left == 0 or not moving:
            self._left = 0
            return None
        self._left -= 1
        return self._now.astype(np.float32)


class PlugNovice(PlugExpert):
    """An operator who aims badly and drifts, both drawn anew for every subgoal.

    Noise while the operator demonstrates, as in DART (Laskey et al. 2017, arXiv 1703.09327), but large.
    """

    def __init__(self, task: PlugInsertion, rng: np.random.Generator) -> None:
        dial = SkillDial(scale=float(rng.uniform(0.2, 1.0)) * NOVICE_SCALE)
        side, up = rng.normal(0, NOVICE_DRIFT, 2), rng.normal(0, NOVICE_DRIFT / 2)
        self.drift = np.array([*side, up, 0.0, 0.0])
        super().__init__(task, dial, rng)

    def run(self, subgoal: Subgoal) -> Iterator[Array]:
        """Actions [5], off by the drift."""
        yield from (action + self.drift for action in super().run(subgoal))
