"""Annotation is one transaction: what is refused changes nothing, a kill leaves one whole set of labels."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vine_vla import EpisodeOutcome, Outcome, VineError
from vine_vla.cli import main
from vine_vla.core.options import OutcomeSource
from vine_vla.data import open_dataset
from vine_vla.data.annotate.annotation import Sources, annotate
from vine_vla.data.annotate.labelling import Labeller
from vine_vla.data.annotate.repair import examine

DATA = Path(__file__).parents[1] / "data"
EXCERPT = DATA / "cr5_excerpt"
STARTS = ((0, 86), (0, 153), (0, 210), (1, 71))
"""Episode and first frame of the labelled grasps."""
STICK = {"label": "usb_stick", "box": [79, 233, 123, 274]}
BOOK = {"label": "book", "box": [333, 257, 569, 461]}
GRIPPER = {"label": "gripper", "box": [80, 200, 122, 240]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXCERPT, tmp_path / "data"))


def digest(root: Path) -> str:
    """A hash over names, kinds and contents of everything under `root`, hidden files too."""
    found = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        found.update(f"{path.relative_to(root)} {path.is_dir()} {path.is_symlink()}".encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def row(episode: int, frame: int, *objects: dict, **other: object) -> dict:
    fixed = {"camera": "observation.images.top", "image_size": [640, 480]}
    return {"episode_index": episode, "frame_index": frame, **fixed, "objects": list(objects), **other}


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def boxes(path: Path, *objects: dict) -> Path:
    """The same objects where each labelled grasp begins."""
    return lines(path, *(row(e, f, *objects) for e, f in STARTS))


def grasps(root: Path) -> list[tuple[str, str, Outcome]]:
    return [
        (str(s.subgoal), s.text, s.outcome) for d in open_dataset(root).demonstrations for s in d.segments
    ]


ENDS = [Outcome.SLIPPED, Outcome.SLIPPED, Outcome.REACHED, Outcome.REACHED]


@pytest.mark.parametrize("first", ["labels", "boxes"])
@pytest.mark.parametrize(
    "objects",
    [(STICK,), (STICK, GRIPPER), ({**STICK, "held": True}, BOOK, GRIPPER), ({**STICK, "id": "stick_7"},)],
)
def test_labels_and_boxes_fit_in_any_order(data, tmp_path, first, objects):
    box_file = boxes(tmp_path / "boxes.jsonl", *objects)
    both = {"labels": ["--labels", str(data / "labels.jsonl")], "boxes": ["--boxes", str(box_file)]}
    for name in (first, *(n for n in both if n != first)):
        assert main(["annotate", str(data), *both[name]]) == 0
    name = objects[0].get("id", "usb_stick")
    assert grasps(data) == [(f"grasp({name})", "grasp the usb stick", end) for end in ENDS]
    dataset = open_dataset(data)
    assert "object" not in dataset.schema.classes
    assert {s.outcome_source for d in dataset.demonstrations for s in d.segments} == {OutcomeSource.HUMAN}
    for command in ("inspect", "doctor"):
        assert main([command, str(data)]) == 0


def refused(data: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """`vine annotate data ARGUMENTS` says one line, ends with 2 and changes nothing; the line."""
    before = digest(data)
    capsys.readouterr()
    assert main(["annotate", str(data), *map(str, arguments)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("vine: error: ")
    assert digest(data) == before
    return said[0]


def test_what_is_grasped_must_be_clear(data, tmp_path, capsys):
    assert main(["annotate", str(data), "--labels", str(data / "labels.jsonl")]) == 0
    two = boxes(tmp_path / "two.jsonl", STICK, BOOK)
    assert "--grasped CLASS" in refused(data, capsys, "--boxes", two)
    assert "0 objects are a cup" in refused(data, capsys, "--boxes", two, "--grasped", "cup")
    twins = boxes(tmp_path / "twins.jsonl", STICK, {"label": "usb_stick", "box": [300, 233, 323, 274]})
    assert "2 objects are a usb_stick" in refused(data, capsys, "--boxes", twins)
    assert main(["annotate", str(data), "--boxes", str(two), "--grasped", "book"]) == 0
    assert {g[0] for g in grasps(data)} == {"grasp(book)"}


@pytest.mark.parametrize("annotated_before", [False, True])
def test_contradictions_are_refused(data, tmp_path, capsys, annotated_before):
    if annotated_before:
        assert main(["annotate", str(data), "--labels", str(data / "labels.jsonl")]) == 0
    file = tmp_path / "file"
    file.write_text("episode,outcome\n0,success\nepisode_000000,failure\n")
    assert "a second outcome for episode 0" in refused(data, capsys, "--outcomes", file)
    file.write_text("episode,outcome\n0,failure\n")
    said = refused(data, capsys, "--outcomes", file, "--labels", data / "labels.jsonl")
    assert "a second outcome for episode 0" in said
    lines(file, *({"episode_index": 0, "success": s} for s in (True, False)))
    assert "a second outcome for episode 0" in refused(data, capsys, "--labels", file)
    attempt = {"close_frame": 9, "open_frame": 20, "outcome": "missed"}
    lines(file, *[{"episode_index": 0, "grasp_attempts": [attempt]}] * 2)
    assert "grasp_attempts of episode 0 stand twice" in refused(data, capsys, "--labels", file)
    lines(file, row(0, 5, STICK), row(0, 5, BOOK, camera="top"))
    assert "boxed twice" in refused(data, capsys, "--boxes", file)
    for size in ([480, 640], [640, 640], [640, 0], [640], [640, 480, 3], "big"):
        small = {"label": "cup", "box": [1, 1, 9, 9]}
        assert "image_size" in refused(
            data, capsys, "--boxes", lines(file, row(0, 5, small, image_size=size))
        )
    labels = ("--labels", data / "labels.jsonl")
    for share in ("5", "-.1", "nan"):
        assert "between 0 and 1" in refused(data, capsys, *labels, "--calibration-share", share)
    lines(file, {"episode_index": 0, "start": 5, "end": 9, "verb": "lift", "args": ["cup"], "outcome": None})
    first = lines(tmp_path / "first", row(0, 5, STICK))
    assert "does not fit" in refused(data, capsys, "--boxes", first, "--subgoals", file)


def test_bad_places_for_out_are_refused(data, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    other = Path(shutil.copytree(EXCERPT, tmp_path / "other"))
    labels = ("--labels", data / "labels.jsonl")
    annotate(other, Sources(labels=other / "labels.jsonl"), tmp_path / "linked")
    before = digest(tmp_path)
    for out in (
        *(data, data / ".", data / "data", data / "data/deeper", data / "meta", data / "new"),
        *(tmp_path / "file", tmp_path / "file/deeper", tmp_path / "linked", other, tmp_path),
        Path("/proc/no-such-place"),
    ):
        assert str(out) in refused(data, capsys, *labels, "--out", out)
        assert digest(tmp_path) == before
        with pytest.raises(VineError):
            Labeller(data, out)
        assert digest(tmp_path) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from vine_vla.data.annotate.annotation import Sources, annotate
from vine_vla.data.annotate.labelling import Labeller
from vine_vla.core.options import EpisodeOutcome

data, box_file, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
import vine_vla.storage.transaction  # everything is imported before the first fork
import pyarrow.parquet as pq
from vine_vla.data import open_dataset
open_dataset(data)
calls = {"replace": os.replace, "rename": os.rename, "fsync": os.fsync, "unlink": os.unlink}


def once(at):
    count = 0

    def counting(name):
        def call(*a, **k):
            nonlocal count
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return calls[name](*a, **k)
        return call

    for name in calls:
        setattr(os, name, counting(name))
    import pathlib
    if how == "annotate":
        annotate(data, Sources(boxes=box_file))
    else:
        Labeller(data).set_outcome("episode_000001", EpisodeOutcome.FAILURE)


once(int(sys.argv[4]))
"""


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("how", ["annotate", "label"])
def test_a_kill_at_any_write_leaves_the_old_labels_or_the_new(data, tmp_path, how):
    """Real kills: the victim is forked for every moment, until it ends by itself."""
    box_file = boxes(tmp_path / "boxes.jsonl", STICK)
    annotate(data, Sources(labels=data / "labels.jsonl"))
    pristine = Path(shutil.copytree(data, tmp_path / "pristine"))
    old = open_dataset(data).demonstrations

    def state() -> object:
        dataset = open_dataset(data)
        return dataset.demonstrations, dataset.schema, [dataset.boxes(i) for i in range(2)]

    before, seen, moment = state(), [], 0
    while True:
        shutil.rmtree(data)
        shutil.copytree(pristine, data)
        code = _killed_at(moment, data, box_file, how)
        found = state()
        assert sorted(p.name for p in data.iterdir()) == sorted(p.name for p in pristine.iterdir())
        seen.append(found)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        if moment % 4 == 0:  # whoever comes next goes on from there, and tidies up
            Labeller(data).set_outcome("episode_000000", EpisodeOutcome.TRUNCATED)
            again = open_dataset(data).demonstrations
            assert again[0].outcome is EpisodeOutcome.TRUNCATED
            assert again[1] == found[0][1] and not list((data / "meta").glob(".*"))
        moment += 1
    after = seen[-1]
    assert after != before and before[0] == old
    assert all(s in (before, after) for s in seen)
    assert seen == sorted(seen, key=lambda s: s == after)  # once committed it stays
    assert before in seen[:-1] and after in seen[:-1] and moment > 8


def _killed_at(moment: int, data: Path, box_file: Path, how: str) -> int:
    """Do it in a forked process, killed at the call `moment` that renames, unlinks or syncs."""
    victim = os.fork()
    if victim == 0:
        code = 1
        try:
            sys.argv = ["", str(data), str(box_file), how, str(moment)]
            exec(compile(KILLED, "killed", "exec"), {"__name__": "killed"})
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1])


def test_readers_never_meet_a_mixture(data, tmp_path):
    """Another process swaps two sets of labels as fast as it can; what is read is always one of them."""
    code = """
import sys
from pathlib import Path
from vine_vla.data.annotate.annotation import Sources, annotate
data, labels, other = map(Path, sys.argv[1:])
while True:
    annotate(data, Sources(labels=labels))
    annotate(data, Sources(labels=other))
    print(flush=True)
"""
    other = lines(
        tmp_path / "other.jsonl",
        *(
            {
                "episode_index": e,
                "success": False,
                "grasp_attempts": [{"close_frame": 3, "open_frame": 9, "outcome": "missed"}],
            }
            for e in range(2)
        ),
    )
    arguments = [sys.executable, "-c", code, data, data / "labels.jsonl", other]
    writer = subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, env=os.environ)
    try:
        assert writer.stdout is not None and writer.stdout.readline()
        found = set()
        for _ in range(40):
            demonstrations = open_dataset(data).demonstrations
            found.add(tuple((d.outcome, len(d.segments)) for d in demonstrations))
    finally:
        writer.kill()
        writer.wait()
    assert found <= {
        ((EpisodeOutcome.SUCCESS, 3), (EpisodeOutcome.SUCCESS, 1)),
        ((EpisodeOutcome.FAILURE, 1), (EpisodeOutcome.FAILURE, 1)),
    }


def bricked(data: Path) -> Path:
    """Sidecars as labels first and boxes afterwards left them before annotation was a transaction."""
    for file in (DATA / "bricked_sidecars").iterdir():
        shutil.copy(file, data / "meta")
    with pytest.raises(VineError, match=r"grasp\(object\) does not fit"):
        open_dataset(data)
    return data


def test_doctor_says_what_is_wrong_and_writes_nothing(data, capsys):
    before = digest(bricked(data))
    assert main(["doctor", str(data)]) == 1
    said = capsys.readouterr().out
    assert "grasp(object) does not fit" in said and "--repair" in said and said.count("to repair:") == 4
    assert digest(data) == before


@pytest.mark.parametrize(("grasped", "name"), [("usb_stick", "grasp(usb_stick)"), (None, "grasp_unnamed()")])
def test_doctor_repairs_what_older_versions_left(data, capsys, grasped, name):
    bricked(data)
    extra = ["--grasped", grasped] if grasped else []
    assert main(["doctor", str(data), "--repair", *extra]) == 0
    assert [(g[0], g[2]) for g in grasps(data)] == [(name, end) for end in ENDS]
    dataset = open_dataset(data)
    assert [(d.outcome, d.outcome_source) for d in dataset.demonstrations] == [
        (EpisodeOutcome.SUCCESS, OutcomeSource.HUMAN)
    ] * 2
    assert [(s.start, s.end) for d in dataset.demonstrations for s in d.segments] == [
        *((86, 127), (153, 183), (210, 281), (71, 156))
    ]
    assert sum(len(d.graphs) for d in dataset.demonstrations) == 5
    assert sum(len(dataset.box_table(i).frame) for i in range(2)) == 14
    assert examine(data).fault is None
    before = digest(data)
    for arguments in (["doctor", str(data)], ["doctor", str(data), "--repair"], ["inspect", str(data)]):
        assert main(arguments) == 0
    assert digest(data) == before
    capsys.readouterr()


def test_doctor_does_not_repair_what_it_cannot(data, capsys):
    (data / "meta/vine.json").write_text("{")
    before = digest(data)
    assert main(["doctor", str(data)]) == 1
    assert main(["doctor", str(data), "--repair"]) == 2
    assert digest(data) == before
    assert main(["doctor", str(data / "meta")]) == 2
    assert main(["doctor", "--repair"]) == 2
    capsys.readouterr()
