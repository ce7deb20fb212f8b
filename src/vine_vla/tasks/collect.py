"""Collecting demonstrations: operators act, the recorder writes; or System 1 acts and an expert takes over.

Episode n is a pure function of (seed, n): its scene in the `demo` stream, the operator's skill and luck.
What was collected before is skipped, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from vine_vla.demos import EpisodeRecorder, staged_ids
from vine_vla.errors import VineError
from vine_vla.graph import SceneGraph
from vine_vla.graph_text import describe
from vine_vla.options import Collector, EpisodeOutcome, Outcome, OutcomeSource
from vine_vla.protocols import DONE, Skill
from vine_vla.tasks.expert import SUBGOAL_STEPS, Expert, SkillDial
from vine_vla.tasks.operators import Choice, Habits, Operator
from vine_vla.tasks.plug_insertion import PlugInsertion
from vine_vla.tasks.rollout import choice_status

MakeSkill = Callable[[], Skill]
"""Makes System 1 in a worker process; picklable."""


@dataclass(frozen=True)
class CollectConfig:
    """How demonstrations are made.

    Args:
        seed: of the whole collection; episodes of another seed are other episodes.
        skill: the operators' skill dial s is uniform in this range, one draw an episode.
        habits: how operators choose.
        injected: standard deviation (m) of noise added to the executed actions but not to the recorded ones,
            so that recoveries are demonstrated (DART, arXiv 1703.09327).
        injected_share: share of the episodes with such noise, in [0, 1].
        takeover: an expert takes over after a time uniform in this range of steps (interventions only).
    """

    seed: int = 0
    skill: tuple[float, float] = (0.4, 1.0)
    habits: Habits = field(default_factory=Habits)
    injected: float = 0.0015
    injected_share: float = 0.5
    takeover: tuple[int, int] = (4, 70)

    def __post_init__(self) -> None:
        if not 0 <= self.skill[0] <= self.skill[1]:
            raise VineError(f"skill range {self.skill}", mend="give low:high with 0 <= low <= high")


def episode_id(config: CollectConfig, number: int, collector: Collector) -> str:
    """Stable name of an episode, e.g. `plug_operator_0000_000017`."""
    return f"plug_{collector}_{config.seed:04d}_{number:06d}"


class _Session:
    """One episode under way: the environment, its recorder and the operator's hands."""

    def __init__(
        self, env: PlugInsertion, staging: Path, number: int, config: CollectConfig, who: Collector
    ) -> None:
        streams = np.random.SeedSequence([config.seed, number]).spawn(4)
        self.rng = np.random.default_rng(streams[0])
        self.env, self.number, self.config, self.who = env, number, config, who
        self.scene = config.seed * 1_000_000 + number
        env.reset(self.scene, number)
        self.noise = config.injected if self.rng.random() < config.injected_share else 0.0
        dial = SkillDial(scale=float(self.rng.uniform(*config.skill)))
        self.expert = Expert(dial, np.random.default_rng(streams[1]))
        self.operator = Operator(config.habits, np.random.default_rng(streams[2]))
        self.first = env.true_graph()
        self.recorder = EpisodeRecorder(
            staging,
            schema=env.SCHEMA,
            instruction=env.instruction,
            fps=env.FPS,
            episode_id=episode_id(config, number, who),
        )

    def graph(self) -> SceneGraph:
        return self.env.true_graph(self.first)

    def begin(self, choice: Choice) -> None:
        graph = self.graph()
        subgoal = self.env.subgoal(choice)
        self.recorder.start_segment(subgoal, describe(subgoal, graph, self.env.SCHEMA), graph)

    def act(self, action: np.ndarray, noise: float = 0.0) -> None:
        """Record the action on the present observation; execute it with noise added."""
        self.recorder.add_frame(self.env.observe(), action.astype(np.float32), self.env.true_boxes())
        executed = np.array(action, dtype=np.float64)
        executed[:3] += self.rng.normal(0, noise, 3) if noise > 0 else 0.0
        self.env.step(executed)

    def demonstrate(self, choice: Choice) -> Outcome:
        """The expert executes one subgoal to its end; what became of it."""
        for steps, action in enumerate(self.expert.run(self.env.sim, self.env.subgoal(choice), choice[1])):
            if steps >= SUBGOAL_STEPS:
                break
            self.act(action, self.noise)
        return choice_status(self.env.sim, choice) or Outcome.SLIPPED

    def finish(self) -> EpisodeOutcome:
        sim = self.env.sim
        outcome = EpisodeOutcome.SUCCESS if sim.success() else EpisodeOutcome.FAILURE
        kind = None if outcome is EpisodeOutcome.SUCCESS else self.env.failure_kind() or "gave_up"
        self.recorder.finish(
            outcome,
            OutcomeSource.SIMULATOR,
            final_graph=self.graph(),
            onset_frame=min(max(sim.onset - 1, 0), self.recorder.frames - 1) if sim.dead() else None,
            failure_kind=kind,
            scene=self.scene,
            seed=self.number,
            collector=self.who,
        )
        return outcome


def record_demonstration(
    env: PlugInsertion, staging: Path, number: int, config: CollectConfig
) -> EpisodeOutcome:
    """An operator's episode; failures are kept like successes."""
    session = _Session(env, staging, number, config, Collector.OPERATOR)
    session.operator.begin(env.scene)
    history: list[tuple[Choice, Outcome]] = []
    choice = session.operator.next(env.sim, history)
    while choice is not None:
        session.begin(choice)
        outcome = session.demonstrate(choice)
        history.append((choice, outcome))
        choice = session.operator.next(env.sim, history)
        if choice is None and outcome is Outcome.SLIPPED:
            outcome = Outcome.DEAD  # the operator gave up: the last segment of a failed episode
        session.recorder.end_segment(outcome, OutcomeSource.SIMULATOR)
    return session.finish()


def record_intervention(
    env: PlugInsertion, skill: Skill, staging: Path, number: int, config: CollectConfig
) -> EpisodeOutcome:
    """System 1 acts, an expert takes over after a while and finishes each subgoal.

    The policy's part of a subgoal is a segment of its own, `censored`. Plans are drawn evenly from those
    that no neighbour spoils: such episodes teach skills, not choices, and System 2 never trains on them.
    """
    session = _Session(env, staging, number, config, Collector.INTERVENTION)
    plans = env.scene.good_plans()
    grasp, socket = plans[int(session.rng.integers(len(plans)))]
    for choice in ((f"grasp_{grasp}", None), ("insert", socket)):
        outcome = _take_over(session, skill, choice)
        if outcome is not Outcome.REACHED:
            break
    return session.finish()


def _take_over(session: _Session, skill: Skill, choice: Choice) -> Outcome:
    env, subgoal = session.env, session.env.subgoal(choice)
    limit = int(session.rng.integers(*session.config.takeover))
    session.begin(choice)
    skill.start(subgoal, describe(subgoal, session.graph(), env.SCHEMA), int(session.rng.integers(2**31)))
    steps, status, done = 0, None, False
    while steps < limit and status is None and not done:
        output = skill.act(env.observe(), session.graph())
        done = bool(output.done[DONE] > 0.5)
        for action in output.actions[: output.execute]:
            session.act(np.asarray(action, np.float64))
            steps += 1
            status = choice_status(env.sim, choice)
            if status is not None:
                break
    if status is not None:
        session.recorder.end_segment(status, OutcomeSource.SIMULATOR)
        return status
    session.recorder.end_segment(Outcome.CENSORED, OutcomeSource.SIMULATOR)
    session.begin(choice)
    outcome = session.demonstrate(choice)
    if outcome is Outcome.SLIPPED:
        outcome = Outcome.DEAD  # nothing follows
    session.recorder.end_segment(outcome, OutcomeSource.SIMULATOR)
    return outcome


def collect(
    staging: Path,
    episodes: int,
    config: CollectConfig,
    *,
    workers: int = 2,
    skill: MakeSkill | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Record episodes 0 to `episodes` - 1 into `staging`, skipping those that are there.

    Args:
        workers: processes; 0 records in this one.
        skill: makes System 1 for interventions; None records operators.
        progress: called with (episodes there, episodes).

    Returns:
        How many were recorded now.
    """
    if episodes < 1:
        raise VineError(f"{episodes} episodes", mend="give at least 1")
    who = Collector.OPERATOR if skill is None else Collector.INTERVENTION
    there = staged_ids(staging) if staging.exists() else set()
    missing = [n for n in range(episodes) if episode_id(config, n, who) not in there]
    done = episodes - len(missing)
    if progress is not None:
        progress(done, episodes)
    for _ in _run(partial(_record, staging, config, skill), missing, workers):
        done += 1
        if progress is not None:
            progress(done, episodes)
    return len(missing)


_env: PlugInsertion | None = None
_skill: Skill | None = None


def _record(staging: Path, config: CollectConfig, make: MakeSkill | None, number: int) -> str:
    global _env, _skill
    if _env is None:
        _env = PlugInsertion("demo")
    if make is None:
        return record_demonstration(_env, staging, number, config)
    if _skill is None:
        _skill = make()
    return record_intervention(_env, _skill, staging, number, config)


def _initialise() -> None:
    """One thread a worker, and none that outlives its parent (Linux)."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"):
        os.environ[name] = "1"
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _run(record: Callable[[int], str], numbers: list[int], workers: int) -> Iterator[str]:
    if workers == 0 or len(numbers) < 2:
        yield from map(record, numbers)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_initialise)
    try:
        for future in as_completed([pool.submit(record, n) for n in numbers]):
            yield future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
