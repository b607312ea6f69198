"""How the workers of a fault test are to work: one of the modes that `conftest` has options for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.faults.campaign import on_path

PATHS: Final = ("fast", "general")
AMQP_PATHS: Final = ("lean", "public")


@dataclass(frozen=True, slots=True)
class Mode:
    """How the workers of a test are to work."""

    path: str
    amqp: str
    batch: int

    @property
    def settings(self) -> dict[str, str]:
        return {
            **on_path(self.path),
            "SAGA_WORKER_AMQP_PATH": self.amqp,
            "SAGA_WORKER_BATCH_SIZE": str(self.batch),
        }

    def __str__(self) -> str:
        return f"{self.path}-{self.amqp}-{self.batch}"
