"""System 1: the flow-matching skill policy with its done head, its training and its use."""

from vine_vla.system1.settings import DoneTraining, System1Training
from vine_vla.system1.vine_skill.weights import check_weights, stored_hash, weights_hash

__all__ = [
    "DoneHead",
    "DoneTraining",
    "FlatSkill",
    "FlowSkill",
    "Stopping",
    "System1Training",
    "VineSkillConfig",
    "VineSkillPolicy",
    "check_weights",
    "stored_hash",
    "train_done",
    "train_system1",
    "weights_hash",
]

_LATE = {
    "DoneHead": "done.head",
    "FlatSkill": "vine_skill.skill",
    "FlowSkill": "vine_skill.skill",
    "Stopping": "done.figures",
    "VineSkillConfig": "vine_skill.configuration_vine_skill",
    "VineSkillPolicy": "vine_skill.modeling_vine_skill",
    "train_done": "done.training",
    "train_system1": "vine_skill.training",
}


def __getattr__(name: str) -> object:
    """Nets and trainer are imported when asked for: every command imports this package."""
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(name)
