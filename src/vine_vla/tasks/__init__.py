"""Simulated tasks with scripted operators; importing this registers `vine/PlugInsertion-v0`."""

from vine_vla.tasks.cameras import Cameras
from vine_vla.tasks.expert import Expert, SkillDial
from vine_vla.tasks.gym_env import ENV_ID, PlugInsertionEnv, register
from vine_vla.tasks.operators import Habits, Operator
from vine_vla.tasks.plug_graph import PLUG_SCHEMA
from vine_vla.tasks.plug_insertion import PlugInsertion, ScriptedSkill
from vine_vla.tasks.scenes import FROZEN, PlugScene, plug_scene

register()

__all__ = [
    "ENV_ID",
    "FROZEN",
    "PLUG_SCHEMA",
    "Cameras",
    "Expert",
    "Habits",
    "Operator",
    "PlugInsertion",
    "PlugInsertionEnv",
    "PlugScene",
    "ScriptedSkill",
    "SkillDial",
    "plug_scene",
    "register",
]
