"""Serving: agents behind other people's interfaces, openpi's websocket protocol and LeRobot's policies.

The server itself (`serving.server`) needs the extra `serving`; the rest does not.
"""

__all__ = ["DeadlinePlanner", "ObservationKeys", "ServedAgent", "Session", "answer_plan"]

_LATE = {
    "DeadlinePlanner": "deadline",
    "ObservationKeys": "observations",
    "ServedAgent": "session",
    "Session": "session",
    "answer_plan": "session",
}


def __getattr__(name: str) -> object:
    """Parts are imported when asked for, so that the command's help starts fast."""
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(name)
