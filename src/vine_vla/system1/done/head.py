"""A done head for a policy that has none: is its subgoal running, done or failed?

ACT, Diffusion, SmolVLA, pi0 and openpi servers predict actions, never whether a subgoal is done. The head
receives the crops that System 1 receives, at the objects of the subgoal, and the robot's state. It is trained
on the segments of an exported skills dataset (`done.training`) and passed to an adapter:

    done = DoneHead.load(Path("runs/done"), schema)
    skill = LeRobotSkill.load(Path("act/pretrained_model"), done=done)

A folder holds `done.safetensors`, `done.json` (layout, sizes, hash of the weights) and `metrics.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Float, Observation
from vine_vla.data.export.crops import SLOT_FEATURES, CropLayout, graph_boxes, skill_inputs, slot_ids
from vine_vla.learning.device import usable_device
from vine_vla.storage.files import file_hash, write_atomically
from vine_vla.storage.json import read_json, write_json
from vine_vla.storage.untrusted import check_tensors
from vine_vla.system1.vine_skill.networks import CropEncoder, encode_seen
from vine_vla.system1.vine_skill.windows import WindowNoise, object_windows

INFO, WEIGHTS = "done.json", "done.safetensors"
FORMAT = 1
HINT = "train it with `vine train done`"

CROP = 64
"""Side of the crops that are looked at, pixels; less if the stored windows are smaller."""

STATE_NOISE = 0.03
"""Standard deviation added to the normalised state in training."""


class DoneNet(nn.Module):
    """Crops, verb, boxes and state to logits of running, done, failed.

    Args:
        layout: target layout of the crops.
        state: numbers of proprioception.
        width: of the hidden layers.
    """

    def __init__(self, layout: CropLayout, state: int, width: int = 128) -> None:
        super().__init__()
        self.layout, self.state, self.width = layout, state, width
        self.crop = min(CROP, layout.pixels // 8 * 8)
        cameras = len(layout.cameras)
        self.encoders = nn.ModuleList(CropEncoder(self.crop) for _ in range(cameras))
        known = cameras * (CropEncoder.FEATURES + SLOT_FEATURES) + len(layout.verbs) + state
        self.head = nn.Sequential(
            nn.Linear(known, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3)
        )
        self.register_buffer("state_mean", torch.zeros(state))
        self.register_buffer("state_spread", torch.ones(state))

    def forward(
        self,
        pictures: Sequence[Tensor],
        environment: Tensor,
        state: Tensor,
        noise: WindowNoise | None = None,
    ) -> Tensor:
        """Logits, float32 [B, 3].

        Args:
            pictures: per camera, stored windows in [0, 1]. float32 [B, 3, pixels, pixels]
            environment: verb one-hot and boxes, as `skill_inputs` makes it. float32 [B, E]
            state: proprioception. float32 [B, P]
            noise: in training; drawn from torch's generator.
        """
        crops, seen, numbers = object_windows(pictures, environment, self.layout, self.crop, noise)
        state = (state - self.state_mean) / self.state_spread
        if noise is not None:
            state = state + STATE_NOISE * torch.randn_like(state)
        features = [encode_seen(e, c[:, 0], s[:, 0]) for e, c, s in zip(self.encoders, crops, seen)]
        verb = environment[:, : len(self.layout.verbs)]
        return self.head(torch.cat([*features, numbers[:, 0], verb, state], 1))


class DoneHead:
    """A trained `DoneNet` behind the protocol `DoneSignal`; one for every episode that runs at a time."""

    def __init__(self, net: DoneNet) -> None:
        self.net = net.eval().requires_grad_(False)
        self._subgoal: Subgoal | None = None

    @classmethod
    def load(cls, directory: Path, schema: Schema, device: str | None = "cpu") -> Self:
        """The head trained into `directory`.

        Args:
            schema: its verbs and cameras must be those of the training data.
            device: see `usable_device`.

        Raises:
            VineError: no head there, a damaged one, or one of other verbs or cameras.
        """
        net = load_net(directory)
        layout, verbs = net.layout, tuple(v.name for v in schema.verbs)
        if layout.cameras != schema.cameras or layout.verbs != verbs:
            raise VineError(
                f"a done head for cameras {_listed(layout.cameras)} and verbs {_listed(layout.verbs)}",
                where=str(directory),
                hint=f"this scene has cameras {_listed(schema.cameras)} and verbs {_listed(verbs)}",
            )
        return cls(net.to(usable_device(device)))

    def another(self) -> Self:
        """The same weights for another episode that runs at the same time."""
        return type(self)(self.net)

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None:
        """Begin `subgoal`; the sentence is not read, and nothing is drawn."""
        self._subgoal = subgoal

    def done(self, observation: Observation, graph: SceneGraph) -> Float:
        """Probabilities of running, done, failed; sums to 1. float32 [3]

        Raises:
            VineError: no subgoal has been started, a camera is missing, or the state has another size.
        """
        if self._subgoal is None:
            raise VineError("no subgoal has been started", hint="call `start` first")
        net = self.net
        missing = [camera for camera in net.layout.cameras if camera not in observation.images]
        if missing:
            raise VineError(
                f"the done head needs {_listed(net.layout.cameras)}",
                hint=f"the observation has {_listed(observation.images)}",
            )
        size = len(observation.proprioception)
        if size != net.state:
            raise VineError(f"state has {size} numbers, the done head was trained on {net.state}")
        ids = slot_ids(net.layout, self._subgoal, {})
        inputs = skill_inputs(observation.images, graph_boxes(graph), net.layout, self._subgoal, ids)
        device = net.state_mean.device
        pictures = [
            torch.from_numpy(np.ascontiguousarray(inputs.crops[camera].transpose(2, 0, 1)))[None]
            .to(device)
            .float()
            / 255
            for camera in net.layout.cameras
        ]
        environment = torch.from_numpy(inputs.environment_state)[None].to(device)
        state = torch.from_numpy(np.array(observation.proprioception, np.float32))[None].to(device)
        with torch.no_grad():
            found = net(pictures, environment, state).softmax(1)[0]
        return found.cpu().numpy().astype(np.float32)


def save_net(net: DoneNet, directory: Path, more: Mapping[str, Any]) -> None:
    """Write the net and what is to be known of it; `done.json` comes last, so that no half head loads."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in net.state_dict().items()}
    write_atomically(directory / WEIGHTS, lambda path: save_file(tensors, path))
    info = {"format": FORMAT, "layout": asdict(net.layout), "state": net.state, "width": net.width}
    write_json(directory / INFO, info | {"weights_sha256": file_hash(directory / WEIGHTS)} | dict(more))


def read_info(directory: Path) -> dict[str, Any]:
    """`done.json` of a trained head; raises VineError if there is none or it is damaged."""
    path = directory / INFO
    info = read_json(path, missing="no done head", hint=HINT)
    if info.get("format") != FORMAT:
        raise VineError("not a done head of this version", where=str(path), hint=HINT)
    return info


def load_net(directory: Path) -> DoneNet:
    """The net in `directory`; raises VineError if a file is missing, damaged or not as it was written."""
    info, path = read_info(directory), directory / WEIGHTS
    try:
        layout = CropLayout.from_json(json.dumps(info["layout"]), str(directory / INFO))
        net = DoneNet(layout, int(info["state"]), int(info["width"]))
        if file_hash(path) != info["weights_sha256"]:
            raise VineError("the weights have changed since training", where=str(path), hint=HINT)
        check_tensors(path, HINT)
        net.load_state_dict(load_file(path))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise VineError(f"damaged done head: {error!r}", where=str(directory), hint=HINT) from error
    return net


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
