"""pytest plugin: finds or starts PostgreSQL and a broker once per test run and gives each test its own part of them.

Nothing starts before a test asks; workers of pytest-xdist ask the controlling process over a loopback socket. Each test
gets a fresh database and a namespace for its exchanges and queues, which are removed when it ends.
"""

import os
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from saga_worker.testing.namespaces import Namespace
    from saga_worker.testing.session import Server, Servers, Wanted
    from saga_worker.trial.local_rabbitmq import LocalRabbitmq
    from saga_worker.trial.postgres import EmbeddedPostgres

# Imports are inside the functions: every pytest run of everybody who installed saga_worker loads this module.
_SERVERS: "pytest.StashKey[Servers]" = pytest.StashKey()
_WORKER_INPUT = "saga_worker_servers"
_MARKERS = {
    "rabbitmq": "needs a real RabbitMQ; skipped on the trial broker",
    "postgres_server": "starts, stops or kills a PostgreSQL server of its own, from binaries",
    "rabbitmq_server": "starts, stops or kills a RabbitMQ node of its own, from binaries",
    "slow": "takes more than five seconds",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("saga_worker")
    group.addoption(
        "--require-real", action="store_true", help="fail, instead of skipping, where a real server is missing"
    )
    group.addoption(
        "--backends",
        choices=("real", "trial"),
        default="real",
        help="real: Docker, this machine's servers, then what comes with the package; trial: the last at once",
    )


def pytest_configure(config: pytest.Config) -> None:
    for marker, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {meaning}")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called by pytest-xdist in the controller for each worker that it starts."""
    node.workerinput[_WORKER_INPUT] = _servers(node.config).listen()


def pytest_unconfigure(config: pytest.Config) -> None:
    if servers := config.stash.get(_SERVERS, None):
        servers.close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [] if _is_worker(config) else [f"saga_worker, when a test asks: {_servers(config).describe()}"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for used in [] if _is_worker(config) else _servers(config).used():
        terminalreporter.write_line(f"saga_worker used {used}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in _MARKERS:
        if item.get_closest_marker(marker) and (reason := _servers(item.config).lacking(marker)):
            _skip_or_fail(item.config, reason)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of this test alone, with the tables of saga_worker in their default schema."""
    from saga_worker.testing import databases

    server = _server(request, "database", migrated=True)
    with databases.fresh(server.url, template=server.template) as url:
        yield url


@pytest.fixture
def empty_database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of this test alone, with nothing in it."""
    from saga_worker.testing import databases

    with databases.fresh(_server(request, "database").url) as url:
        yield url


@pytest.fixture
def amqp_url(request: pytest.FixtureRequest) -> str:
    """The broker, shared by all tests: declare only names below `namespace`."""
    return _server(request, "broker").url


@pytest.fixture
def real_amqp_url(request: pytest.FixtureRequest) -> str:
    """As `amqp_url`, for a case that the trial broker cannot stand for: skips where there is no RabbitMQ."""
    if reason := _servers(request.config).lacking("rabbitmq"):
        _skip_or_fail(request.config, reason)
    return _server(request, "broker").url


@pytest.fixture(scope="session")
def partitioned_amqp_url(request: pytest.FixtureRequest) -> str:
    """As `amqp_url`, with the consistent-hash exchange: that broker if it has it, else a RabbitMQ node of this run."""
    from saga_worker.testing.namespaces import has_hash_exchange

    given = _server(request, "broker").url
    if has_hash_exchange(given):
        return given
    own = _server(request, "rabbitmq").url
    if not has_hash_exchange(own):
        _skip_or_fail(request.config, "this RabbitMQ has no plugin rabbitmq_consistent_hash_exchange")
    return own


@pytest.fixture
def namespace(amqp_url: str) -> "Iterator[Namespace]":
    """A prefix of this test alone for exchanges and queues, which are deleted after it."""
    from saga_worker.testing.namespaces import Namespace

    prefix = Namespace(f"t{uuid.uuid4().hex[:10]}")
    yield prefix
    prefix.delete(amqp_url)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """`await eventually(condition, deadline=30.0)`: see `saga_worker.testing.eventually`."""
    from saga_worker.testing.waiting import eventually

    return eventually


@pytest.fixture
def private_postgres() -> "Iterator[EmbeddedPostgres]":
    """A PostgreSQL server of this test alone, with fsync on, to stop and start. Mark the test `postgres_server`."""
    from saga_worker.trial.postgres import EmbeddedPostgres

    with EmbeddedPostgres(fsync=True) as server:
        yield server


@pytest.fixture(scope="session")
def _rabbitmq_of_this_process() -> "Iterator[LocalRabbitmq]":
    from saga_worker.trial.local_rabbitmq import LocalRabbitmq

    with LocalRabbitmq() as node:
        yield node


@pytest.fixture
def private_rabbitmq(_rabbitmq_of_this_process: "LocalRabbitmq") -> "Iterator[LocalRabbitmq]":
    """A RabbitMQ node that nobody else uses during this test, to stop, kill, pause and start.

    It takes seconds to start, so the next test of this process gets the same. Mark the test `rabbitmq_server`.
    """
    node = _rabbitmq_of_this_process
    yield node
    node.resume()
    if not node.is_running:
        node.start()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")  # of pytest-xdist, which prints nothing


def _servers(config: pytest.Config) -> Any:
    from saga_worker.testing.session import OwnServers, ServersOfController

    if _SERVERS not in config.stash:
        handed = getattr(config, "workerinput", {}).get(_WORKER_INPUT)
        config.stash[_SERVERS] = (
            ServersOfController(*handed)
            if handed
            else OwnServers(
                database_url=os.environ.get("SAGA_WORKER_TEST_DATABASE_URL"),
                amqp_url=os.environ.get("SAGA_WORKER_TEST_AMQP_URL"),
                prefer="trial" if config.getoption("--backends") == "trial" else "real",
            )
        )
    return config.stash[_SERVERS]


def _server(request: pytest.FixtureRequest, wanted: "Wanted", *, migrated: bool = False) -> "Server":
    from saga_worker.trial.supervisor import ServerUnavailable

    try:
        server: Server = _servers(request.config).get(wanted, migrated=migrated)
    except ServerUnavailable as error:
        _skip_or_fail(request.config, str(error))
    return server


def _skip_or_fail(config: pytest.Config, reason: str) -> NoReturn:
    if config.getoption("--require-real"):
        pytest.fail(f"--require-real: {reason}", pytrace=False)
    pytest.skip(reason)
