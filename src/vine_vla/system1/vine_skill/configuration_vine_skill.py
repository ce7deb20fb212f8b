"""Configuration of the LeRobot policy `vine_skill`, System 1 of VINE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import LRSchedulerConfig, OptimizerConfig

from vine_vla.core.errors import VineError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR

FORMAT = 2
"""Of `config.json` and weights."""


def check_format(config: Mapping[str, Any], where: str) -> None:
    """Raises VineError if a `config.json` is a `vine_skill` policy of another format."""
    if config.get("type") == "vine_skill" and config.get("format") != FORMAT:
        raise VineError(
            f"a vine_skill policy of format {config.get('format', 1)}, this version reads {FORMAT}",
            where=where,
            hint="train it anew with `vine train system1`",
        )


@LRSchedulerConfig.register_subclass("vine_cosine")
@dataclass
class CosineConfig(LRSchedulerConfig):
    """`vine_vla.learning.schedule` for LeRobot's trainer."""

    num_warmup_steps: int = 100

    def build(self, optimizer: Optimizer, num_training_steps: int) -> LambdaLR:
        from vine_vla.learning.schedule import cosine_schedule

        return cosine_schedule(optimizer, num_training_steps, self.num_warmup_steps)


@OptimizerConfig.register_subclass("vine_adamw")
@dataclass
class FusedAdamWConfig(OptimizerConfig):
    """`vine_vla.learning.loop.adamw` for LeRobot's trainer."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 1e-3
    grad_clip_norm: float = 1.0

    def build(self, params: Any) -> Optimizer:
        from vine_vla.learning.loop import adamw

        settings = asdict(self)
        settings.pop("grad_clip_norm")
        return adamw(params, settings.pop("lr"), settings.pop("weight_decay"), **settings)


@PreTrainedConfig.register_subclass("vine_skill")
@dataclass
class VineSkillConfig(PreTrainedConfig):
    """A flow-matching policy over action chunks with a done head, on crops at the subgoal's objects.

    Args:
        chunk_size: T, actions predicted at once.
        n_action_steps: actions executed of a chunk before the next is predicted.
        flow_steps: Euler steps of the integration; 2 to 6.
        noise_draws: noise and time draws per encoded sample in training.
        crop_pixels: side of the windows that the encoder sees; the rest of the stored window is for shifts.
        width, blocks: of trunk and flow head.
        text: condition on the words of `task`; needed when no subgoal is in the environment vector.
        text_width: of the learned embedding of the words.
        encoders: folder of a saved policy whose encoders training begins with; empty: from scratch.
        layout: JSON of the crop layout (`CropLayout`), read from the dataset; empty: no crops, any images.
        vocabulary: words of the embedding, read from the dataset's tasks.
        action_units: per action dimension the unit of its asinh scaling, 0 for an unscaled one (a gripper
            of +-1); None: derived from the data.
        delta_actions: actions are motions: past the segment's end they are 0. Otherwise they are positions,
            and the last one is held. None: positions if most of them follow the state.
        action_places: per action dimension the place of the state that follows it, -1 for none (a motion, or
            a gripper that the state leaves out); None: derived from the data.
        imitate_all: imitate failed segments too (the arm `flat-all`); the done head's labels stay.
        box_noise: standard deviation of the box centres in training, share of the image's shorter side.
        box_dropout: probability that a box is not seen, per slot, camera and sample.
        shift: largest extra shift of the crop in training, pixels.
        colour_gain, brightness_curve, channel_mixing: strength of the colour augmentation, see
            `WindowNoise`.
        state_noise: standard deviation added to the normalised state in training.
        done_weight: of the done head's cross-entropy.
        waypoint_weight: of the auxiliary loss on waypoints (`vine_vla.system1.vine_skill.waypoints`).
        done_frames, failed_frames: frames at the end of a segment that count as done or failed.
        ema_decay: of the averaged weights that act; ramped up from 0.
        encoder_dtype: `bfloat16` (autocast in the encoders, and in the flow while training; only where it is
            faster) or `float32`.
        learning_rate, weight_decay, warmup_steps: of AdamW and its cosine.
        format: version of this configuration.
    """

    n_obs_steps: int = 1
    chunk_size: int = 12
    n_action_steps: int = 2
    flow_steps: int = 6
    noise_draws: int = 4
    crop_pixels: int = 64
    width: int = 256
    blocks: int = 3
    text: bool = False
    text_width: int = 32
    encoders: str = ""
    layout: str = ""
    vocabulary: list[str] = field(default_factory=list)
    action_units: list[float] | None = None
    delta_actions: bool | None = None
    action_places: list[int] | None = None
    imitate_all: bool = False
    box_noise: float = 1.5 / 96
    box_dropout: float = 0.05
    shift: int = 4
    colour_gain: float = 0.1
    brightness_curve: float = 0.7
    channel_mixing: float = 0.5
    state_noise: float = 0.03
    done_weight: float = 0.3
    waypoint_weight: float = 0.5
    done_frames: int = 5
    failed_frames: int = 5
    ema_decay: float = 0.999
    encoder_dtype: str = "bfloat16"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 100
    format: int = FORMAT
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ENV": NormalizationMode.IDENTITY,
            "ACTION": NormalizationMode.IDENTITY,
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(
                f"n_action_steps {self.n_action_steps} is not in 1..chunk_size {self.chunk_size}"
            )
        if self.crop_pixels % 8:
            raise ValueError(f"crop_pixels {self.crop_pixels} is no multiple of 8")
        if self.encoder_dtype not in ("bfloat16", "float32"):
            raise ValueError(f"encoder_dtype {self.encoder_dtype!r} is neither bfloat16 nor float32")

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> FusedAdamWConfig:
        return FusedAdamWConfig(lr=self.learning_rate, weight_decay=self.weight_decay)

    def get_scheduler_preset(self) -> CosineConfig:
        return CosineConfig(num_warmup_steps=self.warmup_steps)

    def validate_features(self) -> None:
        if not self.image_features:
            raise ValueError("vine_skill needs at least one image feature (observation.images.*)")
        if self.action_feature is None:
            raise ValueError("vine_skill needs the output feature `action`")
