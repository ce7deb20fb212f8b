"""Scripted episodes without images: for gate G0, tests and dials. Recording them is `collect`'s work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vine_vla.core.options import Outcome, Subgoal
from vine_vla.tasks.plug.expert import CARRY_Z, Expert, SkillDial
from vine_vla.tasks.plug.operators import Choice, Habits, Operator
from vine_vla.tasks.plug.scenes import PlugScene
from vine_vla.tasks.plug.sim import PlugSim


@dataclass(frozen=True)
class ScriptedEpisode:
    """What happened: subgoals with outcomes, success, steps, onset step of a loss (-1 if none)."""

    history: tuple[tuple[Choice, Outcome], ...]
    success: bool
    dead: bool
    steps: int
    onset: int


def as_subgoal(choice: Choice) -> Subgoal:
    """The subgoal of an operator's choice, sockets named by index."""
    verb, socket = choice
    return Subgoal(verb, ("plug",) if socket is None else ("plug", f"socket_{socket}"))


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


def run_choice(sim: PlugSim, expert: Expert, choice: Choice) -> Outcome:
    """Let the expert execute one subgoal to its end."""
    for action in expert.run(sim, as_subgoal(choice), choice[1]):
        sim.step(action)
    return choice_status(sim, choice) or Outcome.SLIPPED


def run_plan(
    sim: PlugSim, scene: PlugScene, grasp: str, socket: int, dial: SkillDial, seed: int
) -> list[Outcome]:
    """Outcomes of grasping and inserting once; stops at the first that is not reached."""
    sim.reset(scene, seed)
    expert = Expert(dial, np.random.default_rng([seed, 1]))
    outcomes: list[Outcome] = []
    for choice in ((f"grasp_{grasp}", None), ("insert", socket)):
        outcomes.append(run_choice(sim, expert, choice))
        if outcomes[-1] is not Outcome.REACHED:
            break
    return outcomes


def run_operator(
    sim: PlugSim, scene: PlugScene, habits: Habits, dial: SkillDial, seed: int
) -> ScriptedEpisode:
    """One episode of a scripted operator."""
    sim.reset(scene, seed)
    operator = Operator(habits, np.random.default_rng([seed, 2]))
    expert = Expert(dial, np.random.default_rng([seed, 1]))
    operator.begin(scene)
    history: list[tuple[Choice, Outcome]] = []
    while (choice := operator.next(sim, history)) is not None:
        history.append((choice, run_choice(sim, expert, choice)))
    return ScriptedEpisode(tuple(history), sim.success(), sim.dead(), sim.steps, sim.onset)
