"""The number of an event that its producer numbered, while it waits for its turn."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0003_sequence.sql")
