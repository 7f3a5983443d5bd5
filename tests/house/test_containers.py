"""The container files name only what is there: paths, verbs, options, volumes; nothing is built here."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from spica.cli.main import VERBS, spica
from spica.files.workspace import read_workspace
from spica_daemon.__main__ import parse_words, read_options

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: s for name, s in SERVICES.items() if "build" in s}
DAEMONS = {name: s for name, s in OURS.items() if name.startswith("daemon")}


def copied() -> list[str]:
    """Return what the image takes from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [word for line in lines for word in line.split()[:-1]]


def command_of(service: dict[str, Any]) -> list[list[str]]:
    """Return the commands that a service runs, as lists of words."""
    entry = service.get("entrypoint", ["spica"])
    words = [*entry, *service.get("command", [])]
    return [shlex.split(part) for part in words[2].split("&&")] if entry[:2] == ["sh", "-c"] else [words]


def test_services_are_those_of_a_small_cluster():
    assert set(SERVICES) == {"postgres", "migrate", "web", "daemon-1", "daemon-2"}
    assert len(DAEMONS) == 2


def test_copied_paths_are_there_and_not_ignored():
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert copied()
    for name in copied():
        assert (ROOT / name).exists(), name
        assert name in kept, f"{name} is hidden by .dockerignore"


def test_the_image_holds_every_source_of_the_wheel():
    folders = ("spica", "web", "daemon", "migrations", "pyproject.toml", "setup.py", "README.md", "LICENSE")
    assert set(folders) <= set(copied())


def test_the_image_runs_a_python_that_will_do_as_nobody_special():
    versions = re.findall(r"^FROM python:3\.(\d+)-slim", DOCKERFILE, re.MULTILINE)
    assert versions
    assert len(set(versions)) == 1
    assert int(versions[0]) >= int(PROJECT["requires-python"].removeprefix(">=3."))
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["spica"]
    assert DOCKERFILE.index("USER spica") < DOCKERFILE.index("ENTRYPOINT")


@pytest.mark.parametrize("name", OURS)
def test_commands_are_known(name):
    for words in command_of(OURS[name]):
        if words[:3] == ["python", "-m", "spica_daemon"]:
            options = read_options(parse_words(words[3:]))
            assert options.serve is not None
            assert options.address == f"{OURS[name]['hostname']}:{options.serve[1]}"
            continue
        assert words[0] == "spica"
        assert words[1] in VERBS
        command = spica.get_command(click.Context(spica), words[1])
        assert command is not None
        assert command.make_context(words[1], list(words[2:]))


def test_image_bears_the_version():
    assert {s["image"] for s in OURS.values()} == {f"spica:{PROJECT['version']}"}


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_names_is_declared(name):
    service = SERVICES[name]
    for mount in service.get("volumes", []):
        assert mount.partition(":")[0] in COMPOSE["volumes"]
    for config in service.get("configs", []):
        assert config["source"] in COMPOSE["configs"]
    for other, how in service.get("depends_on", {}).items():
        assert other in SERVICES
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
    assert name == "migrate" or "healthcheck" in service


def test_nothing_starts_before_the_schema_is_there():
    assert all(s["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
               for n, s in OURS.items() if n != "migrate")  # fmt: skip
    assert "postgres" in OURS["migrate"]["depends_on"]


def test_nodes_share_the_workspace_and_nothing_else():
    words = {n: parse_words(command_of(s)[0][3:]) for n, s in DAEMONS.items()}
    assert len({w.node for w in words.values()}) == 2
    assert len({str(w.data) for w in words.values()}) == 2, "one path on two nodes would be taken for a shared disk"
    for name, service in DAEMONS.items():
        mounts = dict(reversed(m.split(":")) for m in service["volumes"])
        assert mounts["/survey"] == "survey"
        assert str(words[name].data) in mounts
        assert f" {words[name].data}" in DOCKERFILE, "a new volume takes its owner from the folder of the image"
    own = [m for s in DAEMONS.values() for m in s["volumes"] if not m.startswith("survey:")]
    assert len(set(own)) == 2


def test_passwords_come_from_outside_alone():
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    given = [s["environment"].get("POSTGRES_PASSWORD") or s["environment"].get("PGPASSWORD") for s in SERVICES.values()]
    assert all(value.startswith("${SPICA_DB_PASSWORD:?") for value in given)
    assert re.findall(r"postgresql\S*://[^@\s]*:[^@\s]*@", text) == []


def test_the_configuration_is_read_and_finds_the_server(tmp_path):
    (tmp_path / "spica.toml").write_text(COMPOSE["configs"]["survey"]["content"])
    given = read_workspace(tmp_path)
    postgres = SERVICES["postgres"]["environment"]
    assert (
        given.database_url
        == f"postgresql+psycopg://{postgres['POSTGRES_USER']}@postgres:5432/{postgres['POSTGRES_DB']}"
    )


def test_pages_are_offered_to_this_host_only_and_asked_for_their_health():
    assert all(port.startswith("127.0.0.1:") for s in SERVICES.values() for port in s.get("ports", []))
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", " ".join(SERVICES["web"]["healthcheck"]["test"]))
    assert asked is not None
    assert asked[1] in SERVICES["web"]["command"]
    pages = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "web/spica_web/pages").glob("*.py"))
    assert f'@router.get("{asked[2]}"' in pages
