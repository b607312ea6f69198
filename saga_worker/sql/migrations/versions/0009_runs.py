"""Earlier runs of a key are found by it."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    run_script("0009_runs.sql")
