"""What is recorded is what is read, through staging, assembling, and LeRobot's own reader."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from demonstrations.episodes import (
    FAILURE,
    GRASP,
    INSERT,
    PLANS,
    SCHEMA,
    SUCCESS,
    UNKNOWN,
    Plan,
    images,
    record,
    record_all,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vine_vla import EpisodeOutcome, Observation, Outcome, OutcomeSource, VineError
from vine_vla.core.options import Split
from vine_vla.data import EpisodeRecorder, assemble, open_dataset, staged_ids


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What went in, and the dataset that came of it."""
    folder = tmp_path_factory.mktemp("recorded")
    put_in = record_all(folder / "staging")
    return put_in, open_dataset(assemble(folder / "staging", folder / "out", robot_type="arm"))


def test_segments_graphs_outcomes_and_frames_come_back(recorded):
    put_in, dataset = recorded
    assert dataset.schema == SCHEMA
    assert dataset.fps == 10
    assert [d.episode_id for d in dataset.demonstrations] == [p.episode_id for p in PLANS]
    for plan, found in zip(PLANS, dataset.demonstrations, strict=True):
        given_in = put_in[plan.episode_id]
        assert (found.length, found.outcome, found.onset_frame) == (
            plan.length,
            plan.outcome,
            plan.onset_frame,
        )
        assert [(s.start, s.end, s.subgoal, s.outcome) for s in found.segments] == list(plan.segments)
        assert dict(found.graphs) == given_in["graphs"]
        np.testing.assert_array_equal(dataset.actions(found.episode_index), given_in["actions"])
        np.testing.assert_array_equal(dataset.proprioception(found.episode_index), given_in["states"])
        assert dataset.boxes(found.episode_index) == given_in["boxes"]
        for role in SCHEMA.cameras:
            whole = dataset.images(found.episode_index, None, role)
            assert whole.shape == given_in["frames"][role].shape
            assert psnr(whole, given_in["frames"][role]) > 38
            some = [plan.length - 1, 0, 3, 3]
            np.testing.assert_array_equal(dataset.images(found.episode_index, some, role), whole[some])


def test_lerobot_reads_the_same(recorded):
    from lerobot.datasets import LeRobotDataset

    _, dataset = recorded
    theirs = LeRobotDataset("vine/test", root=dataset.root, video_backend="pyav", return_uint8=True)
    assert theirs.num_episodes == len(PLANS)
    assert theirs.num_frames == sum(p.length for p in PLANS)
    index = 0
    for episode, plan in enumerate(PLANS):
        frames = {role: dataset.images(episode, None, role) for role in SCHEMA.cameras}
        for t in range(plan.length):
            item = theirs[index]
            last = t == plan.length - 1
            success = last and plan.outcome is EpisodeOutcome.SUCCESS
            ended = last and plan.outcome in (EpisodeOutcome.SUCCESS, EpisodeOutcome.FAILURE)
            assert (int(item["index"]), int(item["episode_index"]), int(item["frame_index"])) == (
                index,
                episode,
                t,
            )
            assert item["task"] == dataset.demonstrations[episode].instruction
            assert (float(item["next.reward"]), bool(item["next.done"])) == (float(success), ended)
            assert bool(item["next.success"]) == success
            np.testing.assert_array_equal(item["action"].numpy(), dataset.actions(episode)[t])
            for role, key in dataset.cameras.items():
                np.testing.assert_array_equal(item[key].permute(1, 2, 0).numpy(), frames[role][t])
            index += 1


def test_lerobot_statistics(recorded):
    """Of the actions exactly; of the images as LeRobot computes them from the same pixels."""
    from lerobot.datasets import LeRobotDatasetMetadata
    from lerobot.datasets.compute_stats import get_feature_stats

    from vine_vla.data.record.recorder import ImageStatistics

    put_in, dataset = recorded
    stats = LeRobotDatasetMetadata("vine/test", root=dataset.root).stats
    actions = np.concatenate([put_in[p.episode_id]["actions"] for p in PLANS])
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["action"]["std"], actions.std(0), rtol=1e-4)
    assert stats["observation.images.front"]["mean"].shape == (3, 1, 1)
    frames = images("any", 20)["front"]
    ours = ImageStatistics()
    for frame in frames:
        ours.add(frame)
    theirs = get_feature_stats(frames.transpose(0, 3, 1, 2), axis=(0, 2, 3), keepdims=True)
    for name, value in ours.as_lerobot().items():
        expected = theirs[name] if name == "count" else np.squeeze(theirs[name] / 255, 0)
        np.testing.assert_allclose(
            value, expected, atol=1e-9 if name in ("min", "max", "mean", "count") else 4e-3
        )


def test_assembling_is_repeatable(tmp_path):
    record_all(tmp_path / "staging")
    first = assemble(tmp_path / "staging", tmp_path / "one", robot_type="arm")
    second = assemble(tmp_path / "staging", tmp_path / "two", robot_type="arm")
    assemble(tmp_path / "staging", tmp_path / "two", robot_type="arm")  # replaces what it made
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "staging", "two"]


def test_only_own_folders_are_replaced(tmp_path):
    record(tmp_path / "staging", SUCCESS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(VineError, match="not assembled by VINE"):
        assemble(tmp_path / "staging", tmp_path / "mine", robot_type="arm")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_splits_depend_on_the_id_alone(tmp_path):
    from vine_vla.data import calibration_split

    splits = [calibration_split(f"e{i}", 0.15) for i in range(4000)]
    share = splits.count(Split.CALIBRATION) / 4000
    assert abs(share - 0.15) < 0.02  # 3.5 standard deviations; the hash is fixed, so it cannot flake
    record_all(tmp_path / "staging")
    for ids in ([SUCCESS.episode_id], [p.episode_id for p in PLANS]):
        out = assemble(
            tmp_path / "staging", tmp_path / "out", robot_type="arm", ids=ids, calibration_share=0.5
        )
        for found in open_dataset(out).demonstrations:
            expected = calibration_split(found.episode_id, 0.5)
            assert found.split is (Split.TEST if found.episode_id == FAILURE.episode_id else expected)


def test_several_video_files(tmp_path, monkeypatch):
    """Episodes beyond a file's size go to a new one; every frame stays where it belongs."""
    from vine_vla.data.record import assembly

    monkeypatch.setattr(assembly, "VIDEO_FILE_BYTES", 1)
    put_in = record_all(tmp_path / "staging")
    dataset = open_dataset(assemble(tmp_path / "staging", tmp_path / "out", robot_type="arm"))
    assert len(list((dataset.root / "videos").rglob("*.mp4"))) == 2 * len(PLANS)
    for episode, plan in enumerate(PLANS):
        for role in SCHEMA.cameras:
            found = dataset.images(episode, None, role)
            assert psnr(found, put_in[plan.episode_id]["frames"][role]) > 38


@st.composite
def plans(draw):
    length = draw(st.integers(1, 12))
    cuts = sorted(draw(st.sets(st.integers(0, length), min_size=0, max_size=6)))
    segments = []
    for start, end in zip(cuts[:-1], cuts[1:], strict=True):
        if draw(st.booleans()):
            segments.append(
                (start, end, draw(st.sampled_from([GRASP, INSERT])), draw(st.sampled_from(list(Outcome))))
            )
    return Plan(
        draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)),
        length,
        tuple(segments),
        draw(st.sampled_from(list(EpisodeOutcome))),
        draw(st.none() | st.integers(0, length - 1)),
        draw(st.none() | st.sampled_from(list(Split))),
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(plans(), min_size=1, max_size=3, unique_by=lambda p: p.episode_id.lower()))
def test_any_episodes_survive_the_round_trip(several):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        put_in = {plan.episode_id: record(folder / "staging", plan) for plan in several}
        assert staged_ids(folder / "staging") == set(put_in)
        dataset = open_dataset(assemble(folder / "staging", folder / "out", robot_type="arm"))
        by_id = {plan.episode_id: plan for plan in several}
        assert [d.episode_id for d in dataset.demonstrations] == sorted(by_id)
        for found in dataset.demonstrations:
            plan, given_in = by_id[found.episode_id], put_in[found.episode_id]
            assert (found.length, found.outcome, found.onset_frame) == (
                plan.length,
                plan.outcome,
                plan.onset_frame,
            )
            assert (found.outcome_source is None) == (plan.outcome is EpisodeOutcome.UNKNOWN)
            assert plan.split is None or found.split is plan.split
            assert [(s.start, s.end, s.subgoal, s.outcome) for s in found.segments] == list(plan.segments)
            assert dict(found.graphs) == given_in["graphs"]
            assert dataset.boxes(found.episode_index) == given_in["boxes"]


def test_the_recorder_refuses_what_cannot_be_right(tmp_path):
    def fresh():
        return EpisodeRecorder(tmp_path, schema=SCHEMA, instruction="x", fps=10, episode_id="e")

    frame = images("e", 1)
    good = Observation({role: frame[role][0] for role in SCHEMA.cameras}, np.zeros(9, np.float32))
    action = np.zeros(5, np.float32)
    with pytest.raises(VineError, match="no file name"):
        EpisodeRecorder(tmp_path, schema=SCHEMA, instruction="x", fps=10, episode_id="../e")
    with pytest.raises(VineError, match=r"action holds NaN.*episode e, frame 0"):
        fresh().add_frame(good, action * np.nan)
    with pytest.raises(VineError, match="action is float64"):
        fresh().add_frame(good, action.astype(float))
    with pytest.raises(VineError, match="expected \\['front', 'wrist'\\]"):
        fresh().add_frame(good._replace(images={"front": good.images["front"]}), action)
    with pytest.raises(VineError, match="uint8"):
        fresh().add_frame(good._replace(images={r: i / 255 for r, i in good.images.items()}), action)
    with pytest.raises(VineError, match="no frames"):
        fresh().finish(EpisodeOutcome.UNKNOWN, None)
    recorder = fresh()
    recorder.add_frame(good, action)
    with pytest.raises(VineError, match="unknown has no source"):
        recorder.finish(EpisodeOutcome.SUCCESS, None)
    with pytest.raises(VineError, match="no segment"):
        recorder.end_segment(Outcome.REACHED, OutcomeSource.OPERATOR)
    recorder.abort()
    assert staged_ids(tmp_path) == set()
    assert UNKNOWN.outcome is EpisodeOutcome.UNKNOWN
