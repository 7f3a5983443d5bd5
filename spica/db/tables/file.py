"""Nodes, files by content, and where they lie."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from spica.db.tables.base import Base, enum_type, instant, key, stamp
from spica.model.image import FileKind
from spica.model.node import LocationState, NodeState


class NodeRow(Base):
    """A node that keeps files and runs jobs."""

    __tablename__ = "node"
    __table_args__ = (
        CheckConstraint("(drained_at IS NULL) = (drained_why IS NULL)", "drained_for_a_reason"),
        CheckConstraint("drained_at IS NOT NULL OR drained_by_id IS NULL", "drained_by_somebody"),
    )
    id: Mapped[int] = key()
    name: Mapped[str] = mapped_column(Text, unique=True, comment="name of the node")
    host: Mapped[str | None] = mapped_column(Text, comment="host name it last ran on")
    state: Mapped[NodeState] = mapped_column(
        enum_type(NodeState, "node_state"), server_default="stopped", comment="what its daemon said last"
    )
    slots: Mapped[int] = mapped_column(Integer, server_default="0", comment="jobs at once")
    busy: Mapped[int] = mapped_column(Integer, server_default="0", comment="jobs running at the last heartbeat")
    seen_at: Mapped[datetime | None] = instant("last heartbeat of its daemon")
    disk_free_bytes: Mapped[int | None] = mapped_column(BigInteger, comment="free disk of its data root, byte")
    load: Mapped[float | None] = mapped_column(Float, comment="load average of one minute")
    address: Mapped[str | None] = mapped_column(Text, comment="host:port where its daemon serves files; NULL: does not")
    token: Mapped[str | None] = mapped_column(Text, comment="bearer token that its file service asks of other nodes")
    drained_at: Mapped[datetime | None] = instant("since when a person lets it take no new jobs")
    drained_why: Mapped[str | None] = mapped_column(Text, comment="why it is drained")
    drained_by_id: Mapped[int | None] = mapped_column(
        ForeignKey("person.id"), comment="who drained it; NULL: the command line"
    )
    created_at: Mapped[datetime] = stamp("when it was first seen")


class FileRow(Base):
    """A file by its content."""

    __tablename__ = "file"
    __table_args__ = (CheckConstraint("length(sha256) = 64", "sha256_length"),)
    id: Mapped[int] = key()
    sha256: Mapped[str] = mapped_column(Text, unique=True, comment="SHA-256 of the content, hexadecimal")
    size: Mapped[int] = mapped_column(BigInteger, comment="size, byte")
    kind: Mapped[FileKind] = mapped_column(enum_type(FileKind, "file_kind"), comment="what it holds")
    name: Mapped[str] = mapped_column(Text, comment="name it came with; not a path")
    created_at: Mapped[datetime] = stamp("when it was first seen")


class LocationRow(Base):
    """One place where a file lies: a node, one of its roots, a path relative to that root."""

    __tablename__ = "location"
    __table_args__ = (
        UniqueConstraint("node_id", "root", "relative_path"),
        CheckConstraint("left(relative_path, 1) <> '/'", "path_is_relative"),
    )
    id: Mapped[int] = key()
    file_id: Mapped[int] = mapped_column(ForeignKey("file.id"), index=True, comment="which file")
    node_id: Mapped[int] = mapped_column(ForeignKey("node.id"), comment="on which node")
    root: Mapped[str] = mapped_column(Text, comment="name of a root in the node's own configuration")
    relative_path: Mapped[str] = mapped_column(Text, comment="path below the root")
    state: Mapped[LocationState] = mapped_column(
        enum_type(LocationState, "location_state"), server_default="present", comment="whether it was there last"
    )
    seen_at: Mapped[datetime] = stamp("when it was last seen there")


class ContentRow(Base):
    """Content of a small product, kept centrally so that the pages show those of every node."""

    __tablename__ = "content"
    file_id: Mapped[int] = mapped_column(ForeignKey("file.id"), primary_key=True, comment="which file")
    media_type: Mapped[str] = mapped_column(Text, comment="media type for a browser")
    content: Mapped[bytes] = mapped_column(LargeBinary, comment="the bytes")


class PlacementRow(Base):
    """To which node the incoming exposures of a run and filter go; '' stands for every run or filter."""

    __tablename__ = "placement"
    run: Mapped[str] = mapped_column(Text, primary_key=True, comment="run; '': every run")
    filter: Mapped[str] = mapped_column(Text, primary_key=True, comment="canonical filter; '': every filter")
    node_id: Mapped[int] = mapped_column(ForeignKey("node.id"), comment="to which node")
    chosen: Mapped[bool] = mapped_column(
        Boolean, server_default=text("true"), comment="by a person; false: by free disk when the group first came"
    )
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), comment="who; NULL: Spica itself")
    created_at: Mapped[datetime] = stamp("when")
