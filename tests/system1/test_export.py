"""Exports are plain LeRobot datasets with the right frames, whole or not there, and made once."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset

from vine_vla.core.errors import VineError
from vine_vla.core.options import Collector, Outcome, Split
from vine_vla.data import open_dataset
from vine_vla.data.export.clips import ClipReader
from vine_vla.data.export.crops import LAYOUT, CropLayout, skill_inputs
from vine_vla.data.export.skills import export_joint, export_skills
from vine_vla.data.lerobot.dataset import DemoDataset


def test_skills_hold_the_segments_frames(toy: DemoDataset, skills: Path) -> None:
    export = open_dataset(skills)
    train = [d for d in toy.demonstrations if d.split is Split.TRAIN]
    segments = [(d, s) for d in train for s in d.segments]
    assert len(export.demonstrations) == len(segments)
    layout = CropLayout.from_json((skills / LAYOUT).read_text())
    reader = LeRobotDataset("vine/skills", root=skills)
    assert sum(s.end - s.start for _, s in segments) == len(reader)
    for found, (source, segment) in zip(export.demonstrations, segments, strict=True):
        assert found.segments[0].subgoal == segment.subgoal and found.segments[0].outcome is segment.outcome
        assert found.instruction == segment.text
        frame = segment.start + 3
        item = reader[int(reader.meta.episodes["dataset_from_index"][found.episode_index]) + 3]
        assert item["task"] == segment.text
        images = {c: toy.images(source.episode_index, [frame], c)[0] for c in toy.cameras}
        boxes = toy.boxes(source.episode_index)[frame]
        inputs = skill_inputs(images, boxes, layout, segment.subgoal, segment.subgoal.args[-1:])
        for camera, crop in inputs.crops.items():
            stored = (item[f"observation.images.{camera}"].numpy() * 255).round().transpose(1, 2, 0)
            assert np.array_equal(stored, crop)
        assert np.array_equal(item["observation.environment_state"].numpy(), inputs.environment_state)
        assert np.array_equal(item["action"].numpy(), toy.actions(source.episode_index)[frame])


def test_an_earlier_export_saves_decoding_and_changes_nothing(
    toy: DemoDataset, skills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, all_of_it = tmp_path / "some", tmp_path / "all"
    export_skills(toy, some, outcomes=(Outcome.REACHED,))
    reached = sum(d.segments[0].outcome is Outcome.REACHED for d in open_dataset(skills).demonstrations)
    decoded = []
    decode = ClipReader._decode
    monkeypatch.setattr(
        ClipReader, "_decode", lambda self, clips: decoded.extend(clips) or decode(self, clips)
    )
    export_skills(toy, all_of_it, earlier=some)
    assert 0 < len(decoded) == len(open_dataset(skills).demonstrations) - reached
    for folder in ("data", "meta"):
        for file in sorted((skills / folder).rglob("*")):
            if file.is_file():
                assert file.read_bytes() == (all_of_it / file.relative_to(skills)).read_bytes(), file.name


def test_an_earlier_export_of_another_kind_is_refused(toy: DemoDataset, flat: Path, tmp_path: Path) -> None:
    with pytest.raises(VineError, match="an export with other kind"):
        export_skills(toy, tmp_path / "out", earlier=flat)
    with pytest.raises(VineError, match="no export of VINE"):
        export_skills(toy, tmp_path / "out", earlier=toy.root)
    assert not (tmp_path / "out").exists()


def test_statistics_are_those_of_the_frames(skills: Path) -> None:
    reader = LeRobotDataset("vine/skills", root=skills)
    actions = np.stack(reader.hf_dataset.with_format("numpy")["action"])
    assert reader.meta.stats["action"]["mean"] == pytest.approx(actions.mean(0), abs=1e-5)
    assert reader.meta.stats["action"]["std"] == pytest.approx(actions.std(0), abs=1e-5)
    assert reader.meta.stats["observation.images.front"]["mean"].shape == (3, 1, 1)
    assert reader.meta.stats["observation.environment_state"]["std"].min() >= 0.1


def test_flat_holds_whole_episodes_with_all_objects(toy: DemoDataset, flat: Path) -> None:
    export = open_dataset(flat)
    train = [d for d in toy.demonstrations if d.split is Split.TRAIN]
    assert [d.instruction for d in export.demonstrations] == [d.instruction for d in train]
    assert [d.length for d in export.demonstrations] == [d.length for d in train]
    assert {d.segments[0].outcome for d in export.demonstrations} == {Outcome.REACHED, Outcome.DEAD}
    assert CropLayout.from_json((flat / LAYOUT).read_text()).slots == ("block", "block")
    assert LeRobotDataset("vine/flat", root=flat)[0]["observation.images.front"].shape == (3, 160, 80)


def test_export_is_made_once_and_again_when_asked_for_otherwise(toy: DemoDataset, tmp_path: Path) -> None:
    out = tmp_path / "skills"
    assert export_skills(toy, out, threads=1).fresh
    stamp = (out / "meta/info.json").stat().st_mtime_ns
    assert not export_skills(toy, out, threads=2).fresh
    assert (out / "meta/info.json").stat().st_mtime_ns == stamp
    only = export_skills(toy, out, outcomes=(Outcome.REACHED,), threads=1)
    assert only.fresh and set(only.outcomes) == {"reached"}
    assert {d.segments[0].outcome for d in open_dataset(out).demonstrations} == {Outcome.REACHED}
    assert [p.name for p in tmp_path.iterdir()] == ["skills"]


def test_export_refuses_what_it_did_not_write(toy: DemoDataset, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(VineError, match="no export of VINE"):
        export_skills(toy, tmp_path)
    with pytest.raises(VineError, match="no segment"):
        export_skills(toy, tmp_path / "none", splits=(Split.TEST,))


def test_whole_images_by_the_command_line(toy: DemoDataset, tmp_path: Path) -> None:
    out = tmp_path / "whole"
    command = ["export", "skills", str(toy.root), str(out)]
    command += ["--images", "whole", "--whole-pixels", "48", "--reached-only", "--threads", "1"]
    code = "import sys; from vine_vla.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "reached" in done.stdout and "slipped" not in done.stdout
    item = LeRobotDataset("vine/whole", root=out)[0]
    assert item["observation.images.wrist"].shape == (3, 48, 48)
    assert item["observation.environment_state"].tolist() == [1.0, 0.0]
    assert json.loads((out / "meta/vine_export.json").read_text())["images"] == "whole"


def test_a_joint_export_has_nothing_of_what_an_expert_cut_short(toy: DemoDataset, tmp_path: Path) -> None:
    """No trainer but VINE's reads outcomes, so a novice's part must not be there; and no image if asked."""
    first = toy.demonstrations[0]
    reached, second = first.segments
    middle = (second.start + second.end) // 2
    segments = (
        reached,
        replace(second, end=middle, outcome=Outcome.CENSORED),
        replace(second, start=middle),
    )
    taken_over = replace(first, collector=Collector.INTERVENTION, segments=segments)
    source = replace(toy, demonstrations=(taken_over,))
    out = export_joint(source, tmp_path / "joint", images="none", threads=1).out
    name, clips = first.episode_id, open_dataset(out).demonstrations
    assert {c.episode_id: c.length for c in clips} == {
        f"{name}.00": reached.end,
        f"{name}.02": first.length - middle,
        f"{name}-0000": reached.end,
        f"{name}-{middle:04d}": first.length - middle,
    }
    assert [c.outcome.value for c in clips if c.episode_id == f"{name}-0000"] == ["truncated"]
    with pytest.raises(VineError, match="0 pixels"):
        export_joint(source, tmp_path / "seen", pixels=0)
    seen = export_joint(source, tmp_path / "seen", pixels=32, threads=1).out
    blind, sighted = (LeRobotDataset("vine/joint", root=root) for root in (out, seen))
    assert not blind.meta.camera_keys and len(sighted.meta.camera_keys) == 2
    assert len(blind) == len(sighted) == 2 * (reached.end + first.length - middle)
    for name in ("observation.environment_state", "observation.state", "action"):
        for i in (0, len(blind) - 1):
            assert np.array_equal(blind[i][name], sighted[i][name])
