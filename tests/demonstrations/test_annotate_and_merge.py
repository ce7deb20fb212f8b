"""Annotating and merging: sidecars only, ids kept, indices anew."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from demonstrations.command import vine
from demonstrations.episodes import FAILURE, PLANS, SUCCESS, UNKNOWN, record

from vine_vla import EpisodeOutcome, VineError
from vine_vla.cli import main
from vine_vla.data import assemble, calibration_split, open_dataset
from vine_vla.data.annotate.annotation import Sources, annotate
from vine_vla.data.inspection import inspect_dataset
from vine_vla.data.record.merging import merge
from vine_vla.data.sidecars.splits import CALIBRATION_SHARE

EXCERPT = Path(__file__).parents[1] / "data/cr5_excerpt"


def test_annotating_adds_to_what_is_there(tmp_path):
    out = tmp_path / "out"
    (tmp_path / "o.csv").write_text("episode,outcome\n0,failure\nepisode_000001,truncated\n")
    annotate(EXCERPT, Sources(boxes=EXCERPT / "boxes.jsonl"), out)
    dataset = annotate(EXCERPT, Sources(outcomes=tmp_path / "o.csv"), out)
    assert [d.outcome for d in dataset.demonstrations] == [EpisodeOutcome.FAILURE, EpisodeOutcome.TRUNCATED]
    assert (
        sum(len(d.graphs) for d in dataset.demonstrations) == 6
    )  # the boxes of the first run are still there
    assert [d.split for d in dataset.demonstrations] == [
        calibration_split(d.episode_id, CALIBRATION_SHARE) for d in dataset.demonstrations
    ]
    dataset = annotate(EXCERPT, Sources(labels=EXCERPT / "labels.jsonl"), out)
    assert [d.outcome for d in dataset.demonstrations] == [EpisodeOutcome.SUCCESS] * 2
    assert [len(d.segments) for d in dataset.demonstrations] == [3, 1]
    assert sum(len(dataset.box_table(i).frame) for i in range(2)) > 0
    assert (out / "data").is_symlink() and (out / "videos").is_symlink()


def test_annotating_in_place_changes_no_other_file(tmp_path, capsys):
    import shutil

    copy = Path(shutil.copytree(EXCERPT, tmp_path / "copy"))
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert main(["annotate", str(copy), "--labels", str(copy / "labels.jsonl")]) == 0
    assert capsys.readouterr().out == "2 episodes: 2 success; 4 segments, 0 scene graphs\n"
    after = {p for p in copy.rglob("*") if p.is_file()}
    assert {p.relative_to(copy).as_posix() for p in after - set(before)} == {
        "meta/vine.json",
        *(f"meta/vine_{name}.parquet" for name in ("episodes", "segments", "graphs", "boxes")),
    }
    assert all(p.read_bytes() == content for p, content in before.items())
    from lerobot.datasets import LeRobotDataset

    assert (
        LeRobotDataset("vine/test", root=copy, video_backend="pyav").num_frames == 484
    )  # LeRobot does not mind


def test_read_only_source_needs_out(tmp_path, monkeypatch):
    import os
    import shutil

    copy = Path(shutil.copytree(EXCERPT, tmp_path / "copy"))
    for p in copy.rglob("*"):
        p.chmod(p.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # as root everything can be written
    with pytest.raises(VineError, match="read-only.*--out"):
        annotate(copy, Sources(labels=copy / "labels.jsonl"))
    assert len(annotate(copy, Sources(labels=copy / "labels.jsonl"), tmp_path / "out").demonstrations) == 2


@pytest.mark.parametrize("annotated_before", [False, True])
def test_an_interrupted_annotation_leaves_a_readable_dataset(annotated_before, tmp_path, monkeypatch):
    from vine_vla.data.annotate import labels

    out = tmp_path / "out"
    if annotated_before:
        before = annotate(EXCERPT, Sources(segments="gripper"), out)
        segments = [len(d.segments) for d in before.demonstrations]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(labels, "write_boxes", killed)
    with pytest.raises(KeyboardInterrupt):
        annotate(EXCERPT, Sources(labels=EXCERPT / "labels.jsonl"), out)
    monkeypatch.undo()
    assert out.exists() == annotated_before
    if annotated_before:
        assert [len(d.segments) for d in open_dataset(out).demonstrations] == segments
    again = annotate(EXCERPT, Sources(labels=EXCERPT / "labels.jsonl"), out)
    assert [len(d.segments) for d in again.demonstrations] == [3, 1]


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("outcomes", "episode,outcome\n0,won\n", ["file, line 2", "unknown outcome 'won'", "success"]),
        ("outcomes", "episode,outcome\n7,success\n", ["line 2, field episode", "no episode '7' among 2"]),
        ("outcomes", "episode,result\n0,success\n", ["column outcome is missing"]),
        ("labels", '{"episode_index": 0, "success": tru}\n', ["line 1", "damaged JSON"]),
        ("labels", '{"episode_index": 0, "length": 3}\n', ["line 1, field length", "302 frames"]),
        ("labels", '{"success": true}\n', ["line 1", "missing required field `episode_index`"]),
        (
            "labels",
            '{"episode_index": 0, "grasp_attempts":'
            ' [{"close_frame": 9, "open_frame": 400, "outcome": "missed"}]}\n',
            ["line 1, field grasp_attempts", "frames 9 to 400 of an episode of 302"],
        ),
        (
            "boxes",
            '{"episode_index": 0, "frame_index": 0, "camera": "left", "image_size": [4, 4], "objects": []}\n',
            ["line 1, field camera", "unknown camera 'left'", "observation.images.top"],
        ),
        (
            "boxes",
            '{"episode_index": 0, "frame_index": 0, "camera": "top", "image_size": [4, 3],'
            ' "objects": [{"label": "cup", "box": [2, 0, 2, 3]}]}\n',
            ["line 1, field box", "is empty"],
        ),
    ],
)
def test_malformed_labels_change_nothing(option, text, words, tmp_path):
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(VineError) as caught:
        annotate(EXCERPT, Sources(**{option: file}), tmp_path / "out")
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "out").exists()


def test_nothing_to_add_is_an_error():
    done = vine("annotate", EXCERPT)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "vine: error: nothing to add: give --labels, --outcomes, --subgoals, --segments, --boxes, --words "
        "or --page"
    ]


def test_merging_keeps_ids_and_renumbers(tmp_path, capsys):
    put_in = {
        **{p.episode_id: record(tmp_path / "s1", p) for p in (SUCCESS, UNKNOWN)},
        FAILURE.episode_id: record(tmp_path / "s2", FAILURE),
    }
    one = assemble(tmp_path / "s1", tmp_path / "one", robot_type="arm")
    two = assemble(tmp_path / "s2", tmp_path / "two", robot_type="arm")
    assert main(["merge", str(two), str(one), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 3 episodes, 37 frames\n"
    merged = open_dataset(tmp_path / "out")
    by_id = {p.episode_id: p for p in PLANS}
    assert [d.episode_id for d in merged.demonstrations] == [
        p.episode_id for p in (FAILURE, SUCCESS, UNKNOWN)
    ]
    originals = {d.episode_id: d for root in (one, two) for d in open_dataset(root).demonstrations}
    for index, d in enumerate(merged.demonstrations):
        plan, given_in, original = by_id[d.episode_id], put_in[d.episode_id], originals[d.episode_id]
        assert d.episode_index == index
        assert (d.segments, dict(d.graphs), d.split, d.outcome, d.instruction) == (
            *(
                original.segments,
                dict(original.graphs),
                original.split,
                original.outcome,
                original.instruction,
            ),
        )
        np.testing.assert_array_equal(merged.actions(index), given_in["actions"])
        assert merged.boxes(index) == given_in["boxes"]
        for role in merged.cameras:
            frames = merged.images(index, None, role).astype(float)
            assert np.abs(frames - given_in["frames"][role]).mean() < 2
        assert len(given_in["actions"]) == plan.length
    assert not inspect_dataset(tmp_path / "out").errors
    with pytest.raises(VineError, match="'b-failure' stands in two datasets"):
        merge([tmp_path / "out", two], tmp_path / "again")
    with pytest.raises(VineError, match="exists already"):
        merge([one, two], tmp_path / "out")


def test_merging_unlike_datasets_says_what_differs(tmp_path):
    record(tmp_path / "s", SUCCESS)
    ours = assemble(tmp_path / "s", tmp_path / "one", robot_type="arm")
    with pytest.raises(VineError, match="robot_type is arm and cr5"):
        merge([ours, EXCERPT], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_made_up_ids_get_the_folder_in_front(tmp_path):
    import shutil

    one, two = (Path(shutil.copytree(EXCERPT, tmp_path / name)) for name in ("monday", "tuesday"))
    annotate(one, Sources(labels=one / "labels.jsonl"))
    merged = merge([one, two], tmp_path / "week")
    assert [d.episode_id for d in merged.demonstrations] == [
        f"{day}-episode_{i:06d}" for day in ("monday", "tuesday") for i in range(2)
    ]
    assert [len(d.segments) for d in merged.demonstrations] == [3, 1, 0, 0]
    assert [d.outcome.value for d in merged.demonstrations] == ["success"] * 2 + ["unknown"] * 2
    np.testing.assert_array_equal(merged.images(3, [5], "top"), merged.images(1, [5], "top"))
    assert json.loads((tmp_path / "week/meta/vine.json").read_text())["assembled"] is False
