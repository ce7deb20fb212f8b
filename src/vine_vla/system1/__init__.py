"""System 1: the flow-matching skill policy with its done head, its training and its use."""

import lazy_loader

from vine_vla.system1.settings import DoneTraining, System1Training
from vine_vla.system1.vine_skill.weights import check_weights, stored_hash, weights_hash

# Imported when asked for, so that commands start fast.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "done.figures": ["Stopping"],
        "done.head": ["DoneHead"],
        "done.training": ["train_done"],
        "vine_skill.configuration_vine_skill": ["VineSkillConfig"],
        "vine_skill.modeling_vine_skill": ["VineSkillPolicy"],
        "vine_skill.skill": ["FlatSkill", "FlowSkill"],
        "vine_skill.training": ["train_system1"],
    },
)
__all__ += ["DoneTraining", "System1Training", "check_weights", "stored_hash", "weights_hash"]
