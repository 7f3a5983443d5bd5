"""Requests that nobody would write, made from the description of every route: none may end in a fault of ours."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings

from spica_web.api.schema import api_routes

ORIGIN = "http://testserver"
EXAMPLES = 9
ENDLESS = frozenset({"/events"})
"""Routes whose answer has no end."""
SENT = ("method", "url", "params", "json", "data", "files", "content")
LEAVES = frozenset({"/logout"})
"""Routes that end the session that asks."""


@pytest.fixture
def raw(app: FastAPI) -> dict[str, Any]:
    """Return the description of all routes, those of the pages too."""
    routes = [r for r in api_routes(app.routes) if r.path not in ENDLESS | LEAVES]
    return get_openapi(title="all", version="1", routes=routes)


def test_no_request_ends_in_a_fault_of_ours(
    app: FastAPI, survey: Any, site: Any, raw: dict[str, Any], client: TestClient
) -> None:
    schema = schemathesis.openapi.from_dict(raw)
    headers = {"cookie": f"{site.cookie}={survey.tokens['ada']}", "origin": ORIGIN}
    seen: Counter[int] = Counter()
    faults: list[str] = []
    tried = 0
    with TestClient(app, raise_server_exceptions=False, follow_redirects=False) as visitor:

        def ask(case: schemathesis.Case) -> None:
            words = case.as_transport_kwargs(base_url=ORIGIN, headers=headers)
            words.pop("cookies", None)
            sent = {k: v for k, v in words.items() if k in SENT}
            sent["headers"] = {**{k: v for k, v in words["headers"].items() if k.lower() != "host"}, **headers}
            reply = visitor.request(**sent)
            seen[reply.status_code // 100] += 1
            if reply.status_code >= 500 and reply.status_code != 503:
                faults.append(f"{reply.status_code} {case.method} {words['url']} {str(sent)[:400]}: {reply.text[:200]}")

        for found in schema.get_all_operations():
            operation = found.ok()
            tried += 1

            @seed(20061214)
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def run(case: schemathesis.Case) -> None:
                ask(case)

            run()
    assert faults == []
    assert tried > 60
    assert seen[2] > 60, seen  # not everything was refused at the gate
    assert seen[4] > 60, seen
