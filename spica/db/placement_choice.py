"""Which node the incoming exposures of a run and filter go to, and how a group is moved to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import cast, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session

from spica.db.engine import notify
from spica.db.job import assign_node
from spica.db.node import Node, list_nodes
from spica.db.person import audit
from spica.db.tables.file import NodeRow, PlacementRow
from spica.db.tables.job import JobRow
from spica.db.tables.person import PersonRow
from spica.model.errors import UsageError
from spica.model.job import JobKind, JobState
from spica.model.node import NodeState

LONG_SILENT_S = 600.0
"""A node that was not heard of for so long is no place for new exposures, and what waits for it is told."""
MIN_FREE_BYTES = 1_000_000_000
EVERY = ""
GROUP = "group"
"""Under this name the facts of a request say run and filter of the exposures it assesses."""
_MOVABLE = (JobState.READY, JobState.WAITING, JobState.HELD)


@dataclass(frozen=True)
class Group:
    """Exposures that belong together on one node: a run and a canonical filter; '' stands for every one."""

    run: str
    filter: str


def knows_several(session: Session) -> bool:
    """Whether there is more than one node; else nothing needs to be placed."""
    return (session.scalar(select(func.count()).select_from(select(NodeRow.id).limit(2).subquery())) or 0) > 1


def is_fit(node: Node) -> bool:
    """Whether new exposures may go to a node: it works, was heard of within ten minutes, has disk, is not drained."""
    heard = node.silence_s is not None and node.silence_s <= LONG_SILENT_S
    works = node.state is NodeState.ACTIVE and node.drain is None
    return works and heard and (node.disk_free_bytes or 0) >= MIN_FREE_BYTES


def choose_node(session: Session, run: str | None, filter_name: str | None) -> int | None:
    """Return the node of a group; None: any node may take it.

    What is on record counts in the order (run, filter), (run, every), (every, filter), (every, every). A group that
    comes first goes to the live node with the most free disk, of equals the one of the lower id, and that is recorded,
    so that it stays together. A node that is not fit is never chosen: what Spica itself had recorded of it is decided
    anew, what a person chose stays on record and counts again when the node is back. An exposure whose run or filter is
    unknown follows what is on record and is recorded nowhere.
    """
    return choose_nodes(session, [Group(run or EVERY, filter_name or EVERY)])[0]


def choose_nodes(session: Session, groups: Sequence[Group]) -> list[int | None]:
    """Return the node of each group, as `choose_node`; three statements and one for each new group."""
    if not groups or not knows_several(session):
        return [None] * len(groups)
    nodes = {n.id: n for n in list_nodes(session)}
    placed = _on_record(session)
    chosen: dict[Group, int | None] = {}
    for group in groups:
        if group not in chosen:
            chosen[group] = _choose(session, nodes, placed, group)
    return [chosen[g] for g in groups]


def _on_record(session: Session) -> dict[Group, PlacementRow]:
    return {Group(r.run, r.filter): r for r in session.scalars(select(PlacementRow))}


def _choose(session: Session, nodes: dict[int, Node], placed: dict[Group, PlacementRow], group: Group) -> int | None:
    order = (group, Group(group.run, EVERY), Group(EVERY, group.filter), Group(EVERY, EVERY))
    for one in dict.fromkeys(order):
        row = placed.get(one)
        if row is not None and is_fit(nodes[row.node_id]):
            return row.node_id
    live = [n for n in nodes.values() if n.alive and is_fit(n)]
    if not live or EVERY in (group.run, group.filter):
        return None
    best = max(live, key=lambda n: (n.disk_free_bytes or 0, -n.id))
    known = placed.get(group)
    if known is not None and known.chosen:
        return best.id
    return _record_first(session, group, best.id, None if known is None else known.node_id)


def _record_first(session: Session, group: Group, node_id: int, unfit_id: int | None) -> int:
    """Record where a group goes, unless another has done so at this moment; return the node that counts."""
    wish = insert(PlacementRow).values(run=group.run, filter=group.filter, node_id=node_id, chosen=False)
    stale = (PlacementRow.chosen.is_(False)) & (PlacementRow.node_id == (unfit_id or 0))
    session.execute(
        wish.on_conflict_do_update(index_elements=["run", "filter"], set_={"node_id": node_id}, where=stale),
        execution_options={"synchronize_session": False},
    )
    query = select(PlacementRow.node_id).where(PlacementRow.run == group.run, PlacementRow.filter == group.filter)
    return session.execute(query).scalar_one()


@dataclass(frozen=True)
class Moved:
    """What a move changed: the jobs that wait for another node now."""

    jobs: tuple[int, ...]


def move_group(session: Session, run: str, filter_name: str, node_id: int, person_id: int | None = None) -> Moved:
    """Let a group go to a node from now on, with its assessments that have not begun; what lies elsewhere is fetched.

    Raises
    ------
    UsageError
        Where there is no such node, or it has stopped or is drained.
    """
    node = _need_node(session, node_id)
    group = Group(run.strip(), filter_name.strip())
    wish = insert(PlacementRow).values(
        run=group.run, filter=group.filter, node_id=node_id, chosen=True, person_id=person_id
    )
    newer = {"node_id": node_id, "chosen": True, "person_id": person_id, "created_at": func.now()}
    session.execute(
        wish.on_conflict_do_update(index_elements=["run", "filter"], set_=newer),
        execution_options={"synchronize_session": False},
    )
    jobs = assign_node(session, _jobs_of_group(session, group), node_id)
    audit(session, person_id, "place", f"node:{node_id}", f"{_spoken(group)} to {node.name}, {len(jobs)} jobs")
    notify(session, f"node:{node_id}")
    return Moved(tuple(jobs))


def forget_group(session: Session, run: str, filter_name: str, person_id: int | None = None) -> bool:
    """Forget where a group goes: its next exposures are placed anew; return whether it was on record."""
    row = session.get(PlacementRow, (run, filter_name))
    if row is None:
        return False
    audit(session, person_id, "unplace", f"node:{row.node_id}", _spoken(Group(run, filter_name)))
    session.delete(row)
    session.flush()
    return True


def move_waiting(session: Session, from_id: int, to_id: int | None, person_id: int | None = None) -> Moved:
    """Let the jobs that wait for a node go to another one, or (None) to any; groups Spica placed there follow.

    Raises
    ------
    UsageError
        Where there is no such node, or the other has stopped or is drained.
    """
    if to_id is not None:
        _need_node(session, to_id)
    waiting = select(JobRow.id).where(JobRow.state.in_(_MOVABLE), JobRow.node_id == from_id).order_by(JobRow.id)
    jobs = assign_node(session, list(session.scalars(waiting.with_for_update(key_share=True))), to_id)
    if to_id is not None:
        session.execute(
            update(PlacementRow)
            .where(PlacementRow.node_id == from_id, PlacementRow.chosen.is_(False))
            .values(node_id=to_id),
            execution_options={"synchronize_session": False},
        )
    where = "any node" if to_id is None else f"node {to_id}"
    audit(session, person_id, "move", f"node:{from_id}", f"{len(jobs)} waiting jobs to {where}")
    notify(session, f"node:{from_id}")
    return Moved(tuple(jobs))


def _need_node(session: Session, node_id: int) -> NodeRow:
    node = session.get(NodeRow, node_id)
    if node is None:
        raise UsageError(f"there is no node {node_id}; see spica nodes")
    if node.state is NodeState.STOPPED:
        raise UsageError(f"node {node.name} has stopped; start its daemon, or choose another node")
    if node.drained_at is not None:
        raise UsageError(f"node {node.name} is drained ({node.drained_why}); resume it, or choose another node")
    return node


def _jobs_of_group(session: Session, group: Group) -> list[int]:
    """Return the assessments of a group that have not begun and are bound to a node; locked, by id."""
    said = cast(JobRow.request, JSONB)["facts"][GROUP]
    bounds = [said[i].astext == word for i, word in enumerate((group.run, group.filter)) if word != EVERY]
    query = (
        select(JobRow.id)
        .where(JobRow.state.in_(_MOVABLE), JobRow.kind == JobKind.ASSESS, JobRow.node_id.is_not(None))
        .where(func.jsonb_typeof(said) == "array", *bounds)
        .order_by(JobRow.id)
        .with_for_update(key_share=True)
    )
    return list(session.scalars(query))


def _spoken(group: Group) -> str:
    return f"run {group.run or 'every'}, filter {group.filter or 'every'}"


@dataclass(frozen=True)
class Placement:
    """Where a group goes: `chosen` by a person (`person` None: at the command line), else by free disk."""

    run: str
    filter: str
    node_id: int
    node: str
    chosen: bool
    person: str | None
    created_at: datetime


def list_placements(session: Session, limit: int | None = 200) -> list[Placement]:
    """Return where groups go, the newest first (None: all of them): one statement."""
    query = (
        select(
            PlacementRow.run,
            PlacementRow.filter,
            PlacementRow.node_id,
            NodeRow.name,
            PlacementRow.chosen,
            PersonRow.name,
            PlacementRow.created_at,
        )
        .join(NodeRow, NodeRow.id == PlacementRow.node_id)
        .outerjoin(PersonRow, PersonRow.id == PlacementRow.person_id)
        .order_by(PlacementRow.created_at.desc(), PlacementRow.run, PlacementRow.filter)
        .limit(limit)
    )
    rows: Sequence[Any] = session.execute(query).all()
    return [Placement(*row) for row in rows]
