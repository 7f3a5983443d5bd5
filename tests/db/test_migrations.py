"""The schema: migrated equals described, and another revision is refused with the command to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from spica.db import schema
from spica.db.embedded import EmbeddedServer
from spica.db.engine import Database, SchemaError, open_database
from spica.db.tables import Base
from spica.files.workspace import Workspace


def test_migrated_schema_equals_tables(database: Database) -> None:
    """No difference in tables, columns, types, defaults, comments, indexes, keys."""
    options = {"compare_type": True, "compare_server_default": True}
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []


def test_a_difference_would_be_seen(database: Database) -> None:
    """The comparison above can fail: a lost comment, default and index are all reported."""
    with database.begin() as session:
        session.execute(text("COMMENT ON COLUMN image.airmass IS 'other'"))
        session.execute(text("ALTER TABLE node ALTER slots SET DEFAULT 7"))
        session.execute(text("DROP INDEX ix_image_healpix"))
    options = {"compare_type": True, "compare_server_default": True}
    with database.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
    words = {entry[0] if isinstance(entry, tuple) else entry[0][0] for entry in found}
    assert words == {"modify_comment", "modify_default", "add_index"}


def test_constraints_equal_tables(database: Database) -> None:
    """Alembic does not compare checks: their names, and the values of each enum, are compared here."""
    with database.read() as session:
        checks = set(session.execute(text("SELECT conname FROM pg_constraint WHERE contype = 'c'")).scalars())
        rows = session.execute(
            text("SELECT typname, array_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum JOIN pg_type t ON t.oid = "
                 "enumtypid GROUP BY typname")
        ).all()  # fmt: skip
    described = {
        str(c.name)
        for t in Base.metadata.tables.values()
        for c in t.constraints
        if type(c).__name__ == "CheckConstraint"
    }
    enums = {
        column.type.name: list(column.type.enums)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if hasattr(column.type, "enums")
    }
    assert described
    assert described <= checks
    assert {name: list(words) for name, words in rows} == enums


def test_every_column_has_a_comment() -> None:
    """Units stand in comments; none is missing."""
    assert [str(c) for t in Base.metadata.tables.values() for c in t.columns if not c.comment] == []


def test_no_extension_is_needed(database: Database) -> None:
    """Any PostgreSQL 15 will do."""
    with database.read() as session:
        assert session.execute(text("SELECT extname FROM pg_extension")).scalars().all() == ["plpgsql"]


def test_head_is_alembics_head() -> None:
    """The number in the file names says what Alembic says, and there is one line of history."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(schema.resources.files("spica.migrations")))))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.head_revision()]


@pytest.mark.parametrize(
    ("found", "words"), [("0000", "older (0000)"), ("9999", "newer (9999)"), (None, "no tables yet")]
)
def test_other_revision_is_refused(database: Database, workspace: Workspace, found: str | None, words: str) -> None:
    """Older, newer and missing are refused with the command to run; a newer one is not migrated either."""
    with database.begin() as session:
        session.execute(text("DELETE FROM alembic_version"))
        if found is not None:
            session.execute(text("INSERT INTO alembic_version VALUES (:v)"), {"v": found})
        else:
            session.execute(text("DROP TABLE alembic_version"))
    with pytest.raises(SchemaError, match="run: spica migrate") as caught:
        open_database(workspace)
    assert words in str(caught.value)
    assert caught.value.door_code == 5
    open_database(workspace, check_schema=False).close()
    if found == "9999":
        with pytest.raises(SchemaError, match="newer"):
            schema.migrate(database)


def test_migrate_twice_changes_nothing(database: Database, workspace: Workspace) -> None:
    """A migrated database opens, and migrating it again is no work."""
    assert schema.migrate(database) == schema.schema_revision(database) == schema.head_revision()
    with open_database(workspace) as opened:
        assert schema.schema_revision(opened) == schema.head_revision()


def test_failed_migration_leaves_nothing(database_server: EmbeddedServer, database: Database) -> None:
    """All of it or nothing: a type in the way stops the migration, and no table is there."""
    with database.begin() as session:
        session.execute(text("DROP SCHEMA public CASCADE"))
        session.execute(text("CREATE SCHEMA public"))
        session.execute(text("CREATE TYPE plan_mode AS ENUM ('a')"))
    with pytest.raises(Exception, match="plan_mode"):
        schema.migrate(database)
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")).scalar() == 0


def test_two_migrations_at_once(database: Database) -> None:
    """Two processes that migrate the same empty database both end well."""
    with database.begin() as session:
        session.execute(text("DROP SCHEMA public CASCADE"))
        session.execute(text("CREATE SCHEMA public"))
    code = "import sys; from spica.db.engine import Database; from spica.db.schema import migrate; "
    code += "print(migrate(Database(sys.argv[1])))"
    runs = [
        subprocess.Popen([sys.executable, "-c", code, database.url], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [run.communicate()[0].strip() for run in runs] == [schema.head_revision()] * 2
    assert [run.returncode for run in runs] == [0, 0]


def test_older_servers_are_refused() -> None:
    """PostgreSQL 15 is enough, 14 is not; UTF-8 only."""
    schema.check_server(150000, "UTF8")
    with pytest.raises(SchemaError, match="PostgreSQL 14; Spica needs 15"):
        schema.check_server(149999, "UTF8")
    with pytest.raises(SchemaError, match="createdb"):
        schema.check_server(180000, "LATIN1")
