"""The client: one pool of connections, one watch, and the calls that a program makes."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload
from uuid import UUID, uuid4

from saga_worker import inbox, queries, signals
from saga_worker.client import operating
from saga_worker.client.contract import Snapshot, StartRefused
from saga_worker.client.rows import body_of, route_of, start_row
from saga_worker.client.run import Run
from saga_worker.client.snapshots import read_snapshot
from saga_worker.client.watch import Watch
from saga_worker.envelope import EnvelopeLimits
from saga_worker.inbox import NewRow, Verdict
from saga_worker.operator_requests import Request
from saga_worker.queries import TakenEvent
from saga_worker.saga.definition import Saga, Start
from saga_worker.saga.messages import Event
from saga_worker.saga.queries import A, Query
from saga_worker.saga.results import R
from saga_worker.saga.routing import Route, canonical_key, ref_of
from saga_worker.saga.steps import E, S
from saga_worker.settings import Settings
from saga_worker.signals import Sent
from saga_worker.sql.connection import Connection, Database, UnknownCommit
from saga_worker.sql.migrate import check
from saga_worker.wake_up import tell

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

TRIES = 3  # of storing a start whose COMMIT got no answer; its key makes that one start


class Client:
    """Starts sagas and reads them, without a broker. An async context manager; one per process is enough.

    `source` names the program: idempotency keys of one source are one set.
    """

    def __init__(self, settings: Settings | None = None, *, source: str = "client") -> None:
        """By default the settings are those of the environment; of the servers only DATABASE_URL is needed."""
        self._settings = (settings or Settings()).require("database_url")
        self._source = source
        self._url = self._settings.database_url.get_secret_value()
        self._database = Database(
            self._url, self._settings.schema_, max_size=4, application_name="saga_worker client",
            pgbouncer=self._settings.pgbouncer,
        )  # fmt: skip
        self._limits = EnvelopeLimits(body_bytes=self._settings.body_limit_bytes)
        self._known: set[Route] = set()
        self._watch = Watch(self._database, hints_from=None if self._settings.pgbouncer else self._url)

    async def __aenter__(self) -> Self:
        await check(self._url, schema=self._settings.schema_)
        await self._database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._watch.close()
        await self._database.close()

    @overload
    async def send(self, what: Start[S, E, R], event: E, *, idempotency_key: str | None = None) -> Run[S, R]: ...

    @overload
    async def send(self, what: Saga[S, R], event: Event, *, idempotency_key: str | None = None) -> Run[S, R]: ...

    async def send(
        self, what: Start[S, Any, R] | Saga[S, R], event: Event, *, idempotency_key: str | None = None
    ) -> Run[S, R]:
        """Store a start and wait for nothing: it will be applied, once for an idempotency key, whatever happens here.

        `what` is the start as it was declared, so that a type checker knows its event, or its saga. Raises
        `StartRefused` when nothing was stored: the event does not fit, no worker takes it, or another event was sent
        with this key.
        """
        return await self._send(what, event, idempotency_key)

    async def send_raw(
        self, saga: Saga[S, R], type_: str, body: bytes, *, idempotency_key: str | None = None
    ) -> Run[S, R]:
        """As `send`, with the event as JSON."""
        key = idempotency_key or str(uuid4())
        row = start_row(saga, type_, body, source=self._source, idempotency_key=key, limits=self._limits)
        is_repeat = await self._store(row, route_of(saga, type_))
        return Run(
            self._database, self._watch, saga, key=row.saga_key or "", idempotency_key=key, dedup=row.dedup,
            is_repeat=is_repeat,
        )  # fmt: skip

    @overload
    async def start(
        self, what: Start[S, E, R], event: E, *, idempotency_key: str | None = None, timeout: float = 10.0
    ) -> Run[S, R]: ...

    @overload
    async def start(
        self, what: Saga[S, R], event: Event, *, idempotency_key: str | None = None, timeout: float = 10.0
    ) -> Run[S, R]: ...

    async def start(
        self,
        what: Start[S, Any, R] | Saga[S, R],
        event: Event,
        *,
        idempotency_key: str | None = None,
        timeout: float = 10.0,
    ) -> Run[S, R]:
        """As `send`, and wait until a worker has accepted the start: from then on there is a saga.

        Raises as `send` and `Run.accepted`.
        """
        run = await self._send(what, event, idempotency_key)
        await run.accepted(timeout)
        return run

    @overload
    async def start_and_wait(
        self, what: Start[S, E, R], event: E, *, idempotency_key: str | None = None, timeout: float
    ) -> Snapshot[S, R]: ...

    @overload
    async def start_and_wait(
        self, what: Saga[S, R], event: Event, *, idempotency_key: str | None = None, timeout: float
    ) -> Snapshot[S, R]: ...

    async def start_and_wait(
        self, what: Start[S, Any, R] | Saga[S, R], event: Event, *, idempotency_key: str | None = None, timeout: float
    ) -> Snapshot[S, R]:
        """As `send`, and wait until the saga has ended: completed or not. Raises as `send` and `Run.ended`."""
        run = await self._send(what, event, idempotency_key)
        return await run.ended(timeout)

    async def get(self, saga: Saga[S, R], key: str | int | UUID) -> Snapshot[S, R] | None:
        """The saga of this key as it was last committed; None: there is none (yet, or any more)."""
        ref = ref_of(saga.name, canonical_key(key, saga.key_kind))
        return await read_snapshot(self._database, saga, ref=ref)

    async def signal(
        self, saga: Saga[Any], event: Event, *, message_id: str | None = None, session: AsyncSession | None = None
    ) -> Sent:
        """Send an event to the one saga whose key stands in it; it is parked where it comes too early.

        Raises `SignalRefused` when `saga` takes no such event. With a `message_id` it may be sent again: it is stored
        once. With a `session` of the application's own, on this very database, it is stored in the transaction of
        that: it is sent if that commits, and a start may be sent so, too.
        """
        if session is not None:
            schema = self._settings.schema_
            return await signals.send_within(session, schema, saga, event, message_id=message_id, source=self._source)
        return await signals.send(self._database, saga, event, message_id=message_id, source=self._source)

    async def ask(self, query: Query[S, A], key: str | int | UUID) -> A:
        """What a saga answers to this query now, as it was last committed; raises `QueryRefused`, `QueryFailed`."""
        async with self._database.autocommit() as connection:
            return await queries.ask(connection, query, key)

    async def compensate(self, saga: Saga[Any, Any], key: str | int | UUID, *, why: str, timeout: float = 10.0) -> None:
        """Have a running saga taken back, as `saga-worker saga compensate` does; returns when a worker has begun to.

        Raises `NotTaken` when it cannot be (past its pivot, ended, not there), `NotDecided` when no worker has decided
        in time.
        """
        wanted = Request("compensate")
        await operating.ask(self._database, saga, key, wanted, actor=self._source, why=why, timeout=timeout)

    async def mark_undone(
        self, saga: Saga[Any, Any], key: str | int | UUID, step: str, *, why: str, timeout: float = 10.0
    ) -> None:
        """Say that what this step did was taken back outside: its undo is not sent (again). Raises as `compensate`."""
        wanted = Request("mark_undone", {"step": step})
        await operating.ask(self._database, saga, key, wanted, actor=self._source, why=why, timeout=timeout)

    async def was_undone(self, saga: Saga[Any, Any], key: str | int | UUID, step: str) -> bool:
        """Whether all that this step has done is taken back; False for a step that has done nothing, or no saga."""
        return await operating.was_undone(self._database, saga, key, step)

    async def events(self, saga: Saga[Any], key: str | int | UUID, *, limit: int = 1000) -> list[TakenEvent]:
        """The events that the saga of this key has taken, oldest first; raises `QueryRefused` when there is none."""
        ref = ref_of(saga.name, canonical_key(key, saga.key_kind))
        async with self._database.autocommit() as connection:
            found = await queries.find(connection, None, ref, name=f"{saga.name}/{key}")
            return await queries.events(connection, found, limit=limit)

    async def _send(self, what: Start[S, Any, R] | Saga[S, R], event: Event, idempotency_key: str | None) -> Run[S, R]:
        saga = what.saga if isinstance(what, Start) else what
        return await self.send_raw(saga, event.wire_type, body_of(saga, event), idempotency_key=idempotency_key)

    async def _store(self, row: NewRow, route: Route) -> bool:
        """Whether it was there already."""
        verdict = Verdict.NEW
        for attempt in range(TRIES):
            try:
                async with self._database.transaction() as connection:
                    await self._check_route(connection, route)
                    verdict = (await inbox.insert(connection, [row])).outcomes[0].verdict
                    if verdict is Verdict.ID_REUSED:
                        raise StartRefused("id_reused", f"{_ANOTHER} {row.message_id}.")
                break
            except UnknownCommit:
                if attempt == TRIES - 1:
                    raise
        async with self._database.autocommit() as connection:
            await tell(connection)
        return verdict is Verdict.DUPLICATE

    async def _check_route(self, connection: Connection, route: Route) -> None:
        """Refuse what no worker would ever take up, or would read another key from."""
        if route in self._known:
            return
        found = await connection.fetchrow("client_route", route.definition, route.type)
        if found is None:
            raise StartRefused(
                "no_definition",
                f"No worker has ever run {route.definition} with {route.type}; start one that has this definition.",
            )
        if (found["key_pointer"], found["key_kind"]) != (route.key_pointer, route.key_kind.value):
            raise StartRefused(
                "key_mismatch",
                f"The workers find the key of {route.type} at {found['key_pointer']!r} ({found['key_kind']}), and this"
                f" program at {route.key_pointer!r} ({route.key_kind.value}); use the same definition.",
            )
        self._known.add(route)


_ANOTHER = "Another event was sent before with the idempotency key"
