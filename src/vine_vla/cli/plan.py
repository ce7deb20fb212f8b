"""Plan from images or a dataset's frame: scene graph, subgoals with feasibility, and what was cut and why.

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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vine_vla.core.graph import Schema
    from vine_vla.core.protocols import Observation
    from vine_vla.search import SearchConfig
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
    """Subgoals that may be executed; default: twice the median of successful demonstrations."""
    expansions: int = 64
    """Nodes that the tree search expands."""
    seconds: float | None = None
    """Time for the search, in seconds; default: no limit."""
    sweep: int = 0
    """Plan with more and more time instead, from --frame of so many episodes, --episode the first; 1 with
    --image. 0: no."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where the search tree goes, as JSON, or the rows of --sweep, as CSV; default: tree.json, sweep.csv."""
    device: Device = None
    json: bool = False
    """Print the tree instead of the text."""


def run(config: Config) -> int:
    """Perceive, plan, print, and write the tree."""
    from vine_vla.cli._plan_text import plan_lines
    from vine_vla.core.protocols import PlanStatus, perceive_one
    from vine_vla.search import SearchConfig, make_planner, save_trace
    from vine_vla.system2.load import load_system2

    settings = SearchConfig(expansions=config.expansions, seconds=config.seconds, evidence=1000)
    if config.budget is not None and config.budget < 0:
        raise VineError(f"budget is {config.budget}", where="--budget", hint="use 0 or more")
    if config.sweep < 0 or (config.sweep > 1 and config.dataset is None):
        raise VineError(f"sweep is {config.sweep}", where="--sweep", hint="with --image it is 1")
    model = load_system2(config.run, config.variant, device=config.device)
    budget = model.info.budget if config.budget is None else config.budget
    if config.sweep:
        return _sweep(config, model, settings, budget)
    observation, instruction = _observe(config, model)[0]
    graph = perceive_one(model, observation, instruction)
    plan = make_planner(config.planner, model, settings).plan(graph, instruction, budget, 0, observation)
    out = config.out or Path("tree.json")
    save_trace(out, plan.tree)
    if config.json:
        print(json.dumps(plan.tree))
    else:
        print("\n".join(plan_lines(graph, plan)))
    print(f"tree: {out}", file=sys.stderr)
    return 0 if plan.status is PlanStatus.PLANNED else 1


def _sweep(config: Config, model: Backend, settings: SearchConfig, budget: int) -> int:
    """Print and write what more and more time a plan buys."""
    import pandas as pd

    from vine_vla.search.sweep import SweepRow, sweep_time
    from vine_vla.storage.tables import write_table

    observations, instructions = zip(*_observe(config, model), strict=True)
    scenes = list(zip(model.perceive(observations, instructions), instructions, strict=True))
    rows = pd.DataFrame(sweep_time(model, scenes, budget, settings), columns=list(SweepRow._fields))
    out = config.out or Path("sweep.csv")
    write_table(out, rows.round(5))
    print(rows.to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    print(f"{len(scenes)} scenes; rows: {out}", file=sys.stderr)
    return 0


def _observe(config: Config, model: Backend) -> list[tuple[Observation, str]]:
    """What is planned from, and the task: one scene, or the --sweep's."""
    if config.dataset is not None:
        return read_frames(config, model.schema, max(1, config.sweep))
    if config.instruction is None:
        raise VineError(
            "no task", where="--instruction", hint='say what to do, e.g. "put the cup on the tray"'
        )
    return [(_given(config, model), config.instruction)]


def read_frames(config: Config, schema: Schema, count: int = 1) -> list[tuple[Observation, str]]:
    """Images and state of a dataset's frame, and the task: the one given, else the dataset's.

    Args:
        count: of episodes, from `config.episode` on; the same frame of each.

    Raises:
        VineError: --image or --proprioception too, a camera that the dataset lacks, or no such frame.
    """
    from vine_vla.core.protocols import Observation
    from vine_vla.data import open_dataset

    assert config.dataset is not None
    if config.image or config.proprioception is not None:
        raise VineError("--dataset goes with neither --image nor --proprioception", hint="leave one out")
    dataset = open_dataset(config.dataset)
    found = []
    for episode in range(config.episode, config.episode + count):
        if not 0 <= episode < len(dataset.demonstrations):
            raise VineError(f"episode {episode} of {len(dataset.demonstrations)}", where="--episode")
        demonstration = dataset.demonstrations[episode]
        if not 0 <= config.frame < demonstration.length:
            raise VineError(
                f"frame {config.frame} of {demonstration.length} in episode {episode}", where="--frame"
            )
        images = {
            role: dataset.images(episode, [config.frame], role)[0]
            for role in schema.cameras
            if role in dataset.cameras or role == schema.cameras[0]
        }
        state = dataset.proprioception(episode)[config.frame]
        found.append((Observation(images, state), config.instruction or demonstration.instruction))
    return found


def _given(config: Config, model: Backend) -> Observation:
    """What --image and --proprioception say."""
    from vine_vla.core.protocols import Observation

    images = read_images(config.image, model.schema)
    if config.proprioception is not None:
        return Observation(images, read_proprioception(config.proprioception))
    print(
        "vine: warning: no --proprioception, so the mean state of the training data stands in; "
        "what the gripper holds may be perceived wrongly",
        file=sys.stderr,
    )
    return Observation(images, mean_state(model))


def read_images(pairs: tuple[str, ...], schema: Schema) -> dict[str, NDArray[np.uint8]]:
    """The images given as CAMERA=FILE; uint8 [height, width, 3]. The first camera must be there.

    Raises:
        VineError: a camera is unknown or given twice, the first one is missing, or a file is no image.
    """
    import numpy as np
    from PIL import Image

    wanted = " ".join(f"--image {camera}=FILE" for camera in schema.cameras)
    images: dict[str, NDArray[np.uint8]] = {}
    for pair in pairs:
        camera, equals, file = pair.partition("=")
        if not equals or camera not in schema.cameras:
            raise VineError(f"{pair!r} names no camera of the model", where="--image", hint=f"give {wanted}")
        if camera in images:
            raise VineError(f"camera {camera} is given twice", where="--image", hint=f"give {wanted}")
        try:
            with Image.open(file) as image:
                images[camera] = np.array(image.convert("RGB"))
        except OSError as error:
            raise VineError(f"cannot read the image: {error}", where=f"--image {pair}") from error
    if schema.cameras[0] not in images:
        raise VineError(f"no image of {schema.cameras[0]}", where="--image", hint=f"give {wanted}")
    return images


def mean_state(model: Backend) -> NDArray[np.float32]:
    """The mean state of the frames that perception was trained on; float32 [P]."""
    import numpy as np

    return np.array(model.info.state.mean if model.info.state else (), np.float32)


def read_proprioception(file: Path) -> NDArray[np.float32]:
    """The robot's state from a JSON list; float32 [P].

    Raises:
        VineError: the file cannot be read or is no list of numbers.
    """
    import numpy as np

    where = f"--proprioception {file}"
    try:
        state = np.array(json.loads(file.read_text(encoding="utf-8")), np.float32)
    except OSError as error:
        raise VineError(f"cannot read the state: {error.strerror}", where=where) from error
    except (ValueError, TypeError) as error:
        raise VineError(f"not a JSON list of numbers: {error}", where=where) from error
    if state.ndim != 1 or not len(state) or not np.isfinite(state).all():
        raise VineError("not a flat list of finite numbers", where=where, hint="e.g. [0.1, 0.2, 0.3]")
    return state
