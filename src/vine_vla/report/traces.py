"""Recorded episodes: what was perceived, planned and done, for filmstrips and trees.

One JSON file an episode (`traces/**/*.json` or `.json.gz`), images beside it::

    {"task": "NAME", "split": "unseen", "scene": 417, "arm": "vine", "variant": "", "training_seed": 0,
     "policy_seed": 0, "instruction": "...", "success": true, "outcome": "success", "reason": "goal",
     "frames":    [{"step": 0, "images": {"front": "417/000_front.jpg"}, "graph": "<format_graph text>"}],
     "executed":  [{"start": 0, "end": 31, "subgoal": "verb(object_1)", "text": "...",
                    "predicted": 0.93, "lower": 0.88, "upper": 0.97, "q": 0.81, "result": "reached"}],
     "decisions": [{"step": 0, "status": "planned", "reason": "...", "feasibility": 0.81, "lower": 0.7,
                    "upper": 0.9, "spread": 0.05, "seconds": 0.012, "tree": {...}}]}

`frames` holds at least the first frame of every executed subgoal and the last of the episode. Image paths are
relative to the JSON file and may not leave the results directory. `tree` is what `search.trace` writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.text import parse_graph
from vine_vla.report.inputs import label
from vine_vla.storage.json import read_struct

HINT = "record the episode again"


class Frame(msgspec.Struct, frozen=True):
    """Camera images and the perceived graph of one step; the graph's text is empty where there is none."""

    step: int
    images: dict[str, str] = {}
    graph_text: str = msgspec.field(default="", name="graph")

    def __post_init__(self) -> None:
        try:  # a malformed graph is refused when the file is read; msgspec adds the place
            _ = self.graph
        except VineError as error:
            raise ValueError(str(error)) from error

    @property
    def graph(self) -> SceneGraph | None:
        return parse_graph(self.graph_text) if self.graph_text else None


class Executed(msgspec.Struct, frozen=True):
    """One subgoal that System 1 executed, from step `start` to `end` (exclusive).

    `predicted` is P(goal or reached) at the time of choice, with an interval if known; `q` the feasibility of
    the whole rest. All are None for arms that predict nothing. `result` is an `Outcome`'s name.
    """

    start: int
    end: int
    subgoal: str
    result: str
    text: str = ""
    predicted: float | None = None
    lower: float | None = None
    upper: float | None = None
    q: float | None = None


class Decision(msgspec.Struct, frozen=True):
    """One call of the planner and the tree it left, as `search.trace` wrote it."""

    step: int
    status: str = ""
    reason: str = ""
    feasibility: float | None = None
    lower: float | None = None
    upper: float | None = None
    seconds: float | None = None
    tree: dict[str, Any] = {}


class Trace(msgspec.Struct, frozen=True):
    """One recorded episode; `file` is where it was read."""

    scene: int
    arm: str
    success: bool
    task: str = ""
    split: str = ""
    variant: str = ""
    training_seed: int = 0
    policy_seed: int = 0
    instruction: str = ""
    outcome: str = ""
    reason: str = ""
    frames: list[Frame] = []
    executed: list[Executed] = []
    decisions: list[Decision] = []
    file: Path = Path()

    @property
    def label(self) -> str:
        """Arm with its variant, as in `Results`."""
        return label(self.arm, self.variant)

    def frame_at(self, step: int) -> Frame | None:
        """The last frame at or before `step`, else the first one; None without frames."""
        earlier = [frame for frame in self.frames if frame.step <= step]
        return earlier[-1] if earlier else (self.frames[0] if self.frames else None)


def trace_files(results: Path) -> list[Path]:
    """Every trace under `results/traces`, sorted by name."""
    folder = results / "traces"
    return sorted([*folder.rglob("*.json"), *folder.rglob("*.json.gz")])


def load_trace(file: Path, root: Path) -> Trace:
    """Read one trace; VineError names the field that is missing or malformed.

    Args:
        file: the JSON file.
        root: the results directory, which no image path may leave.
    """
    data = read_struct(file, Trace, hint=HINT)
    frames = [_placed(frame, f"{file}, frames[{i}]", file, root) for i, frame in enumerate(data.frames)]
    return msgspec.structs.replace(data, file=file, frames=frames)


def _placed(frame: Frame, where: str, file: Path, root: Path) -> Frame:
    """The frame with whole image paths, none of which leaves `root`."""
    images = {camera: (file.parent / name).resolve() for camera, name in frame.images.items()}
    for camera, image in images.items():
        name = frame.images[camera]
        if not image.is_relative_to(root.resolve()):
            raise VineError(
                f"image {name!r} lies outside the results", where=where, hint="use relative paths"
            )
        if not image.is_file():
            raise VineError(f"no image {name!r}", where=where, hint="copy it beside the trace")
    return msgspec.structs.replace(frame, images={camera: str(image) for camera, image in images.items()})
