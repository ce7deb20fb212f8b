"""PlugInsertion: the task as the agent, the recorder and the evaluation see it.

`observe` and `instruction` are all that learned code may see. `true_graph`, `subgoal_status`, `is_success`
and the saved states are the simulator's truth, for annotation, judging and oracle arms.

Actions, 10 a second, float32 [5]: step of the commanded set-point in the tool (yaw) frame, dx, dy, dz in
metres and dyaw in rad, and the gripper's target in [-1, 1] (below 0 opens, 0 and above closes). Near the
table the gripper opens only 8 mm per finger beyond what it held. Proprioception: `spec.STATE`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Box, SceneGraph
from vine_vla.core.options import Outcome, Subgoal
from vine_vla.core.protocols import DONE, FAILED, RUNNING, Float, Observation, SkillOutput
from vine_vla.tasks.plug.cameras import Cameras
from vine_vla.tasks.plug.expert import CARRY_Z, Expert, SkillDial
from vine_vla.tasks.plug.graph import PlugGraphs
from vine_vla.tasks.plug.operators import Choice
from vine_vla.tasks.plug.scenes import SPLITS, PlugScene, plug_scene
from vine_vla.tasks.plug.sim import PlugSim
from vine_vla.tasks.plug.spec import ACTION, PLUG_SCHEMA, SIZE, SUBGOAL_STEPS

MAX_STEPS = 4 * SUBGOAL_STEPS
"""Actions after which an episode ends, whoever acts: operators take four subgoals at most."""


def choice_status(sim: PlugSim, choice: Choice) -> Outcome | None:
    """Simulator's verdict on a subgoal now: reached, dead, or None while neither holds."""
    verb, socket = choice
    if sim.dead():
        return Outcome.DEAD
    if verb == "insert":
        assert socket is not None
        reached = sim.seated(socket) and sim.retreated()
    elif verb == "put_back":
        reached = sim.on_rack() and sim.retreated()
    else:
        reached = sim.held() == verb.removeprefix("grasp_") and bool(sim.arm.tcp()[2] > CARRY_Z - 0.02)
    return Outcome.REACHED if reached else None


class PlugInsertion:
    """One episode at a time: `reset(scene, seed)`, then `observe` and `step`.

    Args:
        split: of `SPLITS`.
        render: without it observations have no images.
        size: side of the images in pixels.
    """

    def __init__(self, split: str = "seen", *, render: bool = True, size: int = SIZE) -> None:
        if split not in SPLITS:
            raise VineError(f"unknown split {split!r}", hint=f"known splits: {', '.join(SPLITS)}")
        self.split, self.render = split, render
        self.sim = PlugSim()
        self.cameras = Cameras(self.sim.model, self.sim.data, size)
        self._graphs = PlugGraphs(self.sim, self.cameras)

    # ---- what learned code may see ---------------------------------------------------------------
    @property
    def instruction(self) -> str:
        """The task text of this scene."""
        return self.scene.instruction

    def reset(self, scene: int | PlugScene, seed: int) -> Observation:
        """Start an episode. The same scene and seed give the same episode, bit for bit."""
        self.sim.reset(scene if isinstance(scene, PlugScene) else plug_scene(self.split, scene), seed)
        self._graphs.ids = ()
        self._graphs.begin()
        return self.observe()

    def observe(self) -> Observation:
        """Images (none without `render`) and proprioception of this moment."""
        arm = self.sim.arm
        tcp, yaw = arm.tcp(), arm.tcp_yaw()
        lag = arm.position - tcp
        cos, sin = np.cos(yaw), np.sin(yaw)
        state = np.array(
            [
                *tcp, cos, sin, arm.width(),
                cos * lag[0] + sin * lag[1], -sin * lag[0] + cos * lag[1], lag[2], arm.gripper,
            ],
            dtype=np.float32,
        )  # fmt: skip
        return Observation(self.cameras.render() if self.render else {}, state)

    def step(self, action: Float | NDArray[np.float64]) -> bool:
        """Execute one action; True when the step limit is reached.

        Raises:
            VineError: the action is not five finite numbers.
        """
        self.sim.step(ACTION.clip(action))
        return self.sim.steps >= MAX_STEPS

    # ---- the simulator's truth -------------------------------------------------------------------
    @property
    def scene(self) -> PlugScene:
        """The scene of this episode; raises VineError before the first reset."""
        if self.sim.scene is None:
            raise VineError("no episode is running", hint="call reset(scene, seed) first")
        return self.sim.scene

    def true_graph(self, earlier: SceneGraph | None = None) -> SceneGraph:
        """The scene graph. Ids are those of the episode's first moment; `earlier` is not needed for that."""
        return self._graphs.graph()

    def true_boxes(self) -> dict[str, dict[str, Box]]:
        """Camera role -> object id -> amodal box."""
        return self._graphs.boxes()

    def choice(self, subgoal: Subgoal) -> Choice:
        """Verb and socket index of a subgoal; raises VineError for unknown verbs and objects."""
        verb = PLUG_SCHEMA.verb(subgoal.verb)
        if len(subgoal.args) != len(verb.arguments) or subgoal.args[0] != "plug":
            raise VineError(f"subgoal {subgoal} does not fit {verb.name}({', '.join(verb.arguments)})")
        if verb.name != "insert":
            return verb.name, None
        sockets = self._graphs.sockets()
        if subgoal.args[1] not in sockets:
            raise VineError(
                f"no {subgoal.args[1]} in this scene", hint=f"sockets: {', '.join(sorted(sockets))}"
            )
        return verb.name, sockets[subgoal.args[1]]

    def subgoal(self, choice: Choice) -> Subgoal:
        """Inverse of `choice`."""
        verb, index = choice
        if index is None:
            return Subgoal(verb, ("plug",))
        return Subgoal(verb, ("plug", next(name for name, i in self._graphs.sockets().items() if i == index)))

    def subgoal_status(self, subgoal: Subgoal) -> Outcome | None:
        """`reached` or `dead`; None while neither holds (which is `slipped` once its execution has ended)."""
        return choice_status(self.sim, self.choice(subgoal))

    def is_success(self) -> bool:
        """The plug is seated in a socket of its kind, released, and the hand has retreated."""
        return self.sim.success()

    def is_dead(self) -> bool:
        """The plug has fallen: the task cannot be solved any more."""
        return self.sim.dead()

    @property
    def steps(self) -> int:
        """Actions executed in this episode."""
        return self.sim.steps

    @property
    def onset(self) -> int | None:
        """First step at which the plug was unsteady before it fell; None while it has not."""
        return self.sim.onset if self.sim.dead() else None

    def failure_kind(self) -> str | None:
        """How the plug was lost: `toppled` (at a socket or the rack), `dropped`, `exploded`; None if not."""
        if not self.sim.dead():
            return None
        if self.sim.exploded:
            return "exploded"
        return "toppled" if self._near_place() else "dropped"

    def _near_place(self) -> bool:
        x, y = self.sim.plug().position[:2]
        places = [(s.x, s.y) for s in self.scene.sockets] + [self.scene.rack[:2]]
        return bool(min(np.hypot(x - px, y - py) for px, py in places) < 0.12)

    def oracle_plans(self) -> list[list[Subgoal]]:
        """Plans from now on that no neighbour spoils; a plug in the wrong grasp is put back first."""
        plans = [
            [self.subgoal((f"grasp_{g}", None)), self.subgoal(("insert", i))]
            for g, i in self.scene.good_plans()
        ]
        held = self.sim.held()
        if held is None:
            return plans
        fitting = [plan[1:] for plan in plans if plan[0].verb == f"grasp_{held}"]
        return fitting or [[self.subgoal(("put_back", None)), *plan] for plan in plans]

    def save_state(self) -> dict[str, Any]:
        """Everything that the future depends on."""
        return {"sim": self.sim.save_state(), "ids": self._graphs.ids}

    def restore_state(self, state: dict[str, Any]) -> None:
        """Return exactly to a saved state. Skills that were running must be started anew."""
        self.sim.restore_state(state["sim"])
        self._graphs.ids = ()
        self._graphs.begin()
        self._graphs.ids = state["ids"]

    def close(self) -> None:
        """Free the renderer."""
        self.cameras.close()


class ScriptedSkill:
    """The scripted expert behind the protocol `Skill`, for gates and the `oracle-skill` arm.

    Its done signal tells the truth: `done` when the subgoal is reached at its end, `failed` when not.
    """

    privileged = True
    """Its subgoals are in the simulator's ids, not in perception's."""

    def __init__(self, task: PlugInsertion, dial: SkillDial) -> None:
        self.task, self.dial = task, dial
        self._actions: Iterator[NDArray[np.float64]] = iter(())
        self._subgoal: Subgoal | None = None

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None:
        """Begin `subgoal` from the present state."""
        verb, socket = self.task.choice(subgoal)
        expert = Expert(self.dial, np.random.default_rng([seed, 3]))
        self._subgoal = subgoal
        self._actions = expert.run(self.task.sim, Subgoal(verb, subgoal.args), socket)

    def act(self, observation: Observation, graph: SceneGraph) -> SkillOutput:
        """The expert's next action; a still one with `done` or `failed` when it has finished."""
        done = np.zeros(3, np.float32)
        action = None if self.task.is_dead() else next(self._actions, None)
        if action is None:
            reached = self._subgoal is not None and self.task.subgoal_status(self._subgoal) is Outcome.REACHED
            done[DONE if reached else FAILED] = 1
            action = np.array([0, 0, 0, 0, self.task.sim.arm.gripper])
        else:
            done[RUNNING] = 1
        return SkillOutput(np.asarray(action, np.float32)[None], 1, done)
