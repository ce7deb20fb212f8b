"""Assembling again: labels that people gave survive, or nothing is replaced."""

import json
import os
import shutil
from pathlib import Path

import pytest
from demonstrations.episodes import FAILURE, PLANS, SUCCESS, UNKNOWN, record, record_all
from demonstrations.test_transaction import digest

from vine_vla import EpisodeOutcome, VineError
from vine_vla.core.options import OutcomeSource
from vine_vla.data import assemble, open_dataset
from vine_vla.data.annotate.annotation import Sources, annotate
from vine_vla.data.annotate.labelling import Labeller
from vine_vla.data.record.staging import staged_path
from vine_vla.data.sidecars.files import read_info, write_info


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    record_all(tmp_path / "staging")
    return tmp_path / "staging"


@pytest.fixture
def labelled(staging: Path, tmp_path: Path) -> Path:
    """All of `PLANS`, of which a person said that the unknown one succeeded."""
    out = assemble(staging, tmp_path / "out", robot_type="arm")
    Labeller(out).set_outcome(UNKNOWN.episode_id, EpisodeOutcome.SUCCESS)
    return out


def forget_hash(out: Path) -> None:
    """As datasets are that older versions assembled."""
    info = read_info(out)
    write_info(out, type(info)(info.schema, info.cameras, info.assembled))


@pytest.mark.parametrize("older", [False, True])
def test_labels_are_carried_over_every_time(labelled, staging, tmp_path, older):
    words = tmp_path / "words.json"
    wave = {"name": "wave", "arguments": [], "template": "wave"}
    words.write_text(json.dumps({"classes": ["lamp"], "verbs": [wave]}))
    annotate(labelled, Sources(words=words))
    if older:
        forget_hash(labelled)
    before = open_dataset(labelled)
    for _ in range(2):  # carried labels are not taken for assembly's own the next time
        after = open_dataset(assemble(staging, labelled, robot_type="arm"))
        assert after.demonstrations == before.demonstrations and after.schema == before.schema
        assert after.demonstrations[2].outcome_source is OutcomeSource.HUMAN
        assert [after.boxes(i) for i in range(3)] == [before.boxes(i) for i in range(3)]
    other = PLANS[0].__class__("d-new", 9, (), EpisodeOutcome.TRUNCATED)
    record(staging, other)
    more = open_dataset(assemble(staging, labelled, robot_type="arm"))
    assert more.demonstrations[:3] == before.demonstrations
    assert more.demonstrations[3].episode_id == "d-new"


@pytest.mark.parametrize("older", [False, True])
def test_without_labels_of_people_a_dataset_is_simply_replaced(staging, tmp_path, older):
    out = assemble(staging, tmp_path / "out", robot_type="arm")
    first = open_dataset(out)
    if older:
        forget_hash(out)
    assert open_dataset(assemble(staging, out, robot_type="arm")).demonstrations == first.demonstrations
    fewer = open_dataset(assemble(staging, out, robot_type="arm", ids=[SUCCESS.episode_id]))
    assert len(fewer.demonstrations) == 1 and read_info(out).labels_hash


def test_labels_that_would_be_lost_are_kept_by_refusing(labelled, staging):
    before = digest(labelled)

    def refused(match: str, **how: object) -> None:
        with pytest.raises(VineError, match=match):
            assemble(staging, labelled, robot_type="arm", **how)
        assert digest(labelled) == before
        assert [p.name for p in labelled.parent.glob(".*")] == []

    refused("c-unknown, which is not to be in it", ids=[SUCCESS.episode_id, FAILURE.episode_id])
    path = staged_path(staging, UNKNOWN.episode_id)
    path.unlink()
    refused("c-unknown, which is not staged any more")
    other = UNKNOWN.__class__(UNKNOWN.episode_id, UNKNOWN.length + 1, (), EpisodeOutcome.FAILURE)
    record(staging, other)
    refused("c-unknown, which was recorded anew")
    refused("calibration share 5", calibration_share=5)


def test_killed_while_changing_places_the_old_dataset_comes_back(labelled, staging):
    """What is left after a kill between the two renames: the old folder set aside, the new one not there."""
    before, gone = open_dataset(labelled).demonstrations, _dead_process()
    half = labelled.with_name(f".{labelled.name}.{gone}.tmp")
    shutil.copytree(labelled, half)
    labelled.rename(labelled.with_name(f".{labelled.name}.old.{gone}.tmp"))
    assemble(staging, labelled, robot_type="arm")
    assert open_dataset(labelled).demonstrations == before
    assert sorted(p.name for p in labelled.parent.iterdir()) == ["out", "staging"]


def _dead_process() -> int:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    return child
