"""The API's own description: OpenAPI as JSON, and a page of it that needs no other site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute

from spica_web.deps import Viewer
from spica_web.render import Page, render

router = APIRouter(prefix="/api", tags=["schema"])


@dataclass(frozen=True)
class Parameter:
    """One word of a request."""

    name: str
    place: str
    kind: str
    required: bool
    text: str


@dataclass(frozen=True)
class Operation:
    """One thing the API does."""

    method: str
    path: str
    text: str
    parameters: tuple[Parameter, ...]
    body: tuple[Parameter, ...]
    answer: tuple[tuple[str, str], ...]
    answer_name: str


@dataclass(frozen=True)
class ApiPage(Page):
    """All that the API does."""

    template: ClassVar[str] = "api.html"
    title: str
    nav: str
    operations: list[Operation]


@router.get("/openapi.json")
def openapi(request: Request, person: Viewer) -> JSONResponse:
    """Return the OpenAPI description."""
    return JSONResponse(describe(request))


@router.get("", response_class=HTMLResponse)
def api_page(request: Request, person: Viewer) -> HTMLResponse:
    """Show what the API does."""
    schema = describe(request)
    parts = schema.get("components", {}).get("schemas", {})
    found = [
        _operation(method, path, told, parts)
        for path, methods in schema["paths"].items()
        for method, told in methods.items()
    ]
    return render(request, ApiPage("API", "", found))


def describe(request: Request) -> dict[str, Any]:
    """Return the OpenAPI description of the routes below `/api/`."""
    app = request.app
    routes = [r for r in api_routes(app.routes) if r.path.startswith("/api/")]
    return get_openapi(title=app.title, version=app.version, description=app.description, routes=routes)


def api_routes(routes: Any) -> list[APIRoute]:
    """Return all routes with a description, those of included routers too."""
    found: list[APIRoute] = []
    for route in routes:
        if isinstance(route, APIRoute):
            found.append(route)
        else:
            included = getattr(route, "original_router", route)
            found += api_routes(getattr(included, "routes", None) or ())
    return found


def _operation(method: str, path: str, told: dict[str, Any], parts: dict[str, Any]) -> Operation:
    listed = tuple(
        Parameter(p["name"], p["in"], _kind(p.get("schema", {})), bool(p.get("required")), p.get("description", ""))
        for p in told.get("parameters", ())
    )
    sent = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    given = told["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    name, fields = _fields(given, parts)
    return Operation(
        method.upper(), path, told.get("description", ""), listed, _body(_fields(sent, parts)[1]), fields, name
    )


def _body(fields: tuple[tuple[str, str], ...]) -> tuple[Parameter, ...]:
    return tuple(Parameter(n, "body", k, False, "") for n, k in fields)


def _fields(schema: dict[str, Any], parts: dict[str, Any]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the name and the fields of an object, or of the objects of a list."""
    for option in (schema, *schema.get("anyOf", ())):
        inner = option.get("items", option)
        name = str(inner.get("$ref", "")).rpartition("/")[2]
        if name in parts:
            fields = tuple((k, _kind(v)) for k, v in parts[name].get("properties", {}).items())
            return (f"list of {name}" if "items" in option else name), fields
    return "", ()


def _kind(schema: dict[str, Any]) -> str:
    """Return the type of a value in a word."""
    if "anyOf" in schema:
        return " or ".join(_kind(s) for s in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if "enum" in schema:
        return " | ".join(str(v) for v in schema["enum"])
    return str(schema.get("type", "any"))
