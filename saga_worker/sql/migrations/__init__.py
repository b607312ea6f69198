"""Alembic's side of the schema: `env.py` and the numbered revisions, forward only."""
