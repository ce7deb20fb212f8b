"""System 2: perceives scenes, proposes subgoals and judges them, by a backend of any kind."""

import lazy_loader

from vine_vla.system2.folder import EXECUTED

# Imported when asked for, so that commands start fast.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "backend": ["Backend", "BackendInfo", "BackendKind"],
        "load": ["load_system2"],
        "registry": ["backend_names", "find_backend"],
        "segments": ["Failures"],
        "training": ["train_backend"],
        "uncertainty.execution": ["Probe", "calibrate_variant"],
    },
)
__all__ += ["EXECUTED"]
