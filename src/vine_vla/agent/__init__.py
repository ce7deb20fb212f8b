"""The agent: perceive, plan, execute, verify, replan. Protocols and search only."""

from vine_vla.agent.body import Acting, Feedback, run_subgoal
from vine_vla.agent.loop import Agent, Wording, run_episode
from vine_vla.agent.records import (
    AgentConfig,
    Decision,
    EpisodeRecord,
    Execution,
    Frame,
    Replanning,
    StopReason,
    Streams,
    Verdict,
)
from vine_vla.agent.verify import agreement, expects_goal, outcome_probabilities, surprise

__all__ = [
    "Acting",
    "Agent",
    "AgentConfig",
    "Decision",
    "EpisodeRecord",
    "Execution",
    "Frame",
    "Replanning",
    "Feedback",
    "StopReason",
    "Streams",
    "Verdict",
    "Wording",
    "agreement",
    "expects_goal",
    "outcome_probabilities",
    "run_episode",
    "run_subgoal",
    "surprise",
]
