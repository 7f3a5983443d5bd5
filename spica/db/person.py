"""People: passwords, one-time links, browser sessions, tokens for programs, and the record of what they did.

Tokens are 256 random bits; the database keeps their SHA-256 only, so that a copy of it opens nothing. Passwords are
kept by scrypt with a salt each; its cost parameters stand in the hash and may be raised later.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from spica.db.tables.person import AuditRow, PersonRow, SessionRow
from spica.model.errors import ConflictError, UsageError
from spica.model.person import PersonRole

SCRYPT_N = 2**15
SCRYPT_R = 8
SCRYPT_P = 3
LOGIN_LIFE_S = 900.0
SESSION_LIFE_S = 14 * 86400.0
API_LIFE_S = 366 * 86400.0
MIN_PASSWORD = 8
MAX_PASSWORD = 1024
_SCRYPT_LIMIT = 256 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_NOBODY = "scrypt$32768$8$3$c3BpY2Egbm8gb25lIGF0IGFsbA==$" + base64.b64encode(bytes(32)).decode()


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


def list_persons(session: Session) -> tuple[Person, ...]:
    """Return all people by id."""
    return tuple(_person(row) for row in session.execute(_persons().order_by(PersonRow.id)))


def has_password_person(session: Session) -> bool:
    """Whether anybody who may enter has a password: asked before the pages are shown beyond this host."""
    wish = select(func.count()).where(PersonRow.password_hash.is_not(None), PersonRow.disabled_at.is_(None))
    return session.execute(wish).scalar_one() > 0


def set_role(session: Session, person_id: int, role: PersonRole) -> None:
    """Change what a person may do; it holds from the next request on."""
    session.execute(update(PersonRow).where(PersonRow.id == person_id).values(role=role))


def set_password(session: Session, person_id: int, password: str | None) -> None:
    """Change a password (None: none any more) and end all sessions and tokens of the person."""
    hashed = None if password is None else hash_password(password)
    session.execute(update(PersonRow).where(PersonRow.id == person_id).values(password_hash=hashed))
    end_sessions(session, person_id)


def disable_person(session: Session, person_id: int) -> None:
    """Shut a person out at once; rows that name the person stay."""
    session.execute(update(PersonRow).where(PersonRow.id == person_id).values(disabled_at=func.clock_timestamp()))
    end_sessions(session, person_id)


def enable_person(session: Session, person_id: int) -> None:
    """Let a person in again."""
    session.execute(update(PersonRow).where(PersonRow.id == person_id).values(disabled_at=None))


# Passwords ------------------------------------------------------------------------------------------------------------


def hash_password(password: str) -> str:
    """Return `scrypt$n$r$p$salt$hash`; UsageError where the password is too short or absurdly long."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise UsageError(f"a password needs {MIN_PASSWORD} to {MAX_PASSWORD} characters; choose another")
    salt = os.urandom(16)
    derived = _scrypt(password, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P)
    words = (base64.b64encode(salt).decode(), base64.b64encode(derived).decode())
    return f"scrypt${SCRYPT_N}${SCRYPT_R}${SCRYPT_P}${words[0]}${words[1]}"


def verify_password(password: str, hashed: str) -> bool:
    """Whether a password gives this hash; False also where the hash is none of ours."""
    kind, *words = hashed.split("$")
    if kind != "scrypt" or len(words) != 5 or len(password) > MAX_PASSWORD:
        return False
    try:
        n, r, p = (int(word) for word in words[:3])
        salt, expected = (base64.b64decode(word, validate=True) for word in words[3:])
        derived = _scrypt(password, salt, n, r, p)
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(derived, expected)


def check_password(session: Session, name: str, password: str) -> Person | None:
    """Return the person where name and password fit and the person may enter, else None.

    It takes as long for an unknown name as for a known one.
    """
    row = session.execute(
        _persons().add_columns(PersonRow.password_hash).where(PersonRow.name == name, PersonRow.disabled_at.is_(None))
    ).one_or_none()
    hashed = None if row is None else row.password_hash
    fits = verify_password(password, hashed or _NOBODY)
    return _person(row) if row is not None and hashed is not None and fits else None


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_SCRYPT_LIMIT, dklen=32)


# Tokens and sessions --------------------------------------------------------------------------------------------------


def make_login_token(session: Session, person_id: int, life_s: float = LOGIN_LIFE_S) -> str:
    """Return a token that opens one browser session, once, within its life."""
    return _make_token(session, person_id, "login", life_s)


def spend_login_token(session: Session, token: str, life_s: float = SESSION_LIFE_S) -> str | None:
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
    return None if person_id is None else make_session(session, person_id, life_s)


def make_session(session: Session, person_id: int, life_s: float = SESSION_LIFE_S) -> str:
    """Return the token of a new browser session; after `check_password`, or by `spend_login_token`."""
    return _make_token(session, person_id, "session", life_s)


def make_api_token(session: Session, person_id: int, life_s: float = API_LIFE_S) -> str:
    """Return a token for programs; it is shown this once."""
    return _make_token(session, person_id, "api", life_s)


def find_session(session: Session, token: str) -> Person | None:
    """Return whose session or program token this is; None where it is over, unknown, or the person is shut out."""
    row = session.execute(
        _persons()
        .join(SessionRow, SessionRow.person_id == PersonRow.id)
        .where(
            SessionRow.token_sha256 == _digest(token),
            SessionRow.kind.in_(("session", "api")),
            SessionRow.expires_at > func.clock_timestamp(),
            PersonRow.disabled_at.is_(None),
        )
    ).one_or_none()
    return None if row is None else _person(row)


def end_session(session: Session, token: str) -> None:
    """End one session or token; an unknown one is no error."""
    session.execute(delete(SessionRow).where(SessionRow.token_sha256 == _digest(token)))


def end_sessions(session: Session, person_id: int) -> None:
    """End all sessions and tokens of a person."""
    session.execute(delete(SessionRow).where(SessionRow.person_id == person_id))


def forget_old_sessions(session: Session) -> int:
    """Remove sessions and tokens that are over; return how many."""
    over = delete(SessionRow).where(SessionRow.expires_at <= func.clock_timestamp()).returning(SessionRow.id)
    return len(session.execute(over).all())


def _make_token(session: Session, person_id: int, kind: str, life_s: float) -> str:
    token = secrets.token_urlsafe(32)
    ends = func.clock_timestamp() + timedelta(seconds=life_s)
    session.execute(
        insert(SessionRow).values(token_sha256=_digest(token), kind=kind, person_id=person_id, expires_at=ends)
    )
    return token


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# Audit ----------------------------------------------------------------------------------------------------------------


def audit(session: Session, person_id: int | None, verb: str, subject: str, detail: str | None = None) -> None:
    """Record an act, in the transaction that does it; `subject` is `noun:id`, `person_id` None the command line."""
    session.execute(insert(AuditRow).values(person_id=person_id, verb=verb, subject=subject, detail=detail))


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
