"""Tiny policies of others, with random weights, as their trainers save them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies import make_pre_post_processors
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from system1.toy import SCHEMA


def save_act(
    folder: Path, *, environment: int = 0, state: int = 6, cameras: Sequence[str] = SCHEMA.cameras
) -> Path:
    """An ACT that reads 48 x 48 images, state and, if asked to, that many numbers of the environment."""
    torch.manual_seed(0)
    config = ACTConfig(
        **_usual(state, cameras, environment),
        pretrained_backbone_weights=None,
        dim_model=32,
        n_heads=2,
        dim_feedforward=32,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
    )
    ACTPolicy(config).save_pretrained(folder)
    return _save_processors(config, folder)


def _usual(state: int, cameras: Sequence[str], environment: int = 0) -> dict[str, Any]:
    """What both kinds of policy are told: features, chunks of 8 actions, no hub."""
    inputs = {f"observation.images.{c}": PolicyFeature(FeatureType.VISUAL, (3, 48, 48)) for c in cameras}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (state,))
    if environment:
        inputs["observation.environment_state"] = PolicyFeature(FeatureType.ENV, (environment,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (3,))}
    usual = {"chunk_size": 8, "n_action_steps": 8, "device": "cpu", "push_to_hub": False}
    return {"input_features": inputs, "output_features": outputs} | usual


MEAN, SPREAD = 0.3, 2.0
"""Statistics of everything that is normalised: none that could be left out without notice."""


def _save_processors(config: PreTrainedConfig, folder: Path) -> Path:
    stats = {
        name: {"mean": torch.full(f.shape, MEAN), "std": torch.full(f.shape, SPREAD)}
        for name, f in {**config.input_features, **config.output_features}.items()
    }
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)
    return folder


def save_smolvla(folder: Path, *, state: int = 6, cameras: Sequence[str] = SCHEMA.cameras) -> Path:
    """LeRobot's own SmolVLA with random weights: a language model of two layers, a word a token."""
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    torch.manual_seed(0)
    config = SmolVLAConfig(
        **_usual(state, cameras),
        vlm_model_name=str(_save_small_vlm(folder.parent / "smolvlm")),
        load_vlm_weights=False,
        num_vlm_layers=2,
        resize_imgs_with_padding=(32, 32),
        tokenizer_max_length=16,
        max_state_dim=8,
        max_action_dim=4,
        num_steps=2,
    )
    SmolVLAPolicy(config).float().save_pretrained(folder)
    return _save_processors(config, folder)


def _save_small_vlm(folder: Path) -> Path:
    """Configuration, tokenizer and image processor of a vision-language model, as a hub would have them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    special = ["<pad>", "<unk>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    words = [*special, "reach", "leave", "the", "block", "red", "blue"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    named = dict(zip(("image", "fake_image", "global_image", "end_of_utterance"), special[2:]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={f"{name}_token": token for name, token in named.items()},
    )
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    text = {"model_type": "llama", "vocab_size": len(words), "num_hidden_layers": 2, "head_dim": 16}
    text |= {"num_key_value_heads": 2, "pad_token_id": 0} | sizes
    seen = {"image_size": 32, "patch_size": 8, "num_hidden_layers": 1} | sizes
    config = SmolVLMConfig(text_config=text, vision_config=seen, scale_factor=2, image_token_id=2)
    config.save_pretrained(folder)
    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor()).save_pretrained(folder)
    return folder
