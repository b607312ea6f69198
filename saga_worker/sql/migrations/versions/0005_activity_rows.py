"""What the statement that begins activities takes: one array of rows, as those of 0004."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0005_activity_rows.sql")
