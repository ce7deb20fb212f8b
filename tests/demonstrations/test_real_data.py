"""Real robot datasets: the full ones where they are (VINE_REAL_DATA), excerpts of them anywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from demonstrations.command import vine

from vine_vla import EpisodeOutcome, Outcome, VineError
from vine_vla.data import open_dataset
from vine_vla.data.annotate.annotation import Sources, annotate
from vine_vla.data.inspection import inspect_dataset

EXCERPTS = Path(__file__).parents[1] / "data"
CR5, G1, OLD = "cr5_hand_guided/usb_on_book", "g1_pick_bottle", "cr5_hand_guided/raw_v21_excerpt"


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file, to see that none was changed."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("name", "episodes", "frames"),
    [(CR5, 20, 5086), (G1, 8, 2426), ("cr5_excerpt", 2, 484), ("g1_excerpt", 3, 849)],
)
def test_counts_of_unlabelled_datasets(name, episodes, frames, request):
    folder = EXCERPTS / name if "excerpt" in name else request.getfixturevalue("real_data") / name
    before = snapshot(folder)
    done = vine("inspect", folder, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (report["episodes"], report["frames"]) == (episodes, frames)
    assert report["outcomes"] == {"success": 0, "failure": 0, "truncated": 0, "unknown": episodes}
    assert all(p["level"] == "warning" for p in report["problems"])
    assert snapshot(folder) == before


@pytest.mark.parametrize(("source", "counts"), [(CR5, (20, 20, 13, 208)), ("cr5_excerpt", (2, 2, 2, None))])
def test_cr5_attempts_become_grasp_segments(source, counts, request, tmp_path):
    folder = EXCERPTS / source if "excerpt" in source else request.getfixturevalue("real_data") / source
    before = snapshot(folder)
    done = vine(
        *("annotate", folder, "--labels", folder / "labels.jsonl", "--boxes", folder / "boxes.jsonl"),
        *("--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert snapshot(folder) == before
    dataset = open_dataset(tmp_path / "out")
    success, reached, slipped, boxes = counts
    assert [d.outcome for d in dataset.demonstrations] == [EpisodeOutcome.SUCCESS] * success
    segments = [s for d in dataset.demonstrations for s in d.segments]
    assert {str(s.subgoal) for s in segments} == {"grasp(usb_stick)"}
    assert sum(s.outcome is Outcome.REACHED for s in segments) == reached
    assert sum(s.outcome is Outcome.SLIPPED for s in segments) == slipped
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    for d, row in zip(dataset.demonstrations, labels, strict=True):
        attempts = [(a["close_frame"], a["open_frame"]) for a in row["grasp_attempts"]]
        assert [(s.start, s.end) for s in d.segments] == attempts
        gripper = dataset.actions(d.episode_index)[:, 6]
        assert all(gripper[s.start : s.end].all() for s in d.segments)  # closed throughout the attempt
        every_segment_decodes(dataset, d)
    if boxes is not None:
        assert sum(len(dataset.box_table(i).frame) for i in range(len(labels))) == boxes
        held = [
            g
            for d in dataset.demonstrations
            for g in d.graphs.values()
            if g.holds("held", "usb_stick", "gripper")
        ]
        assert len(held) == 12


def test_box_corners_are_the_labelled_pixels(tmp_path):
    folder = EXCERPTS / "cr5_excerpt"
    dataset = annotate(folder, Sources(boxes=folder / "boxes.jsonl"), tmp_path / "out")
    rows = [json.loads(line) for line in (folder / "boxes.jsonl").read_text().splitlines()]
    for row in rows:
        found = dataset.boxes(row["episode_index"])[row["frame_index"]]["top"]
        for item in row["objects"]:
            pixels = np.array(found[item["label"]]) * [*row["image_size"], *row["image_size"]]
            np.testing.assert_allclose(pixels, item["box"], atol=1e-3)


@pytest.mark.parametrize(("source", "expected"), [(G1, (5, 1, 2)), ("g1_excerpt", (1, 1, 1))])
def test_undecided_g1_episodes_stay_unknown(source, expected, request, tmp_path):
    folder = EXCERPTS / source if "excerpt" in source else request.getfixturevalue("real_data") / source
    dataset = annotate(folder, Sources(labels=folder / "labels.jsonl"), tmp_path / "out")
    outcomes = [d.outcome for d in dataset.demonstrations]
    kinds = (EpisodeOutcome.SUCCESS, EpisodeOutcome.FAILURE, EpisodeOutcome.UNKNOWN)
    assert tuple(outcomes.count(o) for o in kinds) == expected
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    for d, row in zip(dataset.demonstrations, labels, strict=True):
        assert (d.outcome is EpisodeOutcome.UNKNOWN) == (row["success"] is None) == (d.outcome_source is None)
        assert d.failure_kind == ("toppled" if row["success"] is False else None)
    assert inspect_dataset(tmp_path / "out").missing_labels == [
        d.episode_id for d in dataset.demonstrations if d.outcome is EpisodeOutcome.UNKNOWN
    ]


@pytest.mark.parametrize("source", [CR5, G1, "cr5_excerpt", "g1_excerpt"])
def test_frames_are_those_that_lerobot_gives(source, request):
    """Over the borders of video files: the first, a middle and the last frame of each episode."""
    from lerobot.datasets import LeRobotDataset

    folder = EXCERPTS / source if "excerpt" in source else request.getfixturevalue("real_data") / source
    dataset = open_dataset(folder)
    theirs = LeRobotDataset("vine/test", root=folder, video_backend="pyav", return_uint8=True)
    (role, key), *_ = dataset.cameras.items()
    for d, row in list(zip(dataset.demonstrations, dataset.files.episodes, strict=True))[::3]:
        some = [0, d.length // 2, d.length - 1]
        for t, image in zip(some, dataset.images(d.episode_index, some, role), strict=True):
            np.testing.assert_array_equal(theirs[row.begin + t][key].permute(1, 2, 0).numpy(), image)


def test_gripper_cuts_agree_with_the_labels(tmp_path):
    """The labelled frames were read from the gripper command, so cutting there finds the same attempts."""
    folder = EXCERPTS / "cr5_excerpt"
    labelled = annotate(folder, Sources(labels=folder / "labels.jsonl"), tmp_path / "a")
    cut = annotate(folder, Sources(segments="gripper"), tmp_path / "b")
    for a, b in zip(labelled.demonstrations, cut.demonstrations, strict=True):
        grasps = [s for s in b.segments if s.subgoal.verb == "grasp"]
        assert [(s.start, s.end) for s in a.segments] == [(s.start, s.end) for s in grasps]
        assert {s.outcome for s in b.segments} == {Outcome.CENSORED}  # nobody said how they ended


def test_old_format_is_explained_not_read(real_data):
    done = vine("inspect", real_data / OLD, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 2
    assert (report["format"], report["episodes"], report["frames"]) == ("v2.1", 3, 687)
    assert report["outcomes"]["unknown"] == 3
    lines = [line for line in done.stderr.splitlines() if line.startswith("vine: error: ")]
    assert len(lines) == len(report["problems"]) == 2
    assert "convert_dataset_v21_to_v30" in lines[0] and "codebase_version" in lines[0]
    assert "2.17 s off" in lines[1] and "column timestamp" in lines[1] and "frame_index / fps" in lines[1]
    with pytest.raises(VineError, match="v2.1"):
        open_dataset(real_data / OLD)


def every_segment_decodes(dataset, demonstration):
    for segment in demonstration.segments:
        frames = range(segment.start, segment.end, 7)
        images = dataset.images(demonstration.episode_index, frames, "top")
        assert images.shape[0] == len(frames)
        assert images.std() > 5


@pytest.mark.slow
@pytest.mark.parametrize("source", [CR5, G1])
def test_every_frame_decodes(source, real_data, tmp_path):
    folder = real_data / source
    annotate(folder, Sources(labels=folder / "labels.jsonl"), tmp_path / "out")
    assert not inspect_dataset(tmp_path / "out", decode=True).errors
