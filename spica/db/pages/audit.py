"""The record of what people did, as its page shows it: narrowed, paged, things by their names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from spica.db.tables.image import ImageRow
from spica.db.tables.job import PlanRow
from spica.db.tables.person import AuditRow, PersonRow

COMMAND_LINE = "-"
"""How an address names the acts that nobody of the pages did; no person can have this name."""


@dataclass(frozen=True)
class AuditFilter:
    """What of the record is wanted; empty words do not narrow it. `thing` is `noun:id`, or a noun alone."""

    person: str = ""
    verb: str = ""
    thing: str = ""
    of_person_id: int | None = None


@dataclass(frozen=True)
class AuditLine:
    """One act; `person` None: the command line; `thing_name`: what people call the thing, None where it has no name."""

    id: int
    at: datetime
    person_id: int | None
    person: str | None
    verb: str
    noun: str
    thing_id: str
    thing_name: str | None
    detail: str | None


def read_audit_page(session: Session, wanted: AuditFilter, limit: int, offset: int = 0) -> tuple[list[AuditLine], int]:
    """Return acts, newest first, and how many there are."""
    where = _conditions(wanted)
    row = AuditRow
    rows = session.execute(
        select(row.id, row.at, row.person_id, PersonRow.name, row.verb, row.subject, row.detail)
        .outerjoin(PersonRow, PersonRow.id == AuditRow.person_id)
        .where(*where)
        .order_by(AuditRow.id.desc())
        .limit(limit)
        .offset(offset)
    ).all()
    counted = select(func.count()).select_from(AuditRow).outerjoin(PersonRow, PersonRow.id == AuditRow.person_id)
    total = session.execute(counted.where(*where)).scalar_one()
    names = _names(session, (found.subject for found in rows))
    lines = []
    for number, at, person_id, person, verb, subject, detail in rows:
        noun, _, thing = subject.partition(":")
        lines.append(AuditLine(number, at, person_id, person, verb, noun, thing, names.get(subject), detail))
    return lines, total


def audit_verbs(session: Session) -> list[str]:
    """Return all verbs of the record in the order of the alphabet."""
    return list(session.scalars(select(AuditRow.verb).distinct().order_by(AuditRow.verb)))


def audit_nouns(session: Session) -> list[str]:
    """Return all kinds of things of the record in the order of the alphabet."""
    noun = func.split_part(AuditRow.subject, ":", 1)
    return list(session.scalars(select(noun).distinct().order_by(noun)))


def _conditions(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.of_person_id is not None:
        found.append(AuditRow.person_id == wanted.of_person_id)
    if wanted.person == COMMAND_LINE:
        found.append(AuditRow.person_id.is_(None))
    elif wanted.person:
        found.append(PersonRow.name == wanted.person)
    if wanted.verb:
        found.append(AuditRow.verb == wanted.verb)
    if ":" in wanted.thing:
        found.append(AuditRow.subject == wanted.thing)
    elif wanted.thing:
        found.append(AuditRow.subject.startswith(f"{wanted.thing}:", autoescape=True))
    return found


def _names(session: Session, subjects: Iterable[str]) -> dict[str, str]:
    """Return the names of images, plans and people among things: one statement a noun."""
    ids: dict[str, set[int]] = {}
    for subject in subjects:
        noun, _, number = subject.partition(":")
        if number.isascii() and number.isdigit() and len(number) < 19:
            ids.setdefault(noun, set()).add(int(number))
    found: dict[str, str] = {}
    for noun, key, name in (
        ("image", ImageRow.id, ImageRow.name),
        ("plan", PlanRow.id, PlanRow.label),
        ("person", PersonRow.id, PersonRow.name),
    ):
        if ids.get(noun):
            rows = session.execute(select(key, name).where(key.in_(ids[noun])))
            found |= {f"{noun}:{number}": str(text) for number, text in rows if text}
    return found
