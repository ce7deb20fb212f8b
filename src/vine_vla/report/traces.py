"""Recorded episodes: what was seen, planned and done, for filmstrips and trees.

One JSON file an episode (`traces/**/*.json` or `.json.gz`), images beside it::

    {"task": "NAME", "split": "unseen", "scene": 417, "arm": "vine", "variant": "", "training_seed": 0,
     "policy_seed": 0, "instruction": "...", "success": true, "outcome": "success", "reason": "goal",
     "frames":    [{"step": 0, "images": {"front": "417/000_front.jpg"}, "graph": "<format_graph text>"}],
     "executed":  [{"start": 0, "end": 31, "subgoal": "pick(cup)", "text": "pick up the cup",
                    "predicted": 0.93, "lower": 0.88, "upper": 0.97, "q": 0.81, "result": "reached"}],
     "decisions": [{"step": 0, "status": "planned", "reason": "...", "feasibility": 0.81, "lower": 0.7,
                    "upper": 0.9, "spread": 0.05, "seconds": 0.012, "tree": {...}}]}

`frames` holds at least the first frame of every executed subgoal and the last of the episode. Image paths are
relative to the JSON file and may not leave the results directory. `tree` is what `search.trace` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.text import parse_graph
from vine_vla.report.inputs import label, read_json


@dataclass(frozen=True)
class Frame:
    """What the cameras saw at one step. `graph` is None where none was recorded."""

    step: int
    images: Mapping[str, Path]
    graph: SceneGraph | None


@dataclass(frozen=True)
class Executed:
    """One subgoal that System 1 executed, from step `start` to `end` (exclusive).

    `predicted` is P(goal or reached) at the time of choice, with an interval if known; `q` the feasibility of
    the whole rest. All are None for arms that predict nothing. `result` is an `Outcome`'s name.
    """

    start: int
    end: int
    subgoal: str
    text: str
    predicted: float | None
    lower: float | None
    upper: float | None
    q: float | None
    result: str


@dataclass(frozen=True)
class Decision:
    """One call of the planner and the tree it left, as `search.trace` wrote it."""

    step: int
    status: str
    reason: str
    feasibility: float | None
    lower: float | None
    upper: float | None
    seconds: float | None
    tree: Mapping[str, object]


@dataclass(frozen=True)
class Trace:
    """One recorded episode."""

    file: Path
    task: str
    split: str
    scene: int
    label: str
    training_seed: int
    policy_seed: int
    instruction: str
    success: bool
    outcome: str
    reason: str
    frames: tuple[Frame, ...]
    executed: tuple[Executed, ...]
    decisions: tuple[Decision, ...]

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
    data = read_json(file)
    reader = _Reader(data, str(file))
    return Trace(
        file=file,
        task=reader.text("task", ""),
        split=reader.text("split", ""),
        scene=int(reader.number("scene")),
        label=label(reader.text("arm"), reader.text("variant", "")),
        training_seed=int(reader.maybe("training_seed") or 0),
        policy_seed=int(reader.maybe("policy_seed") or 0),
        instruction=reader.text("instruction", ""),
        success=bool(reader.number("success")),
        outcome=reader.text("outcome", ""),
        reason=reader.text("reason", ""),
        frames=tuple(_frame(entry, file, root) for entry in reader.entries("frames")),
        executed=tuple(_executed(entry) for entry in reader.entries("executed")),
        decisions=tuple(_decision(entry) for entry in reader.entries("decisions")),
    )


def _frame(reader: _Reader, file: Path, root: Path) -> Frame:
    images = {}
    for camera, name in reader.mapping("images").items():
        image = (file.parent / str(name)).resolve()
        if not image.is_relative_to(root.resolve()):
            raise VineError(
                f"image {name!r} lies outside the results", where=reader.where, hint="use relative paths"
            )
        if not image.is_file():
            raise VineError(f"no image {name!r}", where=reader.where, hint="copy it beside the trace")
        images[str(camera)] = image
    text = reader.text("graph", "")
    return Frame(int(reader.number("step")), images, parse_graph(text) if text else None)


def _executed(reader: _Reader) -> Executed:
    return Executed(
        start=int(reader.number("start")),
        end=int(reader.number("end")),
        subgoal=reader.text("subgoal"),
        text=reader.text("text", ""),
        predicted=reader.maybe("predicted"),
        lower=reader.maybe("lower"),
        upper=reader.maybe("upper"),
        q=reader.maybe("q"),
        result=reader.text("result"),
    )


def _decision(reader: _Reader) -> Decision:
    return Decision(
        step=int(reader.number("step")),
        status=reader.text("status", ""),
        reason=reader.text("reason", ""),
        feasibility=reader.maybe("feasibility"),
        lower=reader.maybe("lower"),
        upper=reader.maybe("upper"),
        seconds=reader.maybe("seconds"),
        tree=reader.mapping("tree") if "tree" in reader.data else {},
    )


class _Reader:
    """Fields of one JSON object, with errors that say where."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise VineError("expected an object", where=where, hint="record the episode again")
        self.data: Mapping[str, object] = data
        self.where = where

    def fail(self, name: str, wanted: str) -> VineError:
        found = repr(self.data[name]) if name in self.data else "missing"
        return VineError(
            f"{name} is {found[:80]}, not {wanted}", where=self.where, hint="record the episode again"
        )

    def text(self, name: str, default: str | None = None) -> str:
        value = self.data.get(name, default)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.fail(name, "text")
        return value

    def maybe(self, name: str) -> float | None:
        value = self.data.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
            raise self.fail(name, "a number")
        return float(value)

    def number(self, name: str) -> float:
        value = self.maybe(name)
        if value is None:
            raise self.fail(name, "a number")
        return value

    def mapping(self, name: str) -> Mapping[str, object]:
        value = self.data.get(name, {})
        if not isinstance(value, Mapping):
            raise self.fail(name, "an object")
        return value

    def entries(self, name: str) -> list[_Reader]:
        value = self.data.get(name, [])
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise self.fail(name, "a list")
        return [_Reader(entry, f"{self.where}, {name}[{index}]") for index, entry in enumerate(value)]
