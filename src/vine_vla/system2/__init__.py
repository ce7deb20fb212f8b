"""System 2: perceives scenes, proposes subgoals and judges them, by a backend of any kind."""

from vine_vla.system2.folder import EXECUTED

__all__ = [
    "EXECUTED",
    "Backend",
    "BackendInfo",
    "BackendKind",
    "Failures",
    "Probe",
    "backend_names",
    "calibrate_variant",
    "find_backend",
    "load_system2",
    "train_backend",
]

_LATE = {
    "Backend": "backend",
    "BackendInfo": "backend",
    "BackendKind": "backend",
    "Failures": "segments",
    "Probe": "uncertainty.execution",
    "backend_names": "registry",
    "calibrate_variant": "uncertainty.execution",
    "find_backend": "registry",
    "load_system2": "load",
    "train_backend": "training",
}


def __getattr__(name: str) -> object:
    """Parts are imported when asked for, so that importing the package does not import torch."""
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(name)
