"""Candidates of a queue in their order, and how far it has come: counted from the snapshot, judged again by claims."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.queue.belong import QueueBounds, QueueKind, QueueOrder
from spica.db.snapshot import SOURCES, STATES, Snapshot, exposures, ordered, taken
from spica.db.snapshot.columns import DAY_ZERO, Mask
from spica.db.tables.rule import RuleRow, RuleVersionRow
from spica.model.grade import GradeSource
from spica.model.image import ImageState

HUMAN = SOURCES.index(GradeSource.HUMAN) + 1
MAX_WAITING = 6000
LATE_S = 3600.0
"""How much earlier than its neighbours a grade may have been dated: one transaction's length, at most."""
ORDERS = {QueueOrder.OLDEST: "mjd", QueueOrder.WORST: "-machine"}


@dataclass(frozen=True)
class QueueView:
    """A queue of a person: who waits, in order, and how far it has come.

    `waiting` holds the first ids; `total` counts the images that the queue is about, `done` those of them that wait no
    more; `disagree` those whose grades differ, `unready` exposures of the same field, filter and night whose quality is
    not known yet. `today` and `mean_seconds` are of this person's grades since the given moment; `mean_seconds` is None
    where none was timed.
    """

    waiting: tuple[int, ...]
    total: int
    done: int
    disagree: int
    unready: int
    today: int
    mean_seconds: float | None


@dataclass(frozen=True)
class SavedRule:
    """A rule that somebody keeps under a name."""

    name: str
    text: str


def read_saved_rules(session: Session, limit: int = 100) -> list[SavedRule]:
    """Return the rules in use with their newest text, by name: one statement."""
    number = (
        select(func.max(RuleVersionRow.number))
        .where(RuleVersionRow.rule_id == RuleRow.id)
        .correlate(RuleRow)
        .scalar_subquery()
    )
    newest = (RuleVersionRow.rule_id == RuleRow.id) & (RuleVersionRow.number == number)
    query = (
        select(RuleRow.name, RuleVersionRow.text)
        .join(RuleVersionRow, newest)
        .where(RuleRow.retired_at.is_(None))
        .order_by(RuleRow.name)
        .limit(limit)
    )
    return [SavedRule(name, text) for name, text in session.execute(query)]


def view_queue(
    snapshot: Snapshot,
    bounds: QueueBounds,
    kind: QueueKind,
    order: QueueOrder,
    person_id: int,
    since: datetime,
    limit: int = MAX_WAITING,
) -> QueueView:
    """Return a queue as the snapshot has it; `waiting` holds `limit` ids at most.

    Oldest first goes by the time of the exposure, worst first by the machine's newest grade; unknown ones come last,
    equal ones by id.
    """
    images = snapshot.images
    near = exposures(snapshot) & _inside(snapshot, bounds)
    ready = near & images.usable & taken(snapshot, bounds.rule)
    differ = ready & differing(snapshot)
    graded = images.n_graders > 0
    about, left = ready, ready
    if kind is QueueKind.UNGRADED:
        left = ready & ~graded
    elif kind is QueueKind.SECOND:
        mine = graded_by(snapshot, person_id)
        left = ready & graded & ~mine
        about = left | (ready & mine & (images.n_graders > 1))
    elif kind is QueueKind.DISAGREE:
        about, left = differ, differ & ~settled_by(snapshot, person_id)
    else:
        left = ready & ~graded_by(snapshot, person_id)
    rows = np.flatnonzero(ready if kind is QueueKind.ALL else left).astype(np.int64)
    first = ordered(snapshot, rows, ORDERS[order], 0, limit)
    total = int(np.count_nonzero(about))
    unready = near & ~images.usable & (images.state != STATES.index(ImageState.REJECTED))
    today, mean = _pace(snapshot, person_id, since)
    return QueueView(
        tuple(images.id[first].tolist()),
        total,
        total - int(np.count_nonzero(left)),
        int(np.count_nonzero(differ)),
        int(np.count_nonzero(unready)),
        today,
        mean,
    )


def _inside(snapshot: Snapshot, bounds: QueueBounds) -> Mask:
    """Return which images are of the field, filter and night of a queue."""
    images = snapshot.images
    found: Mask = np.ones(len(images), dtype=np.bool_)
    if bounds.object_key is not None:
        found &= images.object == images.code("object", bounds.object_key)
    if bounds.filter is not None:
        found &= images.filter == images.code("filter", bounds.filter)
    if bounds.night is not None:
        found &= images.night == day_number(bounds.night)
    return found


def day_number(night: date) -> int:
    """Return a night as the snapshot counts it, days since 1970-01-01."""
    return night.toordinal() - DAY_ZERO.toordinal()


def differing(snapshot: Snapshot) -> Mask:
    """Return where the standing grades of people differ, or people agree on another letter than the machine's."""
    images = snapshot.images
    against = (images.n_graders > 0) & (images.machine > 0) & (images.grade != images.machine)
    found: Mask = images.split | against
    return found


def graded_by(snapshot: Snapshot, person_id: int) -> Mask:
    """Return the images on which a grade of a person stands."""
    grades, n = snapshot.grades, len(snapshot.images)

    def compute() -> Mask:
        found: Mask = np.zeros(n, dtype=np.bool_)
        mine = (grades.person == person_id) & (grades.source == HUMAN) & ~grades.withdrawn
        rows = grades.row[mine]
        found[rows[rows >= 0]] = True
        return found

    sources = (grades.person, grades.withdrawn, snapshot.images.id)
    return snapshot.cache.get(("graded by", person_id), sources, compute)


def settled_by(snapshot: Snapshot, person_id: int) -> Mask:
    """Return where nobody has said another letter after a person's newest standing grade (`belongs`, in columns)."""
    grades = snapshot.grades

    def compute() -> Mask:
        mine = graded_by(snapshot, person_id)
        near = np.flatnonzero(~grades.withdrawn & (grades.row >= 0) & mine[grades.row])
        row, letter = grades.row[near], grades.grade[near]
        own = (grades.person[near] == person_id) & (grades.source[near] == HUMAN)
        newest = np.zeros(len(mine), dtype=np.int64)
        newest[row[own]] = np.flatnonzero(own)  # of several the last, which has the highest id
        later = np.arange(len(near)) > newest[row]
        against = later & ~own & (letter != letter[newest[row]])
        found: Mask = mine.copy()
        found[row[against]] = False
        return found

    sources = (grades.person, grades.grade, grades.withdrawn, snapshot.images.id)
    return snapshot.cache.get(("settled by", person_id), sources, compute)


def _pace(snapshot: Snapshot, person_id: int, since: datetime) -> tuple[int, float | None]:
    """Return how many standing grades a person gave since a moment, and their mean time, s."""
    grades, moment = snapshot.grades, since.timestamp()
    part = slice(int(np.searchsorted(grades.created, moment - LATE_S)), None)  # dates ascend but for those transactions
    mine = (grades.person[part] == person_id) & (grades.source[part] == HUMAN) & ~grades.withdrawn[part]
    mine &= grades.created[part] >= moment
    seconds = grades.seconds[part][mine]
    seconds = seconds[np.isfinite(seconds)]
    return int(np.count_nonzero(mine)), float(seconds.mean()) if len(seconds) else None
