"""Verbs that prepare: init, migrate, doctor, person, reference, clean."""

from __future__ import annotations

import sys
from datetime import UTC
from pathlib import Path

import click

from spica.cli.door import open_survey, print_json, workspace_of
from spica.model.errors import UsageError


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
def init_command(folder: Path) -> None:
    """Make FOLDER (by default this one) a workspace: a commented spica.toml, its folders and its database."""
    from spica.db.engine import open_database
    from spica.db.schema import migrate, schema_revision
    from spica.files.workspace import init_workspace

    workspace = init_workspace(folder)
    database = open_database(workspace, check_schema=False)
    try:
        if schema_revision(database) is None:
            migrate(database)
    finally:
        database.close()
    click.echo(f"workspace {workspace.folder}; next: spica reference add FILE, spica ingest PATH --wait")


@click.command("migrate")
@click.pass_context
def migrate_command(ctx: click.Context) -> None:
    """Bring the database's schema to this version of Spica."""
    from spica.db.engine import open_database
    from spica.db.schema import migrate

    database = open_database(workspace_of(ctx), check_schema=False)
    try:
        migrate(database)
    finally:
        database.close()
    click.echo("the schema is up to date")


@click.command("doctor")
@click.pass_context
def doctor_command(ctx: click.Context) -> int:
    """Check the surroundings: folders, disk, database, catalogues, profiles, tools."""
    from spica.scheduling.doctor import examine

    failed = 0
    for check in examine(workspace_of(ctx)):
        click.echo(f"{'ok  ' if check.holds else 'BAD '} {check.name:<12} {check.text}")
        failed += not check.holds
    return 5 if failed else 0


@click.group("person")
def person_command() -> None:
    """People and what they may do."""


@person_command.command("add")
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["viewer", "grader", "operator", "admin"]), default="viewer", show_default=True
)
@click.option(
    "--password", "ask", is_flag=True, help="Ask for a password; without one the person enters by token only."
)
@click.pass_context
def person_add(ctx: click.Context, name: str, role: str, ask: bool) -> None:
    """Add a person NAME."""
    from spica.db.person import add_person, audit
    from spica.model.person import PersonRole

    password = click.prompt("password", hide_input=True, confirmation_prompt=True) if ask else None
    with open_survey(ctx) as (_, database), database.begin() as session:
        person_id = add_person(session, name, PersonRole(role), password)
        audit(session, None, "add person", f"person:{person_id}", role)
    click.echo(f"{name} is {role}")


@person_command.command("list")
@click.pass_context
def person_list(ctx: click.Context) -> None:
    """List people."""
    from spica.db.person import list_persons

    with open_survey(ctx) as (_, database), database.read() as session:
        for person in list_persons(session):
            words = "" if person.disabled_at is None else " (shut out)"
            click.echo(f"{person.name:<20} {person.role.value}{words}")


@person_command.command("password")
@click.argument("name")
@click.pass_context
def person_password(ctx: click.Context, name: str) -> None:
    """Give the person NAME a new password; it is asked for, and all sessions and tokens of NAME end."""
    from spica.db.person import audit, need_person, set_password

    password = click.prompt("password", hide_input=True, confirmation_prompt=True)
    with open_survey(ctx) as (_, database), database.begin() as session:
        person = need_person(session, name)
        set_password(session, person.id, password)
        audit(session, None, "set password", f"person:{person.id}")
    click.echo(f"{name} enters by the new password")


@person_command.command("token")
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long it is good.")
@click.option("--for", "label", default="command line", show_default=True, help="What it is for; shown in lists.")
@click.option("--list", "listing", is_flag=True, help="List the tokens of NAME with their last use; make none.")
@click.option("--revoke", type=click.IntRange(1), metavar="ID", help="End the token of this id; make none.")
@click.pass_context
def person_token(ctx: click.Context, name: str, days: int, label: str, listing: bool, revoke: int | None) -> None:
    """Make a token for programs that act as NAME, and print it: it is shown this once.

    Programs show it as `Authorization: Bearer TOKEN`.
    """
    from spica.db.person import audit, list_sessions, make_api_token, need_person, revoke_session

    if listing and revoke is not None:
        raise UsageError("--list and --revoke are two wishes; give one of them")
    with open_survey(ctx) as (_, database), database.begin() as session:
        person = need_person(session, name)
        tokens = list_sessions(session, person.id, "api")
        if listing:
            for t in tokens:
                seen = "never used" if t.seen_at is None else f"used {t.seen_at.astimezone(UTC):%Y-%m-%d %H:%M}"
                click.echo(
                    f"{t.id:>6} {t.label or '':<24} {seen:<22} ends {t.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
                )
            return
        if revoke is not None:
            ended = next((t for t in tokens if t.id == revoke), None)
            if ended is None:
                raise UsageError(f"{name} has no token {revoke}; see: spica person token {name} --list")
            revoke_session(session, person.id, revoke)
            audit(session, None, "revoke token", f"person:{person.id}", f"{revoke} {ended.label or ''}".strip())
            click.echo(f"token {revoke} of {name} is revoked")
            return
        if person.disabled_at is not None:
            raise UsageError(f"{name} is shut out; an admin lets people in again on the page of people")
        token = make_api_token(session, person.id, days * 86400.0, label)
        audit(session, None, "make token", f"person:{person.id}", f"{label}, {days} d")
    click.echo(token)


@click.group("reference")
def reference_command() -> None:
    """Reference catalogues of positions and magnitudes, kept in the workspace."""


@reference_command.command("add")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", help="Name in the store; by default the file's.")
@click.option("--mag-system", help="AB or Vega, where the file does not say.")
@click.option("--epoch", type=float, help="Epoch of the positions, Julian year, where the file does not say.")
@click.option("--band", "bands", multiple=True, metavar="BAND=COLUMN", help="Column of a band; repeatable.")
@click.option("--replace", is_flag=True, help="Put it in the place of one of the same name.")
@click.pass_context
def reference_add(
    ctx: click.Context,
    file: Path,
    name: str | None,
    mag_system: str | None,
    epoch: float | None,
    bands: tuple[str, ...],
    replace: bool,
) -> None:
    """Add FILE (FITS table, LDAC, ECSV, CSV, VOTable)."""
    from spica.reference.reading import ColumnChoice
    from spica.reference.store import ReferenceStore

    pairs = [b.partition("=") for b in bands]
    if any(not column for _, _, column in pairs):
        raise UsageError("--band wants BAND=COLUMN, for example --band r=rmag")
    columns = ColumnChoice(bands={band: column for band, _, column in pairs}) if bands else None
    store = ReferenceStore(workspace_of(ctx).reference_folder)
    kept = store.add(file, name, columns=columns, mag_system=mag_system, epoch_yr=epoch, replace_existing=replace)
    system = kept.mag_system or "unknown; give --mag-system"
    click.echo(f"{kept.name}: {kept.n_sources} stars, bands {' '.join(kept.bands) or 'none'}, magnitudes {system}")


@reference_command.command("fetch")
@click.option("--ra", type=float, required=True, help="Centre, degrees.")
@click.option("--dec", type=float, required=True, help="Centre, degrees.")
@click.option("--radius", type=float, required=True, help="Radius, degrees.")
@click.option("--catalogue", default="gaia", show_default=True, help="Archive: gaia or ps1.")
@click.option("--name", help="Name in the store.")
@click.pass_context
def reference_fetch(ctx: click.Context, ra: float, dec: float, radius: float, catalogue: str, name: str | None) -> None:
    """Fetch stars of a circle from an archive into the store; needs the extra `archives`."""
    from spica.reference.archive import fetch_reference
    from spica.reference.store import ReferenceStore

    store = ReferenceStore(workspace_of(ctx).reference_folder)
    kept = store.keep(fetch_reference(ra, dec, radius, catalogue), name or f"{catalogue}-{ra:.3f}{dec:+.3f}")
    click.echo(f"{kept.name}: {kept.n_sources} stars")


@reference_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, and nothing else.")
@click.pass_context
def reference_list(ctx: click.Context, as_json: bool) -> None:
    """List the catalogues of the store."""
    from spica.reference.store import ReferenceStore

    kept = ReferenceStore(workspace_of(ctx).reference_folder).list()
    if as_json:
        print_json(
            [
                {"name": k.name, "n_sources": k.n_sources, "bands": list(k.bands), "mag_system": k.mag_system}
                for k in kept
            ]
        )
        return
    for k in kept:
        click.echo(f"{k.name:<24} {k.n_sources:>9} stars  {' '.join(k.bands)}  {k.mag_system or 'system unknown'}")
    if not kept:
        sys.stderr.write("no reference catalogues; add one with: spica reference add FILE\n")


@click.command("clean")
@click.option("--yes", is_flag=True, help="Do it; without this only say what would go.")
@click.pass_context
def clean_command(ctx: click.Context, yes: bool) -> None:
    """Remove scratch of ended attempts (their products are placed and recorded)."""
    from spica.scheduling.clean import clean_attempts

    with open_survey(ctx) as (workspace, database), database.read() as session:
        n, size = clean_attempts(session, workspace, really=yes)
    verb = "removed" if yes else "would remove (say --yes)"
    click.echo(f"{verb} {n} folders, {size / 1e6:.1f} MB")
