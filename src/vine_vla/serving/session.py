"""A session: one agent in one episode, driven by a client that sends what it sees and gets actions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vine_vla.agent import Agent, AgentConfig, Feedback, Streams, Wording
from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.protocols import (
    DONE,
    FAILED,
    Float,
    Observation,
    Perceiver,
    Plan,
    Planner,
    PlanStatus,
    Skill,
    perceive_one,
)
from vine_vla.core.text import describe
from vine_vla.serving.deadline import drop_plan
from vine_vla.serving.observations import ObservationKeys
from vine_vla.serving.recording import SessionRecorder

Hold = Literal["still", "repeat"]

PATIENCE = 4
"""Requests for each action that an episode may have: who executes nothing never reaches its step limit."""


@dataclass(frozen=True)
class ServedAgent:
    """What all sessions share.

    Args:
        name: what is served, for the metadata.
        schema: vocabulary of scene graphs.
        perceiver, planner: without state of their own.
        new_skill: System 1 for one session; weights may be shared.
        new_planner: the planner of one session, e.g. under a deadline.
        config: of the agent; its step limits count executed actions.
        keys: where clients' messages hold what is needed.
        budget: subgoals of an episode.
        action_low, action_high: range of the dataset's actions. [A] each
        horizon: actions a reply, H.
        fps: actions a second.
        hold: what is sent when there is nothing to do: `still` is zero motion with the last gripper command
            (for actions that are steps), `repeat` the last action (for actions that are positions).
        switches: action dimensions that are no motion and keep their value when the robot is held still;
            default the last one, a gripper.
        places: per action dimension the place of the state that follows it, -1 for none: where a robot that
            is moved by positions stays before it has been given any.
    """

    name: str
    schema: Schema
    perceiver: Perceiver
    planner: Planner
    new_skill: Callable[[], Skill]
    new_planner: Callable[[], Planner]
    config: AgentConfig
    keys: ObservationKeys
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]
    horizon: int
    fps: float
    hold: Hold = "still"
    switches: tuple[int, ...] = (-1,)
    places: tuple[int, ...] = ()

    @property
    def budget(self) -> int:
        return self.config.budget

    @property
    def wording(self) -> Wording:
        return lambda subgoal, graph: describe(subgoal, graph, self.schema)

    def metadata(self) -> dict[str, Any]:
        """What a client is told on connecting."""
        cameras = {role: self.keys.names_of(role) for role in self.schema.cameras}
        return {
            "server": "vine",
            "serves": self.name,
            "action_horizon": self.horizon,
            "action_size": len(self.action_low),
            "action_low": [float(v) for v in self.action_low],
            "action_high": [float(v) for v in self.action_high],
            "hold": self.hold,
            "state_size": self.keys.state_size,
            "fps": self.fps,
            "cameras": cameras,
            "state": self.keys.state_names(),
            "prompt": self.keys.prompt_names(),
            "verbs": [verb.name for verb in self.schema.verbs],
            "replanning": str(self.config.replanning),
            "feasibility": "P(reach the goal before failing)",
            "endpoints": ["/", "/plan"],
        }


class Session:
    """One client's episodes. Calls are answered one after the other.

    Args:
        served: what is shared. seed: of the policy's noise. recorder: writes episodes, if wanted.
    """

    def __init__(self, served: ServedAgent, seed: int, recorder: SessionRecorder | None = None) -> None:
        self.served, self.seed, self.recorder = served, seed, recorder
        self.lock = threading.Lock()
        self.used = time.monotonic()
        self.episodes = 0
        self._agent: Agent | None = None
        self._handed_out = self._requests = 0
        self._last: Float | None = None

    def infer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answer an observation with actions and what the agent thinks.

        Further keys: `reset` (true begins an episode), `executed` (how many of the actions handed out last
        were executed; default all).

        Raises:
            VineError: the observation is not what the agent needs; the episode goes on unharmed.
        """
        start = time.perf_counter()
        with self.lock:
            self.used = time.monotonic()
            observation = self.served.keys.read(message)
            prompt = self.served.keys.prompt(message)
            executed, reset = self._executed(message), _wants_reset(message)
            if reset or self._agent is None or self._is_other(prompt):
                self._begin(prompt)
                executed = 0
            self._requests += 1
            if self._requests > PATIENCE * self.served.config.max_steps:
                self._end()
                raise VineError(
                    "the episode is ended: too many requests and too few actions executed",
                    where="observation",
                    hint="execute what is answered, and send `executed` right",
                )
            reply = self._act(observation, executed)
            reply["policy_timing"] = {"infer_ms": 1000 * (time.perf_counter() - start)}
            return reply

    def reset(self) -> None:
        """End the running episode; the next observation begins another."""
        with self.lock:
            self._end()

    def _is_other(self, prompt: str | None) -> bool:
        return self._agent is not None and prompt is not None and prompt != self._agent.instruction

    def _executed(self, message: Mapping[str, Any]) -> int:
        value = message.get("executed", self._handed_out)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise VineError(f"executed is {value!r}", where="observation", hint="send a number from 0 on")
        return min(int(value), self._handed_out)

    def _begin(self, prompt: str | None) -> None:
        if prompt is None:
            raise VineError("no prompt", where="observation", hint="send the task as `prompt`")
        self._end()
        served = self.served
        streams = Streams.spawn(self.seed, self.episodes)
        self.episodes += 1
        self._agent = Agent(
            served.perceiver,
            served.new_planner(),
            served.new_skill(),
            served.config,
            streams,
            wording=served.wording,
            instruction=prompt,
        )
        self._handed_out = self._requests = 0
        self._last = None
        if self.recorder is not None:
            self.recorder.begin(prompt)

    def _end(self) -> None:
        if self.recorder is not None:
            self.recorder.end(self._agent)
        if self._agent is not None:
            drop_plan(self._agent.planner)
        self._agent = None

    def _act(self, observation: Observation, executed: int) -> dict[str, Any]:
        # An agent that raises has ended: it is only put back when it has answered.
        agent, self._agent = self._agent, None
        assert agent is not None
        actions = agent.act(Feedback(observation, executed))
        self._agent = agent
        moves = actions is not None and len(actions) > 0
        self._handed_out = min(len(actions), self.served.horizon) if actions is not None else 0
        chunk = self._padded(actions if moves else None, observation)
        if self.recorder is not None:
            self.recorder.add(agent, observation, chunk[0])
            if actions is None:
                self.recorder.end(agent)
        self._last = chunk[-1]
        return {"actions": chunk, **self._thoughts(agent, moves, actions is None)}

    def _padded(self, actions: Float | None, observation: Observation) -> Float:
        """`actions` within the dataset's range and H long; held where there is nothing to do. [H, A]"""
        served = self.served
        hold = self._stopped(self._last) if self._last is not None else self._resting(observation)
        found = np.empty((0, len(hold)), np.float32) if actions is None else actions[: served.horizon]
        # NaN never leaves: what is no number is replaced by holding still.
        found = np.where(np.isfinite(found), found, hold)
        rest = hold
        if len(found):
            rest = self._stopped(found[-1])
        chunk = np.concatenate([found, np.tile(rest, (served.horizon - len(found), 1))])
        return np.clip(chunk, served.action_low, served.action_high).astype(np.float32)

    def _stopped(self, action: Float) -> Float:
        """What holds the robot after `action`: no further motion, or the same position. [A]"""
        rest = action.copy()
        if self.served.hold == "still":
            rest[:] = 0
            switches = list(self.served.switches)
            rest[switches] = action[switches]
        return rest

    def _resting(self, observation: Observation) -> Float:
        """What holds a robot that has not been given any action: no motion, or where it is now. [A]"""
        rest = np.zeros(len(self.served.action_low), np.float32)
        if self.served.hold == "repeat":
            for d, place in enumerate(self.served.places):
                if place >= 0:
                    rest[d] = observation.proprioception[place]
        return rest

    def _thoughts(self, agent: Agent, moves: bool, stopped: bool) -> dict[str, Any]:
        """What the agent thinks, as text, numbers and lists: clients index every array by step."""
        plan = agent.plan or (agent.decisions[-1].plan if agent.decisions else None)
        body = agent.body
        done = body.done if body is not None else np.array([1, 0, 0], np.float32)
        last = agent.decisions[-1] if agent.decisions else None
        return {
            "status": "stopped" if stopped else ("acting" if moves else "holding"),
            "reason": str(agent.reason) if stopped else "",
            "explanation": plan.reason if plan is not None else "",
            "plan": [str(s) for s in plan.subgoals] if plan is not None else [],
            "subgoal": str(agent.subgoal) if agent.subgoal is not None else "",
            "text": agent.text,
            "place": agent.place,
            "feasibility": plan.feasibility if plan is not None else 0.0,
            "feasibility_interval": [plan.lower, plan.upper] if plan is not None else [0.0, 1.0],
            "done": float(done[DONE]),
            "failed": float(done[FAILED]),
            "replans": max(len(agent.decisions) - 1, 0),
            "cause": last.cause if last is not None else "",
            "late": agent.late,
        }


def answer_plan(served: ServedAgent, message: Mapping[str, Any]) -> dict[str, Any]:
    """Plan for a client with a policy of its own: observation and task in, plan and tree out.

    Further key: `budget`, subgoals that may be executed. A planner over its deadline gives status `late`.

    Raises:
        VineError: the observation is not what perception needs.
    """
    start = time.perf_counter()
    observation, prompt = served.keys.read(message), served.keys.prompt(message)
    if prompt is None:
        raise VineError("no prompt", where="observation", hint="send the task as `prompt`")
    budget = message.get("budget", served.budget)
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or not 0 <= budget <= 1000:
        raise VineError(f"budget is {budget!r}", where="observation", hint="send 0 to 1000")
    graph = perceive_one(served.perceiver, observation, prompt)
    perceived = time.perf_counter()
    planner = served.new_planner()
    plan = planner.plan(graph, prompt, int(budget), 0, observation)
    drop_plan(planner)
    return {
        **_plan_fields(plan, graph, served),
        "tree": dict(plan.tree),
        "policy_timing": {
            "infer_ms": 1000 * (time.perf_counter() - start),
            "perceive_ms": 1000 * (perceived - start),
        },
    }


def _wants_reset(message: Mapping[str, Any]) -> bool:
    value = message.get("reset", False)
    if not isinstance(value, bool | np.bool_):
        raise VineError("reset is neither true nor false", where="observation")
    return bool(value)


def _plan_fields(plan: Plan, graph: SceneGraph, served: ServedAgent) -> dict[str, Any]:
    options = [
        {
            "subgoal": str(o.subgoal),
            "text": o.text,
            "feasibility": o.feasibility,
            "interval": [o.lower, o.upper],
            "support": o.support,
            "pruned": o.pruned or "",
        }
        for o in plan.options
    ]
    return {
        "status": str(plan.status),
        "reason": plan.reason,
        "plan": [str(s) for s in plan.subgoals],
        "texts": [served.wording(s, graph) for s in plan.subgoals]
        if plan.status is PlanStatus.PLANNED
        else [],
        "feasibility": plan.feasibility,
        "feasibility_interval": [plan.lower, plan.upper],
        "options": options,
        "model_calls": plan.model_calls,
    }
