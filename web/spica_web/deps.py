"""What every route needs: the site it serves, and who asks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.person import Person, find_session
from spica.files.workspace import Workspace
from spica.instruments.registry import Registry, load_instruments
from spica.model.person import PersonRole
from spica_web.errors import ForbiddenError, LoginError
from spica_web.events import EventHub
from spica_web.session import Throttle, cookie_name, token_of

READ_LIMIT_S = 15.0


@dataclass
class Site:
    """One survey as the web serves it."""

    workspace: Workspace
    database: Database
    hub: EventHub
    throttle: Throttle = field(default_factory=Throttle)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session that can only read, of one moment, whose statements end in time."""
        with self.database.read(READ_LIMIT_S) as session:
            yield session

    @property
    def cookie(self) -> str:
        """Name of the session cookie: surveys on one host must not share it."""
        return cookie_name(self.workspace)

    @functools.cached_property
    def instruments(self) -> Registry:
        """Profiles of the cameras, for the limits of grades."""
        return load_instruments(self.workspace.instruments_folder)


def site_of(request: Request) -> Site:
    """Return the site of a request."""
    site: Site = request.app.state.site
    return site


def _identify(request: Request) -> Person:
    """Return who asks, by cookie or bearer token; LoginError where nobody known does."""
    site = site_of(request)
    token = token_of(request, site.cookie)
    if token is None:
        raise LoginError
    with site.read() as session:
        person = find_session(session, token)
    if person is None:
        raise LoginError
    request.state.person = person
    return person


Requirement = Callable[[Request], Person]
_ROLES: dict[Requirement, PersonRole] = {}


@functools.cache
def require(role: PersonRole) -> Requirement:
    """Return the dependency that lets only people of a role, or of a higher one, through.

    Raises
    ------
    LoginError
        Where nobody is logged in.
    ForbiddenError
        Where the role does not reach.
    """

    def check(request: Request) -> Person:
        person = _identify(request)
        if not person.role.may(role):
            raise ForbiddenError(
                f"{person.name} is a {person.role.value}, this needs a {role.value}; ask an admin, or log in as another"
            )
        return person

    _ROLES[check] = role
    return check


def role_of(check: object) -> PersonRole | None:
    """Return the role that a dependency requires, None where it is none of `require`."""
    return next((role for known, role in _ROLES.items() if known is check), None)


Viewer = Annotated[Person, Depends(require(PersonRole.VIEWER))]
Grader = Annotated[Person, Depends(require(PersonRole.GRADER))]
Operator = Annotated[Person, Depends(require(PersonRole.OPERATOR))]
Admin = Annotated[Person, Depends(require(PersonRole.ADMIN))]
