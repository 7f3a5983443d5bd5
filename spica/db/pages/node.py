"""Nodes as their page shows them: recent failures, files held, jobs that wait for one, and the size of groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import column as named
from sqlalchemy import func, select, text, true, values
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

from spica.db.tables.file import FileRow, LocationRow, NodeRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import AttemptRow, JobRow
from spica.model.image import ImageKind
from spica.model.job import AttemptState, JobState

COUNTED = 10_000
"""Up to so many rows are counted; more are estimated by the statistics of the database."""
_SAMPLED = 64
_RECENT = 50_000
_UNLUCKY = (AttemptState.FAILED, AttemptState.ABORTED, AttemptState.LOST)


@dataclass(frozen=True)
class Mishap:
    """An attempt on a node that did not succeed."""

    node_id: int
    job_id: int
    step: str
    state: str
    kind: str | None
    text: str | None
    at: datetime | None


def read_mishaps(session: Session, each: int = 5) -> list[Mishap]:
    """Return the newest attempts of each node that did not succeed: one statement, among the newest attempts."""
    newest = select(func.coalesce(func.max(AttemptRow.id), 0) - _RECENT).scalar_subquery()
    of_node = (
        select(AttemptRow)
        .where(AttemptRow.node_id == NodeRow.id, AttemptRow.state.in_(_UNLUCKY), AttemptRow.id > newest)
        .order_by(AttemptRow.id.desc())
        .limit(each)
        .lateral()
    )
    a = of_node.c
    query = (
        select(NodeRow.id, a.job_id, JobRow.kind, a.state, a.error_kind, a.error_text, a.ended_at)
        .select_from(NodeRow)
        .join(of_node, true())
        .join(JobRow, JobRow.id == a.job_id)
        .order_by(NodeRow.id, a.id.desc())
    )
    return [Mishap(n, j, step, s.value, k, t, at) for n, j, step, s, k, t, at in session.execute(query)]


@dataclass(frozen=True)
class Held:
    """How many files a node holds; `about`: estimated by the statistics of the database, not counted."""

    node_id: int
    files: int
    about: bool


def read_held(session: Session) -> list[Held]:
    """Return how many files each node holds: counted up to `COUNTED`, beyond that estimated; at most two statements."""
    some = select(LocationRow.id).where(LocationRow.node_id == NodeRow.id).limit(COUNTED + 1).lateral()
    query = select(NodeRow.id, func.count(some.c.id)).outerjoin(some, true()).group_by(NodeRow.id).order_by(NodeRow.id)
    counts: dict[int, int] = {row[0]: row[1] for row in session.execute(query)}
    guess = _estimates(session) if any(n > COUNTED for n in counts.values()) else {}
    return [Held(i, max(guess.get(i, 0), n), True) if n > COUNTED else Held(i, n, False) for i, n in counts.items()]


def _estimates(session: Session) -> dict[int, int]:
    """Return the files of nodes by the statistics that ANALYZE keeps; empty where it never ran."""
    query = text(
        "SELECT v::bigint, (f * c.reltuples)::bigint FROM pg_stats s JOIN pg_class c ON c.oid = 'location'::regclass,"
        " unnest(s.most_common_vals::text::bigint[], s.most_common_freqs) AS u(v, f)"
        " WHERE s.tablename = 'location' AND s.attname = 'node_id' AND s.schemaname = current_schema()"
    )
    return {node: int(n) for node, n in session.execute(query)}


@dataclass(frozen=True)
class WaitingFor:
    """Jobs that are ready and bound to one node: how many, and when the first of them was planned."""

    node_id: int
    n: int
    first_job: int
    since: datetime


def read_waiting_for(session: Session) -> list[WaitingFor]:
    """Return the ready jobs by the node that must run them: one statement over the ready jobs."""
    query = (
        select(JobRow.node_id, func.count(), func.min(JobRow.id), func.min(JobRow.created_at))
        .where(JobRow.state == JobState.READY, JobRow.node_id.is_not(None))
        .group_by(JobRow.node_id)
        .order_by(JobRow.node_id)
    )
    return [WaitingFor(node or 0, n, job, since) for node, n, job, since in session.execute(query)]


@dataclass(frozen=True)
class GroupSize:
    """Exposures of a run and filter: how many (`more` than counted) and their bytes by the mean of some of them."""

    run: str
    filter: str
    exposures: int
    more: bool
    size_bytes: int | None


def read_group_sizes(session: Session, groups: Sequence[tuple[str, str]]) -> list[GroupSize]:
    """Return the sizes of groups of a run and filter ('': every one is not counted): one statement."""
    exact = [g for g in groups if "" not in g]
    if not exact:
        return []
    wanted = values(named("run", Text), named("filter", Text), name="wanted").data(exact)
    w = wanted.c
    mine = (ImageRow.kind == ImageKind.EXPOSURE, ImageRow.run == w.run, ImageRow.filter == w.filter)
    some = select(ImageRow.id, ImageRow.file_id).where(*mine).limit(COUNTED + 1).correlate(wanted).subquery("some")
    count = select(func.count()).select_from(some).correlate(wanted).scalar_subquery()
    few = select(ImageRow.file_id).where(*mine).limit(_SAMPLED).correlate(wanted).subquery("few")
    mean = select(func.avg(FileRow.size)).join(few, few.c.file_id == FileRow.id).correlate(wanted).scalar_subquery()
    return [
        GroupSize(run, name, min(n, COUNTED), n > COUNTED, None if size is None else int(size) * min(n, COUNTED))
        for run, name, n, size in session.execute(select(w.run, w.filter, count, mean))
    ]
