"""Files of the first format version, written by the code of that time: no label of them is lost.

`tests/data/formats_1/expected.json` is what that code read from them.
"""

import json
import shutil
from pathlib import Path

import pytest

from vine_vla import EpisodeOutcome, VineError
from vine_vla.core.options import Demonstration
from vine_vla.core.text import format_graph
from vine_vla.data import open_dataset
from vine_vla.data.annotate.annotation import Sources, annotate
from vine_vla.data.annotate.labelling import Labeller
from vine_vla.data.export.crops import CropLayout, target_layout
from vine_vla.data.export.skills import EXPORT, _read_settings
from vine_vla.data.record.staging import read_staged
from vine_vla.data.sidecars.files import INFO, VERSION

DATA = Path(__file__).parents[1] / "data"
OLD, EXCERPT = DATA / "formats_1", DATA / "cr5_excerpt"
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The excerpt with sidecars of the first version."""
    root = tmp_path / "dataset"
    shutil.copytree(EXCERPT / "meta", root / "meta")
    for name in ("data", "videos"):
        (root / name).symlink_to(EXCERPT / name)
    for file in (OLD / "meta").iterdir():
        shutil.copyfile(file, root / "meta" / file.name)
    return root


def plain(d: Demonstration) -> dict[str, object]:
    return {
        "episode_id": d.episode_id,
        "instruction": d.instruction,
        "length": d.length,
        "outcome": d.outcome.value,
        "outcome_source": d.outcome_source and d.outcome_source.value,
        "onset_frame": d.onset_frame,
        "failure_kind": d.failure_kind,
        "scene": d.scene,
        "seed": d.seed,
        "collector": d.collector.value,
        "split": d.split.value,
        "segments": [
            [s.start, s.end, str(s.subgoal), s.text, s.outcome.value, s.outcome_source.value]
            for s in d.segments
        ],
        "graphs": {str(frame): format_graph(graph) for frame, graph in d.graphs.items()},
    }


def assert_as_before(root: Path) -> None:
    opened = open_dataset(root)
    assert opened.schema.to_json() == EXPECTED["schema"] and dict(opened.cameras) == EXPECTED["cameras"]
    assert [plain(d) for d in opened.demonstrations] == EXPECTED["demonstrations"]
    for d, frames in zip(opened.demonstrations, EXPECTED["boxes"], strict=True):
        boxes = {
            str(frame): {
                role: {name: [round(v, 6) for v in box] for name, box in named.items()}
                for role, named in cameras.items()
            }
            for frame, cameras in opened.boxes(d.episode_index).items()
        }
        assert boxes == frames


def test_old_sidecars_open_as_they_are(dataset):
    assert_as_before(dataset)


def test_old_sidecars_are_migrated_by_the_next_label(dataset, tmp_path):
    """Also where the version is missing, and into a folder of its own while the source stays as it is."""
    info = json.loads((dataset / INFO).read_text())
    del info["version"]
    (dataset / INFO).write_text(json.dumps(info))
    before = {file: file.read_bytes() for file in (dataset / "meta").glob("vine*")}
    words = tmp_path / "words.json"
    words.write_text("{}")
    annotate(dataset, Sources(words=words), tmp_path / "out")
    assert json.loads((tmp_path / "out" / INFO).read_text())["version"] == VERSION
    assert_as_before(tmp_path / "out")
    assert {file: file.read_bytes() for file in before} == before

    labeller = Labeller(dataset)
    first, second = labeller.demonstrations
    labeller.set_outcome(second.episode_id, EpisodeOutcome.TRUNCATED)
    opened = open_dataset(dataset).demonstrations
    assert plain(opened[0]) == EXPECTED["demonstrations"][0] == plain(first)
    assert opened[1].outcome is EpisodeOutcome.TRUNCATED and opened[1].graphs == second.graphs


@pytest.mark.parametrize("version", [VERSION + 1, 0, "1", None, True])
def test_sidecars_of_another_version_are_refused_in_one_line(dataset, version):
    info = json.loads((dataset / INFO).read_text())
    (dataset / INFO).write_text(json.dumps(info | {"version": version, "schema": "of another form"}))
    with pytest.raises(VineError, match=r"format version .*vine\.json, field version"):
        open_dataset(dataset)


def test_an_old_staged_episode_is_read():
    episode = read_staged(OLD / "b-failure.episode.npz")
    found = plain(episode.demonstration)
    found |= {"boxes": len(episode.boxes.frame), "frames": len(episode.action)}
    assert found == EXPECTED["staged"]


def test_an_old_export_is_compared_by_what_it_says(tmp_path):
    (tmp_path / "meta").mkdir()
    old = json.loads((OLD / "vine_export.json").read_text())
    (tmp_path / EXPORT).write_text(json.dumps(old | {"eyes": "a hash"}))
    layout = CropLayout.from_json((OLD / "vine_crops.json").read_text())
    schema = open_dataset(EXCERPT).schema
    assert layout.cameras == target_layout(schema, {"top": (480, 640)}).cameras
    expected = old | {"version": 2, "perception": "a hash", "layout": layout.to_json()}
    assert _read_settings(tmp_path) == expected
