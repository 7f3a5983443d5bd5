"""Fixtures of the web pages: the sample survey, its application, who visits it, and a real server with Chromium."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Page, expect

from spica.db.engine import Database
from spica.db.node import know_node
from spica.files.workspace import Workspace, init_workspace, read_workspace
from spica_web.app import make_app
from spica_web.deps import Site
from spica_web.guard import hosts_for
from spica_web.session import cookie_name

from .browser import Chromium, Pages, WarmServer, start_chromium
from .sample import Survey, say_alive
from .sample_stacks import fill_survey

ORIGIN = "http://testserver"
TEMPLATE = "spica_web_sample"


@dataclass
class Sample:
    """The sample as it was written once: its ids, and the workspace whose files are copied."""

    made: Survey
    workspace: Workspace


@pytest.fixture(scope="session")
def sample(make_template: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Write the sample once, to a database that others are copies of."""
    folder = init_workspace(tmp_path_factory.mktemp("sample") / "survey").folder
    config = folder / "spica.toml"
    config.write_text('node = "n1"\n' + config.read_text())
    workspace = read_workspace(folder)
    with Database(make_template(TEMPLATE)) as database, database.begin() as session:
        made = fill_survey(session, workspace)
    return Sample(made, workspace)


@pytest.fixture
def database(request: pytest.FixtureRequest, make_database: Callable[..., Database]) -> Database:
    """Return a database of this test alone: a copy of the sample where the test asks for it, else without rows."""
    if "survey" not in request.fixturenames:
        return make_database()
    request.getfixturevalue("sample")
    return make_database(TEMPLATE)


@pytest.fixture
def survey(database: Database, workspace: Workspace, sample: Sample) -> Survey:
    """Return the sample, in the database and the folders of this test; its node has just been heard of."""
    for name, root in sample.workspace.roots.items():
        shutil.copytree(root, workspace.roots[name], dirs_exist_ok=True)
    with database.begin() as session:
        say_alive(session, know_node(session, workspace.node, "ocs1"))
    return copy.deepcopy(sample.made)


@pytest.fixture
def app(database: Database, workspace: Workspace) -> FastAPI:
    """Return the application of this test; it answers to the name of the test client."""
    return make_app(workspace, database, hosts_for("127.0.0.1", ["testserver"]))


@pytest.fixture
def site(app: FastAPI) -> Site:
    """Return the site of the application."""
    found: Site = app.state.site
    return found


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """Return a client without a session."""
    with TestClient(app, follow_redirects=False, headers={"accept": "text/html"}) as made:
        yield made


class Visitor:
    """Somebody with a session: a client whose requests bear cookie and origin as a browser's do."""

    def __init__(self, client: TestClient, site: Site) -> None:
        """Nobody yet."""
        self.client, self.site = client, site

    def become(self, token: str) -> TestClient:
        """Enter with a session token."""
        self.client.cookies.clear()
        self.client.cookies.set(self.site.cookie, token)
        self.client.headers["origin"] = ORIGIN
        return self.client


@pytest.fixture
def visitor(client: TestClient, site: Site) -> Visitor:
    """Return somebody who may become anybody of the sample."""
    return Visitor(client, site)


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def warm_server() -> Iterator[WarmServer]:
    """Return what becomes the server of a test quickly."""
    warm = WarmServer()
    yield warm
    warm.close()


@pytest.fixture
def server(warm_server: WarmServer, workspace: Workspace, survey: Survey) -> Iterator[str]:
    """Return the address that a server process of the sample prints, with its one-time token."""
    with warm_server.serve(workspace.folder) as address:
        yield address


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """Return the one Chromium of this process."""
    with start_chromium() as started:
        yield started


@pytest.fixture
def pages(chromium: Chromium, server: str) -> Iterator[Pages]:
    """Return what opens pages; a fault of script or policy on one of them fails the test."""
    with chromium.awake() as browser:
        opened = Pages(browser)
        with opened.contexts:
            yield opened
    assert opened.faults == []


@pytest.fixture
def page(pages: Pages, server: str) -> Page:
    """Return a page that has entered by the printed address."""
    opened = pages.open()
    opened.goto(server)
    expect(opened).to_have_url(re.compile(r"^http://127\.0\.0\.1:\d+/$"))
    return opened


@pytest.fixture
def enter(pages: Pages, server: str, survey: Survey, workspace: Workspace) -> Callable[..., Page]:
    """Return what opens an address as a person of the sample, in a browser context of their own."""
    home = server.partition("/?")[0]

    def open_as(name: str, address: str, theme: str = "dark", calm: str = r"(?!)") -> Page:
        cookies = {cookie_name(workspace): survey.tokens[name], "spica-theme": theme}
        opened = pages.open(*({"name": k, "value": v, "url": home} for k, v in cookies.items()), calm=calm)
        opened.goto(home + address)
        return opened

    return open_as
