"""What PostgreSQL alone can do with the statements of a saga worker: pgbench, in one run with the product."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


class Yardstick:
    """pgbench scripts on a database of their own; every run begins with fresh tables."""

    def __init__(self, database_url: str, *, sagas: int = 100_000, seconds: int = 4) -> None:
        self.database_url = database_url
        self.sagas = sagas
        self.seconds = seconds
        self.pgbench = _binary("pgbench")
        self.psql = _binary("psql")

    def events_per_second(self, script: str, *, clients: int, batch: int = 1) -> float:
        """Events per second of one script (`unbatched` or `batched`)."""
        subprocess.run(
            [self.psql, "-q", "-v", "ON_ERROR_STOP=1", "-v", f"n={self.sagas}", "-f", HERE / "schema.sql",
             self.database_url], check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        done = subprocess.run(
            [self.pgbench, "-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(self.seconds),
             "-D", f"n={self.sagas}", "-D", f"b={batch}", "-f", HERE / f"{script}.sql", self.database_url],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        assert found is not None, done.stdout
        return float(found[1]) * batch


def _binary(name: str) -> str:
    """On PATH, or where Debian puts it."""
    candidates = [
        shutil.which(name),
        *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), reverse=True),
    ]
    for candidate in candidates:
        if candidate:
            return candidate
    raise SystemExit(f"{name} is needed for the yardstick and was not found; on Debian: apt-get install postgresql.")
