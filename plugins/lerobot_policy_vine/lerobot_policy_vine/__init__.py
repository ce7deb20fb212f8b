"""Registers VINE's policies with LeRobot, which imports this module because of its distribution's name."""

from vine_vla.system1.configuration_vine_skill import VineSkillConfig

__all__ = ["VineSkillConfig"]
