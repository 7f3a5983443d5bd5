"""Nodes of the cluster."""

from __future__ import annotations

import enum


class NodeState(enum.StrEnum):
    """What a node does now, by its own word; a silent one is told by its last heartbeat."""

    ACTIVE = "active"
    DRAINING = "draining"
    STOPPED = "stopped"


class LocationState(enum.StrEnum):
    """Whether a file lies where the row says."""

    PRESENT = "present"
    MISSING = "missing"
