"""LeRobot's processors of the policy `vine`: nothing is normalised, System 1 and System 2 do their own."""

from __future__ import annotations

from typing import Any

from lerobot.processor import make_default_pre_post_processors

from vine_vla.serving.configuration_vine import VineConfig


def make_vine_pre_post_processors(
    config: VineConfig, dataset_stats: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """Rename, batch, device on the way in; device on the way out."""
    return make_default_pre_post_processors(config, dataset_stats)
