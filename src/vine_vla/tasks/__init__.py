"""Simulated tasks with scripted operators; importing this registers `vine/PlugInsertion-v0`."""

from vine_vla.tasks.gym import ENV_ID, PlugInsertionEnv, register
from vine_vla.tasks.plug.cameras import Cameras
from vine_vla.tasks.plug.expert import Expert, SkillDial
from vine_vla.tasks.plug.graph import PLUG_SCHEMA
from vine_vla.tasks.plug.operators import Habits, Operator
from vine_vla.tasks.plug.scenes import FROZEN, PlugScene, plug_scene
from vine_vla.tasks.plug.task import PlugInsertion, ScriptedSkill

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
