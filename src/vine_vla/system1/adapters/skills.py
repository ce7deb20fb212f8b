"""Policies that were not made for VINE behind the `Skill` protocol: any of LeRobot's.

A policy receives the subgoal in the two ways there are: the sentence goes into `task`, verb and boxes into
`observation.environment_state` for policies that read no text. Queued actions of an earlier subgoal are
dropped. A done head (`done`) detects the end of a subgoal, since such policies have none; without one a
subgoal ends by its time-out and by the graph alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import redirect_stdout
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from lerobot.policies import get_policy_class, make_pre_post_processors
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Float, Observation, SkillOutput, SkillSignals
from vine_vla.data.export.crops import LAYOUT, CropLayout, graph_boxes, skill_inputs, slot_ids
from vine_vla.learning.device import usable_device
from vine_vla.storage.untrusted import read_text
from vine_vla.system1.settings import SIGNAL_DRAWS
from vine_vla.system1.vetting import read_config

EXECUTE = 4
"""Actions, at most, between two calls: a policy that queues more is asked for the rest of them then."""

RUNNING_ALWAYS = np.array([1, 0, 0], np.float32)


class DoneSignal(Protocol):
    """Tells whether a subgoal that another policy executes is running, done or failed."""

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None: ...

    def done(self, observation: Observation, graph: SceneGraph) -> Float:
        """Probabilities of running, done, failed; sums to 1. float32 [3]"""
        ...

    def another(self) -> DoneSignal:
        """The same for another episode that runs at the same time."""
        ...


class LeRobotSkill:
    """A LeRobot policy as System 1: ACT, Diffusion, SmolVLA, pi0, any plugin.

    Args:
        policy: in evaluation mode. preprocessor, postprocessor: as saved with it.
        cameras: image key of the policy -> camera role.
        layout: how verb and boxes are put into `observation.environment_state`, if the policy reads that.
        done: tells the end of a subgoal; None: never.
        weights: hash of the policy's weights, which must not change; default: of what they are now.
    """

    def __init__(
        self,
        policy: Any,
        preprocessor: Any,
        postprocessor: Any,
        *,
        cameras: Mapping[str, str],
        layout: CropLayout | None = None,
        done: DoneSignal | None = None,
        weights: str | None = None,
    ) -> None:
        self.policy, self._pre, self._post = policy.eval(), preprocessor, postprocessor
        self.cameras, self.layout, self._done = dict(cameras), layout, done
        self.weights = weights or module_hash(policy)
        self._subgoal: Subgoal | None = None
        self._text = ""
        self._taken = 0  # actions since the subgoal's start
        self._batch: dict[str, Any] | None = None  # of the last `act`
        self._seed = 0

    @property
    def horizon(self) -> int:
        """Most actions that are executed before the next call: few, so that a subgoal's end is noticed.

        One where the policy has to see every step: it keeps a history, or averages over its chunks.
        """
        return 1 if self._needs_every_step else min(EXECUTE, self._queued)

    @property
    def _needs_every_step(self) -> bool:
        config = self.policy.config
        averages = getattr(config, "temporal_ensemble_coeff", None) is not None
        return getattr(config, "n_obs_steps", 1) > 1 or averages

    @property
    def _queued(self) -> int:
        """Actions of a chunk that the policy executes before it predicts another."""
        return int(getattr(self.policy.config, "n_action_steps", 1))

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        cameras: Mapping[str, str] | None = None,
        layout: Path | CropLayout | None = None,
        done: DoneSignal | None = None,
        device: str | None = "cpu",
    ) -> Self:
        """The policy of a checkpoint directory with its original processors.

        Args:
            cameras: camera role -> image key of the policy; default: keys that end in the role.
            layout: of the dataset it was trained on (`vine_crops.json`); default: the one in the checkpoint.
            done: tells the end of a subgoal, e.g. a `DoneHead`; None: never.
            device: see `usable_device`.

        Raises:
            VineError: none there, `vet_policy` refuses it, or it wants inputs that are not known here.
        """
        config = read_config(directory)
        config.device = device = str(usable_device(device))
        with redirect_stdout(None):  # LeRobot prints where it loads from
            policy = get_policy_class(config.type).from_pretrained(directory, config=config)
        policy.requires_grad_(False)
        overrides = {"device_processor": {"device": device}}
        processors = make_pre_post_processors(config, str(directory), preprocessor_overrides=overrides)
        beside = directory / Path(LAYOUT).name
        found = layout if isinstance(layout, CropLayout) else read_layout(layout or beside)
        if config.env_state_feature and found is None:
            raise VineError(
                "the policy reads observation.environment_state",
                where=str(directory),
                hint=f"put {LAYOUT} of its dataset beside config.json, or give --layout",
            )
        roles = found.cameras if found and found.cameras else None
        keys = camera_keys(list(config.image_features), cameras, roles)
        return cls(policy, *processors, cameras=keys, layout=found, done=done)

    def another(self) -> Self:
        """The same weights for another episode that runs at the same time, with queues of its own."""
        policy = copy(self.policy)  # shares parameters; `reset` gives it new queues
        policy.reset()
        done = self._done.another() if self._done is not None else None
        shared = {"cameras": self.cameras, "layout": self.layout, "done": done, "weights": self.weights}
        return type(self)(policy, deepcopy(self._pre), deepcopy(self._post), **shared)

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None:
        """Begin `subgoal`; what was queued of an earlier one is dropped."""
        getattr(self.policy, "drop_queued_actions", self.policy.reset)()
        torch.manual_seed(seed)  # policies draw their noise from torch's own generator
        self._subgoal, self._text, self._taken = subgoal, text, 0
        self._batch, self._seed = None, seed
        if self._done is not None:
            self._done.start(subgoal, text, seed)

    def act(self, observation: Observation, graph: SceneGraph) -> SkillOutput:
        """The next actions: up to `horizon`, none of which the policy would rather see more for."""
        if self._subgoal is None:
            raise VineError("no subgoal has been started", hint="call `start` first")
        sample = policy_inputs(
            self.policy.config, self.cameras, self.layout, observation, graph, self._subgoal
        )
        with torch.no_grad():
            batch = self._pre(sample | {"task": self._text})
            count = min(self.horizon, self._queued - self._taken % self._queued)
            chosen = [self._post(self.policy.select_action(batch)).flatten() for _ in range(count)]
        self._taken += count
        self._batch = batch
        done = RUNNING_ALWAYS if self._done is None else self._done.done(observation, graph)
        return SkillOutput(torch.stack(chosen).cpu().numpy().astype(np.float32), len(chosen), done)

    def signals(self) -> SkillSignals:
        """Spread of the (normalised) actions under other noise, at the last `act`; 0 for ACT, which has none.

        NaN for a policy that keeps a history. The distance from its training data is not known.

        Raises:
            VineError: it has not acted yet.
        """
        if self._batch is None:
            raise VineError("the skill has not acted yet", hint="call `act` first")
        if self._needs_every_step:
            return SkillSignals(np.nan, np.nan)
        policy = copy(self.policy)  # shares parameters; `reset` gives it new queues
        policy.reset()
        with torch.random.fork_rng(), torch.no_grad():  # the noise of later chunks is left as it is
            torch.manual_seed(self._seed)
            chunks = policy.predict_action_chunk({k: _repeated(v) for k, v in self._batch.items()})
        return SkillSignals(float(chunks[:, : self.horizon].std(0).mean()), np.nan)

    def check(self) -> None:
        """Raises VineError if the weights are not those that were loaded."""
        if module_hash(self.policy) != self.weights:
            raise VineError("the weights of System 1 have changed", hint="load the checkpoint again")


def read_layout(path: Path) -> CropLayout | None:
    """The crop layout in a file, None if there is none; raises VineError if it is malformed."""
    return CropLayout.from_json(read_text(path), str(path)) if path.is_file() else None


def _repeated(value: Any) -> Any:
    """`SIGNAL_DRAWS` copies of a batch of one."""
    if isinstance(value, torch.Tensor) and value.ndim:
        return value.expand(SIGNAL_DRAWS, *value.shape[1:])
    return value * SIGNAL_DRAWS if isinstance(value, list) else value


def module_hash(module: torch.nn.Module) -> str:
    """sha256 of all parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def camera_keys(
    keys: list[str], given: Mapping[str, str] | None, roles: tuple[str, ...] | None
) -> dict[str, str]:
    """Image key of the policy -> camera role: as given, else by the key's last part.

    Raises:
        VineError: a key has no camera.
    """
    by_key = {key: role for role, key in (given or {}).items()}
    found = {}
    for key in keys:
        role = by_key.get(key, key.rpartition(".")[2])
        if roles is not None and role not in roles:
            raise VineError(
                f"no camera for the policy's {key}",
                hint=f"name it, e.g. --camera {roles[0]}={key}; cameras are {', '.join(roles)}",
            )
        found[key] = role
    return found


def policy_inputs(
    config: Any,
    cameras: Mapping[str, str],
    layout: CropLayout | None,
    observation: Observation,
    graph: SceneGraph,
    subgoal: Subgoal,
) -> dict[str, Any]:
    """What a LeRobot policy gets: images or windows as it was trained on them, state, verb and boxes.

    Raises:
        VineError: a camera is missing, or the state has another size.
    """
    sample: dict[str, Any] = {}
    for role in cameras.values():
        if role not in observation.images:
            raise VineError(
                f"no image of {role}", where=f"observation has {', '.join(observation.images) or 'no images'}"
            )
    images: Mapping[str, NDArray[np.uint8]] = observation.images
    if layout is not None:
        # The whole task (`flat`) is no verb of the layout and about nothing: the sentence alone says it.
        whole = subgoal.verb not in layout.verbs and not subgoal.args
        target = None if whole else subgoal
        ids = slot_ids(layout, target, {o.id: o.cls for o in graph.objects})
        found = skill_inputs(images, graph_boxes(graph), layout, target, ids)
        images = found.crops or images
        if config.env_state_feature:
            sample[OBS_ENV_STATE] = torch.from_numpy(found.environment_state)
    for key, role in cameras.items():
        picture = torch.from_numpy(np.ascontiguousarray(images[role].transpose(2, 0, 1)))
        wanted = tuple(config.image_features[key].shape[-2:])
        scaled = picture.float()[None] / 255
        if scaled.shape[-2:] != wanted:
            scaled = F.interpolate(scaled, size=wanted, mode="area")
        sample[key] = scaled[0]
    if config.robot_state_feature:
        size = config.robot_state_feature.shape[0]
        if len(observation.proprioception) != size:
            raise VineError(
                f"state has {len(observation.proprioception)} numbers, the policy was trained on {size}"
            )
        sample[OBS_STATE] = torch.from_numpy(observation.proprioception)
    return sample
