"""The web application: routes, the gate before them, and what lives as long as the server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import anyio.to_thread
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spica import __version__
from spica.db.engine import Database
from spica.db.snapshot import SnapshotKeeper
from spica.files.workspace import Workspace
from spica_web import api, pages
from spica_web.deps import Site
from spica_web.errors import add_handlers
from spica_web.events import EventHub
from spica_web.guard import Guard, Hosts, hosts_for
from spica_web.render import STATIC

THREADS = 5
"""Requests worked on at once; fewer than the database's pool has connections."""


class Acts:
    """Tells the keeper of the snapshot after each request that may have changed the survey, before its answer goes."""

    def __init__(self, app: ASGIApp, keeper: SnapshotKeeper) -> None:
        """Wrap an application."""
        self._app, self._keeper = app, keeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; what was committed before the answer begins is in every later snapshot."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._keeper.touch()
            await send(message)

        await self._app(scope, receive, tell)


class KeptFiles(StaticFiles):
    """Static files whose addresses change with their content: browsers may keep them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file with leave to keep it."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def make_app(workspace: Workspace, database: Database, hosts: Hosts | None = None) -> FastAPI:
    """Return the application of one survey; `hosts` are the names it answers to, by default those of loopback."""
    keeper = SnapshotKeeper(database)
    hub = EventHub(database, keeper.note)

    @contextlib.asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        hub.start(asyncio.get_running_loop())
        keeper.start()
        try:
            yield
        finally:
            await asyncio.to_thread(keeper.stop)
            await asyncio.to_thread(hub.stop)

    app = FastAPI(
        title="Spica",
        version=__version__,
        description="The survey as JSON; the keys are those of the command line's --json.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=live,
        redirect_slashes=False,
    )
    app.state.site = Site(workspace, database, hub, keeper)
    add_handlers(app)
    for router in (*pages.ROUTERS, *api.ROUTERS):
        app.include_router(router)
    app.mount("/static", KeptFiles(directory=STATIC), name="static")
    answering = hosts or hosts_for("127.0.0.1")
    public = {name for name in workspace.web_public if name != "*"}
    app.add_middleware(Acts, keeper=keeper)
    app.add_middleware(Guard, hosts=dataclasses.replace(answering, names=answering.names | public))
    return app
