"""Add outcomes, segments and boxes to a LeRobot dataset, as sidecar files only.

The dataset's own files are never changed. Annotating again adds to what is there: a new label replaces the
old one of the same kind. With --page you look at the episodes in your browser and label them by keys.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Config:
    """Options of `vine annotate`."""

    path: tyro.conf.Positional[Path]
    """Root folder of the dataset (the one with meta/info.json)."""
    labels: Path | None = None
    """JSON lines, one an episode: episode_index, success (true, false, null), grasp_attempts (close_frame,
    open_frame, outcome)."""
    outcomes: Path | None = None
    """CSV with the columns episode (index or id) and outcome (success, failure, truncated, unknown)."""
    subgoals: Path | None = None
    """JSON lines, one a subgoal: episode_index, start, end (exclusive), verb, args (object ids), outcome
    (reached, slipped, dead, null)."""
    segments: Literal["gripper", "task", "language", "sarm"] | None = None
    """Cut the episodes at gripper changes, per-frame task texts, LeRobot 0.6 subtasks or SARM columns."""
    boxes: Path | None = None
    """JSON lines, one a frame and camera: episode_index, frame_index, camera, image_size, objects (label,
    pixel box; if known id, attributes, held)."""
    words: Path | None = None
    """JSON with your own classes, attributes, verbs (arguments, template), predicates; default: what labels
    and boxes name."""
    attempts: Literal["closed", "whole"] = "closed"
    """Frames of a grasp attempt: those with the gripper closed, or the whole way there from the end of the
    attempt before, which System 1 needs to learn it."""
    page: bool = False
    """Serve a page to label by hand, on this machine only, until Ctrl-C; every label is written at once."""
    port: int = 0
    """Port of the page; 0 for any free one."""
    out: Path | None = None
    """Leave the source alone and make a dataset here that links to its frames; needed if it is read-only."""
    source: Literal["human", "operator", "model", "simulator"] = "human"
    """Who judged."""
    grasped: str | None = None
    """Class that grasp attempts take hold of; default: the one that boxes mark as held, else `object`."""
    gripper_dimension: int | None = None
    """Dimension of the action that drives the gripper, from 0; default: the one whose name says gripper."""
    gripper_closed: Literal["high", "low"] = "high"
    """Whether the gripper is closed at high or at low values of that dimension."""
    calibration_share: float = 0.15
    """Share of the episodes kept for calibration, in [0, 1]; for a dataset without sidecars."""


def run(config: Config) -> int:
    """Annotate and say what there is now; then label by hand, if that is wanted."""
    from vine_vla.core.errors import VineError

    given = (config.labels, config.outcomes, config.subgoals, config.segments, config.boxes, config.words)
    if not any(given) and not config.page:
        raise VineError(
            "nothing to add",
            hint="give --labels, --outcomes, --subgoals, --segments, --boxes, --words or --page",
        )
    if any(given):
        _annotate(config)
    return _label(config) if config.page else 0


def _annotate(config: Config) -> None:
    from vine_vla.core.options import OutcomeSource
    from vine_vla.data.annotate.annotation import Sources, annotate
    from vine_vla.data.problems import label_problems

    sources = Sources(
        labels=config.labels,
        outcomes=config.outcomes,
        subgoals=config.subgoals,
        boxes=config.boxes,
        words=config.words,
        attempts=config.attempts,
        segments=config.segments,
        judge=OutcomeSource(config.source),
        grasped=config.grasped,
        gripper_dimension=config.gripper_dimension,
        gripper_closed_is_high=config.gripper_closed == "high",
        calibration_share=config.calibration_share,
    )
    dataset = annotate(config.path, sources, config.out)
    outcomes: dict[str, int] = {}
    for d in dataset.demonstrations:
        outcomes[d.outcome.value] = outcomes.get(d.outcome.value, 0) + 1
    segments = sum(len(d.segments) for d in dataset.demonstrations)
    graphs = sum(len(d.graphs) for d in dataset.demonstrations)
    counted = ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items()))
    print(f"{len(dataset.demonstrations)} episodes: {counted}; {segments} segments, {graphs} scene graphs")
    print(f"sidecars written to {dataset.root / 'meta'}", file=sys.stderr)
    for problem in label_problems(dataset.demonstrations, str(dataset.root)):
        print(f"vine: {problem.level}: {problem}", file=sys.stderr)
    if config.out is not None:
        print(f"{config.path} is unchanged; {config.out} links to its data and videos", file=sys.stderr)


def _label(config: Config) -> int:
    """Serve the page until Ctrl-C."""
    from vine_vla.core.options import OutcomeSource
    from vine_vla.data.annotate.label_server import LabelServer
    from vine_vla.data.annotate.labelling import Labeller

    labeller = Labeller(config.path, config.out, OutcomeSource(config.source), config.calibration_share)
    with LabelServer(labeller, config.port) as server:
        print(server.url, flush=True)
        print(
            f"{labeller.left} of {len(labeller.demonstrations)} episodes have no label; open this address in"
            " your browser, Ctrl-C ends",
            file=sys.stderr,
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            labeller.close()
    print(
        f"{len(labeller.labelled)} episodes labelled, {labeller.left} of {len(labeller.demonstrations)} left"
        f" without a label in {labeller.root}"
    )
    return 0
