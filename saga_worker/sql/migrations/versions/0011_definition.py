"""What the structure of each version of a definition is."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    run_script("0011_definition.sql")
