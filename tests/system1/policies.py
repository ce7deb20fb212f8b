"""Tiny policies of others, with random weights, as their trainers save them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies import make_pre_post_processors
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from system1.toy import SCHEMA


def save_act(
    folder: Path, *, environment: int = 0, state: int = 6, cameras: Sequence[str] = SCHEMA.cameras
) -> Path:
    """An ACT that reads 48 x 48 images, state and, if asked to, that many numbers of the environment."""
    torch.manual_seed(0)
    inputs = {f"observation.images.{c}": PolicyFeature(FeatureType.VISUAL, (3, 48, 48)) for c in cameras}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (state,))
    if environment:
        inputs["observation.environment_state"] = PolicyFeature(FeatureType.ENV, (environment,))
    config = ACTConfig(
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (3,))},
        pretrained_backbone_weights=None,
        dim_model=32,
        n_heads=2,
        dim_feedforward=32,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        chunk_size=8,
        n_action_steps=8,
        device="cpu",
        push_to_hub=False,
    )
    ACTPolicy(config).save_pretrained(folder)
    stats = {
        name: {"mean": torch.zeros(f.shape), "std": torch.ones(f.shape)}
        for name, f in {**config.input_features, **config.output_features}.items()
    }
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)
    return folder
