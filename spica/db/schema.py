"""The schema's revision: looked up, compared with this version of Spica, and brought up to date by Alembic.

While nothing is released the one initial revision is written again after each change of the tables by

    python -m spica.db.schema --regenerate

which is append-only after the first release: then a change is a new file `NNNN_words.py` in `migrations/versions`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import text

from spica.db.engine import Database, SchemaError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.operations.ops import MigrateOperation
    from sqlalchemy import Connection

_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.py$")
MIN_SERVER = 150000
_LOCK = 7_072_465  # any number; two migrations at once wait for each other


def head_revision() -> str:
    """Return the newest revision this version of Spica knows: the number of the last file in `versions`."""
    folder = resources.files("spica.migrations").joinpath("versions")
    return max(m.group(1) for entry in folder.iterdir() if (m := _NAME.match(entry.name)))


def schema_revision(database: Database) -> str | None:
    """Return the revision of a database's schema; None where it has none yet."""
    with database.read() as session:
        if session.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
            return None
        return session.execute(text("SELECT version_num FROM alembic_version")).scalar()


def check_revision(database: Database) -> None:
    """Raise SchemaError where the schema is missing, older or newer than this version of Spica."""
    found, head = schema_revision(database), head_revision()
    if found == head:
        return
    if found is None:
        raise SchemaError(f"the database at {database.place} has no tables yet; run: spica migrate")
    if found < head:
        raise SchemaError(f"the database's schema is older ({found}) than this Spica ({head}); run: spica migrate")
    raise SchemaError(
        f"the database's schema is newer ({found}) than this Spica ({head}); "
        f"install that newer Spica, then run: spica migrate"
    )


def check_server(version: int, encoding: str) -> None:
    """Refuse a server of another kind than the schema is written for: `version` as 150004, `encoding` of the database.

    Raises SchemaError.
    """
    if version < MIN_SERVER:
        raise SchemaError(f"the server is PostgreSQL {version // 10000}; Spica needs {MIN_SERVER // 10000} or newer")
    if encoding != "UTF8":
        raise SchemaError(f"the database has encoding {encoding}; make it with: createdb -T template0 -E UTF8 NAME")


def migrate(database: Database) -> str:
    """Bring the schema to the newest revision, all in one transaction; return that revision.

    Raises SchemaError where the schema is newer than this version of Spica.
    """
    found, head = schema_revision(database), head_revision()
    if found is not None and found > head:
        check_revision(database)
    if found != head:
        from alembic import command  # noqa: PLC0415  takes 0.2 s to import and is seldom needed

        with database.begin() as session:
            asked = text("SELECT current_setting('server_version_num')::int, current_setting('server_encoding')")
            check_server(*session.execute(asked).one())
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            command.upgrade(_config(session.connection()), "head")
    return head


def _config(connection: Connection) -> Config:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(resources.files("spica.migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def regenerate() -> Path:
    """Write the initial revision from the tables; before the first release only. Return its path."""
    from alembic.autogenerate import produce_migrations, render_python_code  # noqa: PLC0415
    from alembic.migration import MigrationContext  # noqa: PLC0415
    from alembic.operations.ops import UpgradeOps  # noqa: PLC0415
    from sqlalchemy import Enum  # noqa: PLC0415

    from spica.db.embedded import start_server  # noqa: PLC0415
    from spica.db.tables import Base  # noqa: PLC0415

    enums: dict[str, tuple[str, ...]] = {}

    def render_enum(kind: str, item: Any, _context: object) -> str | Literal[False]:
        if kind == "type" and isinstance(item, Enum) and item.name is not None:
            enums[item.name] = tuple(item.enums)
            return item.name.upper()
        return False

    with tempfile.TemporaryDirectory(prefix="spica-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        server = start_server(Path(folder) / "db", Path(folder) / "run" / "s", fsync=False, grace_s=0.0)
        with Database(server.url, server) as database, database.engine.connect() as connection:
            context = MigrationContext.configure(connection)
            script = produce_migrations(context, Base.metadata)
            groups: dict[str, list[str]] = {}
            steps = [*(script.upgrade_ops.ops if script.upgrade_ops is not None else ()), *_circular_keys()]
            for step in steps:
                key = _group_of(step)
                code = render_python_code(UpgradeOps([step]), render_item=render_enum, migration_context=context)
                groups.setdefault(key, []).extend(x for x in code.splitlines() if not x.lstrip().startswith("#"))
        server.stop()
    target = Path(str(resources.files("spica.migrations"))) / "versions" / "0001_initial.py"
    target.write_text(_initial_revision(groups, enums), encoding="utf-8")
    for words in (["check", "--fix-only", "--quiet"], ["format", "--quiet"], ["check", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *words, str(target)], check=True)
    return target


def _circular_keys() -> list[MigrateOperation]:
    """Foreign keys that close a circle of tables; Alembic leaves them out where their tables are new."""
    from alembic.operations.ops import CreateForeignKeyOp  # noqa: PLC0415
    from sqlalchemy import ForeignKeyConstraint  # noqa: PLC0415

    from spica.db.tables import Base  # noqa: PLC0415

    keys = [c for t in Base.metadata.tables.values() for c in t.constraints if isinstance(c, ForeignKeyConstraint)]
    ordered = sorted((c for c in keys if c.use_alter), key=lambda c: str(c.name))
    return [CreateForeignKeyOp.from_constraint(c) for c in ordered]


def _group_of(step: object) -> str:
    """Name the function a step of the migration goes to: one a table, and foreign keys in a circle last."""
    table = getattr(step, "table_name", None)
    return "link" if type(step).__name__ == "CreateForeignKeyOp" or table is None else f"create_{table}"


def _initial_revision(groups: dict[str, list[str]], enums: dict[str, tuple[str, ...]]) -> str:
    names = sorted(enums)
    makers = sorted(groups, key=lambda name: name == "link")
    return "\n".join(
        [
            '"""All tables; written by `python -m spica.db.schema --regenerate`."""',
            "import sqlalchemy as sa",
            "from alembic import op",
            "from sqlalchemy.dialects import postgresql",
            'revision = "0001"',
            "down_revision = None",
            "branch_labels = None",
            "depends_on = None",
            *(
                f'{n.upper()} = postgresql.ENUM({", ".join(map(repr, enums[n]))}, name="{n}", create_type=False)'
                for n in names
            ),
            f"ENUMS = ({', '.join(n.upper() for n in names)},)",
            "def upgrade() -> None:",
            '    """Make the enums once, then the tables that share them."""',
            "    for enum in ENUMS:",
            "        enum.create(op.get_bind(), checkfirst=False)",
            *(f"    _{name}()" for name in makers),
            *(line for name in makers for line in (f"def _{name}() -> None:", *(f"    {x}" for x in groups[name]))),
            "",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit("usage: python -m spica.db.schema --regenerate")
    sys.stdout.write(f"{regenerate()}\n")
