"""Annotation: outcomes, segments and boxes for a dataset that came without, as sidecars only.

The source's own files are never touched. Sources of labels:

- words (JSON): classes, attributes, predicates, verbs as in `meta/vine.json`, each of them optional;
- labels (`labels.jsonl`): one JSON object an episode: `episode_index`, `success` (true, false, null),
  optionally `length` (checked), `failure_kind` or `final_state`, and `grasp_attempts` with `close_frame`,
  `open_frame` and `outcome` (`success`, or `missed`, `regrasp_in_place` for an attempt that failed);
- outcomes (CSV): columns `episode` (index or id) and `outcome`;
- subgoals (JSONL): any verb with arguments, see `subgoal_labels`;
- segments: cut by `segmentation`;
- boxes (JSONL): see `box_labels`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Box, SceneGraph, Schema, Verb
from vine_vla.core.options import EpisodeOutcome, OutcomeSource
from vine_vla.core.relations import GRIP, GRIPPER, PREDICATES
from vine_vla.data.annotate.box_labels import (
    LabelledFrame,
    attribute_words,
    frame_graph,
    image_shape,
    read_boxes,
)
from vine_vla.data.annotate.label_files import csv_rows, json_rows
from vine_vla.data.annotate.placeholder import PLACEHOLDER, grasped_class, named_grasps, placed
from vine_vla.data.annotate.segmentation import (
    GRASP,
    Cut,
    Kind,
    cut_by_gripper,
    cut_by_language,
    cut_by_sarm,
    cut_by_task,
    following,
    verb_name,
)
from vine_vla.data.annotate.subgoal_labels import Attempts, attempt_segments, subgoal_segments, with_text
from vine_vla.data.annotate.subtasks import imported, vocabulary
from vine_vla.data.annotate.vocabulary import read_words
from vine_vla.data.lerobot.dataset import DemoDataset, open_dataset, read_annotated
from vine_vla.data.lerobot.tables import image_size
from vine_vla.data.record.staging import BoxTable
from vine_vla.data.sidecars import files as sidecars
from vine_vla.data.sidecars.linking import annotated_folder, check_target
from vine_vla.data.sidecars.outcomes import as_outcome
from vine_vla.data.sidecars.splits import CALIBRATION_SHARE, calibration_split, check_share
from vine_vla.storage.transaction import commit

GRIPS = ("open", "holding", "empty")
SHAPE_TOLERANCE = 0.02
"""By which share the width to height of a boxed image may differ from the camera's: sizes are rounded."""


@dataclass(frozen=True)
class Sources:
    """Where labels come from; None leaves that kind as it is.

    Args:
        labels, outcomes, subgoals, boxes, words: files. segments: how to cut.
        attempts: which frames a grasp attempt of the labels has, see `subgoal_labels.attempt_segments`.
        judge: who made the labels.
        grasped: class that grasp attempts take hold of; default the one that boxes mark as held.
        gripper_dimension, gripper_closed_is_high: see `segmentation.cut_by_gripper`.
        calibration_share: of the episodes of a dataset that has no sidecars yet.
    """

    labels: Path | None = None
    outcomes: Path | None = None
    subgoals: Path | None = None
    boxes: Path | None = None
    words: Path | None = None
    segments: Kind | None = None
    attempts: Attempts = "closed"
    judge: OutcomeSource = OutcomeSource.HUMAN
    grasped: str | None = None
    gripper_dimension: int | None = None
    gripper_closed_is_high: bool = True
    calibration_share: float = CALIBRATION_SHARE

    def __post_init__(self) -> None:
        check_share(self.calibration_share)


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
        _put_together(path, sources)  # what is wrong with the labels is said before a folder is made
    with annotated_folder(path, out) as root:
        _put_together(root, sources).write(root)
    return open_dataset(target)


def _put_together(base: Path, sources: Sources) -> Annotation:
    """The labels of `base` with those of `sources` added."""
    work = Annotation(open_dataset(base))
    if not sidecars.has_sidecars(base):
        work.assign_splits(sources.calibration_share)
    if sources.words is not None:
        work.add_words(sources.words)
    if sources.boxes is not None:
        work.add_boxes(sources)
    if sources.outcomes is not None:
        work.add_outcomes(sources.outcomes, sources.judge)
    if sources.labels is not None:
        work.add_labels(sources.labels, sources.judge)
    if sources.segments is not None:
        work.add_segments(sources)
    # Judged attempts and subgoals count more than cuts, and inferred outcomes need the labels.
    if sources.labels is not None:
        work.add_attempts(sources)
    if sources.subgoals is not None:
        work.add_subgoals(sources)
    work.name_grasps(sources.grasped)
    return work


class Annotation:
    """The labels of one dataset while they are put together; `write` puts them on disk."""

    def __init__(self, dataset: DemoDataset) -> None:
        self.dataset = dataset
        self.schema = dataset.schema
        self.demonstrations = list(dataset.demonstrations)
        self.boxes = {d.episode_id: dataset.box_table(d.episode_index) for d in self.demonstrations}
        self.held_classes: set[str] = set()
        self.given: set[str] = set()
        self._said: dict[int, tuple[EpisodeOutcome, str]] = {}

    def assign_splits(self, share: float) -> None:
        for d in list(self.demonstrations):
            self._replace(d.episode_index, split=calibration_split(d.episode_id, share))

    def add_outcomes(self, path: Path, judge: OutcomeSource) -> None:
        for line, row in csv_rows(path, ("episode", "outcome")):
            where = f"{path}, line {line}"
            text = (row["episode"] or "").strip()
            ids = {d.episode_id: d.episode_index for d in self.demonstrations}
            index = ids.get(text, int(text) if text.isdecimal() else -1)
            index = self._checked(index, text, f"{where}, field episode")
            self.set_outcome(index, row["outcome"], judge, where)
            self._say_once(index, where)

    def add_labels(self, path: Path, judge: OutcomeSource) -> None:
        """Outcomes of whole episodes."""
        for line, row in json_rows(path):
            where = f"{path}, line {line}"
            index = self._episode_of(row, where)
            if "success" in row:
                kind = row.get("failure_kind") or row.get("final_state")
                self.set_outcome(index, row["success"], judge, where, failure_kind=kind)
                self._say_once(index, where)

    def _say_once(self, index: int, where: str) -> None:
        """Raises VineError when the labels of one call give an episode two outcomes."""
        outcome = self.demonstrations[index].outcome
        said, earlier = self._said.setdefault(index, (outcome, where))
        if said is not outcome:
            raise VineError(
                f"a second outcome for episode {index}: {outcome}, {said} before",
                where=where,
                hint=f"it contradicts {earlier}: keep one of them",
            )

    def name_grasps(self, grasped: str | None) -> None:
        """Let grasps of the placeholder take hold of what the boxes name, see `placeholder`."""
        if grasped is None and len(self.held_classes) == 1:
            grasped = next(iter(self.held_classes))
        self.demonstrations, self.schema = named_grasps(
            self.demonstrations, self.schema, grasped, str(self.dataset.root)
        )

    def add_words(self, path: Path) -> None:
        """The user's own vocabulary, added to what is there; its verbs and attributes replace others."""
        old, new = self.schema, read_words(path, self.schema)
        self.schema = Schema(
            (*old.classes, *(c for c in new.classes if c not in old.classes)),
            {**old.attributes, **new.attributes},
            new.predicates or old.predicates,
            (*(v for v in old.verbs if v.name not in {n.name for n in new.verbs}), *new.verbs),
            old.cameras,
            new.describing or old.describing,
        )
        self.given |= {v.name for v in new.verbs}

    def add_attempts(self, sources: Sources) -> None:
        """Grasp attempts of the labels as segments; they replace an episode's other segments."""
        assert sources.labels is not None
        grasped = self._grasped_class(sources)
        found = attempt_segments(
            sources.labels, self._episode_of, self.demonstrations, grasped, sources.judge, sources.attempts
        )
        if found:
            own = [v for v in self.schema.verbs if v.name == "grasp" and v.arguments == (grasped,)]
            self._extend(
                classes=_union(self.schema.classes, [grasped]),
                verbs=tuple(own) or (Verb("grasp", (grasped,), "grasp {0}"),),
            )
        for index, segments in found.items():
            graphs, where = self.demonstrations[index].graphs, f"{sources.labels}, episode {index}"
            if grasped != PLACEHOLDER:
                segments = tuple(placed(s, grasped, graphs.get(s.start), where) for s in segments)
            self._replace(index, segments=segments)

    def add_subgoals(self, sources: Sources) -> None:
        """Subgoals of a file as segments; they replace an episode's other segments."""
        assert sources.subgoals is not None
        found, verbs = subgoal_segments(
            sources.subgoals, self._episode_of, self.demonstrations, self.schema.verbs, sources.judge
        )
        taken = {cls for verb in verbs for cls in verb.arguments}
        self._extend(classes=_union(self.schema.classes, taken), verbs=verbs)
        for index, segments in found.items():
            d = self.demonstrations[index]
            self._replace(index, segments=tuple(with_text(s, d, self.schema) for s in segments))

    def _grasped_class(self, sources: Sources) -> str:
        if sources.grasped is not None:
            return sources.grasped
        return grasped_class(self.demonstrations, self.held_classes) or PLACEHOLDER

    def add_segments(self, sources: Sources) -> None:
        files, kind = self.dataset.files, sources.segments
        cutters: dict[Kind, Callable[[], dict[int, list[Cut]]]] = {
            "gripper": lambda: cut_by_gripper(
                files, sources.gripper_dimension, sources.gripper_closed_is_high
            ),
            "task": lambda: cut_by_task(files),
            "language": lambda: cut_by_language(files),
            "sarm": lambda: cut_by_sarm(files),
        }
        assert kind is not None
        cuts = cutters[kind]()
        if not any(cuts.values()):
            raise VineError(f"no {kind} subtasks in the dataset", where=str(self.dataset.root))
        outcomes = {d.episode_index: d.outcome for d in self.demonstrations}
        segments = imported(files, kind, cuts, outcomes, sources.judge)
        classes, verbs = vocabulary(segments.values(), self.schema)
        self._extend(classes=classes, verbs=verbs)
        for index, found in segments.items():
            self._replace(index, segments=found)

    def add_boxes(self, sources: Sources) -> None:
        """Boxes, and a scene graph a frame from the boxes of all its cameras."""
        assert sources.boxes is not None
        labelled = read_boxes(sources.boxes)
        frames: dict[tuple[int, int], dict[str, LabelledFrame]] = defaultdict(dict)
        for row in labelled:
            index, frame = self._episode_of(row.row, row.where), row.frame
            if not isinstance(frame, int) or not 0 <= frame < self.demonstrations[index].length:
                raise VineError(
                    f"frame {frame!r} of {self.demonstrations[index].length}",
                    where=f"{row.where}, frame_index",
                )
            role = self._role(row.camera, row.where)
            self._check_size(row, role)
            if earlier_row := frames[index, frame].get(role):
                raise VineError(
                    f"frame {frame} of episode {index} is boxed twice for camera {role}",
                    where=f"{row.where}, frame_index",
                    hint=f"put all its objects into one line, see {earlier_row.where}",
                )
            frames[index, frame][role] = row
        found = [o for row in labelled for o in row.objects]
        self.held_classes = {o.label for o in found if o.held}
        classes = _union(self.schema.classes, {o.label for o in found})
        self._extend(
            classes=classes,
            attributes=self._attributes(labelled, GRIPPER in classes),
            predicates=() if self.schema.predicates else PREDICATES,
        )
        closed = self._closed(sources) if self.held_classes and GRIPPER in classes else {}
        earlier: dict[int, SceneGraph] = {}
        tables: dict[int, list[tuple[int, str, str, Box]]] = defaultdict(list)
        for (index, frame), cameras in sorted(frames.items()):
            empty = ("empty" if closed.get((index, frame)) else "open") if self.held_classes else None
            objects = {role: row.objects for role, row in cameras.items()}
            graph = frame_graph(objects, earlier.get(index), empty, self.schema)
            earlier[index] = earlier.get(index, graph)
            self._replace(index, graphs={**self.demonstrations[index].graphs, frame: graph})
            tables[index] += [(frame, r, o.id, box) for o in graph.objects for r, box in o.boxes.items()]
        for index, rows in tables.items():
            self.boxes[self.demonstrations[index].episode_id] = self._table(rows)

    def _attributes(self, labelled: Sequence[LabelledFrame], gripper: bool) -> dict[str, tuple[str, ...]]:
        """Attributes to add to the schema: categories that are new come after the known ones."""
        found = attribute_words(labelled)
        if gripper and GRIP not in self.schema.attributes:
            found[GRIP] = tuple(_union(GRIPS, found.get(GRIP, ())))
        for name, words in found.items():
            old = self.schema.attributes.get(name)
            if old is not None and bool(old) is not bool(words):
                kind = "words" if old else "a number"
                raise VineError(
                    f"attribute {name} of the boxes does not fit the vocabulary, which has {kind}",
                    where=labelled[0].where if labelled else "",
                )
            found[name] = _union(old or (), words)
        return found

    def _closed(self, sources: Sources) -> dict[tuple[int, int], bool]:
        """(episode, frame) -> whether the gripper is commanded to be closed; empty if none can be told."""
        try:
            cuts = cut_by_gripper(
                self.dataset.files, sources.gripper_dimension, sources.gripper_closed_is_high
            )
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

    def _table(self, rows: list[tuple[int, str, str, Box]]) -> BoxTable:
        names = tuple(dict.fromkeys(r[2] for r in rows))
        return BoxTable(
            np.array([r[0] for r in rows], np.int32),
            np.array([self.schema.cameras.index(r[1]) for r in rows], np.int32),
            np.array([names.index(r[2]) for r in rows], np.int32),
            np.array([r[3] for r in rows], np.float32),
            names,
        )

    def _role(self, camera: Any, where: str) -> str:
        for role, key in self.dataset.cameras.items():
            if camera in (role, key):
                return role
        known = ", ".join(self.dataset.cameras.values())
        raise VineError(
            f"unknown camera {camera!r}", where=f"{where}, field camera", hint=f"cameras: {known}"
        )

    def _check_size(self, row: LabelledFrame, role: str) -> None:
        """Boxes may be of a smaller or larger copy of the camera's image, not of one with another shape."""
        if not row.objects:
            return
        width, height = image_shape(row.row, row.where)
        true_height, true_width = image_size(self.dataset.files.features[self.dataset.cameras[role]])
        if abs(width * true_height / (height * true_width) - 1) > SHAPE_TOLERANCE:
            raise VineError(
                f"image_size is {width} x {height}, camera {role} has {true_width} x {true_height}",
                where=f"{row.where}, field image_size",
                hint="give width and height of the image that was boxed",
            )

    def _episode_of(self, row: Mapping[str, Any], where: str) -> int:
        index = self._checked(
            row.get("episode_index"), row.get("episode_index"), f"{where}, field episode_index"
        )
        said, held = row.get("length"), self.demonstrations[index].length
        if said is not None and said != held:
            raise VineError(
                f"length {said}, the dataset's episode {index} has {held} frames",
                where=f"{where}, field length",
                hint="the labels belong to another version of the dataset",
            )
        return index

    def _checked(self, index: Any, shown: Any, where: str) -> int:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(self.demonstrations):
            raise VineError(f"no episode {shown!r} among {len(self.demonstrations)}", where=where)
        return index

    def set_outcome(
        self, index: int, value: Any, judge: OutcomeSource, where: str, failure_kind: Any = None
    ) -> None:
        """Label one episode; what belongs to a failure goes when it is none, inferred segments follow.

        Raises:
            VineError: `value` is no outcome.
        """
        try:
            outcome = as_outcome(value)
        except ValueError as error:
            raise VineError(
                str(error), where=where, hint=f"use {', '.join(EpisodeOutcome)}, true, false or null"
            ) from error
        old, failed = self.demonstrations[index], outcome is EpisodeOutcome.FAILURE
        kind = verb_name(str(failure_kind)) if failure_kind else old.failure_kind
        self._replace(
            index,
            outcome=outcome,
            outcome_source=None if outcome is EpisodeOutcome.UNKNOWN else judge,
            failure_kind=kind if failed else None,
            onset_frame=old.onset_frame if failed else None,
            segments=following(old.segments, old.outcome, outcome),
        )

    def set_onset(self, index: int, frame: int | None, where: str) -> None:
        """Say at which frame the event began that ended a failed episode's chances; None takes it back.

        Raises:
            VineError: the episode is no failure, or has no such frame.
        """
        d = self.demonstrations[index]
        if d.outcome is not EpisodeOutcome.FAILURE:
            raise VineError(
                f"episode {index} is labelled {d.outcome}, an onset belongs to a failure",
                where=where,
                hint="label the failure first",
            )
        if frame is not None and not 0 <= frame < d.length:
            raise VineError(
                f"frame {frame} of {d.length}", where=where, hint=f"give a frame from 0 to {d.length - 1}"
            )
        self._replace(index, onset_frame=frame)

    def _replace(self, index: int, **changes: Any) -> None:
        self.demonstrations[index] = replace(self.demonstrations[index], **changes)

    def _extend(
        self,
        classes: tuple[str, ...] | None = None,
        attributes: Mapping[str, tuple[str, ...]] | None = None,
        predicates: tuple[str, ...] = (),
        verbs: tuple[Verb, ...] = (),
    ) -> None:
        """Add words to the schema; a verb of the same name is replaced."""
        old = self.schema
        fresh = {v.name for v in verbs}
        self.schema = Schema(
            classes if classes is not None else old.classes,
            {**old.attributes, **(attributes or {})},
            (*old.predicates, *(p for p in predicates if p not in old.predicates)),
            (*(v for v in old.verbs if v.name not in fresh), *verbs),
            old.cameras,
            old.describing,
        )

    def write(self, root: Path) -> None:
        """Replace the sidecars of `root` in one transaction; the caller holds `transaction.locked(root)`.

        Raises:
            VineError: the result would not be readable; nothing is written then.
        """
        used = {s.subgoal.verb for d in self.demonstrations for s in d.segments}
        kept = sidecars.read_info(root) if sidecars.has_sidecars(root) else None
        known = {v.name for v in kept.schema.verbs} if kept else set()
        verbs = tuple(v for v in self.schema.verbs if v.name in used | known | self.given)
        schema = replace(self.schema, verbs=verbs)
        info = sidecars.SidecarInfo(schema, self.dataset.cameras)
        if kept:
            info = replace(info, assembled=kept.assembled, labels_hash=kept.labels_hash)

        def write(folder: Path) -> None:
            sidecars.write_info(folder, info)
            sidecars.write_demonstrations(folder, self.demonstrations)
            sidecars.write_boxes(folder, self.boxes.items(), schema.cameras)

        commit(root, sidecars.FILES, write, self.check)

    def write_labels(self, root: Path) -> None:
        """Replace episodes and segments only: what one label changes; otherwise as `write`."""
        commit(
            root,
            sidecars.FILES,
            lambda folder: sidecars.write_labels(folder, self.demonstrations),
            self.check,
        )

    def check(self, folder: Path) -> None:
        """Read the sidecars in `folder` as whoever opens the dataset will."""
        found = read_annotated(folder, self.dataset.files)
        assert found is not None
        for d in found.demonstrations:
            found.box_table(d.episode_index)


def _union(known: Sequence[str], more: Iterable[str]) -> tuple[str, ...]:
    """`known`, then what it lacks in alphabetical order."""
    return (*known, *sorted(set(more) - set(known)))
