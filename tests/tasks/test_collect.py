"""Collecting: repeatable episodes, resume, honest labels, interventions."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from demonstrations.test_transaction import digest

from vine_vla.cli import main
from vine_vla.compute.executor import LocalExecutor
from vine_vla.core.errors import VineError
from vine_vla.core.options import Collector, EpisodeOutcome, Outcome
from vine_vla.data import open_dataset, staged_ids
from vine_vla.data.annotate.labelling import Labeller
from vine_vla.data.record.staging import read_staged, staged_path
from vine_vla.tasks.base import OperatorDials
from vine_vla.tasks.collect import CollectConfig, collect, missing, record_operator
from vine_vla.tasks.interventions import NoviceActor, PolicyActor, record_intervention
from vine_vla.tasks.plug import TASK
from vine_vla.tasks.plug.task import PlugInsertion

HERE = LocalExecutor(0)
GOOD = OperatorDials(skill=(0.3, 0.3))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> CollectConfig:
    """Six collected episodes."""
    config = CollectConfig(tmp_path_factory.mktemp("collected") / "demos", "plug", 6)
    assert sorted(collect(config, HERE)) == list(range(6))
    return config


def test_collecting_again_finds_nothing_to_do(staged: CollectConfig) -> None:
    assert missing(staged) == [] and list(collect(staged, HERE)) == []


def test_labels_are_consistent(staged: CollectConfig) -> None:
    for name in staged_ids(staged.staging):
        episode = read_staged(staged_path(staged.staging, name))
        d = episode.demonstration
        assert d.length == len(episode.action) == len(episode.proprioception)
        assert d.collector is Collector.OPERATOR and d.scene is not None
        assert d.segments[0].start == 0 and d.segments[-1].end == d.length
        assert {s.start for s in d.segments} <= set(d.graphs) and d.length in d.graphs
        last = d.segments[-1].outcome
        if d.outcome is EpisodeOutcome.SUCCESS:
            assert last is Outcome.REACHED and d.failure_kind is None and d.onset_frame is None
        else:
            assert last is Outcome.DEAD and d.failure_kind
        if d.onset_frame is not None:
            assert d.segments[-1].start <= d.onset_frame < d.segments[-1].end


def test_an_episode_depends_on_seed_and_number_alone(staged: CollectConfig, tmp_path: Path) -> None:
    again = CollectConfig(tmp_path / "demos", "plug", 6)
    record_operator(PlugInsertion("demo"), again, 2)
    name = again.episode_id(2)
    first = read_staged(staged_path(staged.staging, name))
    second = read_staged(staged_path(again.staging, name))
    assert np.array_equal(first.action, second.action)
    assert np.array_equal(first.proprioception, second.proprioception)
    assert first.demonstration == second.demonstration
    assert first.videos == second.videos


class _Drifter:
    """A policy that only drifts aside: never done, always in need of help."""

    def start(self, subgoal, text, seed):  # type: ignore[no-untyped-def]
        self.rng = np.random.default_rng(seed)

    def act(self, observation, graph):  # type: ignore[no-untyped-def]
        from vine_vla.core.protocols import SkillOutput

        chunk = self.rng.normal(0, 0.003, (4, 5)).astype(np.float32)
        chunk[:, 4] = 1.0 if observation.proprioception[9] > 0 else -1.0
        return SkillOutput(chunk, 4, np.array([1, 0, 0], np.float32))


@pytest.mark.parametrize("actor", ["policy", "novice"])
def test_an_expert_comes_back_from_wherever_others_got_to(tmp_path: Path, actor: str) -> None:
    config, task = CollectConfig(tmp_path / "demos", "plug", 6, operators=GOOD), PlugInsertion("demo")
    who = PolicyActor(task, TASK.schema, _Drifter()) if actor == "policy" else NoviceActor(TASK, task)
    ends: dict[str, list[bool]] = {"grasp": [], "insert": []}
    for number in range(config.episodes):
        d = read_staged(record_intervention(task, who, config, number)).demonstration
        assert d.collector is Collector.INTERVENTION
        for before, after in pairwise(d.segments):
            if before.outcome is Outcome.CENSORED:
                assert before.subgoal == after.subgoal and before.end == after.start
                verb = after.subgoal.verb.split("_")[0]
                ends.setdefault(verb, []).append(after.outcome is Outcome.REACHED)
    assert len(ends["grasp"]) >= 3 and all(ends["grasp"])
    assert sum(ends["insert"]) >= 2  # some plans are spoilt, which nobody knew


class _Dropper(_Drifter):
    """A policy that soon opens its hand."""

    def start(self, subgoal, text, seed):  # type: ignore[no-untyped-def]
        super().start(subgoal, text, seed)
        self.chunks = 0

    def act(self, observation, graph):  # type: ignore[no-untyped-def]
        out = super().act(observation, graph)
        out.actions[:, 4] = -1.0 if self.chunks else out.actions[:, 4]
        self.chunks += 1
        return out


@pytest.mark.parametrize("watchful", [0.0, 1.0])
def test_a_drop_is_seen_coming_or_shown(tmp_path: Path, watchful: float) -> None:
    config = CollectConfig(tmp_path / "demos", "plug", 1, operators=GOOD)
    task = PlugInsertion("demo")
    path = record_intervention(task, PolicyActor(task, TASK.schema, _Dropper()), config, 2, watchful)
    d = read_staged(path).demonstration
    carried = [s.outcome for s in d.segments if s.subgoal and s.subgoal.verb == "insert"]
    assert carried[0] in ([Outcome.CENSORED] if watchful else [Outcome.SLIPPED, Outcome.DEAD])


class _Renamed:
    """Eyes that call the sockets otherwise."""

    def __init__(self, task: PlugInsertion) -> None:
        self.task, self.names = task, {"socket_1": "socket_3", "socket_3": "socket_1"}

    def perceive(self, observations, instructions, earlier=None):  # type: ignore[no-untyped-def]
        graph = self.task.true_graph()
        objects = tuple(replace(o, id=self.names.get(o.id, o.id)) for o in graph.objects)
        return [replace(graph, objects=objects, relations=())]


class _Listener(_Drifter):
    """Writes down where the argument it was told stands in the graph it is given."""

    def start(self, subgoal, text, seed):  # type: ignore[no-untyped-def]
        super().start(subgoal, text, seed)
        self.subgoal = subgoal
        self.heard = getattr(self, "heard", [])

    def act(self, observation, graph):  # type: ignore[no-untyped-def]
        self.heard.append((self.subgoal.verb, graph[self.subgoal.args[-1]].boxes["front"]))
        return super().act(observation, graph)


def test_a_policy_is_told_the_names_that_its_eyes_give(tmp_path: Path) -> None:
    task = PlugInsertion("demo")
    boxes = []
    for eyes in (None, _Renamed(task)):
        policy = _Listener()
        folder = tmp_path / str(len(boxes))
        record_intervention(
            task, PolicyActor(task, TASK.schema, policy, eyes), CollectConfig(folder, "plug", 1), 1
        )
        boxes.append(policy.heard)
    assert boxes[0] == boxes[1] and any(verb == "insert" for verb, _ in boxes[0])


def test_pushes_change_the_way_but_are_not_in_the_actions(tmp_path: Path) -> None:
    calm = CollectConfig(tmp_path / "calm", "plug", 1, operators=OperatorDials(disturbance=0))
    pushed = CollectConfig(tmp_path / "pushed", "plug", 1, operators=OperatorDials(disturbance=2))
    task = PlugInsertion("demo")
    spread = []
    for config in (calm, pushed):
        episode = read_staged(record_operator(task, config, 0))
        commanded = episode.proprioception[:, :3].astype(float)
        cos, sin = episode.proprioception[:, 3], episode.proprioception[:, 4]
        lag = episode.proprioception[:, 6:9]
        commanded += np.stack(
            [cos * lag[:, 0] - sin * lag[:, 1], sin * lag[:, 0] + cos * lag[:, 1], lag[:, 2]], 1
        )
        # Step of the commanded set-point against the length of the recorded action: equal unless somebody
        # pushed.
        steps = np.linalg.norm(np.diff(commanded[:, :2], axis=0), axis=1)
        spread.append(np.abs(steps - np.linalg.norm(episode.action[:-1, :2], axis=1)).max())
    assert spread[0] < 0.0005 < 0.004 < spread[1]


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(VineError, match="episodes"):
        CollectConfig(tmp_path / "demos", "plug", 0)
    with pytest.raises(VineError, match="LEAST GREATEST"):
        CollectConfig(tmp_path / "demos", "plug", 1, operators=OperatorDials(skill=(1.0, 0.5)))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"skill": (0.2, 0.4)}, "skill was [0.5, 1.0], now [0.2, 0.4]"),
        ({"disturbance": 0.0}, "disturbance was 1.0, now 0.0"),
        ({"awareness": 0.5}, "awareness was 0.0, now 0.5"),
    ],
)
def test_a_collection_is_not_resumed_with_other_settings(
    staged: CollectConfig, change: dict[str, object], line: str
) -> None:
    before = digest(staged.staging)
    with pytest.raises(VineError, match=re.escape(line)):
        list(collect(replace(staged, episodes=9, operators=OperatorDials(**change)), HERE))
    assert digest(staged.staging) == before


def test_the_command_refuses_other_settings_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another seed, split or skill: nothing is staged, nothing assembled anew, labels stay."""
    out, episode = tmp_path / "demos", "plug-s0-00000"
    command = ["collect", "--out", str(out), "--episodes", "1", "--workers", "0"]
    assert main(command) == 0
    Labeller(out).set_outcome(episode, EpisodeOutcome.TRUNCATED)
    before = digest(tmp_path)
    capsys.readouterr()
    for more, line in (
        (["--seed", "1"], "seed was 0, now 1"),
        (["--split", "pushed-demo"], "split was demo, now pushed-demo"),
        (["--skill", ".2", ".2"], "skill was [0.5, 1.0], now [0.2, 0.2]"),
        (["--habit", ".5"], "habit was 0.85, now 0.5"),
    ):
        assert main([*command, *more]) == 2
        said = [x for x in capsys.readouterr().err.splitlines() if x.startswith("vine: ")]
        assert len(said) == 1 and line in said[0]
        assert digest(tmp_path) == before
    assert main(command) == 0
    assert open_dataset(out).demonstrations[0].outcome is EpisodeOutcome.TRUNCATED


@pytest.mark.slow
def test_a_killed_collection_goes_on(tmp_path: Path) -> None:
    """kill -9 at some moment: what was finished stays, the rest is collected afterwards."""
    out = tmp_path / "demos"
    command = [
        sys.executable,
        "-m",
        "vine_vla",
        "collect",
        "--out",
        str(out),
        "--episodes",
        "4",
        "--workers",
        "1",
    ]
    if not _has_main():
        command[1:3] = ["-c", "import sys; from vine_vla.cli import main; sys.exit(main())"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ, start_new_session=True)
    staging = tmp_path / "demos.staging"
    deadline = time.monotonic() + 300
    while not staged_ids(staging) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    there = staged_ids(staging)
    assert there and not out.exists()
    before = {name: staged_path(staging, name).stat().st_mtime_ns for name in there}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert {name: staged_path(staging, name).stat().st_mtime_ns for name in there} == before
    assert len(open_dataset(out).demonstrations) == 4


def _has_main() -> bool:
    import importlib.util

    return importlib.util.find_spec("vine_vla.__main__") is not None
