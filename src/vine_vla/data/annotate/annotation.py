"""Annotation: outcomes, segments and boxes for a dataset that came without, as sidecars only.

The source's own files are never touched. Sources of labels:

- words (JSON): classes, attributes, predicates, verbs as in `meta/vine.json`, each of them optional;
- labels (`labels.jsonl`): one JSON object an episode: `episode_index`, `success` (true, false, null),
  optionally `length` (checked), `failure_kind` or `final_state`, and `grasp_attempts` with `close_frame`,
  `open_frame` and `outcome` (`success`, or `missed`, `regrasp_in_place` for an attempt that failed);
- outcomes (CSV): columns `episode` (index or id) and `outcome`;
- subgoals (JSONL): any verb with arguments, see `subgoals`;
- segments: cut by `segmentation`;
- boxes (JSONL): see `boxes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.core.options import EpisodeOutcome
from vine_vla.data.annotate.boxes import add_boxes
from vine_vla.data.annotate.label_files import csv_rows, json_rows
from vine_vla.data.annotate.labels import Labels
from vine_vla.data.annotate.placeholder import grasped_class, named_grasps
from vine_vla.data.annotate.segmentation import (
    GRASP,
    Cut,
    Kind,
    cut_by_gripper,
    cut_by_language,
    cut_by_sarm,
    cut_by_task,
)
from vine_vla.data.annotate.sources import Sources
from vine_vla.data.annotate.subgoals import EpisodeLabels, add_attempts, add_subgoals
from vine_vla.data.annotate.subtasks import imported, vocabulary
from vine_vla.data.annotate.words import read_words
from vine_vla.data.lerobot.dataset import DemoDataset, open_dataset
from vine_vla.data.sidecars import files as sidecars
from vine_vla.data.sidecars.linking import annotated_folder, check_target

__all__ = ["Sources", "annotate"]


def annotate(path: Path, sources: Sources, out: Path | None = None) -> DemoDataset:
    """Add sidecars to the dataset at `path`, keeping those it has.

    Args:
        path: LeRobot v3 dataset.
        sources: labels.
        out: leave `path` alone and make this dataset: its own `meta/`, with `data` and `videos` linked to the
            source. Needed when the source is read-only. If it was annotated before, that is added to.

    Returns:
        The annotated dataset.

    Raises:
        VineError: labels that are malformed or do not fit the dataset; nothing is written then.
    """
    target = check_target(path, out)
    if not sidecars.has_sidecars(target) and target != path:
        _labelled(path, sources)  # faulty labels are refused before a folder is made
    with annotated_folder(path, out) as root:
        _labelled(root, sources).write(root)
    return open_dataset(target)


def _labelled(root: Path, sources: Sources) -> Labels:
    """The labels of the dataset at `root` with those of `sources` added."""
    labels = Labels(open_dataset(root))
    if not sidecars.has_sidecars(root):
        labels.assign_splits(sources.calibration_share)
    if sources.words is not None:
        _add_words(labels, sources.words)
    held: set[str] = set()
    if sources.boxes is not None:
        held = add_boxes(labels, sources.boxes, lambda: _closed(labels.dataset, sources))
    outcomes = _Outcomes(labels, sources)
    if sources.outcomes is not None:
        outcomes.add_table(sources.outcomes)
    rows = [] if sources.labels is None else list(json_rows(sources.labels, EpisodeLabels))
    outcomes.add_rows(rows)
    if sources.segments is not None:
        _add_segments(labels, sources.segments, sources)
    # Labelled attempts and subgoals count more than cuts, and inferred outcomes need the labels.
    grasped = sources.grasped or grasped_class(labels.demonstrations, held)
    add_attempts(labels, rows, grasped, sources)
    if sources.subgoals is not None:
        add_subgoals(labels, sources.subgoals, sources.source)
    named = sources.grasped or (next(iter(held)) if len(held) == 1 else None)
    labels.demonstrations, labels.schema = named_grasps(
        labels.demonstrations, labels.schema, named, str(labels.dataset.root)
    )
    return labels


class _Outcomes:
    """Outcomes of whole episodes, of which each may have one in a call."""

    def __init__(self, labels: Labels, sources: Sources) -> None:
        self.labels, self.source = labels, sources.source
        self._earlier: dict[int, tuple[EpisodeOutcome, str]] = {}

    def add_table(self, path: Path) -> None:
        """Outcomes of a CSV file, by episode id or index."""
        indices = {d.episode_id: d.episode_index for d in self.labels.demonstrations}
        for where, row in csv_rows(path, ("episode", "outcome")):
            name = (row["episode"] or "").strip()
            index = indices.get(name, int(name) if name.isdecimal() else -1)
            index = self.labels.checked_index(index, name, f"{where}, field episode")
            self._set(index, row["outcome"], where)

    def add_rows(self, rows: list[tuple[str, EpisodeLabels]]) -> None:
        """Outcomes of a JSON file's rows, as far as they have one."""
        for where, row in rows:
            index = self.labels.episode_of(row, where)
            if row.has_outcome:
                self._set(index, row.success, where, row.failure_kind or row.final_state)

    def _set(self, index: int, value: object, where: str, failure_kind: str | None = None) -> None:
        self.labels.set_outcome(index, value, self.source, where, failure_kind)
        outcome = self.labels.demonstrations[index].outcome
        earlier, place = self._earlier.setdefault(index, (outcome, where))
        if earlier is not outcome:
            raise VineError(
                f"a second outcome for episode {index}: {outcome}, {earlier} before",
                where=where,
                hint=f"it contradicts {place}: keep one of them",
            )


def _add_words(labels: Labels, path: Path) -> None:
    """The user's own vocabulary, added to what is there; its verbs and attributes replace others."""
    words = read_words(path, labels.schema)
    labels.extend_schema(words.classes, words.attributes, (), words.verbs)
    labels.schema = replace(
        labels.schema,
        predicates=words.predicates or labels.schema.predicates,
        describing=words.describing or labels.schema.describing,
    )
    labels.own_verbs |= {v.name for v in words.verbs}


def _add_segments(labels: Labels, kind: Kind, sources: Sources) -> None:
    """Segments as the data cut them; they replace those that are there."""
    files = labels.dataset.files
    cutters: dict[Kind, Callable[[], dict[int, list[Cut]]]] = {
        "gripper": lambda: _cut_by_gripper(labels.dataset, sources),
        "task": lambda: cut_by_task(files),
        "language": lambda: cut_by_language(files),
        "sarm": lambda: cut_by_sarm(files),
    }
    cuts = cutters[kind]()
    if not any(cuts.values()):
        raise VineError(f"no {kind} subtasks in the dataset", where=str(files.root))
    outcomes = {d.episode_index: d.outcome for d in labels.demonstrations}
    segments = imported(files, kind, cuts, outcomes, sources.source)
    classes, verbs = vocabulary(segments.values(), labels.schema)
    labels.extend_schema(classes, verbs=verbs)
    for index, some in segments.items():
        labels.change(index, segments=some)


def _cut_by_gripper(dataset: DemoDataset, sources: Sources) -> dict[int, list[Cut]]:
    return cut_by_gripper(dataset.files, sources.gripper_dimension, sources.gripper_closed == "high")


def _closed(dataset: DemoDataset, sources: Sources) -> dict[tuple[int, int], bool]:
    """(episode, frame) -> whether the gripper is commanded to be closed; empty where no command says so."""
    try:
        cuts = _cut_by_gripper(dataset, sources)
    except VineError:
        if sources.gripper_dimension is not None:
            raise
        return {}
    return {
        (index, frame): cut.text == GRASP
        for index, some in cuts.items()
        for cut in some
        for frame in range(cut.start, cut.end)
    }
