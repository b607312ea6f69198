"""What authors of sagas use in their tests, and our own tests use: servers, a fault proxy, waiting for a condition.

The pytest plugin `saga_worker.testing.plugin` is loaded by itself and gives the fixtures `database_url`,
`empty_database_url`, `amqp_url`, `real_amqp_url`, `namespace`, `eventually`, `private_postgres` and `private_rabbitmq`;
a server starts when a test first asks for it.
"""

from typing import TYPE_CHECKING

from saga_worker.testing.backends import Backend, Kind, resolve_broker, resolve_database
from saga_worker.testing.proxy import Direction, FaultProxy
from saga_worker.testing.waiting import eventually
from saga_worker.trial.supervisor import ServerUnavailable

if TYPE_CHECKING:
    from saga_worker.testing.crash_matrix import CrashMatrix
    from saga_worker.testing.saga_test import SagaTest

__all__ = [
    "Backend",
    "CrashMatrix",
    "Direction",
    "FaultProxy",
    "Kind",
    "SagaTest",
    "ServerUnavailable",
    "eventually",
    "resolve_broker",
    "resolve_database",
]


def __getattr__(name: str) -> object:
    # On first use: the plugin loads this package into everybody's pytest.
    if name == "CrashMatrix":
        from saga_worker.testing.crash_matrix import CrashMatrix

        return CrashMatrix
    if name == "SagaTest":
        from saga_worker.testing.saga_test import SagaTest

        return SagaTest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
