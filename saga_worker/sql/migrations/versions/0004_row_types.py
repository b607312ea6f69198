"""What the hot statements take: one array of rows instead of one array per column."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0004_row_types.sql")
