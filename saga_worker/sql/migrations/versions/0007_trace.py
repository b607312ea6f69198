"""The trace id of sagas and messages in their views, and the trace of an activity for those it calls."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    run_script("0007_trace.sql")
