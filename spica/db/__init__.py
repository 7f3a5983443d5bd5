"""Floor 2b: the one door to PostgreSQL."""
