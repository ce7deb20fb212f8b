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
    "Failures": "compact.segments",
    "GraphModel": "compact.model",
    "OutcomeConfig": "compact.config",
    "PerceptionConfig": "compact.perception_training",
    "Probe": "uncertainty.probes",
    "System2": "compact.system2",
    "System2Config": "compact.training",
    "calibrate_on_probes": "uncertainty.probes",
    "calibrate_variant": "uncertainty.probes",
    "load_system2": "compact.system2",
    "train_outcomes": "compact.learn",
    "train_system2": "compact.training",
}


def __getattr__(name: str) -> object:
    """Nets are imported when asked for, so that importing the package does not import torch."""
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(name)
