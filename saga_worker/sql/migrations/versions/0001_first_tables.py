"""The first tables and views."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0001_tables.sql")
    run_script("0001_views.sql")
