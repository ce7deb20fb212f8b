"""Label tables from sidecars: which frames are imitated, and where the done head's classes lie."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vine_vla.core.errors import VineError
from vine_vla.core.options import Collector, Outcome
from vine_vla.core.protocols import DONE, FAILED, RUNNING
from vine_vla.data import open_dataset
from vine_vla.data.export.skills import export_flat, export_skills
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.data.sidecars.files import EPISODES, SEGMENTS
from vine_vla.system1.vine_skill.labels import IGNORED, RESCUE_FRAMES, RESCUE_WEIGHT, frame_labels


def bounds(dataset: DemoDataset) -> tuple[list[int], list[int]]:
    starts = [e.begin for e in dataset.files.episodes]
    return starts, [e.begin + e.length for e in dataset.files.episodes]


def test_reached_and_failed_episodes(skills: Path) -> None:
    export = open_dataset(skills)
    starts, ends = bounds(export)
    labels = frame_labels(skills, starts, ends, done_frames=5, failed_frames=3)
    slipped = 0
    for d, start, end in zip(export.demonstrations, starts, ends, strict=True):
        reached = d.segments[0].outcome is Outcome.REACHED
        slipped += not reached
        tail = 5 if reached else 3
        assert labels.imitate[start:end].all() == labels.imitate[start:end].any() == reached
        assert (labels.done[start : end - tail] == RUNNING).all()
        assert (labels.done[end - tail : end] == (DONE if reached else FAILED)).all()
    assert slipped > 0


def test_several_segments_in_an_episode(toy: DemoDataset) -> None:
    labels = frame_labels(toy.root, *bounds(toy), done_frames=2, failed_frames=2)
    first = toy.demonstrations[0].segments
    assert [s.outcome for s in first] == [Outcome.REACHED, Outcome.REACHED]
    lengths = [s.end - s.start for s in first]
    expected = [label for n in lengths for label in [RUNNING] * (n - 2) + [DONE] * 2]
    assert labels.done[: sum(lengths)].tolist() == expected and labels.imitate[: sum(lengths)].all()


def test_without_sidecars_every_episode_is_reached(tmp_path: Path) -> None:
    labels = frame_labels(tmp_path, [0, 4], [4, 10], done_frames=2, failed_frames=2)
    assert labels.imitate.all()
    assert labels.done.tolist() == [RUNNING] * 2 + [DONE] * 2 + [RUNNING] * 4 + [DONE] * 2


@pytest.mark.parametrize("collector", ["operator", "intervention"])
def test_censored_segments_were_running(toy: DemoDataset, tmp_path: Path, collector: str) -> None:
    """Who took over says that it was not over; of an aborted end nothing is known."""
    shutil.copytree(toy.root / "meta", tmp_path / "meta")
    _overwrite(tmp_path / SEGMENTS, "outcome", "censored")
    _overwrite(tmp_path / EPISODES, "collector", collector)
    labels = frame_labels(tmp_path, *bounds(toy), done_frames=2, failed_frames=2)
    assert not labels.imitate.any()
    for segment in toy.demonstrations[0].segments:
        assert (labels.done[segment.start : segment.end - 2] == RUNNING).all()
        tail = RUNNING if collector == "intervention" else IGNORED
        assert (labels.done[segment.end - 2 : segment.end] == tail).all()


def test_whole_episodes_imitate_the_expert_and_not_the_policy(toy: DemoDataset, tmp_path: Path) -> None:
    """An expert took over at the end of the first subgoal; only the end of the episode is done."""
    first = toy.demonstrations[0]
    cut = first.segments[0].end
    segments = (replace(first.segments[0], outcome=Outcome.CENSORED), *first.segments[1:])
    taken_over = replace(first, collector=Collector.INTERVENTION, segments=segments)
    source = replace(toy, demonstrations=(taken_over,))
    out = export_flat(source, tmp_path / "flat", threads=1).out
    labels = frame_labels(out, [0], [first.length], done_frames=2, failed_frames=2)
    assert 0 < cut < first.length
    assert not labels.imitate[:cut].any() and labels.imitate[cut:].all()
    assert labels.done.tolist() == [RUNNING] * (first.length - 2) + [DONE] * 2
    assert (labels.imitate[cut : cut + RESCUE_FRAMES] == RESCUE_WEIGHT).all()
    assert (labels.imitate[cut + RESCUE_FRAMES :] == 1).all()


@pytest.mark.parametrize("collector", [Collector.OPERATOR, Collector.INTERVENTION])
def test_who_takes_over_is_imitated_above_all(toy: DemoDataset, tmp_path: Path, collector: Collector) -> None:
    first = toy.demonstrations[0]
    tried, rescued = first.segments[0], replace(first.segments[1], outcome=Outcome.REACHED)
    segments = (replace(tried, outcome=Outcome.CENSORED), replace(rescued, subgoal=tried.subgoal))
    source = replace(
        toy, demonstrations=(replace(first, collector=collector, segments=segments), *toy.demonstrations[1:])
    )
    root = export_skills(source, tmp_path / "skills", threads=1).out
    clips = open_dataset(root)
    labels = frame_labels(root, *bounds(clips), done_frames=2, failed_frames=2)
    starts = dict(zip((d.episode_id for d in clips.demonstrations), bounds(clips)[0], strict=True))
    heavy = np.flatnonzero(labels.imitate == RESCUE_WEIGHT)
    if collector is Collector.OPERATOR:
        assert not len(heavy)
    else:
        assert heavy.tolist() == [starts[f"{first.episode_id}.01"] + i for i in range(RESCUE_FRAMES)]


def _overwrite(path: Path, column: str, value: str) -> None:
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array([value] * len(table))), path)


def test_sidecars_of_another_version_are_refused(skills: Path) -> None:
    with pytest.raises(VineError, match="does not fit"):
        frame_labels(skills, [0], [14], 5, 5)
