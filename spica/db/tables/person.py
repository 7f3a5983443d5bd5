"""People, their sessions, and the record of what they did."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column

from spica.db.tables.base import Base, enum_type, instant, key, stamp
from spica.model.person import PersonRole


class PersonRow(Base):
    """A person who may use this survey."""

    __tablename__ = "person"
    id: Mapped[int] = key()
    name: Mapped[str] = mapped_column(Text, unique=True, comment="login name")
    role: Mapped[PersonRole] = mapped_column(enum_type(PersonRole, "person_role"), comment="what the person may do")
    password_hash: Mapped[str | None] = mapped_column(Text, comment="salted hash; NULL: enters by token only")
    created_at: Mapped[datetime] = stamp("when the person was added")
    disabled_at: Mapped[datetime | None] = instant("when the person was shut out")


class SessionRow(Base):
    """A token of a person: one-time (`login`) or a browser's session cookie (`session`) or for programs (`api`)."""

    __tablename__ = "session"
    id: Mapped[int] = key()
    token_sha256: Mapped[str] = mapped_column(Text, unique=True, comment="SHA-256 of the token; the token is not kept")
    kind: Mapped[str] = mapped_column(Text, comment="login, session or api")
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), index=True, comment="whose")
    created_at: Mapped[datetime] = stamp("when it was made")
    expires_at: Mapped[datetime] = stamp("when it ends", server_default=None)
    used_at: Mapped[datetime | None] = instant("when a one-time token was spent")
    seen_at: Mapped[datetime | None] = instant("when a session or token was last used, to about a minute")
    label: Mapped[str | None] = mapped_column(Text, comment="what a token is for, or the browser of a session")


class LoginTryRow(Base):
    """Failed tries to enter by one name or from one address; `tried_at` and `open_at` are the database's clock."""

    __tablename__ = "login_try"
    key_sha256: Mapped[str] = mapped_column(Text, primary_key=True, comment="SHA-256 of name:NAME or from:ADDRESS")
    n_failed: Mapped[int] = mapped_column(Integer, comment="tries that did not fit since the last quiet hour")
    tried_at: Mapped[datetime] = stamp("when the last try was counted", index=True)
    open_at: Mapped[datetime] = stamp("from when on the next try is let through")


class AuditRow(Base):
    """One act of a person that changed something."""

    __tablename__ = "audit"
    id: Mapped[int] = key()
    at: Mapped[datetime] = stamp("when")
    person_id: Mapped[int | None] = mapped_column(
        ForeignKey("person.id"), index=True, comment="who; NULL: the command line"
    )
    verb: Mapped[str] = mapped_column(Text, index=True, comment="what was done")
    subject: Mapped[str] = mapped_column(Text, index=True, comment="to what, as noun:id")
    detail: Mapped[str | None] = mapped_column(Text, comment="what was said")


class SettingRow(Base):
    """A setting of the survey that all nodes share."""

    __tablename__ = "setting"
    name: Mapped[str] = mapped_column(Text, primary_key=True, comment="name of the setting")
    value: Mapped[str] = mapped_column(Text, comment="value as text")
    version: Mapped[int] = mapped_column(BigInteger, server_default="1", comment="counts changes")
