"""Segments as subtasks of other tools, and back: nothing is lost, outcomes included."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from demonstrations.episodes import FAILURE, record_all
from demonstrations.test_foreign_labels import foreign, with_episode_columns  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from vine_vla import EpisodeOutcome, Outcome, OutcomeSource, Subgoal, VineError
from vine_vla.cli import main
from vine_vla.core.options import Segment
from vine_vla.data import assemble, open_dataset
from vine_vla.data.annotate.annotation import Sources, annotate
from vine_vla.data.annotate.segmentation import Cut, cuts_of_rows, infer_outcomes
from vine_vla.data.annotate.subtasks import (
    cuts_in,
    frame_texts,
    persistent_rows,
    read_record,
    record,
    restored,
    sarm_columns,
)
from vine_vla.data.export.subtasks import export_subtasks
from vine_vla.data.record.merging import merge
from vine_vla.data.sidecars.files import FILES

FORMATS = {"persistent": "language", "sarm": "sarm", "task": "task"}
KINDS = sorted(FORMATS.values())
names = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True)
texts = st.sampled_from(["grasp", "grasp it", "plug it in", "", "{0} \"quoted\" 'n' \\", "über"])


@st.composite
def episodes(draw):
    """Instruction, length and segments of an episode: with and without gaps, texts that repeat."""
    steps = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=6))
    segments, at = [], draw(st.sampled_from([0, 0, 5_000, 80_000]))
    for gap, length in steps:
        start, at = at + gap, at + gap + length
        subgoal = Subgoal(draw(names), tuple(draw(st.lists(names, max_size=2))))
        outcome, source = draw(st.sampled_from(list(Outcome))), draw(st.sampled_from(list(OutcomeSource)))
        segments.append(Segment(start, at, subgoal, draw(texts), outcome, source))
    return draw(texts), max(at + draw(st.integers(0, 3)), 1), tuple(segments)


def back(cuts, known, kind, instruction, length):
    return restored(
        cuts, known, kind, instruction, length, EpisodeOutcome.UNKNOWN, source=OutcomeSource.OPERATOR
    )


@given(episodes(), st.sampled_from([5, 10, 15, 24, 29.97, 30, 50, 60]))
def test_language_rows_give_the_segments_back(episode, fps):
    instruction, length, segments = episode
    times = [float(t) for t in (np.arange(length) / fps).astype(np.float32)]
    rows = [{**r, "timestamp": np.float32(r["timestamp"])} for r in persistent_rows(segments, times)]
    known = read_record(record(segments), "here")
    assert back(cuts_of_rows(rows, length, fps), known, "language", instruction, length) == segments


@given(episodes())
def test_sarm_lists_give_the_segments_back(episode):
    instruction, length, segments = episode
    lists = sarm_columns(segments, 10)
    assert all((values is None) == (not segments) for values in lists.values())
    rows = zip(*(lists[n] or [] for n in ("start_frames", "end_frames", "names")), strict=True)
    cuts = [Cut(a, b + 1, name) for a, b, name in rows]
    assert back(cuts, read_record(record(segments), "here"), "sarm", instruction, length) == segments


@given(episodes())
def test_task_texts_give_the_segments_back(episode):
    instruction, length, segments = episode
    found = frame_texts(segments, instruction, length)
    changes = [0, *(t for t in range(1, length) if found[t] != found[t - 1]), length]
    cuts = [Cut(a, b, found[a]) for a, b in zip(changes[:-1], changes[1:], strict=True)]
    assert back(cuts, read_record(record(segments), "here"), "task", instruction, length) == segments


@given(episodes(), st.sampled_from(KINDS))
def test_without_the_record_only_frames_and_texts_are_left(episode, kind):
    instruction, length, segments = episode
    cuts = cuts_in(kind, segments, instruction, length)
    found = back(cuts, None, kind, instruction, length)
    assert [(s.start, s.end, s.text) for s in found] == [tuple(c) for c in cuts]
    assert {s.outcome for s in found} <= {Outcome.SLIPPED, Outcome.CENSORED}


@given(episodes(), st.sampled_from(KINDS), st.data())
def test_what_was_edited_since_is_new_and_the_rest_keeps_its_outcome(episode, kind, data):
    instruction, length, segments = episode
    if not segments:
        return
    cuts = cuts_in(kind, segments, instruction, length)
    place = data.draw(st.integers(0, len(cuts) - 1))
    edited = [*cuts[:place], cuts[place]._replace(text="another"), *cuts[place + 1 :]]
    found = {(s.start, s.end, s.text): s for s in back(edited, segments, kind, instruction, length)}
    fresh = found.pop((cuts[place].start, cuts[place].end, "another"))
    assert fresh.subgoal == Subgoal("another", ()) and fresh.outcome is Outcome.CENSORED
    for s in segments:  # nothing is taken over for frames or texts that it was not said of
        if (s.start, s.end, s.text) in found:
            assert found[s.start, s.end, s.text] == s


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three episodes: a slip and its repetition under one text, a gap before a segment, an unknown end."""
    folder = tmp_path_factory.mktemp("recorded")
    record_all(folder / "staging")
    return assemble(folder / "staging", folder / "dataset", robot_type="arm")


@pytest.fixture(scope="module", params=list(FORMATS))
def exported(request, recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / request.param
    before = {p: p.read_bytes() for p in recorded.rglob("*") if p.is_file()}
    assert main(["export", "language", str(recorded), str(out), "--format", request.param]) == 0
    assert {p: p.read_bytes() for p in recorded.rglob("*") if p.is_file()} == before
    return FORMATS[request.param], out


def bare(root, target):
    """A copy without VINE's sidecars, as LeRobot's tools leave it."""
    copy = Path(shutil.copytree(root, target))
    for name in FILES:
        (copy / name).unlink()
    return copy


def test_the_copy_is_the_dataset(recorded, exported):
    old, new = open_dataset(recorded), open_dataset(exported[1])
    assert [replace(d, graphs={}) for d in new.demonstrations] == [
        replace(d, graphs={}) for d in old.demonstrations
    ]
    for i in range(3):
        assert dict(new.demonstrations[i].graphs) == dict(old.demonstrations[i].graphs)
        assert new.boxes(i) == old.boxes(i)
        np.testing.assert_array_equal(new.actions(i), old.actions(i))
        np.testing.assert_array_equal(new.images(i, [2], "front"), old.images(i, [2], "front"))


def test_segments_come_back_from_the_columns(recorded, exported, tmp_path):
    """With the sidecars there, and from the columns alone, where they are lost."""
    kind, out = exported
    old = open_dataset(recorded)
    wanted = [(d.segments, d.outcome, d.instruction) for d in old.demonstrations]
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    again = annotate(copy, Sources(segments=kind))
    assert [(d.segments, d.outcome, d.instruction) for d in again.demonstrations] == wanted
    assert again.schema == old.schema
    lost = open_dataset(bare(out, tmp_path / "bare"))
    assert [(d.segments, d.outcome, d.instruction) for d in lost.demonstrations] == wanted
    assert {v.name: v.arguments for v in lost.schema.verbs} == {v.name: v.arguments for v in old.schema.verbs}


def test_lerobot_reads_it(recorded, exported):
    from lerobot.datasets import LeRobotDataset
    from lerobot.datasets.language_render import active_at
    from lerobot.rewards.sarm.sarm_utils import find_stage_and_tau

    kind, out = exported
    dataset = LeRobotDataset("vine/test", root=out, video_backend="pyav")
    assert dataset.num_frames == 37 and len(dataset.hf_dataset) == 37
    begin = 0
    for d in open_dataset(recorded).demonstrations:
        row = dataset.meta.episodes[d.episode_index]
        assert row["vine_outcome"] == d.outcome
        for t in range(d.length):
            here = next((s for s in d.segments if s.start <= t < s.end), None)
            if kind == "task":
                assert dataset[begin + t]["task"] == (here.text if here else d.instruction)
            elif kind == "language":
                item = dataset[begin + t]
                found = active_at(
                    float(item["timestamp"]), persistent=item["language_persistent"], style="subtask"
                )
                assert (found and found["content"]) == (here.text if here else None)
            else:
                shares = json.loads((out / "meta/temporal_proportions_dense.json").read_text())
                lists = (row[f"dense_subtask_{n}"] for n in ("names", "start_frames", "end_frames"))
                stage, tau = find_stage_and_tau(t, d.length, *lists, list(shares), shares)
                assert list(shares)[stage] == (here.text if here else list(shares)[0])
                assert abs(sum(shares.values()) - 1) < 1e-9 and 0 <= tau <= 1
        begin += d.length
    if kind == "task":
        assert dataset.meta.total_tasks == len(dataset.meta.tasks) == 3
        assert dataset.meta.stats["task_index"]["max"].tolist() == [2]


def test_merging_by_lerobot_keeps_the_segments(recorded, exported, tmp_path):
    out = exported[1]
    other = Path(shutil.copytree(bare(out, tmp_path / "bare"), tmp_path / "other"))
    merged = bare(merge([tmp_path / "bare", other], tmp_path / "merged").root, tmp_path / "stripped")
    wanted = [(d.segments, d.outcome, d.instruction) for d in open_dataset(recorded).demonstrations]
    assert [(d.segments, d.outcome, d.instruction) for d in open_dataset(merged).demonstrations] == wanted * 2


def test_a_subtask_edited_elsewhere(recorded, tmp_path):
    out = bare(export_subtasks(open_dataset(recorded), tmp_path / "sarm", "sarm"), tmp_path / "bare")
    path = next((out / "meta/episodes").glob("*/*.parquet"))
    table = pd.read_parquet(path)
    place = [d.episode_id for d in open_dataset(recorded).demonstrations].index(FAILURE.episode_id)
    row = table.index[table["episode_index"] == place][0]
    table.at[row, "dense_subtask_names"] = ["do grasp_long(plug)", "regrasp", "do insert(plug, socket_2)"]
    table.to_parquet(path, index=False)
    found = open_dataset(out).demonstrations[place].segments
    assert [(str(s.subgoal), s.outcome.value) for s in found] == [
        ("grasp_long(plug)", "slipped"),
        ("regrasp()", "reached"),
        ("insert(plug, socket_2)", "dead"),
    ]
    table["vine_segments"] = [["{}"]] * 3
    table.to_parquet(path, index=False)
    with pytest.raises(VineError, match="malformed segment '{}'.*column vine_segments.*export again"):
        open_dataset(out)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_kept_as_png_and_subtasks_of_another_tool(foreign, tmp_path, kind):  # noqa: F811
    """A dataset that VINE did not write, its subtasks inferred: exported, read by LeRobot, the same again."""
    from lerobot.datasets import LeRobotDataset

    columns = {"names": [["reach", "lift"], None, ["reach"]]}
    columns |= {"start_frames": [[0, 5], None, [2]], "end_frames": [[3, 9], None, [7]]}
    columns = {f"dense_subtask_{name}": values for name, values in columns.items()}
    source = open_dataset(with_episode_columns(foreign(), success=[True, None, False], **columns))
    out = export_subtasks(source, tmp_path / "out", kind)
    assert LeRobotDataset("vine/test", root=out)[12]["observation.images.top"].shape == (3, 16, 24)
    found = annotate(out, Sources(segments=kind)).demonstrations
    assert [d.segments for d in found] == [d.segments for d in source.demonstrations]
    assert [[s.outcome for s in d.segments] for d in found] == [
        infer_outcomes(["reach", "lift"], EpisodeOutcome.SUCCESS),
        [],
        [Outcome.DEAD],
    ]
    assert export_subtasks(source, out, kind) == out  # an older export is replaced


def test_what_cannot_be_exported_is_said(recorded, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    for out, words in (("full", "exists and is no such export"), (recorded / "sub", "lies in the source")):
        assert main(["export", "language", str(recorded), str(tmp_path / out)]) == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / "full/file").read_text() == "mine" and not (recorded / "sub").exists()
    excerpt = Path(__file__).parents[1] / "data/cr5_excerpt"
    with pytest.raises(VineError, match="no segment to export.*vine annotate"):
        export_subtasks(open_dataset(excerpt), tmp_path / "out", "task")
    assert not (tmp_path / "out").exists()
