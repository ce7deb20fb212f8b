"""kill -9 at any moment loses at most the running episode."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from demonstrations.episodes import PLANS, SUCCESS, record, record_all

from vine_vla import EpisodeOutcome, Outcome
from vine_vla.data import assemble, open_dataset, staged_ids
from vine_vla.data.record.staging import read_staged, staged_path

COLLECT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from dataclasses import replace
from demonstrations.episodes import SUCCESS, record
from vine_vla.data import staged_ids
staging = Path(sys.argv[1])
for number in range(200):
    name = f"e{{number:03d}}"
    if name not in staged_ids(staging):
        record(staging, replace(SUCCESS, episode_id=name))
        print(name, flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", code.format(tests=tests), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)


def kill_after_lines(process: subprocess.Popen[str], lines: int, wait: float) -> list[str]:
    """Let it print `lines` lines, wait so many seconds, kill it; what it printed in all."""
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(lines)]
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    said += [line.strip() for line in process.stdout.read().splitlines()]
    process.wait()
    return said


def test_collecting_loses_at_most_the_running_episode(tmp_path):
    rng = np.random.default_rng(0)
    finished: list[str] = []
    for _ in range(4):
        process = start(COLLECT, tmp_path / "staging")
        finished += kill_after_lines(process, 3, float(rng.uniform(0, 0.15)))
        staged = staged_ids(tmp_path / "staging")
        assert set(finished) <= staged  # what was said to be finished is there
        assert len(staged) - len(set(finished)) <= 1  # at most one was staged and killed before saying so
        finished = sorted(staged)
        for name in staged:
            episode = read_staged(staged_path(tmp_path / "staging", name))
            assert len(episode.action) == SUCCESS.length
    assert finished == [
        f"e{i:03d}" for i in range(len(finished))
    ]  # each was resumed where the last one ended
    dataset = open_dataset(assemble(tmp_path / "staging", tmp_path / "out", robot_type="arm"))
    assert [d.episode_id for d in dataset.demonstrations] == finished
    assert dataset.images(len(finished) - 1, None, "front").shape[0] == SUCCESS.length


def killed_assembly(folder: Path, steps: int, wait: float) -> None:
    """Assemble again and again, kill it after so many episodes: a whole dataset or none, and no rest later.

    The victim is forked, since a fresh process would spend seconds on importing.
    """
    assemble(folder / "staging", folder / "warm", robot_type="arm")  # everything is imported before the fork
    reader, writer = os.pipe()
    victim = os.fork()
    if victim == 0:
        try:
            while True:
                assemble(
                    *(folder / "staging", folder / "out"),
                    robot_type="arm",
                    progress=lambda done, of: os.write(writer, b"."),
                )
        finally:
            os._exit(1)
    os.close(writer)
    for _ in range(steps):
        assert select.select([reader], [], [], 60)[0] and os.read(reader, 1) == b"."
    time.sleep(wait)
    os.kill(victim, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1]) == -signal.SIGKILL
    os.close(reader)
    if (folder / "out").exists():
        assert len(open_dataset(folder / "out").demonstrations) == len(PLANS)
    dataset = open_dataset(assemble(folder / "staging", folder / "out", robot_type="arm"))
    assert len(dataset.demonstrations) == len(PLANS)
    assert sorted(p.name for p in folder.iterdir()) == ["out", "staging", "warm"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("steps", "wait"), [(1, 0.0), (3, 0.01), (3, 0.03), (6, 0.02), (8, 0.0)])
def test_a_killed_assembly_leaves_the_old_dataset_or_none(steps, wait, tmp_path):
    record_all(tmp_path / "staging")
    killed_assembly(tmp_path, steps, wait)


def test_half_a_staged_file_does_not_count(tmp_path):
    record(tmp_path, SUCCESS)
    path = staged_path(tmp_path, SUCCESS.episode_id)
    (tmp_path / f".{path.name}.123.tmp").write_bytes(path.read_bytes()[:1000])
    assert staged_ids(tmp_path) == {SUCCESS.episode_id}
    assert SUCCESS.outcome is EpisodeOutcome.SUCCESS and SUCCESS.segments[0][3] is Outcome.REACHED
