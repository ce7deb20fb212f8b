"""System 2's compact backend: perception, proposals, outcomes, next graphs and values as small nets."""

EXECUTED = "-executed"
"""`all-executed`: the variant `all` with execution calibration."""

__all__ = [
    "EXECUTED",
    "Failures",
    "GraphModel",
    "OutcomeConfig",
    "PerceptionConfig",
    "Probe",
    "System2",
    "System2Config",
    "calibrate_on_probes",
    "calibrate_variant",
    "load_system2",
    "train_outcomes",
    "train_system2",
]

_LATE = {
    "Failures": "segments",
    "GraphModel": "model",
    "OutcomeConfig": "config",
    "PerceptionConfig": "see",
    "Probe": "probes",
    "System2": "backend",
    "System2Config": "training",
    "calibrate_on_probes": "probes",
    "calibrate_variant": "probes",
    "load_system2": "backend",
    "train_outcomes": "learn",
    "train_system2": "training",
}


def __getattr__(name: str) -> object:
    """Nets are imported when asked for, so that importing the package does not import torch."""
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(name)
