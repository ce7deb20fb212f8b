"""The executor: answers, errors, Ctrl-C, and workers that never outlive their parent."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest
from compute import jobs

from vine_vla.compute.executor import LocalExecutor
from vine_vla.core.errors import VineError

TESTS = Path(__file__).parents[1]


def pids(folder: Path) -> list[int]:
    return [int(file.name.split("-")[1]) for file in folder.glob("pid-*")]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(folder: Path, code: str) -> subprocess.Popen:
    """A driver of its own, as a script."""
    script = folder / "driver.py"
    script.write_text(textwrap.dedent(code))
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "PIDS": str(folder)}
    return subprocess.Popen(
        [sys.executable, str(script)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


DRIVER = """
    import sys
    from functools import partial
    from pathlib import Path
    from compute.jobs import Worker
    from vine_vla.compute.executor import LocalExecutor

    if __name__ == "__main__":
        folder = Path({folder!r})
        for answer in LocalExecutor(2).map(partial(Worker, folder, {seconds}), range(100)):
            print(answer, flush=True)
"""


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_job_is_answered_once(tmp_path, workers):
    answers = list(LocalExecutor(workers).map(partial(jobs.Worker, tmp_path), range(20)))
    assert sorted(answers) == [n**2 for n in range(20)]
    assert len(pids(tmp_path)) == max(workers, 1)
    assert (pids(tmp_path) == [os.getpid()]) == (workers == 0)
    assert not any(alive(pid) for pid in pids(tmp_path) if pid != os.getpid())
    if workers < 2:
        assert answers == sorted(answers)


def test_no_jobs_make_no_worker(tmp_path):
    for workers in (0, 2):
        assert list(LocalExecutor(workers).map(partial(jobs.Worker, tmp_path), ())) == []
    assert pids(tmp_path) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_as_it_was_raised_and_drops_the_rest(tmp_path, workers):
    answers = []
    with pytest.raises(VineError, match="a bad number") as caught:
        for answer in LocalExecutor(workers).map(partial(jobs.Worker, tmp_path, 0.05, 3), range(50)):
            answers.append(answer)
    assert caught.value.where == "3" and caught.value.hint == "give another"
    assert len(answers) <= 4 and len(list(tmp_path.glob("begun-*"))) <= 6
    assert not any(alive(pid) for pid in pids(tmp_path) if pid != os.getpid())


def test_an_error_while_a_worker_is_made_keeps_its_line():
    with pytest.raises(VineError, match="no such run directory") as caught:
        list(LocalExecutor(2).map(jobs.refuse, range(3)))
    assert "in refuse" in caught.value.__notes__[0]


def test_an_error_that_cannot_be_pickled_is_told():
    with pytest.raises(RuntimeError, match="OwnError: 1 and 2"):
        list(LocalExecutor(1).map(jobs.make_fail, [0]))


def test_a_worker_that_dies_is_told_in_one_line():
    with pytest.raises(VineError, match="ended by SIGKILL.*fewer workers"):
        list(LocalExecutor(1).map(jobs.make_vanish, [0]))


def test_what_cannot_be_pickled_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(Exception, match="pickle"):
        list(LocalExecutor(1).map(lambda: jobs.threads, [0]))
    with pytest.raises(Exception, match="pickle"):
        list(LocalExecutor(1).map(partial(jobs.Worker, tmp_path), [lambda: 0]))
    wait_until(lambda: not any(map(alive, pids(tmp_path))))


def test_a_worker_has_one_thread():
    assert list(LocalExecutor(2).map(jobs.make_threads, range(2))) == [("1", 1)] * 2


def test_workers_end_when_the_answers_are_not_wanted_any_more(tmp_path):
    answers = LocalExecutor(2).map(partial(jobs.Worker, tmp_path, 0.2), range(100))
    assert next(answers) in (0, 1)
    answers.close()
    assert len(pids(tmp_path)) == 2 and not any(map(alive, pids(tmp_path)))


def test_a_script_may_define_its_worker_itself_and_must_guard_its_start(tmp_path):
    code = """
        from vine_vla.compute.executor import LocalExecutor

        def make():
            return len

        def run():
            print(sorted(LocalExecutor(2).map(make, ["a", "bb", "ccc"])))

        if __name__ == "__main__":
            run()
    """
    done = start(tmp_path, code)
    assert done.communicate(timeout=60)[0].strip() == "[1, 2, 3]"
    unguarded = start(tmp_path, code.replace('if __name__ == "__main__":', "if True:"))
    assert "bootstrapping phase" in unguarded.communicate(timeout=60)[0] and unguarded.returncode == 1


def test_ctrl_c_waits_for_the_jobs_under_way_and_hands_them_out(tmp_path):
    driver = start(tmp_path, DRIVER.format(folder=str(tmp_path), seconds=1.5))
    wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=60)[0]
    assert "finishing the jobs under way" in said and "KeyboardInterrupt" in said
    assert {"0", "1"} <= set(said.split()) and len(list(tmp_path.glob("begun-*"))) == 2
    assert not any(map(alive, pids(tmp_path)))


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    driver = start(tmp_path, DRIVER.format(folder=str(tmp_path), seconds=60))
    wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=20)
    assert not any(map(alive, pids(tmp_path)))


def children(pid: int) -> list[int]:
    """Processes that `pid` has started, by any of its threads."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in file.read_text().split()]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("seed", range(4))
def test_no_worker_outlives_a_killed_parent(tmp_path, seed):
    """Killed at a random moment: between a worker's start and its work."""
    driver = start(tmp_path, DRIVER.format(folder=str(tmp_path), seconds=0.05))
    wait_until(lambda: children(driver.pid))
    time.sleep(random.Random(seed).uniform(0, 0.6))
    workers = children(driver.pid)
    driver.kill()
    driver.wait()
    assert workers
    wait_until(lambda: not any(map(alive, {*workers, *pids(tmp_path)})), 5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("where", ["factory", "main"])
def test_a_worker_dies_with_its_parent_in_the_middle_of_its_imports(tmp_path, where):
    slow = "import compute.slow_import\n" if where == "main" else ""
    driver = start(
        tmp_path,
        textwrap.dedent("""
            if __name__ != "__main__":
                {slow}
            from vine_vla.compute.executor import LocalExecutor

            class Named:
                def __reduce__(self):
                    from importlib import import_module
                    return import_module, ("compute.slow_import",)

            if __name__ == "__main__":
                list(LocalExecutor(2).map(Named(), range(2)))
        """).format(slow=slow or "pass"),
    )
    wait_until(lambda: len(pids(tmp_path)) == 2)
    workers = pids(tmp_path)
    assert all(map(alive, workers))
    driver.kill()
    driver.wait()
    wait_until(lambda: not any(map(alive, workers)), 5)
