"""Activities: their table, and their results as inbox rows."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0002_activities.sql")
