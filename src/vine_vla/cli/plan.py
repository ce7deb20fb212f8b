"""Plan from images or a dataset's frame: scene graph, subgoals with feasibility, and what was pruned and why.

Exit code 0 with a plan, 1 when the answer is "no" (`infeasible`, `unsupported`), 2 for bad input. The whole
search tree goes to a JSON file, which `vine report` can draw.

With --sweep: what 5, 20, 50, 200 and 1000 ms a plan buy, as a table and a CSV file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vine_vla.cli._options import Device
from vine_vla.core.errors import VineError
from vine_vla.search.config import SearchConfig

if TYPE_CHECKING:
    from vine_vla.core.protocols import Observation
    from vine_vla.system2.backend import Backend


@dataclass(frozen=True)
class Config:
    """Options of `vine plan`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run with a trained System 2, or of that System 2."""
    instruction: str | None = None
    """The task text; default: the dataset's, with --dataset."""
    dataset: Path | None = None
    """Take images, state and task from a frame of this dataset instead of --image and --proprioception."""
    episode: int = 0
    """Episode of --dataset, by index."""
    frame: int = 0
    """Frame of --episode, from 0."""
    image: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """CAMERA=FILE, once for each camera role, e.g. --image front=a.png --image wrist=b.png."""
    proprioception: Path | None = None
    """JSON file with the robot's state as a list of numbers, as in the dataset's observation.state;
    default: the mean state of the training data, with a warning."""
    variant: str | None = None
    """Which planning model of the run: all, withhold, ...; default: all, if it was trained."""
    planner: Literal["tree", "greedy", "exhaustive", "imitate"] = "tree"
    """How to search."""
    budget: int | None = None
    """Subgoals that may be executed, at least 0; default: twice the median of successful demonstrations."""
    search: Annotated[SearchConfig, tyro.conf.OmitArgPrefixes] = SearchConfig(evidence=1000)
    sweep: int = 0
    """Plan with more and more time instead, from --frame of so many episodes, --episode the first; 1 with
    --image. 0: no."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where the search tree goes, as JSON, or the rows of --sweep, as CSV; default: tree.json, sweep.csv."""
    device: Device = None
    json: bool = False
    """Print the tree instead of the text."""

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 0:
            raise VineError(f"budget is {self.budget}", where="--budget", hint="use 0 or more")
        if self.sweep < 0 or (self.sweep > 1 and self.dataset is None):
            raise VineError(f"sweep is {self.sweep}", where="--sweep", hint="with --image it is 1")
        if self.dataset is not None and (self.image or self.proprioception is not None):
            raise VineError("--dataset goes with neither --image nor --proprioception", hint="leave one out")
        if self.dataset is None and self.instruction is None:
            hint = 'say what to do, e.g. "put the cup on the tray"'
            raise VineError("no task", where="--instruction", hint=hint)


def run(config: Config) -> int:
    """Perceive, plan, print, and write the tree."""
    from vine_vla.core.protocols import PlanStatus, perceive_one
    from vine_vla.search import make_planner, save_trace
    from vine_vla.search.plan_text import plan_lines
    from vine_vla.system2.load import load_system2

    model = load_system2(config.run, config.variant, device=config.device)
    budget = model.info.budget if config.budget is None else config.budget
    if config.sweep:
        return _sweep(config, model, budget)
    observation, instruction = observe(config, model)[0]
    graph = perceive_one(model, observation, instruction)
    plan = make_planner(config.planner, model, config.search).plan(graph, instruction, budget, 0, observation)
    out = config.out or Path("tree.json")
    save_trace(out, plan.tree)
    print(json.dumps(plan.tree) if config.json else "\n".join(plan_lines(graph, plan)))
    print(f"tree: {out}", file=sys.stderr)
    return 0 if plan.status is PlanStatus.PLANNED else 1


def _sweep(config: Config, model: Backend, budget: int) -> int:
    """Print and write what more and more time a plan buys."""
    import pandas as pd

    from vine_vla.search.sweep import SweepRow, sweep_time
    from vine_vla.storage.tables import write_table

    observations, instructions = zip(*observe(config, model), strict=True)
    scenes = list(zip(model.perceive(observations, instructions), instructions, strict=True))
    rows = pd.DataFrame(sweep_time(model, scenes, budget, config.search), columns=list(SweepRow._fields))
    out = config.out or Path("sweep.csv")
    write_table(out, rows.round(5))
    print(rows.to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    print(f"{len(scenes)} scenes; rows: {out}", file=sys.stderr)
    return 0


def observe(config: Config, model: Backend) -> list[tuple[Observation, str]]:
    """What is planned from, and the task: one scene, or the --sweep's."""
    import numpy as np

    from vine_vla.core.protocols import Observation
    from vine_vla.data.observations import read_frames, read_images, read_proprioception

    if config.dataset is not None:
        episodes = range(config.episode, config.episode + max(1, config.sweep))
        frames = read_frames(config.dataset, model.schema, episodes, config.frame)
        return [(observation, config.instruction or text) for observation, text in frames]
    assert config.instruction is not None
    images = read_images(config.image, model.schema)
    if config.proprioception is not None:
        return [(Observation(images, read_proprioception(config.proprioception)), config.instruction)]
    print(
        "vine: warning: no --proprioception, so the mean state of the training data stands in; "
        "what the gripper holds may be perceived wrongly",
        file=sys.stderr,
    )
    state = np.array(model.info.state.mean if model.info.state else (), np.float32)
    return [(Observation(images, state), config.instruction)]
