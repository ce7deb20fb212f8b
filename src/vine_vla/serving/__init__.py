"""Serving: agents behind other people's interfaces, openpi's websocket protocol and LeRobot's policies.

The server itself (`serving.server`) needs the extra `serving`; the rest does not.
"""

from vine_vla.serving.deadline import DeadlinePlanner
from vine_vla.serving.observations import ObservationKeys
from vine_vla.serving.session import ServedAgent, Session, answer_plan

__all__ = ["DeadlinePlanner", "ObservationKeys", "ServedAgent", "Session", "answer_plan"]
