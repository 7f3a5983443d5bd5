"""Rules that people keep under a name, each with all its versions."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Integer, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from spica.db.tables.base import Base, instant, key, stamp


class RuleRow(Base):
    """A selection rule under a name."""

    __tablename__ = "rule"
    id: Mapped[int] = key()
    name: Mapped[str] = mapped_column(Text, unique=True, comment="what people call it")
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), comment="owner; NULL: the command line")
    created_at: Mapped[datetime] = stamp("when it was first saved")
    retired_at: Mapped[datetime | None] = instant("when it was put away")


class RuleVersionRow(Base):
    """One version of a rule; never changed."""

    __tablename__ = "rule_version"
    __table_args__ = (UniqueConstraint("rule_id", "number"),)
    id: Mapped[int] = key()
    rule_id: Mapped[int] = mapped_column(ForeignKey("rule.id", ondelete="CASCADE"), comment="of which rule")
    number: Mapped[int] = mapped_column(Integer, comment="counts from 1 within the rule")
    text: Mapped[str] = mapped_column(Text, comment="the rule as it was written")
    rule_sha256: Mapped[str] = mapped_column(Text, index=True, comment="hash of the rule's one spelling")
    note: Mapped[str | None] = mapped_column(Text, comment="why it was changed")
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), comment="who; NULL: the command line")
    created_at: Mapped[datetime] = stamp("when")
