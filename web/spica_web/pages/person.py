"""People: who may do what; for admins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from spica.db.person import (
    AuditEntry,
    Person,
    add_person,
    audit,
    disable_person,
    enable_person,
    list_persons,
    read_audit,
    set_password,
    set_role,
)
from spica.model.errors import ConflictError
from spica.model.person import PersonRole
from spica_web.deps import Admin, site_of
from spica_web.errors import MissingError
from spica_web.render import Page, render

router = APIRouter()


@dataclass(frozen=True)
class PeoplePage(Page):
    """People and what they did last."""

    template: ClassVar[str] = "people.html"
    title: str
    nav: str
    people: tuple[Person, ...]
    roles: tuple[str, ...]
    acts: tuple[AuditEntry, ...]


@router.get("/people", response_class=HTMLResponse)
def people_page(request: Request, person: Admin) -> HTMLResponse:
    """Show everybody, and the newest acts."""
    with site_of(request).read() as session:
        page = PeoplePage(
            "People", "people", list_persons(session), tuple(r.value for r in PersonRole), read_audit(session, limit=60)
        )
    return render(request, page)


@router.post("/people")
def add_somebody(
    request: Request,
    person: Admin,
    name: Annotated[str, Form(max_length=64)],
    role: Annotated[PersonRole, Form()],
    password: Annotated[str, Form(max_length=1024)],
) -> Response:
    """Add a person with a password."""
    with site_of(request).database.begin() as session:
        made = add_person(session, name.strip(), role, password)
        audit(session, person.id, "add_person", f"person:{made}", f"{name} {role.value}")
    return RedirectResponse("/people", status_code=303)


@router.post("/people/{person_id}/role")
def change_role(request: Request, person: Admin, person_id: int, role: Annotated[PersonRole, Form()]) -> Response:
    """Change what a person may do; nobody can take the last admin's rights."""
    with site_of(request).database.begin() as session:
        other = _need(session, person_id)
        if role is not PersonRole.ADMIN:
            _keep_an_admin(session, other)
        set_role(session, person_id, role)
        audit(session, person.id, "set_role", f"person:{person_id}", role.value)
    return RedirectResponse("/people", status_code=303)


@router.post("/people/{person_id}/password")
def change_password(
    request: Request, person: Admin, person_id: int, password: Annotated[str, Form(max_length=1024)]
) -> Response:
    """Give a person a new password; sessions of the person end."""
    with site_of(request).database.begin() as session:
        _need(session, person_id)
        set_password(session, person_id, password)
        audit(session, person.id, "set_password", f"person:{person_id}")
    return RedirectResponse("/people", status_code=303)


@router.post("/people/{person_id}/disable")
def shut_out(request: Request, person: Admin, person_id: int) -> Response:
    """Shut a person out at once."""
    with site_of(request).database.begin() as session:
        other = _need(session, person_id)
        if other.id == person.id:
            raise ConflictError("you cannot shut yourself out; ask another admin")
        _keep_an_admin(session, other)
        disable_person(session, person_id)
        audit(session, person.id, "disable_person", f"person:{person_id}", other.name)
    return RedirectResponse("/people", status_code=303)


@router.post("/people/{person_id}/enable")
def let_in(request: Request, person: Admin, person_id: int) -> Response:
    """Let a person in again."""
    with site_of(request).database.begin() as session:
        other = _need(session, person_id)
        enable_person(session, person_id)
        audit(session, person.id, "enable_person", f"person:{person_id}", other.name)
    return RedirectResponse("/people", status_code=303)


def _need(session: Session, person_id: int) -> Person:
    found = next((p for p in list_persons(session) if p.id == person_id), None)
    if found is None:
        raise MissingError(f"there is no person {person_id}; reload the list")
    return found


def _keep_an_admin(session: Session, leaving: Person) -> None:
    admins = [p for p in list_persons(session) if p.role is PersonRole.ADMIN and p.disabled_at is None]
    if [a.id for a in admins] == [leaving.id]:
        raise ConflictError(f"{leaving.name} is the only admin; make somebody else admin first")
