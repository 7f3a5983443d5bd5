"""Schema history, run by Alembic."""
