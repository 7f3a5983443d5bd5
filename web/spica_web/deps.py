"""What every route needs: the site it serves, and who asks."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.person import Entered, Person, find_entry, note_use
from spica.db.snapshot import Snapshot, SnapshotKeeper
from spica.files.workspace import Workspace
from spica.instruments.registry import Registry, load_instruments
from spica.model.person import PersonRole
from spica_web.errors import ForbiddenError, LoginError
from spica_web.events import EventHub
from spica_web.guard import host_name
from spica_web.public import GUEST
from spica_web.session import cookie_name, shown_token

READ_LIMIT_S = 15.0
AT_ONCE = 2
"""Passwords looked at in one moment: each takes 64 MiB and the cores."""


@dataclass
class Site:
    """One survey as the web serves it."""

    workspace: Workspace
    database: Database
    hub: EventHub
    keeper: SnapshotKeeper
    looking: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(AT_ONCE))

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session that can only read, of one moment, whose statements end in time."""
        with self.database.read(READ_LIMIT_S) as session:
            yield session

    def snapshot(self) -> Snapshot:
        """Return all images, jobs and grades as columns, with the acts of this server in them; see `SnapshotKeeper`."""
        return self.keeper.now()

    @property
    def cookie(self) -> str:
        """Name of the session cookie: surveys on one host must not share it."""
        return cookie_name(self.workspace)

    @functools.cached_property
    def instruments(self) -> Registry:
        """Profiles of the cameras, for the limits of grades."""
        return load_instruments(self.workspace.instruments_folder)

    def is_public(self, request: Request) -> bool:
        """Whether visitors without a name may look at the host that is asked."""
        hosts = self.workspace.web_public
        return "*" in hosts or host_name(request.headers.get("host", "")) in hosts


def site_of(request: Request) -> Site:
    """Return the site of a request."""
    site: Site = request.app.state.site
    return site


@dataclass(frozen=True)
class Need:
    """What a route needs of who asks.

    `public`: a visitor without a name may also look, where the survey is public. `browser`: a session of a browser, not
    a token for programs: what gives rights away is done by people.
    """

    role: PersonRole
    public: bool = False
    browser: bool = False


def _enter(request: Request, need: Need) -> Person:
    """Return who asks, by cookie or bearer token; LoginError where nobody known does and the route is not public."""
    site = site_of(request)
    shown = shown_token(request, site.cookie)
    found: Entered | None = None
    if shown.token is not None:
        with site.read() as session:
            found = find_entry(session, shown.token, (shown.kind,))
    if found is None:
        if need.public and shown.kind == "session" and site.is_public(request) and not _came_by_link(request):
            return GUEST
        raise LoginError
    if not found.fresh:
        with site.database.begin() as session:
            note_use(session, found.session_id)
    request.state.person, request.state.entered = found.person, found
    if need.browser and found.kind != "session":
        raise ForbiddenError("a token for programs does not reach here; log in with a browser")
    return found.person


def _came_by_link(request: Request) -> bool:
    """Whether a browser follows a link of another site: its strict cookie stays behind, so the page asks once more."""
    headers = request.headers
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode", "navigate") == "navigate"


Requirement = Callable[[Request], Person]
_NEEDS: dict[Requirement, Need] = {}


@functools.cache
def require(role: PersonRole, *, public: bool = False, browser: bool = False) -> Requirement:
    """Return the dependency that lets only people of a role, or of a higher one, through.

    Raises
    ------
    LoginError
        Where nobody is logged in.
    ForbiddenError
        Where the role does not reach, or a token is shown where a browser's session is needed.
    """
    need = Need(role, public, browser)

    def check(request: Request) -> Person:
        person = _enter(request, need)
        if not person.role.may(role):
            raise ForbiddenError(
                f"{person.name} is a {person.role.value}, this needs a {role.value}; ask an admin, or log in as another"
            )
        return person

    _NEEDS[check] = need
    return check


def need_of(check: object) -> Need | None:
    """Return what a dependency requires, None where it is none of `require`."""
    return next((need for known, need in _NEEDS.items() if known is check), None)


def entered_of(request: Request) -> Entered:
    """Return by which session somebody asks; LoginError for a visitor without a name."""
    found: Entered | None = getattr(request.state, "entered", None)
    if found is None:
        raise LoginError
    return found


Visitor = Annotated[Person, Depends(require(PersonRole.VIEWER, public=True))]
Viewer = Annotated[Person, Depends(require(PersonRole.VIEWER))]
Grader = Annotated[Person, Depends(require(PersonRole.GRADER))]
Operator = Annotated[Person, Depends(require(PersonRole.OPERATOR))]
Admin = Annotated[Person, Depends(require(PersonRole.ADMIN))]
Myself = Annotated[Person, Depends(require(PersonRole.VIEWER, browser=True))]
AdminMyself = Annotated[Person, Depends(require(PersonRole.ADMIN, browser=True))]
