"""What all tables share: the declarative base, names of constraints, enums and the clock."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Enum, MetaData, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=CONVENTION)


def enum_type(cls: type[enum.Enum], name: str) -> Enum:
    """Return a native PostgreSQL enum that stores the values of a Python one."""
    return Enum(cls, name=name, values_callable=lambda e: [m.value for m in e], native_enum=True)


def key() -> Mapped[int]:
    """Return the column of a surrogate primary key."""
    return mapped_column(BigInteger, primary_key=True, autoincrement=True, comment="surrogate key")


def stamp(comment: str, **options: Any) -> Mapped[Any]:
    """Return a column of an instant with zone, by default the database's clock."""
    options.setdefault("server_default", func.now())
    return mapped_column(DateTime(timezone=True), comment=f"{comment}, UTC", **options)


def instant(comment: str) -> Mapped[datetime | None]:
    """Return a column of an instant that may be unknown."""
    return mapped_column(DateTime(timezone=True), nullable=True, comment=f"{comment}, UTC; NULL: not yet")
