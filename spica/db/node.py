"""Nodes: who they are, whether they are alive, what they do, and whether a person lets them take new jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Float, Row, Select, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from spica.db.engine import notify
from spica.db.person import audit
from spica.db.tables.file import NodeRow
from spica.db.tables.person import PersonRow
from spica.model.errors import UsageError
from spica.model.node import Drain, NodeState

SILENT_AFTER_S = 30.0


@dataclass(frozen=True)
class Node:
    """A node as the database knows it.

    `drain` None: it takes jobs while its daemon works. `silence_s` is the time since its last heartbeat by the
    database's clock, s; None: it never had one.
    """

    id: int
    name: str
    host: str | None
    state: NodeState
    slots: int
    busy: int
    seen_at: datetime | None
    silence_s: float | None
    disk_free_bytes: int | None
    load: float | None
    address: str | None
    token: str | None = field(repr=False)
    created_at: datetime
    drain: Drain | None = None

    @property
    def takes_jobs(self) -> bool:
        """Whether new jobs begin on it: its daemon works, and nobody drained it."""
        return self.alive and self.drain is None

    @property
    def alive(self) -> bool:
        """Whether its daemon says that it works and was heard of lately."""
        return self.state is not NodeState.STOPPED and not self.silent

    @property
    def silent(self) -> bool:
        """Whether its daemon should be heard of and is not."""
        late = self.silence_s is None or self.silence_s > SILENT_AFTER_S
        return self.state is not NodeState.STOPPED and late


@dataclass(frozen=True)
class Beat:
    """What a daemon says of its node with each heartbeat; `address` and `token` None: it serves no files."""

    slots: int
    busy: int
    state: NodeState = NodeState.ACTIVE
    disk_free_bytes: int | None = None
    load: float | None = None
    address: str | None = None
    token: str | None = field(default=None, repr=False)


def know_node(session: Session, name: str, host: str | None = None) -> int:
    """Return the id of a node, recorded where it is new; its host is noted where one is given."""
    known = session.execute(select(NodeRow.id, NodeRow.host).where(NodeRow.name == name)).one_or_none()
    if known is not None:
        node_id, known_host = known
        if host in (None, known_host):
            return node_id
    wish = insert(NodeRow).values(name=name, host=host)
    newer = func.coalesce(wish.excluded.host, NodeRow.host)
    return session.execute(
        wish.on_conflict_do_update(index_elements=["name"], set_={"host": newer}).returning(NodeRow.id)
    ).scalar_one()


def beat(session: Session, node_id: int, said: Beat) -> None:
    """Record a heartbeat by the database's clock; listeners are told where something else changed.

    Raises UsageError where there is no such node.
    """
    before = session.execute(_nodes().where(NodeRow.id == node_id)).one_or_none()
    if before is None:
        raise UsageError(f"there is no node {node_id}; start its daemon again")
    node = _node(before)
    session.execute(
        update(NodeRow)
        .where(NodeRow.id == node_id)
        .values(
            state=said.state,
            slots=said.slots,
            busy=said.busy,
            disk_free_bytes=said.disk_free_bytes,
            load=said.load,
            address=said.address,
            token=said.token,
            seen_at=func.clock_timestamp(),
        )
    )
    if not node.alive or (node.state, node.slots, node.busy) != (said.state, said.slots, said.busy):
        notify(session, f"node:{node_id}")


def drain_node(session: Session, node_id: int, why: str, person_id: int | None = None) -> None:
    """Let a node take no new jobs until it is resumed, however often its daemon starts; running jobs end.

    No attempt begins on the node once this transaction has committed: `spica.db.job.claim` shares the node's row. A
    node that is drained already is drained anew: the newest word counts.

    Raises
    ------
    UsageError
        Where there is no such node, or no reason is given.
    """
    if not why.strip():
        raise UsageError("a node is drained for a reason that others can read; say why")
    said = {"drained_at": func.clock_timestamp(), "drained_why": why.strip(), "drained_by_id": person_id}
    name = session.scalar(update(NodeRow).where(NodeRow.id == node_id).values(**said).returning(NodeRow.name))
    if name is None:
        raise _no_node(node_id)
    audit(session, person_id, "drain", f"node:{node_id}", f"{name}: {why.strip()}")
    notify(session, f"node:{node_id}")


def resume_node(session: Session, node_id: int, person_id: int | None = None) -> bool:
    """Let a drained node take jobs again; return whether it was drained. UsageError where there is no such node."""
    said = {"drained_at": None, "drained_why": None, "drained_by_id": None}
    drained = (NodeRow.id == node_id) & NodeRow.drained_at.is_not(None)
    name = session.scalar(update(NodeRow).where(drained).values(**said).returning(NodeRow.name))
    if name is None:
        if session.get(NodeRow, node_id) is None:
            raise _no_node(node_id)
        return False
    audit(session, person_id, "resume", f"node:{node_id}", name)
    notify(session, f"node:{node_id}")
    return True


def _no_node(node_id: int) -> UsageError:
    return UsageError(f"there is no node {node_id}; see spica nodes")


def stop_node(session: Session, node_id: int) -> None:
    """Record that a node's daemon has ended; it serves no files and runs nothing."""
    ended = {"state": NodeState.STOPPED, "busy": 0, "address": None, "token": None}
    session.execute(update(NodeRow).where(NodeRow.id == node_id).values(**ended))
    notify(session, f"node:{node_id}")


def find_node(session: Session, name: str) -> Node | None:
    """Return a node by its name; None where there is none."""
    row = session.execute(_nodes().where(NodeRow.name == name)).one_or_none()
    return None if row is None else _node(row)


def need_node(session: Session, name: str) -> Node:
    """Return a node by its name; UsageError where there is none."""
    found = find_node(session, name)
    if found is None:
        raise UsageError(f"no node is called {name!r}; see spica nodes")
    return found


def list_nodes(session: Session) -> tuple[Node, ...]:
    """Return all nodes by id."""
    return tuple(_node(row) for row in session.execute(_nodes().order_by(NodeRow.id)))


def _node(row: Row[*tuple[Any, ...]]) -> Node:
    values = row._asdict()
    at, why, person = (values.pop(name) for name in ("drained_at", "drained_why", "drained_by"))
    return Node(**values, drain=None if at is None else Drain(at, person, why))


def _nodes() -> Select[*tuple[Any, ...]]:
    silence = cast(func.extract("epoch", func.clock_timestamp() - NodeRow.seen_at), Float).label("silence_s")
    return select(
        NodeRow.id,
        NodeRow.name,
        NodeRow.host,
        NodeRow.state,
        NodeRow.slots,
        NodeRow.busy,
        NodeRow.seen_at,
        silence,
        NodeRow.disk_free_bytes,
        NodeRow.load,
        NodeRow.address,
        NodeRow.token,
        NodeRow.created_at,
        NodeRow.drained_at,
        NodeRow.drained_why,
        PersonRow.name.label("drained_by"),
    ).outerjoin(PersonRow, PersonRow.id == NodeRow.drained_by_id)
