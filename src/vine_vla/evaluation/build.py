"""Arms from run directories.

RUN/system1/              the shared System 1 with its done head (`vine train system1`)
RUN/flat/, RUN/flat-all/  flat policies of their own
RUN/system2/              perception, proposals, and a folder of outcome and value nets for each variant
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from vine_vla.agent import AgentConfig, Wording
from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Observation, Perceiver, Plan, Planner, PlanningModel, Skill
from vine_vla.core.text import describe
from vine_vla.evaluation.arms import ALWAYS, Arm, find_arm
from vine_vla.evaluation.episodes import Parts
from vine_vla.evaluation.oracles import OracleValuePlanner, RightPlanner, WholeTaskPlanner
from vine_vla.evaluation.rivals import ConstantPlanner, RandomPlanner
from vine_vla.evaluation.settings import ArmSettings
from vine_vla.evaluation.world import TruePerceiver
from vine_vla.search.config import SearchConfig
from vine_vla.search.planners import make_planner
from vine_vla.system1.vine_skill.weights import is_url
from vine_vla.system2.backend import Backend
from vine_vla.system2.folder import CALIBRATION, MODEL
from vine_vla.tasks.base import Simulation
from vine_vla.tasks.registry import find_task


@dataclass(frozen=True, kw_only=True)
class RunBuilder(ArmSettings):
    """Builds arms from run directories, one for each training seed.

    Args:
        task, split: of the registry.
        runs: run directories. seeds: their training seeds; empty: 0, 1, ...
        agent: of the subgoal arms; `max_steps` and `subgoal_steps` are put in.
        search: of the planners.
        device: where nets run; default: cuda if there is one.
    """

    task: str
    split: str
    runs: tuple[str, ...]
    agent: AgentConfig = AgentConfig(frames="subgoals")
    search: SearchConfig = SearchConfig()
    device: str | None = None
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        task = find_task(self.task)
        task.lists(self.split)
        object.__setattr__(self, "max_steps", self.max_steps or task.max_steps)
        object.__setattr__(self, "subgoal_steps", self.subgoal_steps or task.subgoal_steps)

    def open_task(self) -> Simulation:
        """A simulation; images are rendered only if something learned needs them."""
        blind = self.perception == "true" and self.skill == "scripted"
        return find_task(self.task).simulation(self.split, render=not blind)

    def _run(self, training_seed: int) -> str:
        """The run directory of a training seed."""
        seeds = self.seeds or tuple(range(len(self.runs)))
        return self.runs[seeds.index(training_seed)]

    def arm(self, label: str) -> Arm:
        """The arm with this builder's overrides."""
        arm = find_arm(label)
        if arm.is_flat:
            return replace(arm, perception=self.perception or arm.perception)
        return replace(arm, perception=self.perception or arm.perception, skill=self.skill or arm.skill)

    def check(self, labels: Sequence[str]) -> None:
        """Raises VineError if a run directory, or the task, lacks what an arm needs."""
        task = find_task(self.task)
        for label in labels:
            arm = self.arm(label)
            if arm.constant and arm.constant not in task.constants:
                known = ", ".join(f"{ALWAYS}{name}" for name in task.constants) or "none"
                raise VineError(f"task {task.name} has no arm {label!r}", hint=f"known: {known}")
            if arm.planner == "right-plan" and task.oracle is None:
                raise VineError(f"task {task.name} has no oracle", hint=f"leave {label!r} out")
            if arm.trained_words and not task.instructions:
                raise VineError(f"task {task.name} has no fixed instructions", hint=f"leave {label!r} out")
        for run in self.runs:
            folder = Path(run)
            if not folder.is_dir():
                raise VineError("no such run directory", where=run, hint="train one with `vine train`")
            for label in labels:
                for part in _needed(self.arm(label)):
                    if not (folder / part).is_dir():
                        raise VineError(
                            f"arm {label!r} needs {part}", where=run, hint="train it, or leave the arm out"
                        )

    def build(self, label: str, training_seed: int, simulation: Simulation) -> Parts:
        """The parts of an arm; nets are read once a process."""
        arm, run, task = self.arm(label), self._run(training_seed), find_task(self.task)
        assert self.max_steps is not None and self.subgoal_steps is not None
        skill = self._skill(arm, run, simulation)
        perceiver: Perceiver = TruePerceiver(simulation) if arm.perception == "true" else self._system2(run)
        config = replace(self.agent, max_steps=self.max_steps, subgoal_steps=self.subgoal_steps)
        if arm.is_flat:
            # The flat policy is never stopped by its own done head: it has the whole step limit.
            config = replace(config, subgoal_steps=self.max_steps, done_threshold=2.0, failed_threshold=2.0)
            return Parts(perceiver, WholeTaskPlanner(), skill, config, partial(_instruction, simulation))
        wording = partial(describe, schema=task.schema)
        if arm.planner == "right-plan":
            assert task.oracle is not None
            return Parts(perceiver, RightPlanner(simulation, task.oracle), skill, config, wording)
        if arm.constant:
            if arm.perception == "learned":  # what the arms with a model have
                config = replace(config, budget=self._system2(run).info.budget)
            return Parts(perceiver, ConstantPlanner(task.constants[arm.constant]), skill, config, wording)
        model = self._system2(run).variant(arm.model or "all")
        config = replace(config, budget=model.info.budget)
        parts = planned_parts(arm, model, perceiver, skill, config, self.search, simulation, wording)
        if arm.trained_words:
            parts = replace(parts, planner=Reworded(parts.planner, task.instructions[0]))
        return parts

    def _system2(self, run: str) -> Backend:
        return _loaded_system2(run, self.device)

    def settings(self) -> Mapping[str, Any]:
        """Limits, overrides, and the hashes of what was trained."""
        own = asdict(self)
        for name in ("task", "split", "runs", "seeds", "device"):
            del own[name]
        return own | {"weights": [_hashes(Path(run)) for run in self.runs]}

    def _skill(self, arm: Arm, run: str, simulation: Simulation) -> Skill:
        task = find_task(self.task)
        if arm.skill == "scripted":
            return task.skill(simulation, self.scripted_scale)
        if is_url(arm.skill):
            return _skill(f"{run}/system1", task.schema, self.device, arm.skill)
        return _skill(f"{run}/{'system1' if arm.skill == 'learned' else arm.skill}", task.schema, self.device)


def planned_parts(
    arm: Arm,
    model: PlanningModel,
    perceiver: Perceiver,
    skill: Skill,
    config: AgentConfig,
    search: SearchConfig,
    simulation: Simulation,
    wording: Wording,
) -> Parts:
    """The parts of an arm that plans with `model`."""
    config = replace(config, replanning=arm.replanning)
    planner: Planner
    if arm.planner == "oracle-value":
        planner = OracleValuePlanner(
            task=simulation,
            model=model,
            perceiver=perceiver,
            skill=skill,
            wording=wording,
            config=config,
            otherwise=make_planner("tree", model, search),
        )
    elif arm.planner == "random":
        planner = RandomPlanner(model, search.k)
    else:
        planner = make_planner(arm.planner, model, search)
    return Parts(perceiver, planner, skill, config, wording, plans=arm.plans)


@dataclass(frozen=True)
class Reworded:
    """A planner that is conditioned on other words for the task."""

    planner: Planner
    words: str

    def plan(
        self,
        graph: SceneGraph,
        instruction: str,
        budget: int,
        seed: int,
        observation: Observation | None = None,
    ) -> Plan:
        """Plan from `graph` for `words`, whatever the instruction."""
        return self.planner.plan(graph, self.words, budget, seed, observation)


def _needed(arm: Arm) -> list[str]:
    """Folders of a run that an arm reads."""
    blind = arm.perception == "true" and arm.planner in ("whole", "right-plan", "constant")
    found = [] if blind else ["system2"]
    if arm.skill in ("flat", "flat-all"):
        found.append(arm.skill)
    elif arm.skill == "learned":
        found.append("system1")
    return found


def _instruction(simulation: Simulation, subgoal: Subgoal, graph: SceneGraph) -> str:
    return simulation.instruction


@lru_cache(maxsize=16)
def _loaded_system2(run: str, device: str | None) -> Backend:
    from vine_vla.system2.load import load_system2

    return load_system2(Path(run) / "system2", device=device)


@lru_cache(maxsize=8)
def _skill(folder: str, schema: Schema, device: str | None, server: str | None = None) -> Skill:
    from vine_vla.system1.adapters.importing import load_run_skill

    whole = Path(folder).name.startswith("flat")
    return load_run_skill(Path(folder), schema, whole_task=whole, device=device, server=server)


def _hashes(run: Path) -> dict[str, str]:
    """Hash of each trained part: System 1's weights as training wrote them, System 2's files.

    A flat policy that is still being trained has none yet; the arms that need it are not run before.
    """
    from hashlib import sha256

    from vine_vla.system1 import stored_hash
    from vine_vla.system1.vine_skill.weights import RUN_FILE

    finished = [name for name in ("system1", "flat", "flat-all") if (run / name / RUN_FILE).is_file()]
    found = {name: stored_hash(run / name) for name in finished}
    judged = (*run.glob("system2/*/" + MODEL), *run.glob("system2/*/" + CALIBRATION))
    for file in sorted((*(run / "system2").rglob("*.safetensors"), *judged)):
        found[str(file.relative_to(run))] = sha256(file.read_bytes()).hexdigest()[:16]
    return found
