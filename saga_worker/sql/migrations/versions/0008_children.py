"""Sagas that other sagas start."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
expand = True  # an older release starts no children, and reads none


def upgrade() -> None:
    run_script("0008_children.sql")
