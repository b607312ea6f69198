"""What the structure of each version of a definition is."""

from __future__ import annotations

from saga_worker.sql.migrate import run_script

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    run_script("0010_definition.sql")
