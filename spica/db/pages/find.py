"""What some words name: images, objects, tags, rules, plans, nights, runs; by indexes and by the snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Text, any_, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from spica.db.pages.tally import EXPOSURE, day_of, is_exposure
from spica.db.sky import images_in_circle, images_near
from spica.db.snapshot.columns import ImageColumns
from spica.db.tables.file import NodeRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow
from spica.db.tables.rule import RuleRow
from spica.model.association import Circle
from spica.model.image import ImageKind

POINT_DEG = 1e-6
"""Radius of a point on the sky: 4 mas."""
EXACT = 200
"""More images than this near a point are counted, not looked at one by one."""
NEWEST_PLANS = 5000


@dataclass(frozen=True)
class FoundImage:
    """An image that was found."""

    id: int
    name: str
    kind: str
    object: str | None
    filter: str | None
    state: str


@dataclass(frozen=True)
class FoundThing:
    """A rule, plan, node or job that was found."""

    id: int
    name: str
    note: str


@dataclass(frozen=True)
class FoundGroup:
    """Exposures that share a word: object, tag, night or run, and how many there are."""

    word: str
    n: int


@dataclass(frozen=True)
class AtPoint:
    """Images of a kind whose footprint contains a point: the first of them, how many, and whether that is exact."""

    images: list[FoundImage]
    n: int
    exact: bool


@dataclass(frozen=True)
class NameIndex:
    """All names in lower case, one text, with where each begins; for what is contained in a name."""

    text: str
    starts: NDArray[np.int64]


def escaped(words: str) -> str:
    """Return words as a literal part of a LIKE pattern."""
    return words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _entries(session: Session, conditions: Any, order: Any, limit: int) -> list[FoundImage]:
    query = (
        select(ImageRow.id, ImageRow.name, cast(ImageRow.kind, Text), ImageRow.object, ImageRow.filter,
               cast(ImageRow.state, Text))
        .where(conditions).order_by(*order).limit(limit)
    )  # fmt: skip
    return [FoundImage(*row) for row in session.execute(query)]


def find_exact(session: Session, words: str) -> list[FoundImage]:
    """Return the images of a name, in whatever case: at most one of that very spelling first. One statement."""
    lower = func.lower(ImageRow.name) == words.lower()
    return _entries(session, or_(ImageRow.name == words, lower), [ImageRow.name != words, ImageRow.id], 4)


def find_prefix(session: Session, words: str, limit: int) -> list[FoundImage]:
    """Return images whose name begins with words, in whatever case, by name: one statement.

    By the index on lower(name) with text_pattern_ops: the pattern is part of the statement's text, which is what lets
    the planner use it.
    """
    lower = func.lower(ImageRow.name)
    pattern = literal(escaped(words.lower()) + "%", Text(), literal_execute=True)
    return _entries(session, lower.like(pattern, escape="\\"), [lower.collate("C")], limit)


def index_names(images: ImageColumns) -> NameIndex:
    """Return the index of what names contain."""
    names = [str(n).lower() for n in images.name.tolist()]
    lengths = np.fromiter((len(n) + 1 for n in names), dtype=np.int64, count=len(names))
    return NameIndex("\n" + "\n".join(names), np.concatenate([[1], 1 + np.cumsum(lengths)])[:-1] if names else lengths)


def find_inside(index: NameIndex, words: str, limit: int) -> list[int]:
    """Return the rows of the first images whose name contains words, in whatever case."""
    wanted = words.lower()
    rows: list[int] = []
    at = index.text.find(wanted, 1) if wanted and "\n" not in wanted else -1
    while at >= 0 and len(rows) < limit:
        row = int(np.searchsorted(index.starts, at, side="right")) - 1
        rows.append(row)
        end = index.text.find("\n", at)
        at = index.text.find(wanted, end) if end >= 0 else -1
    return rows


def find_ids(session: Session, ids: list[int]) -> list[FoundImage]:
    """Return images by id, by id: one statement."""
    return _entries(session, ImageRow.id == any_(literal(ids, ARRAY(BigInteger))), [ImageRow.id], len(ids))


def find_objects(images: ImageColumns, key: str, limit: int) -> list[FoundGroup]:
    """Return objects whose key is, begins with, or contains a key, with the number of their exposures."""
    words = images.words["object"]
    near = [i for i, w in enumerate(words) if key in w] if key else []
    near.sort(key=lambda i: (words[i] != key, not words[i].startswith(key), words[i]))
    found = []
    for code in near[:limit]:
        rows = np.flatnonzero((images.object == code) & (images.kind == EXPOSURE))
        if len(rows):
            found.append(FoundGroup(images.word("object_name", int(rows[-1])) or words[code], len(rows)))
    return found


def find_tags(images: ImageColumns, words: str, limit: int) -> list[FoundGroup]:
    """Return tags that contain words, exact ones first."""
    wanted = words.casefold()
    near = sorted((t for t in images.tags if wanted in t.casefold()), key=lambda t: (t.casefold() != wanted, t))
    return [FoundGroup(t, len(images.tags[t])) for t in near[:limit] if len(images.tags[t])]


def find_runs(images: ImageColumns, words: str, limit: int) -> list[FoundGroup]:
    """Return runs that begin with words."""
    wanted = words.casefold()
    near = sorted(i for i, w in enumerate(images.words["run"]) if w.casefold().startswith(wanted))
    counts = [(i, int(np.count_nonzero((images.run == i) & (images.kind == EXPOSURE)))) for i in near[:limit]]
    return [FoundGroup(images.words["run"][i], n) for i, n in counts if n]


def find_nights(images: ImageColumns, words: str, limit: int) -> list[FoundGroup]:
    """Return nights whose date begins with words (2006-12, 2006-12-14), newest first."""
    days, counts = np.unique(images.night[is_exposure(images)], return_counts=True)
    found = []
    for code, n in zip(days[::-1].tolist(), counts[::-1].tolist(), strict=True):
        day = day_of(code)
        if day is not None and day.isoformat().startswith(words):
            found.append(FoundGroup(day.isoformat(), int(n)))
    return found[:limit]


def find_rules(session: Session, words: str, limit: int) -> list[FoundThing]:
    """Return saved rules whose name contains words: one statement."""
    query = (
        select(RuleRow.id, RuleRow.name)
        .where(RuleRow.name.ilike(f"%{escaped(words)}%", escape="\\"), RuleRow.retired_at.is_(None))
        .order_by(RuleRow.name)
        .limit(limit)
    )
    return [FoundThing(i, name, "") for i, name in session.execute(query)]


def find_plans(session: Session, words: str, limit: int) -> list[FoundThing]:
    """Return plans among the newest 5000 whose label contains words: one statement."""
    newest = select(PlanRow.id, PlanRow.label).order_by(PlanRow.id.desc()).limit(NEWEST_PLANS).subquery().c
    query = (
        select(newest.id, newest.label)
        .where(newest.label.ilike(f"%{escaped(words)}%", escape="\\"))
        .order_by(newest.id.desc())
        .limit(limit)
    )
    return [FoundThing(i, label, "") for i, label in session.execute(query)]


def find_nodes(session: Session, words: str, limit: int) -> list[FoundThing]:
    """Return nodes whose name begins with words: one statement."""
    query = select(NodeRow.id, NodeRow.name).where(NodeRow.name.ilike(f"{escaped(words)}%", escape="\\"))
    return [FoundThing(i, name, "") for i, name in session.execute(query.order_by(NodeRow.name).limit(limit))]


def find_job(session: Session, number: int) -> FoundThing | None:
    """Return a job by number."""
    row = session.execute(select(JobRow.id, JobRow.label, cast(JobRow.state, Text)).where(JobRow.id == number)).first()
    return None if row is None else FoundThing(row[0], row[1], row[2])


def find_plan(session: Session, number: int) -> FoundThing | None:
    """Return a plan by number."""
    row = session.execute(select(PlanRow.id, PlanRow.label).where(PlanRow.id == number)).first()
    return None if row is None else FoundThing(row[0], row[1], "")


def at_point(session: Session, ra_deg: float, dec_deg: float, kind: ImageKind, limit: int) -> AtPoint:
    """Return the images of a kind whose footprint contains a point; newest first. At most four statements.

    Beyond 200 candidates of the sky index their number is that of the index, which a few more may enter.
    """
    point = Circle(ra_deg, dec_deg, POINT_DEG)
    near = images_near(session, point, kind, EXACT * 50)
    if len(near) > EXACT:
        return AtPoint(find_ids(session, near[-limit:])[::-1], len(near), exact=False)
    ids = images_in_circle(session, point, kind)
    return AtPoint(find_ids(session, ids[-limit:])[::-1], len(ids), exact=True)
