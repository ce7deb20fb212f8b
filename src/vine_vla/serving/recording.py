"""Served episodes written back in the data contract: what one wants after a deployment has failed.

A frame a request: what was seen and the first action of the answer. Segments are the subgoals executed,
their outcomes the done head's opinion (source `model`); the episode's outcome is `unknown` until somebody
labels it (`vine annotate --outcomes`).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from vine_vla.agent import Agent, Execution, Verdict
from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema
from vine_vla.core.options import Collector, EpisodeOutcome, Outcome, OutcomeSource
from vine_vla.core.protocols import Float, Observation
from vine_vla.data import EpisodeRecorder

LOGGER = logging.getLogger("vine.serving")

OUTCOMES = {
    Verdict.DONE: Outcome.REACHED,
    Verdict.FAILED: Outcome.SLIPPED,
    Verdict.CONTRADICTED: Outcome.SLIPPED,
    Verdict.TIMEOUT: Outcome.SLIPPED,
    Verdict.UNCERTAIN: Outcome.CENSORED,
    Verdict.INTERRUPTED: Outcome.CENSORED,
}


class SessionRecorder:
    """Stages the episodes of one session.

    Args:
        folder: of the dataset; episodes are staged in FOLDER.staging.
        name: unique to the session; letters, digits, `.`, `_` and `-`.
        fps: frames (requests) a second.
    """

    def __init__(self, folder: Path, schema: Schema, name: str, fps: float) -> None:
        self.staging = folder.with_name(folder.name + ".staging")
        self.schema, self.name, self.fps = schema, name, fps
        self._number = 0
        self._recorder: EpisodeRecorder | None = None
        self._executed = 0
        self._open = False

    def begin(self, instruction: str) -> None:
        """A new episode; nothing is on disk before its end."""
        self._recorder = EpisodeRecorder(
            self.staging,
            schema=self.schema,
            instruction=instruction,
            fps=self.fps,
            episode_id=f"{self.name}-{self._number:04d}",
        )
        self._number += 1
        self._executed, self._open = 0, False

    def add(self, agent: Agent, observation: Observation, action: Float) -> None:
        """What was seen and the action that was answered."""
        if self._recorder is None:
            return
        try:
            self._follow(self._recorder, agent)
            self._recorder.add_frame(observation, np.asarray(action, np.float32))
        except VineError as error:
            LOGGER.warning("episode is not recorded: %s", error)
            self._recorder.abort()
            self._recorder = None

    def end(self, agent: Agent | None) -> Path | None:
        """Stage the running episode; nothing if it has no frames."""
        recorder, self._recorder = self._recorder, None
        if recorder is None or agent is None or not recorder.frames:
            return None
        self._recorder = None
        self._close_segments(recorder, agent.executions)
        if self._open:
            recorder.end_segment(Outcome.CENSORED, OutcomeSource.MODEL)
            self._open = False
        graph = agent.body.graph if agent.body is not None else None
        return recorder.finish(EpisodeOutcome.UNKNOWN, None, final_graph=graph, collector=Collector.POLICY)

    def _follow(self, recorder: EpisodeRecorder, agent: Agent) -> None:
        """Begin and end segments as the agent does."""
        self._close_segments(recorder, agent.executions)
        if agent.subgoal is not None and not self._open and agent.body is not None:
            recorder.start_segment(agent.subgoal, agent.text, agent.body.graph)
            self._open = True

    def _close_segments(self, recorder: EpisodeRecorder, executions: list[Execution]) -> None:
        fresh = executions[self._executed :]
        if fresh and self._open:
            recorder.end_segment(OUTCOMES[fresh[0].verdict], OutcomeSource.MODEL)
            self._open = False
        # Subgoals that began and ended between two requests have no frame of their own.
        self._executed = len(executions)
