"""A drawn world for System 1's tests: a hand moves over a picture to a coloured block and closes.

Two cameras show the same plane, the second mirrored. The action is (dx, dy, gripper) in shares of the
picture; proprioception is the hand's pose and grip. A block of another colour distracts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import Box, SceneGraph, SceneObject, Schema, Verb
from vine_vla.core.options import EpisodeOutcome, Outcome, OutcomeSource, Split, Subgoal
from vine_vla.core.protocols import Observation
from vine_vla.data import EpisodeRecorder, assemble, open_dataset
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.system1.vine_skill.waypoints import POSE_NAMES

SCHEMA = Schema(
    classes=("gripper", "block"),
    attributes={"colour": ("red", "blue")},
    predicates=("left_of",),
    verbs=(Verb("reach", ("block",), "reach {0}"), Verb("leave", ("block",), "leave {0}")),
    cameras=("front", "wrist"),
    describing=("colour",),
)
SIDE = 96
STEP = 0.08
HOLD = 5
"""Frames at the end of a segment in which the hand is there and closed."""
COLOURS = {"red": (220, 30, 30), "blue": (30, 60, 220)}


class ToyWorld:
    """Two blocks and a hand; positions are shares of the picture."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.hand = rng.uniform(0.2, 0.8, 2)
        self.grip = -1.0
        self.blocks = np.stack(
            [rng.uniform([0.15, 0.15], [0.4, 0.85]), rng.uniform([0.6, 0.15], [0.85, 0.85])]
        )
        self.colours = [str(c) for c in rng.permutation(["red", "blue"])]
        self.instruction = f"fetch the {self.colours[0]} block"

    def box(self, block: int, camera: str) -> Box:
        x, y = self.blocks[block]
        x = 1 - x if camera == "wrist" else x
        return Box(float(x - 0.06), float(y - 0.06), float(x + 0.06), float(y + 0.06))

    def boxes(self) -> dict[str, dict[str, Box]]:
        return {c: {f"block_{i + 1}": self.box(i, c) for i in range(2)} for c in SCHEMA.cameras}

    def graph(self) -> SceneGraph:
        blocks = [
            SceneObject(
                f"block_{i + 1}", "block", {c: self.box(i, c) for c in SCHEMA.cameras}, {"colour": colour}
            )
            for i, colour in enumerate(self.colours)
        ]
        return SceneGraph((SceneObject("gripper", "gripper"), *blocks))

    def observe(self) -> Observation:
        picture = np.full((SIDE, SIDE, 3), 90, np.uint8)
        for place, colour in zip(self.blocks, self.colours, strict=True):
            _fill(picture, place, 0.06, COLOURS[colour])
        _fill(picture, self.hand, 0.03, (250, 250, 250))
        images = {"front": picture, "wrist": np.ascontiguousarray(picture[:, ::-1])}
        return Observation(images, np.array([*self.hand, 0, 1, 0, self.grip], np.float32))

    def expert(self, block: int) -> NDArray[np.float32]:
        offset = self.blocks[block] - self.hand
        step = np.clip(offset, -STEP, STEP)
        grip = 1.0 if np.abs(offset).max() < 0.02 else -1.0
        return np.array([*step, grip], np.float32)

    def step(self, action: NDArray[np.float32]) -> None:
        self.hand = np.clip(self.hand + action[:2], 0, 1)
        self.grip = float(action[2])

    def distance(self, block: int) -> float:
        return float(np.abs(self.blocks[block] - self.hand).max())


def _fill(
    picture: NDArray[np.uint8], place: NDArray[np.float64], half: float, colour: tuple[int, ...]
) -> None:
    x0, y0, x1, y1 = (int(round(v * SIDE)) for v in (*(place - half), *(place + half)))
    picture[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = colour


def record_toy(folder: Path, episodes: int = 12, seed: int = 0) -> DemoDataset:
    """Episodes of two segments: reach a block (every third one slips), then reach it or the other again."""
    staging = folder / "staging"
    for number in range(episodes):
        world = ToyWorld(seed + number)
        recorder = EpisodeRecorder(
            staging, schema=SCHEMA, instruction=world.instruction, fps=10, episode_id=f"toy-{number:04d}"
        )
        for turn in range(2):
            block = (number + turn) % 2
            slips = turn == 0 and number % 3 == 2
            subgoal = Subgoal("reach", (f"block_{block + 1}",))
            recorder.start_segment(subgoal, f"reach the {world.colours[block]} block", world.graph())
            still = 0
            while still < HOLD:
                action = world.expert(1 - block if slips else block)
                recorder.add_frame(world.observe(), action, world.boxes())
                world.step(action)
                still += int(action[2] > 0)
            recorder.end_segment(Outcome.SLIPPED if slips else Outcome.REACHED, OutcomeSource.SIMULATOR)
        success = number % 2 == 0
        recorder.finish(
            EpisodeOutcome.SUCCESS if success else EpisodeOutcome.FAILURE,
            OutcomeSource.SIMULATOR,
            final_graph=world.graph(),
            split=Split.CALIBRATION if number == episodes - 1 else Split.TRAIN,
        )
    names = [*POSE_NAMES, "gripper"]
    return open_dataset(assemble(staging, folder / "dataset", robot_type="toy", state_names=names))
