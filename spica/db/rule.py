"""Rules under a name: saved in versions that never change, listed, renamed, put away, found by `@NAME`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.orm import Session, aliased

from spica.db.engine import notify
from spica.db.person import audit
from spica.db.tables.job import SelectionRow
from spica.db.tables.person import PersonRow
from spica.db.tables.rule import RuleRow, RuleVersionRow
from spica.model.errors import ConflictError, UsageError
from spica.model.person import PersonRole
from spica.model.selection import parse_rule, rule_sha256

MAX_NAME = 80
MAX_NOTE = 2000
_VERSION = re.compile(r"(?P<name>.*?)(?::(?P<number>[0-9]{1,6}))?")


@dataclass(frozen=True)
class SavedRule:
    """What saving made: the version that now holds, and whether it is new (else the text was saved already)."""

    rule_id: int
    version_id: int
    name: str
    number: int
    new: bool


@dataclass(frozen=True)
class RuleVersion:
    """One version of a saved rule; `n_planned` counts the plans that were judged by it."""

    id: int
    rule_id: int
    name: str
    number: int
    text: str
    rule_sha256: str
    note: str | None
    person: str | None
    created_at: datetime
    n_planned: int = 0

    @property
    def label(self) -> str:
        """Name and number, as `--rule @NAME:NUMBER` takes it."""
        return f"{self.name}:{self.number}"


@dataclass(frozen=True)
class RuleEntry:
    """A saved rule with its newest version; `n_planned` counts the plans that were judged by any of its versions."""

    id: int
    name: str
    owner_id: int | None
    owner: str | None
    created_at: datetime
    retired_at: datetime | None
    newest: RuleVersion
    n_planned: int


def save_rule(session: Session, name: str, text: str, person_id: int | None, note: str | None = None) -> SavedRule:
    """Keep a rule under a name: a new name begins with version 1, a known one gets its next version.

    Where the rule spells as the newest version does, no version is added. A name that was put away comes back.
    `person_id` None is the command line, which may change any rule.

    Raises
    ------
    RuleError
        The rule cannot be read.
    UsageError
        The name or note will not do, or the name belongs to somebody else and the person is no operator.
    """
    name, note = _clean_name(name), _clean_note(note)
    digest = rule_sha256(parse_rule(text))
    made = session.scalar(
        insert(RuleRow)
        .values(name=name, person_id=person_id)
        .on_conflict_do_nothing(index_elements=[RuleRow.name])
        .returning(RuleRow.id)
    )
    row = session.scalars(select(RuleRow).where(RuleRow.name == name).with_for_update()).one()
    if made is None:
        _need_right(session, row, person_id)
        row.retired_at = None
    newest = _newest_row(session, row.id)
    if newest is not None and newest.rule_sha256 == digest:
        session.flush()
        return SavedRule(row.id, newest.id, name, newest.number, new=False)
    version = RuleVersionRow(
        rule_id=row.id,
        number=1 if newest is None else newest.number + 1,
        text=text.strip(),
        rule_sha256=digest,
        note=note,
        person_id=person_id,
    )
    session.add(version)
    session.flush()
    audit(session, person_id, "save_rule", f"rule:{row.id}", f"{name}:{version.number}")
    notify(session, f"rule:{row.id}")
    return SavedRule(row.id, version.id, name, version.number, new=True)


def _clean_name(name: str) -> str:
    clean = " ".join(name.split())
    if not clean or len(clean) > MAX_NAME or clean.startswith("@") or not clean.isprintable() or ":" in clean:
        raise UsageError(
            f"{clean[:MAX_NAME]!r} will not do as the name of a rule; give 1 to {MAX_NAME} characters, "
            "no colon, no @ first"
        )
    return clean


def _clean_note(note: str | None) -> str | None:
    clean = (note or "").strip()
    if len(clean) > MAX_NOTE:
        raise UsageError(f"the note has {len(clean)} characters; {MAX_NOTE} are kept, shorten it")
    return clean.replace("\0", "") or None


def _need_right(session: Session, row: RuleRow, person_id: int | None) -> None:
    """Let the owner and operators change a rule, and the command line."""
    if person_id is None or row.person_id == person_id:
        return
    role = session.scalar(select(PersonRow.role).where(PersonRow.id == person_id))
    if role is None or not role.may(PersonRole.OPERATOR):
        owner = session.scalar(select(PersonRow.name).where(PersonRow.id == row.person_id))
        raise UsageError(
            f"rule {row.name!r} belongs to {owner or 'the command line'}; save under another name, or ask an operator"
        )


def _newest_row(session: Session, rule_id: int) -> RuleVersionRow | None:
    query = select(RuleVersionRow).where(RuleVersionRow.rule_id == rule_id).order_by(RuleVersionRow.number.desc())
    return session.scalars(query.limit(1)).first()


def _need_rule(session: Session, rule_id: int, person_id: int | None) -> RuleRow:
    row = session.scalars(select(RuleRow).where(RuleRow.id == rule_id).with_for_update()).one_or_none()
    if row is None:
        raise UsageError(f"there is no rule {rule_id}; look at the list of rules")
    _need_right(session, row, person_id)
    return row


def retire_rule(session: Session, rule_id: int, person_id: int | None, *, back: bool = False) -> None:
    """Put a rule away, or (`back`) take it out again; its versions stay, and what was planned by them.

    Raises
    ------
    UsageError
        There is no such rule, or it belongs to somebody else and the person is no operator.
    """
    row = _need_rule(session, rule_id, person_id)
    if (row.retired_at is None) is back:
        return
    value = None if back else func.now()
    session.execute(update(RuleRow).where(RuleRow.id == rule_id).values(retired_at=value))
    audit(session, person_id, "restore_rule" if back else "retire_rule", f"rule:{rule_id}", row.name)
    notify(session, f"rule:{rule_id}")


def rename_rule(session: Session, rule_id: int, name: str, person_id: int | None) -> None:
    """Give a rule another name.

    Raises
    ------
    ConflictError
        Another rule bears that name.
    UsageError
        There is no such rule, the name will not do, or the rule belongs to somebody else.
    """
    clean = _clean_name(name)
    row = _need_rule(session, rule_id, person_id)
    if row.name == clean:
        return
    if session.scalar(select(RuleRow.id).where(RuleRow.name == clean)) is not None:
        raise ConflictError(f"another rule is called {clean!r}; choose another name")
    before, row.name = row.name, clean
    session.flush()
    audit(session, person_id, "rename_rule", f"rule:{rule_id}", f"{before} -> {clean}")
    notify(session, f"rule:{rule_id}")


# Reading --------------------------------------------------------------------------------------------------------------


def _version_query() -> Select[RuleVersionRow, str, str]:
    return (
        select(RuleVersionRow, RuleRow.name, PersonRow.name)
        .join(RuleRow, RuleRow.id == RuleVersionRow.rule_id)
        .outerjoin(PersonRow, PersonRow.id == RuleVersionRow.person_id)
    )


def _version(row: RuleVersionRow, name: str, person: str | None, n_planned: int = 0) -> RuleVersion:
    return RuleVersion(
        id=row.id,
        rule_id=row.rule_id,
        name=name,
        number=row.number,
        text=row.text,
        rule_sha256=row.rule_sha256,
        note=row.note,
        person=person,
        created_at=row.created_at,
        n_planned=n_planned,
    )


def rule_versions(session: Session, rule_id: int) -> list[RuleVersion]:
    """Return all versions of a rule, newest first: two statements."""
    rows = session.execute(
        _version_query().where(RuleVersionRow.rule_id == rule_id).order_by(RuleVersionRow.number.desc())
    ).all()
    counts = _planned(session, [v.id for v, _, _ in rows])
    return [_version(v, name, person, counts.get(v.id, 0)) for v, name, person in rows]


def _planned(session: Session, version_ids: list[int]) -> dict[int, int]:
    query = (
        select(SelectionRow.rule_version_id, func.count())
        .where(SelectionRow.rule_version_id.in_(version_ids))
        .group_by(SelectionRow.rule_version_id)
    )
    return {v: n for v, n in session.execute(query) if v is not None}


def read_version(session: Session, rule_id: int, number: int | None = None) -> RuleVersion | None:
    """Return one version of a rule, by default the newest; None where there is none such."""
    query = _version_query().where(RuleVersionRow.rule_id == rule_id).order_by(RuleVersionRow.number.desc())
    if number is not None:
        query = query.where(RuleVersionRow.number == number)
    row = session.execute(query.limit(1)).one_or_none()
    return None if row is None else _version(*row)


def version_by_id(session: Session, version_id: int) -> RuleVersion | None:
    """Return a version by its id, None where there is none such."""
    row = session.execute(_version_query().where(RuleVersionRow.id == version_id)).one_or_none()
    return None if row is None else _version(*row)


def find_rule(session: Session, name: str) -> RuleVersion:
    """Return the newest version of a rule by name, or by `NAME:3` the third; put-away rules are found too.

    Raises
    ------
    UsageError
        No rule is called so, or it has no such version; the message names those there are.
    """
    match = _VERSION.fullmatch(" ".join(name.split()))
    words, number = (match["name"], match["number"]) if match else (name, None)
    rule_id = session.scalar(select(RuleRow.id).where(RuleRow.name == words))
    if rule_id is None:
        names = session.scalars(
            select(RuleRow.name).where(RuleRow.retired_at.is_(None)).order_by(RuleRow.name).limit(12)
        ).all()
        there = f"there are: {', '.join(names)}" if names else "none is saved; save one on the page Rules"
        raise UsageError(f"no rule is called {words!r}; {there}")
    found = read_version(session, rule_id, None if number is None else int(number))
    if found is None:
        raise UsageError(f"rule {words!r} has no version {number}; leave the number away for the newest")
    return found


def list_rules(session: Session, *, retired: bool = False, limit: int = 200) -> list[RuleEntry]:
    """Return saved rules with their newest versions, changed last first: one statement.

    `retired` True gives those put away, False those in use.
    """
    newest = (
        select(RuleVersionRow)
        .ext(distinct_on(RuleVersionRow.rule_id))
        .order_by(RuleVersionRow.rule_id, RuleVersionRow.number.desc())
        .subquery()
    )
    version, writer, owner = aliased(RuleVersionRow, newest), aliased(PersonRow), aliased(PersonRow)
    planned = (
        select(RuleVersionRow.rule_id, func.count().label("n"))
        .join(SelectionRow, SelectionRow.rule_version_id == RuleVersionRow.id)
        .group_by(RuleVersionRow.rule_id)
        .subquery()
    )
    query = (
        select(RuleRow, version, writer.name, owner.name, func.coalesce(planned.c.n, 0))
        .join(version, version.rule_id == RuleRow.id)
        .outerjoin(writer, writer.id == version.person_id)
        .outerjoin(owner, owner.id == RuleRow.person_id)
        .outerjoin(planned, planned.c.rule_id == RuleRow.id)
        .where(RuleRow.retired_at.is_not(None) if retired else RuleRow.retired_at.is_(None))
        .order_by(version.created_at.desc(), RuleRow.id.desc())
        .limit(limit)
    )
    return [
        RuleEntry(r.id, r.name, r.person_id, who, r.created_at, r.retired_at, _version(v, r.name, by), n)
        for r, v, by, who, n in session.execute(query)
    ]


def read_rule(session: Session, rule_id: int) -> RuleEntry | None:
    """Return one saved rule, None where there is none such: three statements."""
    found = session.execute(
        select(RuleRow, PersonRow.name)
        .outerjoin(PersonRow, PersonRow.id == RuleRow.person_id)
        .where(RuleRow.id == rule_id)
    ).one_or_none()
    versions = rule_versions(session, rule_id) if found is not None else []
    if found is None or not versions:
        return None
    row, owner = found
    planned = sum(v.n_planned for v in versions)
    return RuleEntry(row.id, row.name, row.person_id, owner, row.created_at, row.retired_at, versions[0], planned)
