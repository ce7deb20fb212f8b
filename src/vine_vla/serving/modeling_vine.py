"""The policy `vine` for LeRobot: an agent for each environment behind `select_action`.

A checkpoint is a directory that needs nothing else: LeRobot's `config.json`, `model.safetensors` and
processors, and the run's `system1/` and `system2/`.
"""

from __future__ import annotations

import shutil
from collections import deque
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from torch import Tensor

from vine_vla.core.errors import VineError
from vine_vla.serving.config import AgentSettings
from vine_vla.serving.configuration_vine import VineConfig
from vine_vla.serving.load import load_agent
from vine_vla.serving.session import ServedAgent, Session, answer_plan
from vine_vla.storage.files import folder_in_the_making
from vine_vla.system1.vetting import fetch_policy
from vine_vla.system2.load import load_system2

FILES = ("*.json", "*.safetensors", "*.md", "*.png")
"""What of System 1 belongs to a checkpoint."""


class VinePolicy(PreTrainedPolicy):
    """The whole agent; one episode at a time in each environment of a batch.

    Args:
        config: of the checkpoint.
        run: folder with `system1` and `system2`.

    Raises:
        VineError: there is no checkpoint: the agent is trained by `vine train` and exported.
    """

    config_class, name = VineConfig, "vine"

    def __init__(self, config: VineConfig, *_: Any, run: Path | None = None, **__: Any) -> None:
        super().__init__(config)
        if run is None:
            raise VineError(
                "the policy `vine` has no weights to start from",
                hint="make a checkpoint with `vine export policy RUN DIR` and give --policy.path=DIR",
            )
        config.validate_features()
        self.config: VineConfig = config
        self.run = Path(run)
        self.register_buffer("format", torch.ones((), dtype=torch.int64))
        names = [field.name for field in fields(AgentSettings)]
        settings = AgentSettings(**{name: getattr(config, name) for name in names})
        self.served: ServedAgent = load_agent(self.run, settings)
        self._episodes = 0
        self.reset()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """The policy of a checkpoint's directory, or of a repository on the hub; vetted, see `vet_policy`.

        LeRobot builds the checkpoint's own processors afterwards, from files that are vetted here as well.
        """
        folder = fetch_policy(pretrained_name_or_path, revision, **options)
        found = config or PreTrainedConfig.from_pretrained(folder)
        if not isinstance(found, VineConfig):
            raise VineError(f"a policy of type {found.type}, not vine", where=str(folder))
        policy = cls(found, run=folder)
        policy.to(found.device)
        return policy.eval()

    def _save_pretrained(self, save_directory: Path, *arguments: Any, **options: Any) -> None:
        super()._save_pretrained(save_directory, *arguments, **options)
        copy_parts(self.run, save_directory)

    # ---- acting ------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """Begin new episodes in all environments."""
        self._sessions: list[Session] = []
        self._action_queue: deque[Tensor] = deque()
        self._episodes += 1

    def drop_queued_actions(self) -> None:
        """Forget actions that were decided on and not executed."""
        self._action_queue.clear()

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """The next actions of every environment. [B, T, A]"""
        messages = self._messages(batch)
        while len(self._sessions) < len(messages):
            seed = self.config.seed + 10_000 * self._episodes + len(self._sessions)
            self._sessions.append(Session(self.served, seed))
        replies = [s.infer(m) for s, m in zip(self._sessions, messages, strict=True)]
        self.last_replies = [{k: v for k, v in r.items() if k != "actions"} for r in replies]
        actions = np.stack([reply["actions"] for reply in replies])
        return torch.from_numpy(actions).to(self.format.device)

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **options: Any) -> Tensor:
        """The next action of every environment. [B, A]"""
        if not self._action_queue:
            self._action_queue.extend(self.predict_action_chunk(batch, **options).transpose(0, 1))
        return self._action_queue.popleft()

    def supports_text_generation(self) -> bool:
        """It answers LeRobot's query `next_subtask`."""
        return True

    def generate_text(self, batch: dict[str, Any], **_: Any) -> str:
        """The next subgoal of the first environment's plan as a sentence; empty if there is no plan."""
        texts = answer_plan(self.served, self._messages(batch)[0])["texts"]
        return str(texts[0]) if texts else ""

    def _messages(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """What each environment shows, as a client of the server would say it."""
        roles = self.served.schema.cameras
        images = {r: batch[f"{OBS_IMAGES}.{r}"] for r in roles if f"{OBS_IMAGES}.{r}" in batch}
        if roles[0] not in images:
            given = ", ".join(sorted(k for k in batch if k.startswith("observation."))) or "nothing"
            raise VineError(
                f"no {OBS_IMAGES}.{roles[0]}",
                where=f"observation has {given}",
                hint=f"rename with --rename_map, cameras are {', '.join(roles)}",
            )
        state, tasks = batch[OBS_STATE], batch.get("task")
        size = len(state)
        prompts = [tasks] * size if isinstance(tasks, str) or tasks is None else list(tasks)
        return [
            {
                "images": {role: picture[i].detach().cpu().numpy() for role, picture in images.items()},
                "state": state[i].detach().cpu().numpy(),
                **({"prompt": prompts[i]} if prompts[i] else {}),
            }
            for i in range(size)
        ]

    # ---- what LeRobot's trainer asks for -------------------------------------------------------------------
    def get_optim_params(self) -> Any:
        return []

    def forward(self, batch: dict[str, Any], *_: Any, **__: Any) -> tuple[Tensor, dict[str, Any]]:
        """Not trained here."""
        raise VineError(
            "the policy `vine` is not trained by LeRobot",
            hint="train System 1 with --policy.type=vine_skill, System 2 with `vine train system2`",
        )


def copy_parts(run: Path, out: Path) -> None:
    """The weights and descriptions of `run`'s systems to a checkpoint; of System 2 the variant it serves."""
    if run.resolve() == out.resolve():
        return
    load_system2(run, device="cpu").save(out / "system2")
    for pattern in FILES:
        for file in sorted((run / "system1").rglob(pattern)):
            if "trainer" not in file.relative_to(run).parts:
                target = out / file.relative_to(run)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


def export_policy(run: Path, out: Path, *, image_size: tuple[int, int] = (192, 192), **settings: Any) -> Path:
    """Write a checkpoint of the agent in `run`.

    Args:
        image_size: height and width that the checkpoint's features name; any size is taken.
        settings: fields of `VineConfig`.

    Raises:
        VineError: `run` lacks a part, or `out` holds something else.
    """
    from vine_vla.serving.processor_vine import make_vine_pre_post_processors

    if out.exists() and not (out / "config.json").is_file():
        raise VineError("is no checkpoint", where=str(out), hint="give a new folder")
    config = VineConfig(device="cpu", push_to_hub=False, **settings)
    served = load_agent(run)
    size = len(served.action_low)
    config.chunk_size = config.n_action_steps = served.horizon
    config.input_features = {
        f"{OBS_IMAGES}.{role}": PolicyFeature(FeatureType.VISUAL, (3, *image_size))
        for role in served.schema.cameras
    } | {OBS_STATE: PolicyFeature(FeatureType.STATE, (served.keys.state_size,))}
    config.output_features = {ACTION: PolicyFeature(FeatureType.ACTION, (size,))}
    with folder_in_the_making(out) as partial:
        policy = VinePolicy(config, run=run)
        policy.save_pretrained(partial)
        for processor in make_vine_pre_post_processors(config):
            processor.save_pretrained(partial)
    return out
