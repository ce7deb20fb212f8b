"""Registers VINE with LeRobot, which imports this module because of its distribution's name.

Policies `vine_skill` (System 1, trainable) and `vine` (the whole agent), environment `vine_sim` (the tasks).
"""

from lerobot_policy_vine.env_vine_sim import VineSimConfig
from vine_vla.serving.configuration_vine import VineConfig
from vine_vla.system1.vine_skill.configuration_vine_skill import VineSkillConfig

__all__ = ["VineConfig", "VineSimConfig", "VineSkillConfig"]
