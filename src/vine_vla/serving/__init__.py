"""Serving: agents and plans behind openpi's websocket protocol. Needs the extra `serving`."""

from vine_vla.serving.deadline import DeadlinePlanner
from vine_vla.serving.observations import ObservationKeys
from vine_vla.serving.server import PolicyServer, ServeConfig
from vine_vla.serving.session import ServedAgent, Session, answer_plan
from vine_vla.serving.wire import WireLimits, pack_message, unpack_message

__all__ = [
    "DeadlinePlanner",
    "ObservationKeys",
    "PolicyServer",
    "ServeConfig",
    "ServedAgent",
    "Session",
    "WireLimits",
    "answer_plan",
    "pack_message",
    "unpack_message",
]
