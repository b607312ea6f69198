"""What a worker may die of besides inbox rows: timers and local steps."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0006_intent.sql")
