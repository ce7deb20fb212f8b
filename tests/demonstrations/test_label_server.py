"""The labelling page's server: labels are on disk when it answers, and it obeys its own page only."""

import http.client
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from demonstrations.command import MAIN, vine
from demonstrations.episodes import FAILURE, SUCCESS, UNKNOWN, record_all
from PIL import Image

from vine_vla import EpisodeOutcome, Outcome, VineError
from vine_vla.data import assemble, open_dataset
from vine_vla.data.annotate.annotation import Sources, annotate
from vine_vla.data.annotate.label_server import LabelServer
from vine_vla.data.annotate.labelling import Labeller
from vine_vla.data.sidecars.files import FILES

EXCERPT = Path(__file__).parents[1] / "data/cr5_excerpt"
FIRST, SECOND = "episode_000000", "episode_000001"


@contextmanager
def serving(labeller):
    with LabelServer(labeller) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(tmp_path):
    """Serves a copy of two real episodes that share one video file."""
    copy = Path(shutil.copytree(EXCERPT, tmp_path / "copy"))
    with serving(Labeller(copy)) as running:
        yield running


def ask(server, path, body=None, *, token=None, headers=None):
    """Status and body; `body` is posted as JSON, bytes as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} if data is not None else {}
    address = f"/{server.token if token is None else token}/{path}"
    connection.request("GET" if data is None else "POST", address, data, {**sent, **(headers or {})})
    answer = connection.getresponse()
    status, content = answer.status, answer.read()
    connection.close()
    return status, content


def files_of(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_label_is_on_disk_when_the_server_answers(server):
    root, before = server.labeller.root, files_of(server.labeller.root)
    status, body = ask(server, "label", {"episode": SECOND, "outcome": "failure"})
    assert (status, json.loads(body)["outcome"], json.loads(body)["source"]) == (200, "failure", "human")
    assert open_dataset(root).demonstrations[1].outcome is EpisodeOutcome.FAILURE
    assert ask(server, "label", {"episode": SECOND, "onset_frame": 41})[0] == 200
    assert open_dataset(root).demonstrations[1].onset_frame == 41
    assert ask(server, "label", {"episode": SECOND, "onset_frame": None})[0] == 200
    assert open_dataset(root).demonstrations[1].onset_frame is None
    assert ask(server, "label", {"episode": FIRST, "outcome": "truncated"})[0] == 200
    assert server.labeller.left == 0 and server.labeller.labelled == {FIRST, SECOND}
    assert ask(server, "label", {"episode": FIRST, "outcome": "unknown"})[0] == 200
    first = open_dataset(root).demonstrations[0]
    assert (first.outcome, first.outcome_source) == (EpisodeOutcome.UNKNOWN, None)
    after = files_of(root)
    assert set(after) - set(before) == set(FILES)
    assert all(after[name] == content for name, content in before.items())


def test_looking_writes_nothing(server):
    before = files_of(server.labeller.root)
    assert ask(server, "")[0] == 200
    state = json.loads(ask(server, "state")[1])
    assert [(e["id"], e["length"], e["outcome"]) for e in state["episodes"]] == [
        (FIRST, 302, "unknown"),
        (SECOND, 182, "unknown"),
    ]
    assert (state["fps"], state["cameras"]) == (10, ["top"])
    assert files_of(server.labeller.root) == before


@pytest.mark.parametrize("episode, frame", [(0, 0), (0, 301), (1, 0), (1, 17), (1, 181)])
def test_a_frame_is_the_one_that_the_dataset_has_under_its_number(server, episode, frame):
    """Also the first and last ones, beside which the neighbouring episode lies in the same file."""
    status, body = ask(server, f"frame/{episode}/top/{frame}")
    shown = np.asarray(Image.open(io.BytesIO(body)), float)
    nearby = [f for f in (frame - 3, frame, frame + 3) if 0 <= f < (302, 182)[episode]]
    wanted = server.labeller.dataset.images(episode, nearby, "top").astype(float)
    errors = np.abs(wanted - shown).mean((1, 2, 3))
    assert status == 200 and errors[nearby.index(frame)] == errors.min() < 3


@pytest.mark.parametrize(
    "path, words",
    [
        ("frame/7/top/0", "no episode 7 among 2"),
        ("frame/1/top/182", "frame 182 of 182"),
        ("frame/1/left/0", "no camera 'left'"),
        ("frame/1/top/-1", "nothing is here"),
        ("../meta/info.json", "nothing is here"),
        ("frame/0/../../../etc/passwd", "nothing is here"),
    ],
)
def test_what_is_not_there_is_said(server, path, words):
    status, body = ask(server, path)
    assert status == 404 and words in json.loads(body)["error"]


@pytest.mark.parametrize(
    "body, words",
    [
        ({"episode": "episode_000009", "outcome": "success"}, "no episode 'episode_000009' among 2"),
        ({"episode": FIRST, "outcome": "won"}, "unknown outcome 'won'"),
        ({"episode": FIRST, "outcome": True}, "unknown outcome True"),
        ({"episode": FIRST, "outcome": None}, "unknown outcome None"),
        ({"episode": FIRST, "onset_frame": 3}, "labelled unknown, an onset belongs to a failure"),
        ({"episode": SECOND, "onset_frame": 182}, "frame 182 of 182"),
        ({"episode": SECOND, "onset_frame": -1}, "frame -1 of 182"),
        ({"episode": SECOND, "onset_frame": 1.5}, "onset_frame is 1.5"),
        ({"episode": SECOND, "onset_frame": True}, "onset_frame is True"),
        ({"episode": SECOND, "onset_frame": 3, "outcome": "success"}, "either outcome or onset_frame"),
        ({"episode": SECOND}, "either outcome or onset_frame"),
        ({"episode": 1, "outcome": "success"}, "no label"),
        ([1], "no label"),
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 4000, "no"),
    ],
)
def test_a_bad_label_is_refused_and_changes_nothing(server, body, words):
    server.labeller.set_outcome(SECOND, EpisodeOutcome.FAILURE)
    before = files_of(server.labeller.root)
    status, answer = ask(server, "label", body)
    assert status == 400 and words in json.loads(answer)["error"]
    assert files_of(server.labeller.root) == before


@pytest.mark.parametrize(
    "status, options",
    [
        (403, {"token": "wrong"}),
        (403, {"token": ""}),
        (403, {"headers": {"Host": "evil.example"}}),
        (403, {"headers": {"Host": "evil.example:80"}}),
        (403, {"headers": {"Origin": "http://evil.example"}}),
        (403, {"headers": {"Origin": "null"}}),
        (415, {"headers": {"Content-Type": "text/plain"}}),
        (413, {"headers": {"Content-Length": "1000000"}}),
        (413, {"headers": {"Content-Length": "-5"}}),
    ],
)
def test_other_pages_cannot_label(server, status, options):
    before = files_of(server.labeller.root)
    said, body = ask(server, "label", {"episode": FIRST, "outcome": "success"}, **options)
    assert said == status and json.loads(body)["error"]
    if "token" in options or "Host" in options.get("headers", {}):
        assert ask(server, "state", **options)[0] == ask(server, "frame/0/top/0", **options)[0] == 403
    assert files_of(server.labeller.root) == before


def test_the_page_may_load_nothing_from_elsewhere(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", f"/{server.token}/")
    answer = connection.getresponse()
    page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "http:" not in page and "https:" not in page and "{{" not in page


def test_labels_there_are_kept_and_follow_a_correction(tmp_path):
    """Judged segments stay; inferred ones follow the outcome; what belongs to a failure goes with it."""
    record_all(tmp_path / "staging")
    root = assemble(tmp_path / "staging", tmp_path / "recorded", robot_type="arm")
    old = {d.episode_id: d for d in open_dataset(root).demonstrations}
    labeller = Labeller(root)
    assert labeller.left == 1
    same = labeller.set_outcome(FAILURE.episode_id, EpisodeOutcome.FAILURE)
    assert (same.onset_frame, same.failure_kind, same.split) == (12, "jam", old[FAILURE.episode_id].split)
    labeller.set_outcome(UNKNOWN.episode_id, EpisodeOutcome.SUCCESS)
    changed = labeller.set_outcome(FAILURE.episode_id, EpisodeOutcome.TRUNCATED)
    assert (changed.onset_frame, changed.failure_kind) == (None, None)
    new = {d.episode_id: d for d in open_dataset(root).demonstrations}
    assert new[SUCCESS.episode_id] == old[SUCCESS.episode_id]
    assert {i: (d.segments, dict(d.graphs)) for i, d in new.items()} == {
        i: (d.segments, dict(d.graphs)) for i, d in old.items()
    }
    assert new[FAILURE.episode_id].outcome is EpisodeOutcome.TRUNCATED


def test_inferred_segments_follow_the_outcome(tmp_path):
    import pandas as pd

    copy = Path(shutil.copytree(EXCERPT, tmp_path / "copy"))
    path = next((copy / "meta/episodes").glob("*/*.parquet"))
    table = pd.read_parquet(path)
    for name, values in (("names", ["reach", "lift"]), ("start_frames", [0, 50]), ("end_frames", [49, 99])):
        table[f"dense_subtask_{name}"] = [values, None]
    table.to_parquet(path, index=False)
    labeller = Labeller(copy)

    def outcomes_after(outcome):
        labeller.set_outcome(FIRST, outcome)
        return [s.outcome for s in open_dataset(copy).demonstrations[0].segments]

    reached, dead, censored = Outcome.REACHED, Outcome.DEAD, Outcome.CENSORED
    assert outcomes_after(EpisodeOutcome.FAILURE) == [reached, dead]
    assert outcomes_after(EpisodeOutcome.SUCCESS) == [reached, reached]
    assert outcomes_after(EpisodeOutcome.UNKNOWN) == [censored, censored]


def test_gripper_phases_are_judged_by_nobody(tmp_path):
    copy = Path(shutil.copytree(EXCERPT, tmp_path / "copy"))
    annotate(copy, Sources(segments="gripper"))
    Labeller(copy).set_outcome(FIRST, EpisodeOutcome.FAILURE)
    assert {s.outcome for s in open_dataset(copy).demonstrations[0].segments} == {Outcome.CENSORED}


def test_two_programs_do_not_undo_each_other(tmp_path):
    copy = Path(shutil.copytree(EXCERPT, tmp_path / "copy"))
    page, other = Labeller(copy), Labeller(copy)
    page.set_outcome(FIRST, EpisodeOutcome.SUCCESS)
    other.set_outcome(SECOND, EpisodeOutcome.FAILURE)
    page.set_onset(SECOND, 7)
    found = [(d.outcome.value, d.onset_frame) for d in open_dataset(copy).demonstrations]
    assert found == [("success", None), ("failure", 7)]


def test_a_label_that_cannot_be_written_is_not_shown(tmp_path, monkeypatch):
    from vine_vla.data.sidecars import files as sidecars

    copy = Path(shutil.copytree(EXCERPT, tmp_path / "copy"))
    with serving(Labeller(copy)) as server:
        server.labeller.set_outcome(FIRST, EpisodeOutcome.SUCCESS)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(sidecars, "write_parquet", full)
        status, body = ask(server, "label", {"episode": FIRST, "outcome": "failure"})
        assert status == 500 and "No space left" in json.loads(body)["error"]
        assert json.loads(ask(server, "state")[1])["episodes"][0]["outcome"] == "success"


def test_no_label_after_the_end(tmp_path):
    labeller = Labeller(Path(shutil.copytree(EXCERPT, tmp_path / "copy")))
    labeller.close()
    with pytest.raises(VineError, match="labelling has ended"):
        labeller.set_outcome(FIRST, EpisodeOutcome.SUCCESS)


def test_a_port_in_use_and_a_missing_dataset_are_one_line(server, tmp_path):
    done = vine("annotate", server.labeller.root, "--page", "--port", server.server_port)
    assert done.returncode == 2 and done.stderr.startswith("vine: error: cannot listen on port")
    assert len(done.stderr.splitlines()) == 1
    done = vine("annotate", tmp_path / "none", "--page", "--out", tmp_path / "out")
    assert done.returncode == 2 and "no LeRobot dataset" in done.stderr and not (tmp_path / "out").exists()


def test_ctrl_c_ends_the_command_with_one_line(tmp_path):
    """As a user runs it: --out for a source that is to stay as it is, a label, Ctrl-C."""
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {MAIN}"
    command = [sys.executable, "-c", code, "annotate", str(EXCERPT), "--page", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert select.select([process.stdout], [], [], 120)[0]
        url = process.stdout.readline().strip()
        host, token = url.removeprefix("http://").rstrip("/").split("/")
        connection = http.client.HTTPConnection(host)
        label = json.dumps({"episode": SECOND, "outcome": "failure"})
        connection.request("POST", f"/{token}/label", label, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200  # the connection stays open, as a browser's does
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 0
    assert out == f"1 episodes labelled, 1 of 2 left without a label in {tmp_path / 'out'}\n"
    assert err.splitlines() == [
        "2 of 2 episodes have no label; open this address in your browser, Ctrl-C ends"
    ]
    assert open_dataset(tmp_path / "out").demonstrations[1].outcome is EpisodeOutcome.FAILURE
