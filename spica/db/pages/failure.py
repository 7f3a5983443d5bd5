"""Failed jobs of a span of time grouped by cause: how many, since when, on which nodes, and the nights before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, Subquery, Text, func, literal, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from spica.db.tables.file import NodeRow
from spica.db.tables.job import AttemptRow, JobRow
from spica.model.job import AttemptState, JobState

MAX_FAILED = 20_000
"""So many failures, the newest, are looked at; more in a week are told as `more than`."""
MAX_JOBS = 200
NIGHTS = 7
_RECENT_ATTEMPTS = 20_000
_UNLUCKY = (AttemptState.FAILED, AttemptState.ABORTED, AttemptState.LOST)


@dataclass(frozen=True)
class NodeShare:
    """How many failures a node had."""

    node: str
    n: int


@dataclass(frozen=True)
class Cause:
    """Failed jobs of one cause; `key` names it, `jobs` are the newest of them, `trend` the nights up to this one."""

    key: str
    step: str
    kind: str | None
    exit_code: int | None
    text: str
    n: int
    jobs: tuple[int, ...]
    first: datetime
    last: datetime
    nodes: tuple[NodeShare, ...]
    trend: tuple[int, ...]


def cause_text() -> ColumnElement[str]:
    """Return the message of a failure without its numbers: what is the same for all of one cause."""
    plain = func.regexp_replace(func.left(func.coalesce(JobRow.error_text, ""), 600), r"[0-9]+(\.[0-9]+)?", "#", "g")
    return func.left(plain, 300)


def cause_key() -> ColumnElement[str]:
    """Return the name of the cause of a failure: the hash of class, step and message without numbers."""
    return func.md5(func.concat_ws("|", func.coalesce(JobRow.error_kind, ""), JobRow.kind, cause_text()))


def read_causes(session: Session, start: datetime, end: datetime, limit: int = 30) -> list[Cause]:
    """Return the causes of failures in [start, end), the most frequent first: two statements, bounded by an index.

    The trend counts spans of the same length before, `NIGHTS` in all, oldest first.
    """
    length = end - start
    failed = _failed_between(start - (NIGHTS - 1) * length, end)
    return _grouped(session, failed, start, length, limit)


def newest_causes(session: Session, limit: int = 12, among: int = 2000) -> list[Cause]:
    """Return the causes of the newest failures whenever they were, the most frequent first: two statements."""
    base = _columns().where(JobRow.state == JobState.FAILED).order_by(JobRow.id.desc()).limit(among)
    return _grouped(session, base.subquery(), None, timedelta(days=1), limit)


def jobs_of_cause(
    session: Session, key: str, limit: int, start: datetime | None = None, end: datetime | None = None
) -> list[int]:
    """Return failed jobs of a cause, the oldest first, of a span of time where one is given."""
    query = select(JobRow.id, cause_key().label("key")).where(JobRow.state == JobState.FAILED)
    if start is not None and end is not None:
        query = query.where(JobRow.ended_at >= start, JobRow.ended_at < end)
    found = query.order_by(JobRow.id.desc()).limit(MAX_FAILED).subquery()
    return list(session.scalars(select(found.c.id).where(found.c.key == key).order_by(found.c.id).limit(limit)))


def _columns() -> Select[*tuple[Any, ...]]:
    return select(
        JobRow.id, JobRow.kind, JobRow.error_kind, JobRow.error_text, JobRow.ended_at, cause_key().label("key")
    )


def _failed_between(start: datetime, end: datetime) -> Subquery:
    span = (JobRow.state == JobState.FAILED, JobRow.ended_at >= start, JobRow.ended_at < end)
    return _columns().where(*span).order_by(JobRow.ended_at.desc()).limit(MAX_FAILED).subquery()


def _grouped(session: Session, failed: Subquery, start: datetime | None, length: timedelta, limit: int) -> list[Cause]:
    """Group failures by cause; those from `start` on count, the spans before make the trend (without `start`: none)."""
    f = failed.c
    now = literal(True) if start is None else f.ended_at >= start
    ids = func.array_agg(aggregate_order_by(f.id, f.id.desc()), type_=ARRAY(BigInteger)).filter(now)
    texts = func.array_agg(aggregate_order_by(f.error_text, f.id.desc()), type_=ARRAY(Text)).filter(now)
    n = func.count().filter(now)
    nights = [] if start is None else [_in_span(f, start, length, back) for back in range(NIGHTS - 1, -1, -1)]
    query = (
        select(
            f.key,
            func.min(f.kind),
            func.min(f.error_kind),
            texts[1],
            n,
            ids[1:MAX_JOBS],
            func.min(f.ended_at).filter(now),
            func.max(f.ended_at).filter(now),
            *nights,
        )
        .group_by(f.key)
        .having(n > 0)
        .order_by(n.desc(), func.max(f.id).desc())
        .limit(limit)
    )
    rows = [tuple(r) for r in session.execute(query)]
    shares, codes = _last_attempts(session, [i for r in rows for i in r[5]])
    return [_cause(r, shares, codes) for r in rows]


def _in_span(f: Any, start: datetime, length: timedelta, back: int) -> ColumnElement[int]:
    low = start - back * length
    return func.count().filter(f.ended_at >= low, f.ended_at < low + length)


def _cause(row: tuple[Any, ...], nodes: dict[int, str], codes: dict[int, int | None]) -> Cause:
    key, step, kind, text, n, ids, first, last, *trend = row
    count: dict[str, int] = {}
    for i in ids:
        if i in nodes:
            count[nodes[i]] = count.get(nodes[i], 0) + 1
    shares = sorted((NodeShare(node, k) for node, k in count.items()), key=lambda s: (-s.n, s.node))
    code = next((codes[i] for i in ids if codes.get(i) is not None), None)
    return Cause(key, step, kind, code, text or "", n, tuple(ids), first, last, tuple(shares), tuple(trend))


def _last_attempts(session: Session, ids: list[int]) -> tuple[dict[int, str], dict[int, int | None]]:
    """Return node and exit code of the last attempt at each job."""
    if not ids:
        return {}, {}
    query = (
        select(AttemptRow.job_id, NodeRow.name, AttemptRow.exit_code)
        .join(NodeRow, NodeRow.id == AttemptRow.node_id)
        .where(AttemptRow.job_id.in_(ids))
        .order_by(AttemptRow.job_id, AttemptRow.number)
    )
    rows = session.execute(query).all()
    return {j: node for j, node, _ in rows}, {j: code for j, _, code in rows}


@dataclass(frozen=True)
class TriedAgain:
    """Attempts that failed although their job lives on or ended well: what costs time without failing."""

    step: str
    kind: str | None
    node: str
    n: int
    last: datetime
    job: int
    text: str | None


def read_tried_again(session: Session, start: datetime, end: datetime, limit: int = 12) -> list[TriedAgain]:
    """Return what was tried again in [start, end), by step, class and node, of the newest attempts: one statement."""
    newest = select(func.coalesce(func.max(AttemptRow.id), 0) - _RECENT_ATTEMPTS).scalar_subquery()
    n = func.count()
    texts = func.array_agg(aggregate_order_by(AttemptRow.error_text, AttemptRow.id.desc()), type_=ARRAY(Text))
    query = (
        select(
            JobRow.kind,
            AttemptRow.error_kind,
            NodeRow.name,
            n,
            func.max(AttemptRow.ended_at),
            func.max(JobRow.id),
            texts[1],
        )
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .join(NodeRow, NodeRow.id == AttemptRow.node_id)
        .where(
            AttemptRow.id > newest,
            AttemptRow.state.in_(_UNLUCKY),
            AttemptRow.ended_at >= start,
            AttemptRow.ended_at < end,
            JobRow.state.not_in((JobState.FAILED, JobState.CANCELLED)),
        )
        .group_by(JobRow.kind, AttemptRow.error_kind, NodeRow.name)
        .order_by(n.desc(), JobRow.kind, NodeRow.name)
        .limit(limit)
    )
    return [TriedAgain(*row) for row in session.execute(query)]
