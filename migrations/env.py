"""Alembic's way in; only `spica.db.schema` calls it, and hands over the connection with its transaction.

To write the initial revision again while nothing is released: `python -m spica.db.schema --regenerate`.
"""

from alembic import context

from spica.db.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    compare_server_default=True,
)
context.run_migrations()
