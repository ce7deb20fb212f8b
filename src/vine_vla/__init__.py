"""VINE: feasibility-guided planning over subgoals, learned from demonstrations with their failures."""

from vine_vla.errors import VineError
from vine_vla.graph import Box, Relation, SceneGraph, SceneObject, Schema, Verb
from vine_vla.options import (
    Collector,
    Demonstration,
    EpisodeOutcome,
    Option,
    Outcome,
    OutcomeSource,
    Segment,
    Split,
    Subgoal,
)
from vine_vla.packing import PackedGraphs, pack, unpack
from vine_vla.protocols import (
    Expansion,
    Observation,
    Perceiver,
    Plan,
    Planner,
    PlanningModel,
    PlanStatus,
    Robot,
    Skill,
)

__all__ = [
    "Box",
    "Collector",
    "Demonstration",
    "EpisodeOutcome",
    "Expansion",
    "Observation",
    "Option",
    "Outcome",
    "OutcomeSource",
    "PackedGraphs",
    "Perceiver",
    "Plan",
    "PlanStatus",
    "Planner",
    "PlanningModel",
    "Relation",
    "Robot",
    "SceneGraph",
    "SceneObject",
    "Schema",
    "Segment",
    "Skill",
    "Split",
    "Subgoal",
    "Verb",
    "VineError",
    "pack",
    "unpack",
]
