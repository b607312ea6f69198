"""When the first attempt of an activity began, for retries that are bounded by time."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    run_script("0010_begun.sql")
