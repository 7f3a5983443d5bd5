"""Nodes of the cluster."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime


class NodeState(enum.StrEnum):
    """What a node does now, by its own word; a silent one is told by its last heartbeat."""

    ACTIVE = "active"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Drain:
    """Why a node takes no new jobs: since when, who said so (None: the command line), and for what reason."""

    at: datetime
    person: str | None
    why: str

    @property
    def words(self) -> str:
        """Who, since when and why, to be read after `drained`."""
        return f"by {self.person or 'the command line'} since {self.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {self.why}"


class LocationState(enum.StrEnum):
    """Whether a file lies where the row says."""

    PRESENT = "present"
    MISSING = "missing"
