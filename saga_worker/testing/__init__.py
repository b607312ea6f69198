"""What authors of sagas use in their tests, and our own tests use: servers, a fault proxy, waiting for a condition.

The pytest plugin `saga_worker.testing.plugin` is loaded by itself and gives the fixtures `database_url`,
`empty_database_url`, `amqp_url`, `namespace` and `eventually`; a server starts when a test first asks for it.
"""

from saga_worker.testing.backends import Backend, Kind, resolve_broker, resolve_database
from saga_worker.testing.proxy import Direction, FaultProxy
from saga_worker.testing.waiting import eventually
from saga_worker.trial.supervisor import ServerUnavailable

__all__ = [
    "Backend",
    "Direction",
    "FaultProxy",
    "Kind",
    "ServerUnavailable",
    "eventually",
    "resolve_broker",
    "resolve_database",
]
