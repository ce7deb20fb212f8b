"""The LeRobot policy `vine_skill`: flow matching over action chunks on crops, with a done head.

In training the crop is moved within its stored window as a detector's error would move it, and the boxes
of the environment vector carry the same error. Actions are scaled by asinh, so that the last millimetre
weighs as much as free motion. Labels (imitate, done) come from the dataset's sidecars by frame index.
Averaged weights (EMA) act; both sets are saved, so that a resumed run is the same run.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from safetensors.torch import load_file
from torch import Tensor, nn

from vine_vla.core.errors import VineError
from vine_vla.data.export.crops import LAYOUT, SLOT_FEATURES, CropLayout
from vine_vla.learning.precision import half_precision
from vine_vla.system1.adapters.action_kinds import (
    are_motions,
    default_units,
    read_actions_and_states,
    state_places,
)
from vine_vla.system1.vetting import fetch_policy
from vine_vla.system1.vine_skill.configuration_vine_skill import VineSkillConfig
from vine_vla.system1.vine_skill.features import FeatureStatistics
from vine_vla.system1.vine_skill.labels import IGNORED, frame_labels
from vine_vla.system1.vine_skill.networks import SkillNet
from vine_vla.system1.vine_skill.waypoints import UNITS, find_pose, waypoints
from vine_vla.system1.vine_skill.windows import WindowNoise, augment_crops, cut_windows, object_windows


class VineSkillPolicy(PreTrainedPolicy):
    """System 1 as LeRobot trains, saves and runs it.

    Args:
        config: completed in place from `dataset_meta` (layout, vocabulary, action units).
        dataset_meta: of the training set; its root holds layout and sidecars. None when only loading.
    """

    config_class, name = VineSkillConfig, "vine_skill"

    def __init__(self, config: VineSkillConfig, *_: Any, dataset_meta: Any = None, **__: Any) -> None:
        super().__init__(config)
        config.validate_features()
        self.config: VineSkillConfig = config
        actions = self._read_dataset(dataset_meta) if dataset_meta is not None else None
        self.layout = CropLayout.from_json(config.layout, "config.json, layout") if config.layout else None
        self._words = {word: i + 1 for i, word in enumerate(config.vocabulary)}
        self._action_size = config.action_feature.shape[0]  # type: ignore[union-attr]
        units = torch.tensor(config.action_units or [1.0] * self._action_size, dtype=torch.float32)
        self.register_buffer("units", units)
        self.register_buffer("spread", torch.ones(self._action_size))
        if config.delta_actions is None:
            config.delta_actions = True
        if actions is not None:
            self.spread.copy_(self._spread(torch.from_numpy(actions)))
        self.net = self._build()
        if dataset_meta is not None and config.encoders and not config.pretrained_path:
            self._take_encoders(Path(config.encoders))
        self.ema = deepcopy(self.net).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.features = FeatureStatistics(config.width)
        self.reset()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_name_or_path: str | Path, *, revision: str | None = None, **options: Any
    ) -> Self:
        """The policy of a folder or a repository on the hub; vetted, with the processors that come next."""
        folder = fetch_policy(pretrained_name_or_path, revision, **options)
        return super().from_pretrained(folder, **options)

    # ---- construction ------------------------------------------------------------------------------------
    def _read_dataset(self, meta: Any) -> np.ndarray:
        """Complete the configuration and the label tables from the dataset; returns its actions [N, A]."""
        config, root = self.config, Path(meta.root)
        if not config.layout and (root / LAYOUT).is_file():
            config.layout = (root / LAYOUT).read_text(encoding="utf-8")
            config.text = config.text or not CropLayout.from_json(config.layout).verbs
        if config.text and not config.vocabulary:
            config.vocabulary = sorted({word for task in meta.tasks.index for word in _words(str(task))})
        starts = [int(i) for i in meta.episodes["dataset_from_index"]]
        ends = [int(i) for i in meta.episodes["dataset_to_index"]]
        labels = frame_labels(root, starts, ends, config.done_frames, config.failed_frames)
        self.register_buffer("imitate", torch.from_numpy(labels.imitate), persistent=False)
        self.register_buffer("done_labels", torch.from_numpy(labels.done), persistent=False)
        actions, states = read_actions_and_states(root, states=bool(config.robot_state_feature))
        if config.action_units is None:
            config.action_units = default_units(actions)
        if config.action_places is None:
            config.action_places = state_places(states, actions, config.action_units)
        if config.delta_actions is None:
            config.delta_actions = are_motions(config.action_units, config.action_places)
        pose = find_pose(meta.features[OBS_STATE].get("names")) if config.robot_state_feature else []
        if pose and states is not None and config.waypoint_weight > 0:
            switches = [d for d, unit in enumerate(config.action_units) if unit == 0]
            found = waypoints(states, actions, labels.clips, pose, switches)
            self.register_buffer("ahead", torch.from_numpy(found.ahead), persistent=False)
            self.register_buffer("ahead_known", torch.from_numpy(found.known), persistent=False)
        return actions

    def _build(self) -> SkillNet:
        config, layout = self.config, self.layout
        state = config.robot_state_feature.shape[0] if config.robot_state_feature else 0
        environment = config.env_state_feature.shape[0] if config.env_state_feature else 0
        text = config.text_width if config.text else 0
        slots = layout.slot_count if layout else 1
        numbers = len(layout.cameras) * SLOT_FEATURES if layout else 0
        net = SkillNet(
            cameras=len(config.image_features),
            slots=slots,
            crop=config.crop_pixels,
            numbers=numbers,
            vector=state + environment - slots * numbers + text,
            chunk=config.chunk_size * self._action_size,
            width=config.width,
            blocks=config.blocks,
            half=config.encoder_dtype == "bfloat16",
        )
        if config.text:
            net.words = nn.EmbeddingBag(len(config.vocabulary) + 1, text, mode="mean", padding_idx=0)
        return net

    def _take_encoders(self, folder: Path) -> None:
        """Begin with the averaged encoders of the policy saved in `folder`."""
        stem = "ema.encoders."
        saved = load_file(folder / SAFETENSORS_SINGLE_FILE)
        taken = {name.removeprefix(stem): value for name, value in saved.items() if name.startswith(stem)}
        try:
            self.net.encoders.load_state_dict(taken)
        except RuntimeError as error:
            raise VineError(
                "its encoders do not fit this policy's cameras and crops",
                where=str(folder),
                hint="name a policy trained on the same cameras",
            ) from error

    def _spread(self, actions: Tensor) -> Tensor:
        """Deviation of the asinh-scaled dimensions, 1 for unscaled and for constant ones."""
        scaled = torch.asinh(actions / torch.where(self.units > 0, self.units, 1.0)).std(0, unbiased=False)
        return torch.where((self.units > 0) & (scaled > 1e-6), scaled, 1.0)

    def get_optim_params(self) -> Any:
        return self.net.parameters()

    # ---- scaling -----------------------------------------------------------------------------------------
    def scale(self, actions: Tensor) -> Tensor:
        """Actions [..., A] as the flow sees them."""
        units = torch.where(self.units > 0, self.units, 1.0)
        return torch.where(self.units > 0, torch.asinh(actions / units) / self.spread, actions)

    def unscale(self, scaled: Tensor) -> Tensor:
        """Inverse of `scale`; unscaled dimensions are clipped to +-1."""
        units = torch.where(self.units > 0, self.units, 1.0)
        motion = torch.sinh((scaled * self.spread).clamp(-12, 12)) * units
        return torch.where(self.units > 0, motion, scaled.clamp(-1, 1))

    def _pad(self, actions: Tensor, padded: Tensor) -> Tensor:
        """Past the segment's end: no motion, the last gripper. [B, T, A], bool [B, T]"""
        if not self.config.delta_actions:
            return actions
        return torch.where(padded[..., None] & (self.units > 0), 0.0, actions)

    # ---- inputs ------------------------------------------------------------------------------------------
    def _inputs(
        self, batch: dict[str, Any], net: SkillNet, augment: bool
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Crops per camera [B, slots, 3, crop, crop], which of them show anything, the numbers of the slots
        [B, slots, N], and the vector [B, D]."""
        config = self.config
        pictures = [batch[key] for key in config.image_features]
        size = len(pictures[0])
        environment = batch.get(OBS_ENV_STATE)
        if self.layout is None:
            crops = [self._plain_crops(picture, augment) for picture in pictures]
            seen = [torch.ones(c.shape[:2], dtype=torch.bool, device=c.device) for c in crops]
            numbers = pictures[0].new_zeros(size, 1, 0)
        else:
            assert environment is not None
            crops, seen, numbers = self._object_crops(pictures, environment, augment)
            environment = environment[:, : len(self.layout.verbs)]
        vector = []
        if config.robot_state_feature:
            state = batch[OBS_STATE]
            vector.append(state + config.state_noise * torch.randn_like(state) if augment else state)
        if environment is not None:
            vector.append(environment)
        if config.text:
            vector.append(net.words(self._tokens(batch.get("task"), size, augment).to(pictures[0].device)))
        return crops, seen, numbers, torch.cat(vector, 1) if vector else pictures[0].new_zeros(size, 0)

    def _object_crops(
        self, pictures: list[Tensor], environment: Tensor, augment: bool
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        assert self.layout is not None
        noise = self._noise() if augment else None
        return object_windows(pictures, environment, self.layout, self.config.crop_pixels, noise)

    def _noise(self) -> WindowNoise:
        c = self.config
        return WindowNoise(
            c.box_noise, c.box_dropout, c.shift, c.colour_gain, c.brightness_curve, c.channel_mixing
        )

    def _plain_crops(self, picture: Tensor, augment: bool) -> Tensor:
        """Any images, shrunk to a little more than the crop: [B, 3, H, W] -> [B, 1, 3, crop, crop]."""
        crop, shift = self.config.crop_pixels, self.config.shift
        window = F.interpolate(picture, size=(crop + 2 * shift,) * 2, mode="area")
        if augment:
            at = torch.randint(0, 2 * shift + 1, (len(window), 2), device=window.device)
            return augment_crops(cut_windows(window, at, crop), self._noise())[:, None]
        return window[:, None, :, shift : shift + crop, shift : shift + crop]

    def _tokens(self, tasks: Any, size: int, augment: bool) -> Tensor:
        """Word numbers [B, L], 0 where there is none; in training a tenth of the words is dropped."""
        texts = [tasks] * size if isinstance(tasks, str) or tasks is None else list(tasks)
        rows = [[self._words[w] for w in _words(text or "") if w in self._words] for text in texts]
        tokens = torch.zeros(size, max([1, *map(len, rows)]), dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        return tokens * (torch.rand(tokens.shape) >= 0.1) if augment else tokens

    # ---- training ----------------------------------------------------------------------------------------
    def forward(self, batch: dict[str, Any], reduction: str = "mean") -> tuple[Tensor, dict[str, float]]:
        """Flow loss on frames to imitate, plus done head and waypoints; scalar, or [B] with `none`."""
        net, config = self.net, self.config
        training = self.training
        condition, done_input = net.encode(*self._inputs(batch, net, augment=training))
        actions = batch[ACTION]
        size = len(actions)
        padded = batch.get(f"{ACTION}_is_pad")
        if padded is None:
            padded = torch.zeros(actions.shape[:2], dtype=torch.bool, device=actions.device)
        target = self.scale(self._pad(actions, padded)).flatten(1)
        imitate, labels = self._labels(batch, size, actions.device)
        draws = config.noise_draws
        target = target.repeat(draws, 1)
        noise = torch.randn_like(target)
        time = torch.rand(len(target), device=target.device)
        point = torch.lerp(noise, target, time[:, None])
        with half_precision(target, net.half):
            velocity = net.flow(point, time, condition.repeat(draws, 1))
        error = (velocity.float() - (target - noise)).square().mean(1).reshape(draws, size).mean(0)
        flow = error * imitate
        logits = net.done(done_input)
        known = labels != IGNORED
        cross = F.cross_entropy(logits, labels.clamp(min=0), reduction="none") * known
        ahead, placed = self._waypoints(batch, size, actions.device)
        aim = F.smooth_l1_loss(net.waypoint(condition), ahead, beta=0.1, reduction="none").sum(1) * placed
        info = {
            "flow_loss": _mean(flow, imitate).item(),
            "waypoint_loss": _mean(aim, placed).item(),
            "done_loss": _mean(cross, known).item(),
            "done_accuracy": _mean((logits.argmax(1) == labels).float() * known, known).item(),
        }
        if reduction == "none":
            return flow + config.done_weight * cross + config.waypoint_weight * aim, info
        loss = _mean(flow, imitate) + config.done_weight * _mean(cross, known)
        return loss + config.waypoint_weight * _mean(aim, placed), info

    def _waypoints(self, batch: dict[str, Any], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Waypoints [B, 4] and whether they are known, float [B]; unknown without a dataset or a pose."""
        if not hasattr(self, "ahead") or "index" not in batch:
            return torch.zeros(size, len(UNITS), device=device), torch.zeros(size, device=device)
        index = batch["index"].reshape(-1).to(self.ahead.device)
        return self.ahead[index].to(device), self.ahead_known[index].float().to(device)

    def _labels(self, batch: dict[str, Any], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """imitate float [B] and done labels int64 [B]; without a dataset everything is to be imitated."""
        if not hasattr(self, "imitate") or "index" not in batch:
            return torch.ones(size, device=device), torch.full((size,), IGNORED, device=device)
        index = batch["index"].reshape(-1).to(self.imitate.device)
        imitate = torch.ones_like(self.imitate[index]) if self.config.imitate_all else self.imitate[index]
        return imitate.float().to(device), self.done_labels[index].to(device)

    def update(self) -> None:
        """Move the averaged weights towards the trained ones; LeRobot calls this after each step."""
        self.updates += 1
        count = int(self.updates)
        decay = min(self.config.ema_decay, (1 + count) / (10 + count))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), 1 - decay)

    # ---- acting ------------------------------------------------------------------------------------------
    def reset(self) -> None:
        self._action_queue: deque[Tensor] = deque(maxlen=self.config.n_action_steps)

    def drop_queued_actions(self) -> None:
        """Forget actions of an earlier subgoal."""
        self.reset()

    @torch.no_grad()
    def infer(self, batch: dict[str, Any], noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A chunk of actions [B, T, A] and the probabilities of running, done, failed [B, 3].

        Args:
            batch: preprocessed observation.
            noise: start of the flow, [B, T, A]; drawn from torch's generator if None.
        """
        condition, done = self.encode(batch)
        if noise is None:
            noise = torch.randn(len(condition), *self.chunk_shape, device=condition.device)
        return self.unscale(self.sample(condition, noise)), done

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """T, A of a chunk."""
        return self.config.chunk_size, self._action_size

    @torch.no_grad()
    def encode(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Condition of the flow [B, width] and probabilities of running, done, failed [B, 3]."""
        condition, done_input = self.ema.encode(*self._inputs(batch, self.ema, augment=False))
        return condition, self.ema.done(done_input).softmax(1)

    @torch.no_grad()
    def sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Chunks as the flow scales them, from a condition [B, width] and noise, [B, T, A]."""
        start = noise.to(condition.device).flatten(1)
        return self.ema.sample(condition, start, self.config.flow_steps).reshape(noise.shape)

    def fit_features(self, batches: Iterable[dict[str, Any]]) -> None:
        """Take the statistics of the condition over training frames, with which `distance` compares."""
        self.eval()
        self.features.fit(torch.cat([self.encode(batch)[0] for batch in batches]))

    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        return self.infer(batch, kwargs.get("noise"))[0]

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        if not self._action_queue:
            chunk = self.predict_action_chunk(batch, **kwargs)[:, : self.config.n_action_steps]
            self._action_queue.extend(chunk.transpose(0, 1))
        return self._action_queue.popleft()


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return values.sum() / weights.sum().clamp(min=1)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())
