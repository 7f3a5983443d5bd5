"""People and what they may do."""

from __future__ import annotations

import enum


class PersonRole(enum.StrEnum):
    """Each role may all that those before it may."""

    VIEWER = "viewer"
    GRADER = "grader"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        """Place in the order of rights."""
        return list(PersonRole).index(self)

    def may(self, needed: PersonRole) -> bool:
        """Return whether this role covers the needed one."""
        return self.rank >= needed.rank
