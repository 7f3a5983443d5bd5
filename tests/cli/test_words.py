"""Every verb helps, every error is one line that says what to do, and standard output is JSON alone where asked."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import text

from spica.cli import main as door
from spica.cli.door import guard
from spica.cli.main import VERBS, spica
from spica.db.person import disable_person, find_entry, read_audit


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a runner of commands in this process, in a folder that is no workspace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPICA_WORKSPACE", raising=False)

    def go(*words: Any) -> Said:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            door.main([str(w) for w in words])
        out, err = capfd.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return go


@pytest.fixture
def in_workspace(run: Any, workspace: Any) -> Any:
    """Return a runner of commands on an empty survey."""
    return lambda *words: run("--workspace", workspace.folder, *words)


def one_line(said: Said, code: int) -> str:
    """Return the one line of an error."""
    lines = said.err.strip().splitlines()
    assert (said.code, said.out, len(lines)) == (code, "", 1), said
    assert "Traceback" not in said.err
    return lines[0]


def _all_verbs() -> list[tuple[str, ...]]:
    verbs: list[tuple[str, ...]] = []
    context = click.Context(spica)
    for verb in VERBS:
        command = spica.get_command(context, verb)
        verbs.append((verb,))
        if isinstance(command, click.Group):
            verbs += [(verb, sub) for sub in command.list_commands(context)]
    return verbs


@pytest.mark.parametrize("verb", _all_verbs(), ids=" ".join)
def test_every_verb_helps_and_says_what_its_words_mean(run: Any, verb: tuple[str, ...]) -> None:
    said = run(*verb, "--help")
    assert said.code == 0
    assert said.out.startswith("Usage: spica")
    assert said.err == ""
    command: Any = spica
    for word in verb:
        command = command.get_command(click.Context(command), word)
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help or parameter.name in ("role",), f"{verb}: {parameter.opts} says nothing"


@pytest.mark.parametrize("verb", ["ingest", "schedule", "grade", "why", "images"])
def test_help_of_the_daily_verbs_shows_an_example(run: Any, verb: str) -> None:
    assert f"spica {verb} " in run(verb, "--help").out.split("\n", 1)[1]


def test_the_first_page_names_the_way(run: Any) -> None:
    said = run("--help")
    assert all(f"  {verb} " in said.out for verb in VERBS)
    assert "spica init" in said.out
    assert run("--version").out.startswith("spica, version ")


@pytest.mark.parametrize("verb", ["status", "images", "stacks", "jobs", "nodes"])
def test_an_empty_survey_is_json_and_nothing_else(in_workspace: Any, verb: str) -> None:
    said = in_workspace(verb, "--json")
    assert said.code == 0
    assert json.loads(said.out) == [] or verb == "status"
    assert said.err == ""
    if verb != "status":
        assert in_workspace(verb, "--csv").out == ""
        empty = in_workspace(verb)
        assert empty.out == ""
        assert "spica" in empty.err


def _exposure(world: Any, name: str, **more: Any) -> int:
    with world.database.begin() as session:
        context = world.attempt(session)
        image = world.exposure(session, context, name, **more)
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
        return int(image)


def test_csv_cells_are_no_formulas(in_workspace: Any, world: Any) -> None:
    formula = '=cmd|" /C calc"!A0'
    _exposure(world, "exp1", object=formula, filter="+r", run="@SUM(1)")
    (row,) = csv.DictReader(io.StringIO(in_workspace("images", "--csv").out))
    assert (row["object"], row["filter"], row["run"]) == (f"'{formula}", "'+r", "'@SUM(1)")
    assert row["dec_deg"] == "2.0"
    (image,) = json.loads(in_workspace("images", "--json").out)
    assert image["object"] == formula, "JSON tells it as it is"


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@a", "\tx", "\rx"])
def test_every_sign_that_begins_a_formula_is_guarded(cell: str) -> None:
    assert guard(cell) == "'" + cell
    assert guard("r.MP9601") == "r.MP9601"
    assert guard(-1.5) == -1.5
    assert guard(None) is None


def test_markup_and_escapes_in_names_reach_the_terminal_as_text(in_workspace: Any, world: Any) -> None:
    _exposure(world, "exp1", object="[red]x[/red] \x1b[31m")
    out = in_workspace("images").out
    assert "[red]x[/red]" in out
    assert "\x1b" not in out


# Errors


def test_no_workspace_says_how_to_make_one(run: Any, tmp_path: Path) -> None:
    assert "run: spica init" in one_line(run("images"), 2)
    assert "spica init" in one_line(run("--workspace", tmp_path / "nowhere", "images"), 5)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("stack.kernal=lanczos3", "kernel"),
        ("stak.kernel=lanczos3", "stack"),
        ("stack.kernel=sinc", "lanczos3"),
        ("stack.memory_mb=1", "64"),
        ("stack.memory_mb=much", "memory_mb"),
        ("nonsense", "section.key=value"),
    ],
)
def test_a_bad_recipe_word_is_named_with_the_near_one(in_workspace: Any, setting: str, word: str) -> None:
    assert word in one_line(in_workspace("schedule", "survey", "--set", setting), 2)


def test_a_recipe_that_is_not_there(in_workspace: Any) -> None:
    assert "mine" in one_line(in_workspace("schedule", "survey", "--recipe", "mine"), 2)


@pytest.mark.parametrize(
    ("rule", "word"),
    [("seeing < and", "and"), ("seing < 1.0", "seing"), ('grade = "A" filter', "filter"), ("seeing < 1 @", "@")],
)
def test_a_bad_rule_names_column_and_word(in_workspace: Any, rule: str, word: str) -> None:
    for verb in (("schedule", "survey"), ("images",)):
        line = one_line(in_workspace(*verb, "--rule", rule), 2)
        assert word in line
        assert f"column {rule.index(word) + 1}" in line


def test_lists_that_cannot_be_read(in_workspace: Any, tmp_path: Path) -> None:
    assert "cannot be read" in one_line(in_workspace("schedule", "survey", "--images", tmp_path / "no.txt"), 5)
    assert "cannot be read" in one_line(in_workspace("schedule", "survey", "--rule", 'image in list("no.txt")'), 5)


def test_nothing_to_do_is_exit_4(in_workspace: Any) -> None:
    assert "spica ingest" in one_line(in_workspace("schedule", "survey"), 4)
    said = in_workspace("ingest", "--json")
    assert said.code == 4
    assert json.loads(said.out)["jobs"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("why", "nothing"),
        ("grade", "nothing", "A"),
        ("grade", "nothing"),
        ("log", "7"),
        ("report", "99"),
        ("report", "2026-13-45"),
        ("retry", "7"),
        ("hold", "7"),
        ("cancel", "7"),
        ("jobs", "--state", "sleeping"),
    ],
)
def test_what_is_not_there_is_one_line(in_workspace: Any, words: tuple[str, ...]) -> None:
    said = in_workspace(*words)
    assert said.code in (2, 3, 4), said
    assert len(said.err.strip().splitlines()) == 1, said
    assert "Traceback" not in said.err


def _with_database(workspace: Any, url: str) -> None:
    config = workspace.folder / "spica.toml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("database")]
    config.write_text("\n".join([f'database = "{url}"', *lines]) + "\n")


def test_a_database_that_is_away(in_workspace: Any, workspace: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _with_database(workspace, f"postgresql+psycopg://ann:secret@127.0.0.1:{port}/survey")
    line = one_line(in_workspace("images"), 5)
    assert str(port) in line
    assert "secret" not in line


def test_an_older_schema_says_which_command_to_run(in_workspace: Any, database: Any) -> None:
    with database.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    assert "spica migrate" in one_line(in_workspace("images"), 5)
    with database.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "newer" in one_line(in_workspace("images"), 5)


def test_a_bad_configuration_names_its_key(in_workspace: Any, workspace: Any) -> None:
    config = workspace.folder / "spica.toml"
    good = config.read_text()
    config.write_text("slotz = 3\n" + good)
    assert "slotz" in one_line(in_workspace("images"), 2)
    config.write_text("slots = [\n" + good)
    assert "spica.toml" in one_line(in_workspace("images"), 2)


def test_a_folder_that_cannot_be_made_or_read(run: Any, in_workspace: Any, workspace: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "file" in one_line(run("init", tmp_path / "file" / "survey"), 5)
    assert "does not exist" in one_line(in_workspace("ingest", tmp_path / "nowhere"), 5)


def test_a_port_in_use_is_exit_5(workspace: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "spica.cli.main", "--workspace", str(workspace.folder), "web", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=dict(os.environ),
        )
    assert done.returncode == 5, done
    assert "Traceback" not in done.stderr
    assert str(port) in done.stderr


# Deeds


def test_init_makes_a_workspace_that_works_at_once_and_overwrites_nothing(run: Any, short_folder: Path) -> None:
    folder = short_folder / "own"
    assert run("init", folder).code == 0
    assert json.loads(run("--workspace", folder, "images", "--json").out) == []
    config = folder / "spica.toml"
    config.write_text("# mine\n" + config.read_text())
    assert run("init", folder).code == 0
    assert config.read_text().startswith("# mine\n")


def test_people_are_added_and_listed_with_their_role(in_workspace: Any) -> None:
    assert in_workspace("person", "add", "ann", "--role", "grader").code == 0
    assert "ann" in in_workspace("person", "list").out
    twice = in_workspace("person", "add", "ann")
    assert twice.code in (2, 3)
    assert "ann" in one_line(twice, twice.code)


def test_tokens_of_a_person_are_made_listed_and_revoked(in_workspace: Any, database: Any) -> None:
    in_workspace("person", "add", "ann", "--role", "grader")
    made = in_workspace("person", "token", "ann", "--days", "7", "--for", "nightly report")
    token = made.out.strip()
    assert (made.code, len(token) > 40, made.err) == (0, True, "")
    with database.read() as session:
        found = find_entry(session, token, ("api",))
        life = session.execute(text("SELECT expires_at - created_at FROM session")).scalar_one()
    assert found is not None
    assert (found.person.name, found.person.role.value, life.days) == ("ann", "grader", 7)
    listed = in_workspace("person", "token", "ann", "--list").out
    assert "nightly report" in listed
    assert "never used" in listed
    assert token not in listed
    assert "--list" in one_line(in_workspace("person", "token", "ann", "--revoke", found.session_id + 1), 2)
    assert in_workspace("person", "token", "ann", "--revoke", found.session_id).code == 0
    assert in_workspace("person", "token", "ann", "--list").out == ""
    assert "person list" in one_line(in_workspace("person", "token", "bob"), 2)
    with database.begin() as session:
        disable_person(session, found.person.id)
    assert "shut out" in one_line(in_workspace("person", "token", "ann"), 2)


def test_every_verb_that_changes_is_on_record(in_workspace: Any, world: Any, database: Any) -> None:
    _exposure(world, "exp1")
    with database.begin() as session:
        session.execute(text("UPDATE job SET state = 'READY'"))
        job = session.execute(text("SELECT id FROM job")).scalar_one()
    for words in (
        *(
            ("person", "add", "ann"),
            ("person", "token", "ann"),
            ("grade", "exp1", "C", "--comment", "wind"),
            ("regrade",),
        ),
        *(("hold", job, "--why", "wait"), ("unhold", job), ("cancel", job), ("retry", job)),
    ):
        assert in_workspace(*words).code == 0, words
    with database.read() as session:
        acts = [(a.verb, a.subject, a.detail) for a in reversed(read_audit(session)) if a.verb != "plan"]
    assert [a[0] for a in acts] == [
        *("add_person", "make_token", "grade", "regrade", "hold", "unhold", "cancel", "retry"),
    ]
    assert ("hold", f"job:{job}", "wait") in acts
    assert acts[2][2] == "C wind"


def test_a_grade_is_kept_and_told(in_workspace: Any, world: Any) -> None:
    _exposure(world, "exp1")
    assert in_workspace("grade", "exp1", "c", "--comment", "wind").out == "exp1 has grade C\n"
    lines = in_workspace("grade", "exp1", "--explain").out.splitlines()
    assert "human C: wind" in lines[0]
    assert "machine A" in lines[1]
    assert "near: exp1" in one_line(in_workspace("grade", "exp2", "A"), 2)


def test_doctor_says_what_holds(in_workspace: Any, workspace: Any) -> None:
    said = in_workspace("doctor")
    assert said.code == 0, said
    assert "schema up to date" in said.out
    (workspace.folder / "outgoing").rmdir()
    said = in_workspace("doctor")
    assert said.code == 5
    assert any(line.startswith("BAD") and "outgoing" in line for line in said.out.splitlines())


def test_reference_add_tells_the_catalogue(in_workspace: Any, tmp_path: Path) -> None:
    table = tmp_path / "stars.csv"
    table.write_text("ra,dec,rmag\n10.0,2.0,15.1\n10.1,2.1,16.2\n")
    said = in_workspace("reference", "add", table, "--band", "r=rmag", "--mag-system", "AB", "--epoch", "2016")
    assert said.code == 0, said
    assert "2 stars" in said.out
    (kept,) = json.loads(in_workspace("reference", "list", "--json").out)
    assert (kept["n_sources"], kept["bands"], kept["mag_system"]) == (2, ["r"], "AB")
    assert "BAND=COLUMN" in one_line(in_workspace("reference", "add", table, "--band", "r"), 2)
