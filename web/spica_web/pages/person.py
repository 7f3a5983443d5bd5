"""People: who may do what; for admins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from spica.db.pages.audit import AuditFilter, AuditLine, read_audit_page
from spica.db.person import (
    Person,
    SessionEntry,
    add_person,
    audit,
    disable_person,
    enable_person,
    end_sessions,
    list_persons,
    list_sessions,
    revoke_session,
    set_password,
    set_role,
)
from spica.model.errors import ConflictError
from spica.model.person import PersonRole
from spica_web.deps import Admin, AdminMyself, site_of
from spica_web.errors import MissingError
from spica_web.pages.audit import links_of
from spica_web.render import Page, render

router = APIRouter()
ROLES = tuple(
    (role.value, text)
    for role, text in zip(
        PersonRole, ("sees", "also grades", "also plans and orders jobs", "also keeps people"), strict=True
    )
)


@dataclass(frozen=True)
class PeoplePage(Page):
    """Everybody."""

    template: ClassVar[str] = "people.html"
    title: str
    nav: str
    people: tuple[Person, ...]
    roles: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PersonPage(Page):
    """One person as an admin sees it: rights, sessions, tokens and what was done."""

    template: ClassVar[str] = "person.html"
    title: str
    nav: str
    person: Person
    roles: tuple[tuple[str, str], ...]
    sessions: tuple[SessionEntry, ...]
    tokens: tuple[SessionEntry, ...]
    acts: list[AuditLine]
    links: dict[int, str]
    total: int


@router.get("/people", response_class=HTMLResponse)
def people_page(request: Request, person: Admin) -> HTMLResponse:
    """Show everybody."""
    with site_of(request).read() as session:
        page = PeoplePage("People", "people", list_persons(session), ROLES)
    return render(request, page)


@router.get("/people/{person_id}", response_class=HTMLResponse)
def person_page(request: Request, person: Admin, person_id: int) -> HTMLResponse:
    """Show one person."""
    with site_of(request).read() as session:
        other = need_person(session, person_id)
        acts, total = read_audit_page(session, AuditFilter(of_person_id=other.id), 20)
        sessions, tokens = (list_sessions(session, other.id, kind) for kind in ("session", "api"))
    return render(
        request, PersonPage(other.name, "people", other, ROLES, sessions, tokens, acts, links_of(acts, person), total)
    )


@router.post("/people")
def add_somebody(
    request: Request,
    person: AdminMyself,
    name: Annotated[str, Form(max_length=64)],
    role: Annotated[PersonRole, Form()],
    password: Annotated[str, Form(max_length=1024)],
) -> Response:
    """Add a person with a password."""
    with site_of(request).database.begin() as session:
        made = add_person(session, name.strip(), role, password)
        audit(session, person.id, "add_person", f"person:{made}", role.value)
    return RedirectResponse("/people", status_code=303)


@router.post("/people/{person_id}/role")
def change_role(request: Request, person: AdminMyself, person_id: int, role: Annotated[PersonRole, Form()]) -> Response:
    """Change what a person may do; nobody can take the last admin's rights."""
    with site_of(request).database.begin() as session:
        before = need_person(session, person_id).role
        set_role(session, person_id, role)
        audit(session, person.id, "set_role", f"person:{person_id}", f"{before.value} to {role.value}")
    return _back(person_id)


@router.post("/people/{person_id}/password")
def change_password(
    request: Request, person: AdminMyself, person_id: int, password: Annotated[str, Form(max_length=1024)]
) -> Response:
    """Give a person a new password; sessions and tokens of the person end."""
    with site_of(request).database.begin() as session:
        need_person(session, person_id)
        set_password(session, person_id, password)
        audit(session, person.id, "set_password", f"person:{person_id}")
    return _back(person_id)


@router.post("/people/{person_id}/disable")
def shut_out(request: Request, person: AdminMyself, person_id: int) -> Response:
    """Shut a person out at once; nobody can shut out the last admin."""
    with site_of(request).database.begin() as session:
        other = need_person(session, person_id)
        if other.id == person.id:
            raise ConflictError("you cannot shut yourself out; ask another admin")
        disable_person(session, person_id)
        audit(session, person.id, "disable_person", f"person:{person_id}")
    return _back(person_id)


@router.post("/people/{person_id}/enable")
def let_in(request: Request, person: AdminMyself, person_id: int) -> Response:
    """Let a person in again."""
    with site_of(request).database.begin() as session:
        need_person(session, person_id)
        enable_person(session, person_id)
        audit(session, person.id, "enable_person", f"person:{person_id}")
    return _back(person_id)


@router.post("/people/{person_id}/sign-out")
def sign_out(request: Request, person: AdminMyself, person_id: int) -> Response:
    """End all sessions of a person; tokens for programs stay."""
    with site_of(request).database.begin() as session:
        need_person(session, person_id)
        ended = end_sessions(session, person_id, ("login", "session"))
        audit(session, person.id, "end_sessions", f"person:{person_id}", str(ended))
    return _back(person_id)


@router.post("/people/{person_id}/sessions/{session_id}/end")
def end_one(request: Request, person: AdminMyself, person_id: int, session_id: int) -> Response:
    """End one session, or revoke one token, of a person."""
    with site_of(request).database.begin() as session:
        need_person(session, person_id)
        end_one_of(session, person, person_id, session_id)
    return _back(person_id)


def end_one_of(session: Session, actor: Person, person_id: int, session_id: int) -> None:
    """End a session or token of a person and record who did; MissingError where there is none such."""
    ended = revoke_session(session, person_id, session_id) if 0 < session_id < 2**62 else None
    if ended is None:
        raise MissingError("that session or token is over already; reload the list")
    verb = "revoke_token" if ended.kind == "api" else "end_session"
    audit(session, actor.id, verb, f"person:{person_id}", f"{session_id} {ended.label or ''}".strip())


def need_person(session: Session, person_id: int) -> Person:
    """Return a person; MissingError where there is none."""
    found = next((p for p in list_persons(session) if p.id == person_id), None)
    if found is None:
        raise MissingError(f"there is no person {person_id}; reload the list")
    return found


def _back(person_id: int) -> RedirectResponse:
    return RedirectResponse(f"/people/{person_id}", status_code=303)
