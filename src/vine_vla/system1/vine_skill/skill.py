"""System 1 at run time: a trained `vine_skill` policy behind the `Skill` protocol."""

from __future__ import annotations

from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from lerobot.policies import make_pre_post_processors
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph, Schema
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Observation, SkillOutput, SkillSignals
from vine_vla.data.export.crops import CropLayout, graph_boxes, skill_inputs, slot_ids
from vine_vla.learning.device import usable_device
from vine_vla.system1.settings import SIGNAL_DRAWS
from vine_vla.system1.vetting import read_config
from vine_vla.system1.vine_skill.configuration_vine_skill import VineSkillConfig
from vine_vla.system1.vine_skill.modeling_vine_skill import VineSkillPolicy
from vine_vla.system1.vine_skill.weights import POLICY_FOLDER


class FlowSkill:
    """Executes subgoals: crops at the graph's present boxes, a chunk of actions and the done signal.

    Equal observations, graphs and seeds give equal actions.

    Args:
        policy: in evaluation mode, with a target layout.
        preprocessor, postprocessor: as saved with it.
    """

    scene = False
    """Whether it is shown all objects instead of the subgoal's target."""

    def __init__(self, policy: VineSkillPolicy, preprocessor: Any, postprocessor: Any) -> None:
        if policy.layout is None or bool(policy.layout.slots) is not self.scene:
            kind = "a scene layout" if self.scene else "a target layout"
            raise VineError(
                f"the policy was not trained on crops with {kind}", hint="export and train it anew"
            )
        self.policy, self.layout = policy.eval(), policy.layout
        self._pre, self._post = preprocessor, postprocessor
        self._keys = dict(zip(self.layout.cameras, policy.config.image_features, strict=True))
        self._subgoal: Subgoal | None = None
        self._text = ""
        self._generator = torch.Generator()
        self._condition: torch.Tensor | None = None
        self._seed = 0

    @classmethod
    def load(
        cls, directory: Path, schema: Schema, *, flow_steps: int | None = None, device: str | None = "cpu"
    ) -> Self:
        """The skill trained into `directory` (a run of `vine train system1`, or a saved policy).

        Args:
            schema: its verbs and cameras must be those of the training data.
            flow_steps: Euler steps, 2 to 6; default as trained.
            device: see `usable_device`.

        Raises:
            VineError: no policy there, one that `vet_policy` refuses, one of another vocabulary, or no such
                device.
        """
        folder = directory / POLICY_FOLDER if (directory / POLICY_FOLDER).is_dir() else directory
        if not (folder / "config.json").is_file():
            raise VineError("no System 1", where=str(folder), hint="train it with `vine train system1`")
        config = read_config(folder)
        if not isinstance(config, VineSkillConfig):
            raise VineError(f"a policy of type {config.type}, not vine_skill", where=str(folder))
        layout = CropLayout.from_json(config.layout, f"{folder}/config.json") if config.layout else None
        verbs = tuple(v.name for v in schema.verbs)
        if layout is not None and (layout.cameras != schema.cameras or layout.verbs not in ((), verbs)):
            raise VineError(
                f"trained for cameras {layout.cameras} and verbs {layout.verbs}",
                where=str(folder),
                hint=f"this scene has cameras {schema.cameras} and verbs {verbs}",
            )
        config.flow_steps = flow_steps or config.flow_steps
        config.device = str(usable_device(device))
        with redirect_stdout(None):  # LeRobot prints where it loads from
            policy = VineSkillPolicy.from_pretrained(folder, config=config, strict=True)
        overrides = {"device_processor": {"device": config.device}}
        return cls(policy, *make_pre_post_processors(config, str(folder), preprocessor_overrides=overrides))

    @property
    def horizon(self) -> int:
        """Actions of a chunk that are executed before it predicts again."""
        return int(self.policy.config.n_action_steps)

    def another(self) -> Self:
        """The same weights for another episode that runs at the same time."""
        return type(self)(self.policy, self._pre, self._post)

    def start(self, subgoal: Subgoal, text: str, seed: int) -> None:
        """Begin `subgoal`; `seed` fixes the noise of all its chunks."""
        self._subgoal, self._text, self._condition, self._seed = subgoal, text, None, seed
        self._generator.manual_seed(seed)

    def act(self, observation: Observation, graph: SceneGraph) -> SkillOutput:
        """The next chunk [T, A], how much of it to execute, and the done signal."""
        if self._subgoal is None:
            raise VineError("no subgoal has been started", hint="call `start` first")
        subgoal = None if self.scene else self._subgoal
        ids = slot_ids(self.layout, subgoal, {o.id: o.cls for o in graph.objects})
        inputs = skill_inputs(observation.images, graph_boxes(graph), self.layout, subgoal, ids)
        sample: dict[str, Any] = {
            OBS_STATE: torch.from_numpy(observation.proprioception),
            OBS_ENV_STATE: torch.from_numpy(inputs.environment_state),
            "task": self._text,
        }
        for role, key in self._keys.items():
            picture = torch.from_numpy(np.ascontiguousarray(inputs.crops[role].transpose(2, 0, 1)))
            sample[key] = picture.float() / 255.0
        noise = torch.randn((1, *self.policy.chunk_shape), generator=self._generator)
        self._condition, done = self.policy.encode(self._pre(sample))
        chunk = self.policy.unscale(self.policy.sample(self._condition, noise))
        actions = self._post(chunk)[0].numpy().astype(np.float32)
        return SkillOutput(actions, self.horizon, done[0].cpu().numpy().astype(np.float32))

    def signals(self) -> SkillSignals:
        """Spread of the actions under other noise, and distance from the training data, at the last `act`.

        Raises:
            VineError: it has not acted yet.
        """
        if self._condition is None:
            raise VineError("the skill has not acted yet", hint="call `act` first")
        own = torch.Generator().manual_seed(self._seed)  # the noise of later chunks is left as it is
        noise = torch.randn((SIGNAL_DRAWS, *self.policy.chunk_shape), generator=own)
        chunks = self.policy.sample(self._condition.expand(SIGNAL_DRAWS, -1), noise)[:, : self.horizon]
        distance = self.policy.features.distance(self._condition)
        return SkillSignals(float(chunks.std(0).mean()), float(distance))


class FlatSkill(FlowSkill):
    """The `flat` arm: the whole task as one skill, on the instruction and crops at all that subgoals name.

    `start` takes the instruction as `text` and ignores the subgoal; `done` is about the end of the episode.
    """

    scene = True
