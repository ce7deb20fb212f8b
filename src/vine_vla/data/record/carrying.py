"""Carrying labels over when a dataset is assembled anew, so that labels made by people survive.

Assembling writes down a hash of the labels that staging alone gives. Where it still holds nobody labelled
anything. Where it does not, every episode whose actions are the staged ones keeps its labels, scenes and
boxes as they stand in the dataset; an episode that is no longer the same, or no longer wanted, may only go if
its labels are those of its staged file.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration
from vine_vla.data.lerobot.dataset import DemoDataset, open_dataset
from vine_vla.data.record.staging import StagedEpisode, read_staged, staged_ids, staged_path
from vine_vla.data.sidecars import files as sidecars
from vine_vla.data.sidecars.splits import calibration_split


class CarriedLabels:
    """Labels of an assembled dataset that is about to be replaced.

    Args:
        dataset: it, before it goes.
    """

    def __init__(self, dataset: DemoDataset) -> None:
        self.dataset = dataset
        self._index = {d.episode_id: d.episode_index for d in dataset.demonstrations}
        self.count = 0
        """Episodes that kept their labels so far."""

    def episode(self, staged: StagedEpisode) -> StagedEpisode:
        """`staged` with the labels that the dataset has for it, if it is the same episode."""
        index = self._index.get(staged.demonstration.episode_id)
        if index is None or not _same(staged, self.dataset, index):
            return staged
        self.count += 1
        labelled = self.dataset.demonstrations[index]
        boxes = self.dataset.box_table(index)
        return replace(staged, demonstration=labelled, boxes=boxes, split_given=True)


def labels_to_carry(out: Path, staging: Path, chosen: Collection[str], share: float) -> CarriedLabels | None:
    """What must be carried over before `out` is replaced; None if it has no labels but those of assembling.

    Args:
        out: assembled dataset.
        staging: folder of staged episodes. chosen: ids that will be assembled.
        share: of the episodes recorded without a split that go to `calibration`.

    Raises:
        VineError: labels would be lost: of an episode that is not chosen, or not the same any more.
    """
    info = sidecars.read_info(out)
    if info.labels_hash is not None and info.labels_hash == sidecars.labels_hash(out, info.schema):
        return None
    dataset, there = open_dataset(out, check=False), staged_ids(staging)
    changed = False
    for d in dataset.demonstrations:
        staged = read_staged(staged_path(staging, d.episode_id)) if d.episode_id in there else None
        alike = staged is not None and _unlabelled(staged, dataset, d, share)
        changed = changed or not alike or (staged is not None and staged.schema != info.schema)
        if alike or (
            staged is not None and d.episode_id in chosen and _same(staged, dataset, d.episode_index)
        ):
            continue
        why = "is not staged any more" if staged is None else "was recorded anew"
        why = why if d.episode_id in chosen or staged is None else "is not to be in it"
        raise VineError(
            f"labels of episode {d.episode_id}, which {why}, would be lost",
            where=str(out),
            hint="assemble into another folder, or move this one away first",
        )
    return CarriedLabels(dataset) if changed else None


def _same(staged: StagedEpisode, dataset: DemoDataset, index: int) -> bool:
    """Whether it is the recording that the dataset has, whatever its labels."""
    return np.array_equal(staged.action, dataset.actions(index)) and np.array_equal(
        staged.proprioception, dataset.proprioception(index)
    )


def _unlabelled(staged: StagedEpisode, dataset: DemoDataset, d: Demonstration, share: float) -> bool:
    """Whether the labels of `d` are those that assembling took from its staged file."""
    split = staged.demonstration.split if staged.split_given else calibration_split(d.episode_id, share)
    expected = replace(staged.demonstration, episode_index=d.episode_index, split=split)
    boxes = dataset.box_table(d.episode_index)
    return expected == d and sorted(staged.boxes.rows()) == sorted(boxes.rows())
