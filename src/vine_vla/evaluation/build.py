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
from typing import Any, Literal

from vine_vla.agent import AgentConfig, Wording
from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Observation, Perceiver, Plan, Planner, Skill
from vine_vla.core.text import describe
from vine_vla.evaluation.arms import Arm, find_arm
from vine_vla.evaluation.episodes import Parts
from vine_vla.evaluation.oracles import OracleValuePlanner, RightPlanner, WholeTaskPlanner
from vine_vla.evaluation.world import SimulatedTask, TruePerceiver, open_task, task_schema
from vine_vla.search.config import SearchConfig
from vine_vla.search.planners import make_planner


@dataclass(frozen=True)
class RunBuilder:
    """Builds arms from run directories, one for each training seed.

    Args:
        perception, skill: override what the arms say, for gates (`true` graphs, `scripted` expert).
        max_steps, subgoal_steps: limits in robot actions, the same for every arm.
        scripted_scale: how noisy the scripted expert's hands are, 0 perfect.
        agent: of the subgoal arms; `max_steps` and `subgoal_steps` above are put in.
        search: of the planners.
    """

    task: str
    split: str
    runs: tuple[str, ...]
    perception: Literal["learned", "true"] | None = None
    skill: Literal["learned", "scripted"] | None = None
    max_steps: int = 400
    subgoal_steps: int = 150
    scripted_scale: float = 0.3
    agent: AgentConfig = AgentConfig(frames="subgoals")
    search: SearchConfig = SearchConfig()

    def open_task(self) -> SimulatedTask:
        """The task; images are drawn only if somebody looks at them."""
        blind = self.perception == "true" and self.skill == "scripted"
        return open_task(self.task, self.split, render=not blind)

    def arm(self, label: str) -> Arm:
        """The arm with this builder's overrides."""
        arm = find_arm(label)
        if arm.is_flat:
            return replace(arm, perception=self.perception or arm.perception)
        return replace(arm, perception=self.perception or arm.perception, skill=self.skill or arm.skill)

    def check(self, labels: Sequence[str]) -> None:
        """Raises VineError if a run directory lacks what an arm needs."""
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

    def build(self, label: str, training_seed: int, task: SimulatedTask) -> Parts:
        """The parts of an arm; nets are read once a process."""
        arm, run = self.arm(label), self.runs[training_seed]
        schema = task_schema(task)
        skill = self._skill(arm, run, task)
        perceiver: Perceiver = TruePerceiver(task) if arm.perception == "true" else _system2(run)
        config = replace(self.agent, max_steps=self.max_steps, subgoal_steps=self.subgoal_steps)
        if arm.is_flat:
            # The flat policy is never stopped by its own done head: it has the whole step limit.
            config = replace(config, subgoal_steps=self.max_steps, done_threshold=2.0, failed_threshold=2.0)
            return Parts(perceiver, WholeTaskPlanner(), skill, config, partial(_instruction, task))
        wording = partial(describe, schema=schema)
        if arm.planner == "right-plan":
            return Parts(perceiver, RightPlanner(task), skill, config, wording)
        return planned_parts(
            arm, _system2(run).variant(arm.model), perceiver, skill, config, self.search, task, wording
        )

    def settings(self) -> Mapping[str, Any]:
        """Limits, overrides, and the hashes of what was trained."""
        own = asdict(self)
        for name in ("task", "split", "runs"):
            del own[name]
        return own | {"weights": [_hashes(Path(run)) for run in self.runs]}

    def _skill(self, arm: Arm, run: str, task: SimulatedTask) -> Skill:
        if arm.skill == "scripted":
            return task.scripted_skill(self.scripted_scale)
        return _skill(f"{run}/{'system1' if arm.skill == 'learned' else arm.skill}", task)


def planned_parts(
    arm: Arm,
    model: Any,
    perceiver: Perceiver,
    skill: Skill,
    config: AgentConfig,
    search: SearchConfig,
    task: SimulatedTask,
    wording: Wording,
) -> Parts:
    """The parts of an arm that plans with `model` (of `system2`: a `GraphModel`, or one behind eyes)."""
    config = replace(config, budget=model.budget, replanning=arm.replanning)
    planner: Planner
    if arm.planner == "oracle-value":
        planner = OracleValuePlanner(
            task=task,
            model=model,
            perceiver=perceiver,
            skill=skill,
            wording=wording,
            config=config,
            otherwise=make_planner("tree", model, search),
        )
    else:
        planner = make_planner(arm.planner, model, search)
    if arm.words:
        planner = Reworded(planner, arm.words)
    return Parts(perceiver, planner, skill, config, wording, plans=arm.plans)


@dataclass(frozen=True)
class Reworded:
    """A planner that is told the task in other words."""

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
    blind = arm.perception == "true" and arm.planner in ("whole", "right-plan")
    found = [] if blind else ["system2"]
    if arm.skill in ("flat", "flat-all"):
        found.append(arm.skill)
    elif arm.skill == "learned":
        found.append("system1")
    return found


def _instruction(task: SimulatedTask, subgoal: Subgoal, graph: SceneGraph) -> str:
    return task.instruction


@lru_cache(maxsize=16)
def _system2(run: str) -> Any:
    from vine_vla.system2.compact.system2 import load_system2

    return load_system2(Path(run) / "system2")


@lru_cache(maxsize=8)
def _loaded_skill(folder: str, task_name: type, schema: Any) -> Skill:
    from vine_vla.system1.adapters.importing import load_run_skill

    return load_run_skill(Path(folder), schema, whole_task=Path(folder).name.startswith("flat"))


def _skill(folder: str, task: SimulatedTask) -> Skill:
    return _loaded_skill(folder, type(task), task_schema(task))


def _hashes(run: Path) -> dict[str, str]:
    """Hash of each trained part: System 1's weights as training wrote them, System 2's files.

    A flat policy that is still being trained has none yet; the arms that need it are not run before.
    """
    from hashlib import sha256

    from vine_vla.system1 import stored_hash
    from vine_vla.system1.vine_skill.weights import RUN_FILE

    finished = [name for name in ("system1", "flat", "flat-all") if (run / name / RUN_FILE).is_file()]
    found = {name: stored_hash(run / name) for name in finished}
    for file in sorted((run / "system2").rglob("*.safetensors")):
        found[str(file.relative_to(run))] = sha256(file.read_bytes()).hexdigest()[:16]
    return found
