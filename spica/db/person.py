"""People: passwords, one-time links, browser sessions, tokens for programs, and the record of what they did.

Tokens are 256 random bits; the database keeps their SHA-256 only, so that a copy of it opens nothing. How passwords are
kept: `spica.db.password`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Row, Select, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from spica.db.password import ARGON2, SCRYPT, hash_password, is_behind, verify_one_of
from spica.db.tables.person import AuditRow, PersonRow, SessionRow
from spica.model.errors import ConflictError, UsageError
from spica.model.person import PersonRole

LOGIN_LIFE_S = 900.0
SESSION_LIFE_S = 14 * 86400.0
API_LIFE_S = 366 * 86400.0
SEEN_EVERY_S = 60.0
Kind = Literal["login", "session", "api"]
ENTERING: tuple[Kind, ...] = ("session", "api")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True)
class Person:
    """A person as pages and commands see one; the hash of the password never leaves the database's floor."""

    id: int
    name: str
    role: PersonRole
    has_password: bool
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True)
class Entered:
    """Who shows a session or token, which one, of what kind; `fresh`: its last use is on record."""

    person: Person
    session_id: int
    kind: str
    fresh: bool


@dataclass(frozen=True)
class SessionEntry:
    """A session (`session`) or token for programs (`api`) as its owner sees it; `seen_at` None: never used."""

    id: int
    kind: str
    label: str | None
    created_at: datetime
    seen_at: datetime | None
    expires_at: datetime


@dataclass(frozen=True)
class AuditEntry:
    """One act; `person` None: the command line."""

    id: int
    at: datetime
    person: str | None
    verb: str
    subject: str
    detail: str | None


def add_person(session: Session, name: str, role: PersonRole, password: str | None = None) -> int:
    """Add a person and return the id.

    Raises
    ------
    ConflictError
        Where the name is taken.
    UsageError
        Where the name or the password will not do.
    """
    made = _insert_person(session, name, role, None if password is None else hash_password(password))
    if made is None:
        raise ConflictError(f"there is a person {name} already; choose another name")
    return made


def know_person(session: Session, name: str, role: PersonRole) -> int:
    """Return the id of a person by name, added with the role where new; the role of a known one stays."""
    made = _insert_person(session, name, role, None)
    return made or session.execute(select(PersonRow.id).where(PersonRow.name == name)).scalar_one()


def find_person(session: Session, name: str) -> Person | None:
    """Return a person by name; None where there is none."""
    row = session.execute(_persons().where(PersonRow.name == name)).one_or_none()
    return None if row is None else _person(row)


def need_person(session: Session, name: str) -> Person:
    """Return a person by name; UsageError where there is none."""
    found = find_person(session, name)
    if found is None:
        raise UsageError(f"there is no person {name}; see: spica person list")
    return found


def list_persons(session: Session) -> tuple[Person, ...]:
    """Return all people by id."""
    return tuple(_person(row) for row in session.execute(_persons().order_by(PersonRow.id)))


def has_password_person(session: Session) -> bool:
    """Whether anybody who may enter has a password: asked before the pages are shown beyond this host."""
    wish = select(func.count()).where(PersonRow.password_hash.is_not(None), PersonRow.disabled_at.is_(None))
    return session.execute(wish).scalar_one() > 0


def set_role(session: Session, person_id: int, role: PersonRole) -> None:
    """Change what a person may do; it holds from the next request on. ConflictError for the last admin."""
    if role is not PersonRole.ADMIN:
        _keep_an_admin(session, person_id)
    session.execute(update(PersonRow).where(PersonRow.id == person_id).values(role=role))


def set_password(session: Session, person_id: int, password: str | None) -> None:
    """Change a password (None: none any more) and end all sessions and tokens of the person."""
    hashed = None if password is None else hash_password(password)
    session.execute(update(PersonRow).where(PersonRow.id == person_id).values(password_hash=hashed))
    end_sessions(session, person_id)


def disable_person(session: Session, person_id: int) -> None:
    """Shut a person out at once; rows that name the person stay. ConflictError for the last admin."""
    _keep_an_admin(session, person_id)
    session.execute(update(PersonRow).where(PersonRow.id == person_id).values(disabled_at=func.clock_timestamp()))
    end_sessions(session, person_id)


def enable_person(session: Session, person_id: int) -> None:
    """Let a person in again."""
    session.execute(update(PersonRow).where(PersonRow.id == person_id).values(disabled_at=None))


def _keep_an_admin(session: Session, leaving: int) -> None:
    """Refuse to lose the last admin; their rows stay locked, so that two cannot lose each other at once."""
    wish = select(PersonRow.id, PersonRow.name).where(
        PersonRow.role == PersonRole.ADMIN, PersonRow.disabled_at.is_(None)
    )
    admins = session.execute(wish.order_by(PersonRow.id).with_for_update()).all()
    if [row.id for row in admins] == [leaving]:
        raise ConflictError(f"{admins[0].name} is the only admin; make somebody else admin first")


def check_password(session: Session, name: str, password: str) -> Person | None:
    """Return the person where name and password fit and the person may enter, else None.

    It takes as long for an unknown name, or one without a password, as for a known one: one check of each kind of hash
    that is in use. A hash that is behind is made anew.
    """
    row = session.execute(
        _persons().add_columns(PersonRow.password_hash).where(PersonRow.name == name, PersonRow.disabled_at.is_(None))
    ).one_or_none()
    older = select(PersonRow.id).where(PersonRow.password_hash.startswith(f"{SCRYPT}$")).limit(1)
    kinds = (ARGON2,) if session.execute(older).first() is None else (ARGON2, SCRYPT)
    hashed: str | None = None if row is None else row.password_hash
    if not verify_one_of(password, hashed, kinds) or row is None or hashed is None:
        return None
    if is_behind(hashed):
        same = update(PersonRow).where(PersonRow.id == row.id, PersonRow.password_hash == hashed)
        session.execute(same.values(password_hash=hash_password(password)))
    return _person(row)


# Tokens and sessions --------------------------------------------------------------------------------------------------


def make_login_token(session: Session, person_id: int, life_s: float = LOGIN_LIFE_S) -> str:
    """Return a token that opens one browser session, once, within its life."""
    return _make_token(session, person_id, "login", life_s)


def spend_login_token(
    session: Session, token: str, life_s: float = SESSION_LIFE_S, label: str | None = None
) -> str | None:
    """Spend a one-time token and return the token of a new browser session; None where it is spent, over or unknown."""
    person_id = session.execute(
        update(SessionRow)
        .where(
            SessionRow.token_sha256 == _digest(token),
            SessionRow.kind == "login",
            SessionRow.used_at.is_(None),
            SessionRow.expires_at > func.clock_timestamp(),
            SessionRow.person_id.in_(select(PersonRow.id).where(PersonRow.disabled_at.is_(None))),
        )
        .values(used_at=func.clock_timestamp())
        .returning(SessionRow.person_id)
        .execution_options(synchronize_session=False)
    ).scalar()
    return None if person_id is None else make_session(session, person_id, life_s, label)


def make_session(session: Session, person_id: int, life_s: float = SESSION_LIFE_S, label: str | None = None) -> str:
    """Return the token of a new browser session; after `check_password`, or by `spend_login_token`."""
    return _make_token(session, person_id, "session", life_s, label)


def make_api_token(session: Session, person_id: int, life_s: float = API_LIFE_S, label: str | None = None) -> str:
    """Return a token for programs; it is shown this once."""
    return _make_token(session, person_id, "api", life_s, label)


@functools.cache
def _entry_said(kinds: tuple[Kind, ...]) -> Select[*tuple[Any, ...]]:
    """Return the statement of who may enter by the token of a `digest`; it runs before every page."""
    lately = func.clock_timestamp() - timedelta(seconds=SEEN_EVERY_S)
    return (
        _persons()
        .add_columns(SessionRow.id.label("session_id"), SessionRow.kind, (SessionRow.seen_at > lately).label("fresh"))
        .join(SessionRow, SessionRow.person_id == PersonRow.id)
        .where(
            SessionRow.token_sha256 == bindparam("digest"),
            SessionRow.kind.in_(kinds),
            SessionRow.expires_at > func.clock_timestamp(),
            PersonRow.disabled_at.is_(None),
        )
    )


def find_entry(session: Session, token: str, kinds: tuple[Kind, ...] = ENTERING) -> Entered | None:
    """Return who shows this session or program token; None where it is over, unknown, or the person is shut out."""
    row = session.execute(_entry_said(kinds), {"digest": _digest(token)}).one_or_none()
    return None if row is None else Entered(_person(row), row.session_id, row.kind, bool(row.fresh))


def find_session(session: Session, token: str) -> Person | None:
    """Return whose session or program token this is; None as `find_entry`."""
    found = find_entry(session, token)
    return None if found is None else found.person


def note_use(session: Session, session_id: int) -> None:
    """Record that a session or token was used now."""
    session.execute(update(SessionRow).where(SessionRow.id == session_id).values(seen_at=func.clock_timestamp()))


def list_sessions(session: Session, person_id: int, kind: Kind) -> tuple[SessionEntry, ...]:
    """Return the sessions or tokens of a person that are not over, newest first."""
    columns = (SessionRow.created_at, SessionRow.seen_at, SessionRow.expires_at)
    wish = (
        select(SessionRow.id, SessionRow.kind, SessionRow.label, *columns)
        .where(
            SessionRow.person_id == person_id, SessionRow.kind == kind, SessionRow.expires_at > func.clock_timestamp()
        )
        .order_by(SessionRow.id.desc())
    )
    return tuple(SessionEntry(*row) for row in session.execute(wish))


def end_session(session: Session, token: str) -> None:
    """End one session or token; an unknown one is no error."""
    session.execute(delete(SessionRow).where(SessionRow.token_sha256 == _digest(token)))


def revoke_session(session: Session, person_id: int, session_id: int) -> SessionEntry | None:
    """End one session or token of a person by its id; return what it was, None where the person has none such."""
    gone = (
        delete(SessionRow)
        .where(SessionRow.id == session_id, SessionRow.person_id == person_id, SessionRow.kind.in_(ENTERING))
        .returning(
            SessionRow.id,
            SessionRow.kind,
            SessionRow.label,
            SessionRow.created_at,
            SessionRow.seen_at,
            SessionRow.expires_at,
        )
    )
    row = session.execute(gone).one_or_none()
    return None if row is None else SessionEntry(*row)


def end_sessions(session: Session, person_id: int, kinds: tuple[Kind, ...] = ("login", *ENTERING)) -> int:
    """End the sessions and tokens of a person, of all kinds or some; return how many."""
    gone = delete(SessionRow).where(SessionRow.person_id == person_id, SessionRow.kind.in_(kinds))
    return len(session.execute(gone.returning(SessionRow.id)).all())


def forget_old_sessions(session: Session) -> int:
    """Remove sessions and tokens that are over; return how many."""
    over = delete(SessionRow).where(SessionRow.expires_at <= func.clock_timestamp()).returning(SessionRow.id)
    return len(session.execute(over).all())


def _make_token(session: Session, person_id: int, kind: Kind, life_s: float, label: str | None = None) -> str:
    token = secrets.token_urlsafe(32)
    ends = func.clock_timestamp() + timedelta(seconds=life_s)
    seen = func.clock_timestamp() if kind == "session" else None
    values = {"kind": kind, "person_id": person_id, "expires_at": ends, "label": label, "seen_at": seen}
    session.execute(insert(SessionRow).values(token_sha256=_digest(token), **values))
    return token


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# Audit ----------------------------------------------------------------------------------------------------------------


def audit(session: Session, person_id: int | None, verb: str, subject: str, detail: str | None = None) -> None:
    """Record an act, in the transaction that does it; `subject` is `noun:id`, `person_id` None the command line.

    Verbs are one word: `add person` is kept as `add_person`.
    """
    values = {"verb": verb.replace(" ", "_"), "subject": subject, "detail": detail}
    session.execute(insert(AuditRow).values(person_id=person_id, **values))


def read_audit(session: Session, subject: str | None = None, limit: int = 200) -> tuple[AuditEntry, ...]:
    """Return the newest acts first, of one subject where it is given."""
    wish = (
        select(AuditRow.id, AuditRow.at, PersonRow.name, AuditRow.verb, AuditRow.subject, AuditRow.detail)
        .outerjoin(PersonRow, PersonRow.id == AuditRow.person_id)
        .order_by(AuditRow.id.desc())
        .limit(limit)
    )
    if subject is not None:
        wish = wish.where(AuditRow.subject == subject)
    return tuple(AuditEntry(*row) for row in session.execute(wish))


def _insert_person(session: Session, name: str, role: PersonRole, hashed: str | None) -> int | None:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} will not do as a name; use 1 to 64 letters, digits and . _ @ + -")
    wish = insert(PersonRow).values(name=name, role=role, password_hash=hashed)
    return session.execute(wish.on_conflict_do_nothing(index_elements=["name"]).returning(PersonRow.id)).scalar()


def _person(row: Row[Any]) -> Person:
    return Person(row.id, row.name, row.role, row.has_password, row.created_at, row.disabled_at)


def _persons() -> Select[*tuple[Any, ...]]:
    return select(
        PersonRow.id,
        PersonRow.name,
        PersonRow.role,
        PersonRow.password_hash.is_not(None).label("has_password"),
        PersonRow.created_at,
        PersonRow.disabled_at,
    )
