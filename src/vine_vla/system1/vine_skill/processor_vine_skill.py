"""Processors of the policy `vine_skill`: LeRobot's own, so that its overrides work.

State is normalised by the dataset's mean and deviation; crops, boxes and actions pass unchanged, the
policy scales them itself (it must know pixels and millimetres to add noise and to weigh small motions).
"""

from __future__ import annotations

from typing import Any

from lerobot.processor import PolicyProcessorPipeline, make_default_pre_post_processors

from vine_vla.system1.vine_skill.configuration_vine_skill import VineSkillConfig


def make_vine_skill_pre_post_processors(
    config: VineSkillConfig, dataset_stats: dict[str, Any] | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Rename, batch, device, normalise; and back."""
    return make_default_pre_post_processors(config, dataset_stats)
