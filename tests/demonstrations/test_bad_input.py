"""Bad datasets, as a user meets them: one line that names file and field, exit code 2."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from demonstrations.command import vine
from demonstrations.episodes import PLANS, SUCCESS, record, record_all

from vine_vla import VineError
from vine_vla.cli import main
from vine_vla.data import assemble, open_dataset
from vine_vla.data.inspection import inspect_dataset

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.wrist/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    record_all(folder / "staging")
    return assemble(folder / "staging", folder / "out", robot_type="arm")


@pytest.fixture
def dataset(good, tmp_path):
    return Path(shutil.copytree(good, tmp_path / "dataset"))


def rewrite(path: Path, change) -> None:
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def with_column(name: str, change):
    def apply(table: pa.Table) -> pa.Table:
        index = table.column_names.index(name)
        return table.set_column(index, name, change(table[name]))

    return apply


def nan_action(root: Path) -> None:
    def change(column):
        rows = column.to_pylist()
        rows[20][1] = float("nan")  # episode 1, frame 3: episode 0 has 17 frames
        return pa.array(rows, column.type)

    rewrite(root / DATA, with_column("action", change))


def wrong_dtype(root: Path) -> None:
    rewrite(root / DATA, with_column("action", lambda c: c.cast(pa.list_(pa.float64()))))


def unknown_subgoal(root: Path) -> None:
    rewrite(
        root / "meta/vine_segments.parquet",
        with_column("verb", lambda c: pa.array(["fly", *c.to_pylist()[1:]])),
    )


def unknown_object(root: Path) -> None:
    change = with_column("args", lambda c: pa.array([["socket_9"], *c.to_pylist()[1:]]))
    rewrite(root / "meta/vine_segments.parquet", change)


def truncated(path: str):
    def apply(root: Path) -> None:
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: len(content) // 2])

    return apply


def wrong_total(root: Path) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"total_frames": 999}))


def fewer_rows(root: Path) -> None:
    rewrite(root / DATA, lambda table: table.slice(0, len(table) - 2))


def off_grid(root: Path) -> None:
    rewrite(root / DATA, with_column("timestamp", lambda c: pa.array(np.asarray(c) + np.float32(0.03))))


def sidecar_of_another_dataset(root: Path) -> None:
    rewrite(root / "meta/vine_episodes.parquet", lambda table: table.slice(0, len(table) - 1))


def segment_past_the_end(root: Path) -> None:
    change = with_column("end", lambda c: pa.array([*c.to_pylist()[:-1], 99]))
    rewrite(root / "meta/vine_segments.parquet", change)


def empty_segment(root: Path) -> None:
    change = with_column("end", lambda c: pa.array([0, *c.to_pylist()[1:]]))
    rewrite(root / "meta/vine_segments.parquet", change)


def unknown_outcome(root: Path) -> None:
    change = with_column("outcome", lambda c: pa.array(["won", *c.to_pylist()[1:]]))
    rewrite(root / "meta/vine_episodes.parquet", change)


BROKEN = {
    "missing video": (lambda r: (r / VIDEO).unlink(), [VIDEO, "video is missing"]),
    "truncated video": (truncated(VIDEO), [VIDEO, "video"]),
    "NaN in an action": (nan_action, [DATA, "column action", "NaN", "episode 1, frame 3"]),
    "wrong dtype": (wrong_dtype, [DATA, "column action", "float64", "float32"]),
    "unknown subgoal": (unknown_subgoal, ["vine_segments.parquet", "column verb", "fly", "grasp_long"]),
    "unknown object": (unknown_object, ["vine_segments.parquet", "socket_9", "socket_2"]),
    "truncated frames": (truncated(DATA), [DATA, "parquet cannot be read"]),
    "truncated episodes": (truncated(EPISODES), [EPISODES, "parquet cannot be read"]),
    "truncated sidecar": (
        truncated("meta/vine_graphs.parquet"),
        ["vine_graphs.parquet", "parquet cannot be read"],
    ),
    "counts disagree": (wrong_total, ["meta/info.json", "total_frames", "999", "37"]),
    "rows are missing": (fewer_rows, [DATA, "episode_index", "4 frames", "6"]),
    "off-grid timestamps": (off_grid, [DATA, "column timestamp", "0.03"]),
    "other sidecars": (sidecar_of_another_dataset, ["vine_episodes.parquet", "episode_index", "2 episodes"]),
    "segment past the end": (
        segment_past_the_end,
        ["vine_segments.parquet", "columns start and end", "c-unknown"],
    ),
    "empty segment": (empty_segment, ["vine_segments.parquet", "row 0", "covers no frames"]),
    "unknown outcome": (unknown_outcome, ["vine_episodes.parquet", "column outcome", "won", "success"]),
}


AS_A_USER = (
    "missing video",
    "NaN in an action",
    "wrong dtype",
    "unknown subgoal",
    "truncated frames",
    "counts disagree",
)


@pytest.mark.parametrize("case", BROKEN)
def test_inspect_names_file_and_field(case, dataset, capsys):
    damage, words = BROKEN[case]
    damage(dataset)
    if case in AS_A_USER:
        done = vine("inspect", dataset, "--json")
        code, out, err = done.returncode, done.stdout, done.stderr
    else:  # the same without a new process, which takes seconds
        code = main(["inspect", str(dataset), "--json"])
        out, err = capsys.readouterr()
    assert code == 2
    lines = err.splitlines()
    assert all(line.startswith("vine: error: ") for line in lines)
    assert any(all(word in line for word in words) for line in lines), lines
    assert len(lines) == len([p for p in json.loads(out)["problems"] if p["level"] == "error"])


@pytest.mark.parametrize("case", BROKEN)
def test_reading_refuses_with_the_same_words(case, dataset):
    """Whoever trains on it meets the same line, before or while reading what is wrong."""
    damage, words = BROKEN[case]
    damage(dataset)
    with pytest.raises(VineError) as caught:
        opened = open_dataset(dataset)
        for index in range(len(PLANS)):
            opened.actions(index), opened.images(index, None, "wrist"), opened.boxes(index)
    assert "\n" not in str(caught.value)
    if case != "truncated video":
        assert all(word in str(caught.value) for word in words), caught.value


def test_a_good_dataset_has_no_errors(good):
    report = inspect_dataset(good, decode=True)
    assert not report.errors
    assert [p.what for p in report.problems] == [
        "1 of 3 episodes have no known outcome and serve perception only"
    ]
    assert (report.outcomes["success"], report.outcomes["failure"], report.outcomes["unknown"]) == (1, 1, 1)
    assert report.segments["grasp_long"] == {"reached": 2, "slipped": 1, "dead": 0, "censored": 1}
    assert report.segments["insert"] == {"reached": 1, "slipped": 0, "dead": 1, "censored": 0}


def test_empty_dataset(tmp_path):
    from lerobot.datasets import LeRobotDataset

    features = {"action": {"dtype": "float32", "shape": (2,), "names": ["a", "b"]}}
    LeRobotDataset.create("vine/empty", fps=10, root=tmp_path / "empty", features=features).finalize()
    done = vine("inspect", tmp_path / "empty")
    assert done.returncode == 2
    assert done.stderr.startswith(f"vine: error: the dataset is empty ({tmp_path / 'empty'})")
    with pytest.raises(VineError, match="the dataset is empty"):
        open_dataset(tmp_path / "empty")


def test_no_dataset(tmp_path):
    done = vine("inspect", tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"vine: error: no LeRobot dataset ({tmp_path}): meta/info.json is missing; give its root folder"
    ]


def test_no_failures_is_a_warning_that_says_what_is_lost(tmp_path):
    record(tmp_path / "staging", SUCCESS)
    done = vine("inspect", assemble(tmp_path / "staging", tmp_path / "out", robot_type="arm"))
    assert done.returncode == 0
    assert done.stderr == ""
    text = " ".join(done.stdout.split())
    assert "no failed episode" in text and "cannot learn what goes wrong" in text and "fall back" in text


def test_contradicting_labels_are_found(dataset):
    change = with_column("outcome", lambda c: pa.array(["success"] * len(c)))
    rewrite(dataset / "meta/vine_episodes.parquet", change)
    found = [p.what for p in inspect_dataset(dataset).errors]
    assert found == ["a dead segment in a successful episode"]


def test_old_format_off_its_grid(tmp_path):
    """A v2.1 dataset with recorded wall time gets both problems and what to do, and is never read."""
    root = tmp_path / "old"
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    vector = {"dtype": "float32", "shape": [2], "names": None}
    camera = {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channel"]}
    info = {
        "codebase_version": "v2.1",
        "fps": 10,
        "features": {"action": vector, "observation.images.top": camera},
    }
    (root / "meta/info.json").write_text(json.dumps({**info, "total_episodes": 2}))
    for episode, shift in enumerate((0.0, 0.4)):
        time = np.arange(5, dtype=np.float32) / 10 + shift
        frames = pd.DataFrame({"timestamp": time, "frame_index": np.arange(5), "episode_index": episode})
        frames.to_parquet(root / f"data/chunk-000/episode_{episode:06d}.parquet")
    done = vine("inspect", root, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 2
    assert (report["episodes"], report["frames"], report["outcomes"]["unknown"]) == (2, 10, 2)
    assert "v2.1" in report["problems"][0]["what"]
    assert "0.40 s off" in report["problems"][1]["what"] and "1 of 2" in report["problems"][1]["what"]
    with pytest.raises(VineError, match="convert_dataset_v21_to_v30"):
        open_dataset(root)
