"""The labels of one dataset while they are put together, and the one way in which they reach the disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema, Verb
from vine_vla.core.options import Demonstration, EpisodeOutcome, OutcomeSource
from vine_vla.data.annotate.label_files import EpisodeRow
from vine_vla.data.annotate.segmentation import corrected, verb_name
from vine_vla.data.lerobot.dataset import DemoDataset, read_annotated
from vine_vla.data.sidecars import files as sidecars
from vine_vla.data.sidecars.boxes import write_boxes
from vine_vla.data.sidecars.outcomes import as_outcome
from vine_vla.data.sidecars.splits import calibration_split
from vine_vla.storage.transaction import commit


class Labels:
    """The labels of `dataset`; `write` puts them on disk.

    Args:
        dataset: as it is on disk.
    """

    def __init__(self, dataset: DemoDataset) -> None:
        self.dataset = dataset
        self.schema = dataset.schema
        self.demonstrations: list[Demonstration] = list(dataset.demonstrations)
        self.boxes = {d.episode_id: dataset.box_table(d.episode_index) for d in self.demonstrations}
        self.own_verbs: set[str] = set()
        """Names of verbs that stay in the vocabulary although no segment has them."""

    def episode_of(self, row: EpisodeRow, where: str) -> int:
        """episode_index of a line of labels.

        Raises:
            VineError: the dataset has no such episode, or one of another length.
        """
        index = self.checked_index(row.episode_index, row.episode_index, f"{where}, field episode_index")
        length = self.demonstrations[index].length
        if row.length is not None and row.length != length:
            raise VineError(
                f"length {row.length}, the dataset's episode {index} has {length} frames",
                where=f"{where}, field length",
                hint="the labels belong to another version of the dataset",
            )
        return index

    def checked_index(self, index: int, name: object, where: str) -> int:
        """`index`; VineError that shows `name` when there is no such episode."""
        if not 0 <= index < len(self.demonstrations):
            raise VineError(f"no episode {name!r} among {len(self.demonstrations)}", where=where)
        return index

    def assign_splits(self, share: float) -> None:
        """Set `share` of the episodes apart for calibration, the others for training."""
        for d in list(self.demonstrations):
            self.change(d.episode_index, split=calibration_split(d.episode_id, share))

    def set_outcome(
        self, index: int, value: Any, source: OutcomeSource, where: str, failure_kind: str | None = None
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
        kind = verb_name(failure_kind) if failure_kind else old.failure_kind
        self.change(
            index,
            outcome=outcome,
            outcome_source=None if outcome is EpisodeOutcome.UNKNOWN else source,
            failure_kind=kind if failed else None,
            onset_frame=old.onset_frame if failed else None,
            segments=corrected(old.segments, old.outcome, outcome),
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
        self.change(index, onset_frame=frame)

    def change(self, index: int, **fields: Any) -> None:
        """Replace fields of one demonstration."""
        self.demonstrations[index] = replace(self.demonstrations[index], **fields)

    def extend_schema(
        self,
        classes: Iterable[str] = (),
        attributes: Mapping[str, tuple[str, ...]] | None = None,
        predicates: Iterable[str] = (),
        verbs: Iterable[Verb] = (),
    ) -> None:
        """Add words to the schema; verbs and attributes of the same name are replaced."""
        old, verbs = self.schema, tuple(verbs)
        names = {v.name for v in verbs}
        self.schema = Schema(
            tuple(dict.fromkeys((*old.classes, *classes))),
            {**old.attributes, **(attributes or {})},
            tuple(dict.fromkeys((*old.predicates, *predicates))),
            (*(v for v in old.verbs if v.name not in names), *verbs),
            old.cameras,
            old.describing,
        )

    def write(self, root: Path) -> None:
        """Replace the sidecars of `root` in one transaction; the caller holds `transaction.locked(root)`.

        Raises:
            VineError: the result would not be readable; nothing is written then.
        """
        info = sidecars.SidecarInfo(self.schema, self.dataset.cameras)
        needed = self.own_verbs | {s.subgoal.verb for d in self.demonstrations for s in d.segments}
        if sidecars.has_sidecars(root):
            old = sidecars.read_info(root)
            needed |= {v.name for v in old.schema.verbs}
            info = replace(info, assembled=old.assembled, labels_hash=old.labels_hash)
        verbs = tuple(v for v in self.schema.verbs if v.name in needed)
        info = replace(info, schema=replace(self.schema, verbs=verbs))

        def write(folder: Path) -> None:
            sidecars.write_info(folder, info)
            sidecars.write_demonstrations(folder, self.demonstrations)
            write_boxes(folder, self.boxes.items(), self.schema.cameras)

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
        dataset = read_annotated(folder, self.dataset.files)
        assert dataset is not None
        dataset.check_boxes()


def union(known: Sequence[str], more: Iterable[str]) -> tuple[str, ...]:
    """`known`, then what it lacks in alphabetical order."""
    return (*known, *sorted(set(more) - set(known)))
