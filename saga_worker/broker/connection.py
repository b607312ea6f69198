"""One supervised AMQP connection.

Takes the URL and the two steps of its user (`on_up`: channels, topology, consumers; `on_down`: what was open is
gone) and builds connection and channels anew, with back-off and jitter, until it is closed. Any fault of any part
tears the whole connection down: there is one way to recover, and it is the one that is exercised every time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import aio_pika
from aiormq.exceptions import AMQPError, AuthenticationError, ProbableAuthenticationError
from yarl import URL

from saga_worker import backoff
from saga_worker.broker.amqp_path import AmqpPath
from saga_worker.broker.session import (
    BROKER_FAULTS,
    CLOSE_TIMEOUT_SECONDS,
    FAREWELL,
    STEP_TIMEOUT_SECONDS,
    Closure,
    Session,
)
from saga_worker.broker.tap import Tap
from saga_worker.saga.errors import ConfigurationError, SagaWorkerError
from saga_worker.telemetry import Event, Field, metrics, stage_failed

log = logging.getLogger(__name__)
# The libraries report every lost connection with a traceback; the supervisor says it in one line.
for _library in ("aiormq", "aio_pika"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)

HEARTBEAT_SECONDS: Final = 10
NOT_ALLOWED: Final = 530
_UP_SECONDS: Final = 20.0
_LAST_WORD_SECONDS: Final = 0.5
_FIRST_DELAY_SECONDS: Final = 0.1
LONGEST_DELAY_SECONDS: Final = 5.0
_STABLE_SECONDS: Final = 5.0


class BrokerUnavailable(SagaWorkerError):
    """Nobody's: RabbitMQ cannot be reached right now. Retried in the background; the command line says so."""


class BrokerConnection:
    """Supervises one connection to RabbitMQ. `name` is shown in its management page and in our log.

    Connections of one process share their `amqp_path`; a connection without one makes a self-test of its own.
    """

    def __init__(
        self, url: str, name: str, amqp_path: AmqpPath | None = None, *, heartbeat_seconds: int = HEARTBEAT_SECONDS,
        longest_delay_seconds: float = LONGEST_DELAY_SECONDS,
    ) -> None:  # fmt: skip
        """A broker that says nothing for three times `heartbeat_seconds` + 1 is given up.

        Between two attempts to connect it waits `longest_delay_seconds` at most.
        """
        self._url = _checked(url).update_query(heartbeat=str(heartbeat_seconds), name=f"saga_worker {name}")
        self.name = name
        self._amqp_path = amqp_path or AmqpPath()
        self._longest_delay = longest_delay_seconds
        self._on_up: Callable[[Session], Awaitable[None]] | None = None
        self._on_down: Callable[[Closure], None] | None = None
        self._session: Session | None = None
        self._up = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._first_attempt: asyncio.Future[None] | None = None

    @property
    def place(self) -> str:
        """The broker for log lines and sentences: no password."""
        return f"{self._url.host}:{self._url.port or ''}{self._url.path}"

    @property
    def session(self) -> Session | None:
        """The living session, if `on_up` has finished for it."""
        return self._session if self._session is not None and self._session.is_alive and self.is_up else None

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    async def start(self, on_up: Callable[[Session], Awaitable[None]], on_down: Callable[[Closure], None]) -> None:
        """Begin; returns after the first attempt, whether or not the broker was there.

        Raises `ConfigurationError` when the broker answered and no later attempt can go better.
        """
        self._on_up, self._on_down = on_up, on_down
        self._first_attempt = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._supervise(), name=f"broker connection {self.name}")
        try:
            await asyncio.shield(self._first_attempt)
        except ConfigurationError:
            await self.close()
            raise

    async def ready(self, timeout_seconds: float) -> None:
        """Wait until the connection is usable; raises `BrokerUnavailable`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._up.wait()
        except TimeoutError:
            raise BrokerUnavailable(
                f"RabbitMQ at {self.place} could not be reached within {timeout_seconds:g} s;"
                " check that it runs and that SAGA_WORKER_AMQP_URL names it."
            ) from None

    def reconnect(self, reason: str) -> None:
        """Give up the present session, if any."""
        self._end_session(Closure(reason))

    def _end_session(self, closure: Closure) -> None:
        if self._session is not None:
            self._session.fail(closure)

    async def close(self) -> None:
        """End for good. Nothing is cancelled: the library can swallow that, or leave its socket open over it."""
        self._stopping.set()
        self._end_session(FAREWELL)
        if self._task is not None:
            await self._task
            self._task = None

    async def _supervise(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            started_at = asyncio.get_running_loop().time()
            closure = await self._run_session()
            lasted = asyncio.get_running_loop().time() - started_at
            failures = 0 if lasted > _STABLE_SECONDS else failures + 1
            if not self._stopping.is_set():
                # What could not be read comes again at once, and counts as delivered each time.
                delay = self._longest_delay if closure.is_unreadable else _delay(failures, self._longest_delay)
                log.warning(Event.BROKER_LOST, extra=self._fields(closure.text, delay))
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._stopping.wait()

    async def _run_session(self) -> Closure:
        """One session from connect to its end; always leaves everything closed."""
        assert self._on_up is not None and self._on_down is not None
        session = None
        try:
            session = await self._open_session()
            await self._bring_up(session)
            self._up.set()
            self._first_attempt_done(None)
            path = session.hot_path.name
            log.info(Event.BROKER_BACK, extra={Field.STAGE: self.name, Field.AMQP_PATH: path})
            metrics.broker_connections.labels(self.name).inc()
            metrics.amqp_path.labels(self.name, path).set(1)
            closure = await session.closed
            metrics.amqp_path.labels(self.name, path).set(0)
        except ConfigurationError as error:
            self._first_attempt_done(error)
            closure = Closure(str(error))
        except (BrokerUnavailable, *BROKER_FAULTS) as error:
            closure = self._closure_of(session, error)
            self._first_attempt_done(None)
        except Exception as error:  # a fault of ours must not end the supervision
            stage_failed(log, self.name, type(error).__name__, level=logging.ERROR, trace=True)
            closure = Closure(type(error).__name__)
            self._first_attempt_done(None)
        finally:
            self._up.clear()
            self._session = None
            if session is not None:
                await session.close()
        self._on_down(closure)
        return closure

    async def _open_session(self) -> Session:
        """Connected, and on which path; a session that has failed a self-test is replaced."""
        while True:
            session = self._session = await self._connect()
            if self._stopping.is_set():
                session.fail(FAREWELL)
            path = await self._amqp_path.choose(session)
            if path is not None:
                session.hot_path = path
                return session
            await session.close()

    async def _bring_up(self, session: Session) -> None:
        """The user's part; ends with the session, whatever the library is waiting for."""
        assert self._on_up is not None
        step = asyncio.ensure_future(self._on_up(session))
        try:
            both: set[asyncio.Future[Any]] = {step, session.closed}
            await asyncio.wait(both, timeout=_UP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if session.closed.done():  # it may know better than the broker what is wrong
                await asyncio.wait({step}, timeout=_LAST_WORD_SECONDS)
            if not step.done():
                session.fail(Closure(f"the broker did not answer within {_UP_SECONDS:g} s"))
                raise BrokerUnavailable(session.closed.result().text)
            await step
        finally:
            step.cancel()
            await asyncio.wait({step}, timeout=CLOSE_TIMEOUT_SECONDS)

    def _fields(self, error: str, delay: float) -> dict[str, object]:
        return {Field.STAGE: self.name, Field.ERROR: f"{self.place}: {error}", Field.SECONDS: round(delay, 2)}

    def _closure_of(self, session: Session | None, error: BaseException) -> Closure:
        if session is not None and session.closed.done():
            return session.closed.result()
        if session is not None and session.tap.closed_by_broker is not None:
            code, text = session.tap.closed_by_broker
            return Closure(text, code)
        return Closure(str(error) or type(error).__name__)

    def _first_attempt_done(self, error: ConfigurationError | None) -> None:
        if self._first_attempt is None or self._first_attempt.done():
            if error is not None:
                log.error(Event.BROKER_LOST, extra={Field.STAGE: self.name, Field.ERROR: str(error)})
        elif error is not None:
            self._first_attempt.set_exception(error)
        else:
            self._first_attempt.set_result(None)

    async def _connect(self) -> Session:
        tap = Tap()
        pika = aio_pika.Connection(self._url)
        pika.kwargs["transport_factory"] = tap
        try:
            await self._handshake(pika, tap)
        except (AuthenticationError, ProbableAuthenticationError):
            raise ConfigurationError(
                f"RabbitMQ at {self.place} refused the login of user {self._url.user!r};"
                " check user and password in SAGA_WORKER_AMQP_URL."
            ) from None
        except AMQPError as error:
            code, text = tap.closed_by_broker or (0, str(error))
            if code == NOT_ALLOWED:
                raise ConfigurationError(
                    f"RabbitMQ at {self.place} refused the virtual host ({text}); check SAGA_WORKER_AMQP_URL."
                ) from None
            raise
        return Session(pika, tap)

    async def _handshake(self, pika: aio_pika.Connection, tap: Tap) -> None:
        """Connect within the time limit; a cancelled connect of the library may wait for the socket, so end that."""
        step = asyncio.ensure_future(pika.connect())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            both: set[asyncio.Future[Any]] = {step, stopping}
            await asyncio.wait(both, timeout=STEP_TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                raise TimeoutError(f"no answer within {STEP_TIMEOUT_SECONDS:g} s")
            await step
        finally:
            stopping.cancel()
            if not step.done() or step.cancelled() or step.exception() is not None:
                await tap.abort()
                step.cancel()
                await asyncio.wait({step}, timeout=CLOSE_TIMEOUT_SECONDS)


def _checked(url: str) -> URL:
    """The URL, parsed; the text of an error never repeats it, since it may hold a password."""
    parsed = None
    with suppress(ValueError):
        parsed = URL(url)
    if parsed is None or parsed.scheme not in ("amqp", "amqps") or not parsed.host:
        raise ConfigurationError(
            "SAGA_WORKER_AMQP_URL is not a broker URL; write amqp://user:password@host:5672/vhost (amqps:// for TLS)."
        )
    if parsed.query.get("no_verify_ssl", "0") != "0":
        log.warning("no_verify_ssl in SAGA_WORKER_AMQP_URL switches the check of the broker's certificate off")
    return parsed


def _delay(failures: int, longest: float) -> float:
    return backoff.delay(failures + 1, first=_FIRST_DELAY_SECONDS, longest=longest) * random.uniform(0.5, 1.0)
