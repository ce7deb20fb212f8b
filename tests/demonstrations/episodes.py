"""Small recorded episodes for the tests of the data room."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vine_vla import (
    Box,
    EpisodeOutcome,
    Observation,
    Outcome,
    OutcomeSource,
    SceneGraph,
    SceneObject,
    Schema,
    Subgoal,
    Verb,
)
from vine_vla.core.options import Collector, Split
from vine_vla.core.relations import PREDICATES, derive_relations
from vine_vla.data import EpisodeRecorder

SCHEMA = Schema(
    classes=("plug", "socket", "gripper"),
    attributes={"colour": ("blue", "red"), "height": (), "grip": ("open", "holding", "empty")},
    predicates=PREDICATES,
    verbs=(
        Verb("grasp_long", ("plug",), "grasp {0} across its long side"),
        Verb("insert", ("plug", "socket"), "insert {0} into {1}"),
    ),
    cameras=("front", "wrist"),
    describing=("colour",),
)
SIZE = (48, 64)  # height, width
GRASP, INSERT = Subgoal("grasp_long", ("plug",)), Subgoal("insert", ("plug", "socket_2"))


@dataclass(frozen=True)
class Plan:
    """What one recorded episode is to hold: (start, end, subgoal, outcome) and how it ends."""

    episode_id: str
    length: int
    segments: tuple[tuple[int, int, Subgoal, Outcome], ...]
    outcome: EpisodeOutcome
    onset_frame: int | None = None
    split: Split | None = None


def images(episode_id: str, length: int) -> dict[str, np.ndarray]:
    """Frames that differ from frame to frame, camera to camera and episode to episode. uint8 [L, H, W, 3]."""
    rng = np.random.default_rng(list(episode_id.encode()))
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    out = {}
    for role in SCHEMA.cameras:
        phase, tint = rng.uniform(0, 6, 3), rng.uniform(0.3, 1, 3)
        waves = [
            127 * (1 + np.sin(x / 9 + y / 7 + phase[c] + np.arange(length)[:, None, None] / 3))
            for c in range(3)
        ]
        out[role] = (np.stack(waves, -1) * tint).astype(np.uint8)
    return out


def graph(rng: np.random.Generator) -> SceneGraph:
    """A scene of plug, two sockets and gripper at random places."""
    objects = []
    for name, cls in (
        ("plug", "plug"),
        ("socket_1", "socket"),
        ("socket_2", "socket"),
        ("gripper", "gripper"),
    ):
        boxes = {role: random_box(rng) for role in SCHEMA.cameras if rng.random() < 0.9}
        known = {"grip": "open"} if cls == "gripper" else {"colour": str(rng.choice(["blue", "red"]))}
        objects.append(SceneObject(name, cls, boxes, {**known, "height": float(rng.normal())}))
    return SceneGraph(tuple(objects), derive_relations(objects, "front", SCHEMA.predicates))


def random_box(rng: np.random.Generator) -> Box:
    x, y = (sorted(rng.random(2).astype(np.float32).tolist()) for _ in range(2))
    return Box(x[0], y[0], x[1], y[1])


def record(staging: Path, plan: Plan, *, actions: np.ndarray | None = None) -> dict[str, object]:
    """Record `plan`; returns what went in: actions, states, frames, boxes and graphs by frame."""
    rng = np.random.default_rng(list(plan.episode_id.encode()))
    recorder = EpisodeRecorder(
        staging,
        schema=SCHEMA,
        instruction=f"plug it in, {len(plan.segments)}",
        fps=10,
        episode_id=plan.episode_id,
    )
    actions = rng.normal(size=(plan.length, 5)).astype(np.float32) if actions is None else actions
    states = rng.normal(size=(plan.length, 9)).astype(np.float32)
    frames = images(plan.episode_id, plan.length)
    starts = {start: (subgoal, end, outcome) for start, end, subgoal, outcome in plan.segments}
    ends = {end: outcome for _, end, _, outcome in plan.segments}
    graphs: dict[int, SceneGraph] = {}
    boxes: dict[int, dict[str, dict[str, Box]]] = {}
    for t in range(plan.length):
        if t in ends:
            recorder.end_segment(ends[t], OutcomeSource.SIMULATOR)
        if t in starts:
            graphs[t] = graph(rng)
            recorder.start_segment(starts[t][0], f"do {starts[t][0]}", graphs[t])
        if rng.random() < 0.8:
            boxes[t] = {
                role: {"plug": random_box(rng), "socket_2": random_box(rng)} for role in SCHEMA.cameras
            }
        observation = Observation({role: frames[role][t] for role in SCHEMA.cameras}, states[t])
        recorder.add_frame(observation, actions[t], boxes.get(t))
    if plan.length in ends:
        recorder.end_segment(ends[plan.length], OutcomeSource.SIMULATOR)
    graphs[plan.length] = graph(rng)
    recorder.finish(
        plan.outcome,
        None if plan.outcome is EpisodeOutcome.UNKNOWN else OutcomeSource.SIMULATOR,
        final_graph=graphs[plan.length],
        onset_frame=plan.onset_frame,
        failure_kind="jam" if plan.outcome is EpisodeOutcome.FAILURE else None,
        scene=7,
        seed=11,
        collector=Collector.OPERATOR,
        split=plan.split,
    )
    return {"actions": actions, "states": states, "frames": frames, "boxes": boxes, "graphs": graphs}


SUCCESS = Plan(
    "a-success",
    17,
    ((0, 8, GRASP, Outcome.REACHED), (8, 17, INSERT, Outcome.REACHED)),
    EpisodeOutcome.SUCCESS,
)
FAILURE = Plan(
    "b-failure",
    14,
    ((0, 5, GRASP, Outcome.SLIPPED), (5, 9, GRASP, Outcome.REACHED), (9, 14, INSERT, Outcome.DEAD)),
    EpisodeOutcome.FAILURE,
    onset_frame=12,
    split=Split.TEST,
)
UNKNOWN = Plan("c-unknown", 6, ((1, 6, GRASP, Outcome.CENSORED),), EpisodeOutcome.UNKNOWN)
PLANS = (SUCCESS, FAILURE, UNKNOWN)


def record_all(staging: Path) -> dict[str, dict[str, object]]:
    """Record all of `PLANS`."""
    return {plan.episode_id: record(staging, plan) for plan in PLANS}
