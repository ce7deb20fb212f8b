"""Labelling by hand: one outcome or onset at a time, each on disk before the next is taken."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.core.options import Demonstration, EpisodeOutcome, OutcomeSource
from vine_vla.data.annotate.labels import Labels
from vine_vla.data.lerobot.dataset import DemoDataset, open_dataset
from vine_vla.data.sidecars import files as sidecars
from vine_vla.data.sidecars.linking import annotated_folder, check_target
from vine_vla.data.sidecars.splits import CALIBRATION_SHARE, check_share
from vine_vla.storage.transaction import locked, stamp


class Labeller:
    """Labels of one dataset while a person watches its episodes; may be called from several threads.

    Opening it writes no sidecar, the first label does. What another program writes meanwhile is read again
    before the next label, so that neither undoes the other.

    Args:
        path: LeRobot v3 dataset.
        out: as `annotation.annotate`: leave `path` alone and label this linked folder.
        source: who makes the labels.
        calibration_share: of the episodes of a dataset that has no sidecars yet.

    Raises:
        VineError: no readable dataset, or nowhere to write.
    """

    def __init__(
        self,
        path: Path,
        out: Path | None = None,
        source: OutcomeSource = OutcomeSource.HUMAN,
        calibration_share: float = CALIBRATION_SHARE,
    ) -> None:
        check_share(calibration_share)
        open_dataset(path)  # a faulty source is refused before anything is made
        self.root = check_target(path, out)
        with annotated_folder(path, out):
            pass
        self.source, self.calibration_share = source, calibration_share
        self.labelled: set[str] = set()
        """Ids of the episodes that were labelled here."""
        self._lock, self._closed = threading.Lock(), False
        self._read()

    @property
    def dataset(self) -> DemoDataset:
        """The dataset as it was opened; for labels see `demonstrations`."""
        return self._labels.dataset

    @property
    def demonstrations(self) -> tuple[Demonstration, ...]:
        """Episodes with their labels as they are on disk."""
        with self._lock:
            self._read_if_changed()
            return tuple(self._labels.demonstrations)

    @property
    def left(self) -> int:
        """Episodes whose outcome is unknown."""
        return sum(d.outcome is EpisodeOutcome.UNKNOWN for d in self.demonstrations)

    def set_outcome(self, episode_id: str, outcome: EpisodeOutcome) -> Demonstration:
        """Write an episode's outcome; returns the episode as it is on disk now.

        Raises:
            VineError: no such episode; nothing is written then.
        """
        with self._lock, locked(self.root):
            index = self._index_of(episode_id)
            self._labels.set_outcome(index, outcome, self.source, f"episode {episode_id}")
            return self._write(index)

    def set_onset(self, episode_id: str, frame: int | None) -> Demonstration:
        """Write the onset frame of a failed episode, None to take it back; returns the episode.

        Raises:
            VineError: no such episode or frame, or the episode is no failure; nothing is written then.
        """
        with self._lock, locked(self.root):
            index = self._index_of(episode_id)
            self._labels.set_onset(index, frame, f"episode {episode_id}")
            return self._write(index)

    def close(self) -> None:
        """Wait until what is being written is on disk; no label is taken afterwards."""
        with self._lock:
            self._closed = True

    def _index_of(self, episode_id: str) -> int:
        if self._closed:
            raise VineError("labelling has ended", where=str(self.root), hint="start it again")
        self._read_if_changed()
        for d in self._labels.demonstrations:
            if d.episode_id == episode_id:
                return d.episode_index
        raise VineError(
            f"no episode {episode_id!r} among {len(self._labels.demonstrations)}", where=str(self.root)
        )

    def _write(self, index: int) -> Demonstration:
        with ExitStack() as undo:
            undo.callback(self._read)  # what counts as labelled must be on disk
            if sidecars.has_sidecars(self.root):
                self._labels.write_labels(self.root)
            else:
                self._labels.write(self.root)
            undo.pop_all()
        self._stamp = stamp(self.root, sidecars.FILES)
        found = self._labels.demonstrations[index]
        self.labelled.add(found.episode_id)
        return found

    def _read(self) -> None:
        before = stamp(self.root, sidecars.FILES)  # before reading: what is written meanwhile is read again
        labels = Labels(open_dataset(self.root))
        if not sidecars.has_sidecars(self.root):
            labels.assign_splits(self.calibration_share)
        self._labels, self._stamp = labels, before

    def _read_if_changed(self) -> None:
        if self._stamp != stamp(self.root, sidecars.FILES):
            self._read()
