"""The composition root: builds the stages of one process, starts them, and stops them in order.

Takes settings and roles; guarantees that a SIGTERM ends the process cleanly within the grace period with nothing
left to a lease, and that a second one ends it at once, as cleanly as a moment allows. Nothing here decides anything
about a saga.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from saga_worker import fingerprints, outbox, routes, timers, workers
from saga_worker.activities import Activities, has_activities
from saga_worker.broker import AmqpPath, BrokerConnection, Deliveries, Publisher, Topology
from saga_worker.consumer import Consumer
from saga_worker.envelope import EnvelopeLimits
from saga_worker.inbox_pool import InboxPool, PoolSettings
from saga_worker.intake import Callback, Intake
from saga_worker.lease import Lease
from saga_worker.loading import load
from saga_worker.local_steps import LocalSteps
from saga_worker.orchestrator import Advanced, Orchestrator, Plan
from saga_worker.outbox_relay import OutboxRelay
from saga_worker.relay_notices import RelayNotices
from saga_worker.saga.errors import DefinitionError, SagaWorkerError, SchemaMismatch
from saga_worker.saga.fold import Limits
from saga_worker.saga.own_work import LocalStep
from saga_worker.saga.registry import Registry
from saga_worker.saga.retry import Retry
from saga_worker.saga.structure import structure
from saga_worker.settings import Settings
from saga_worker.sql.connection import Connection, Database, describe, is_transient
from saga_worker.sql.migrate import check
from saga_worker.sweepers import (
    AbsentDefinitions,
    DueTimers,
    ExpiredLeases,
    LostActivities,
    Parking,
    RepliesStored,
    Retention,
    Sweeper,
)
from saga_worker.telemetry import Event, Field
from saga_worker.wake_up import EndTeller, Listener, Teller

if TYPE_CHECKING:
    from saga_worker.sql.sessions import Sessions

log = logging.getLogger(__name__)

ROLES: Final = frozenset({"consume", "advance", "relay", "sweep"})
CONNECT_RETRY_SECONDS: Final = 1.0
HURRY_SECONDS: Final = 5.0  # for giving up what is under way, after a second signal

LOCAL_STEPS_AT_ONCE: Final = 4
# When a worker dies, RabbitMQ counts all that it had in hand as delivered in vain, and gives a message up after 20
# times: so nobody holds many more than it is about to store.
BATCHES_IN_HAND: Final = 20
Beside = Callable[["Worker"], AbstractAsyncContextManager[object]]


async def run(settings: Settings, *, roles: frozenset[str] | None = None, beside: Beside | None = None) -> None:
    """Run one worker until SIGTERM or SIGINT, then drain it. A second signal gives up what is still to be sent to the
    others, a third ends the process where it stands.

    `beside` runs around the worker's whole life (the health server).

    Raises `ConfigurationError`, `DefinitionError` or `SchemaMismatch` when it cannot work at all; a server that is
    away is waited for.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    _listen_for_signals(stop, hurry)
    worker = Worker(settings, load(settings.definitions), roles or ROLES)
    _spare_the_collector()
    async with beside(worker) if beside is not None else nullcontext():
        await _run_until(worker, stop, hurry)


async def _run_until(worker: Worker, stop: asyncio.Event, hurry: asyncio.Event) -> None:
    starting = asyncio.create_task(worker.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if starting.done():
            await starting
            await asyncio.wait({stopping, *worker.stages()}, return_when=asyncio.FIRST_COMPLETED)
            worker.refuse_to_limp()
        else:  # asked to stop while a server is still being waited for
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
    finally:
        stopping.cancel()
        await _drain(worker, hurry)


def _spare_the_collector() -> None:
    """Messages leave no cycles, but their number makes the collector run, over all modules and definitions each time.

    Folding one event took 58 µs with its defaults, 43 µs with what is loaded frozen and a higher threshold.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _drain(worker: Worker, hurry: asyncio.Event) -> None:
    draining, hurrying = asyncio.create_task(worker.stop()), asyncio.create_task(hurry.wait())
    await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not draining.done():
        worker.relay.hurry()
        await asyncio.wait({draining}, timeout=HURRY_SECONDS)
        if not draining.done():
            os._exit(1)
    await draining


def _listen_for_signals(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    def asked() -> None:
        if hurry.is_set():
            os._exit(1)
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked)


class StageEnded(SagaWorkerError):
    """Ours: a task that has to run as long as the worker does is gone. Better no worker than half of one."""


class Worker:
    """All stages of one process. `start` may be cancelled; `stop` works at any time after it began."""

    def __init__(self, settings: Settings, registry: Registry, roles: frozenset[str] = ROLES) -> None:
        self.settings = settings
        self.registry = registry
        self.roles = roles
        self.is_ready = False
        url = settings.require("database_url", "amqp_url").database_url.get_secret_value()
        amqp_url = settings.amqp_url.get_secret_value()
        self.database = Database(
            url, settings.schema_, max_size=settings.pool_size, pgbouncer=settings.pgbouncer,
            application_name=f"saga_worker {settings.namespace}",
        )  # fmt: skip
        self.topology = Topology(settings.namespace, settings.partitions)
        self.lease = Lease(
            self.database, url, definitions=registry.listed(),
            seconds=settings.lease_seconds, on_lost=self._lease_lost, pgbouncer=settings.pgbouncer,
        )  # fmt: skip
        amqp_path = AmqpPath(settings.amqp_path, namespace=settings.namespace)
        self.publisher = Publisher(BrokerConnection(amqp_url, "publisher", amqp_path), self.topology)
        self.notices = RelayNotices(self.database, on_stored=self._stored)
        self.relay = OutboxRelay(
            self.database, self.publisher, worker_id=self.lease.worker_id,
            on_undeliverable=self.notices.undeliverable, on_delivered=self.notices.delivered,
        )  # fmt: skip
        self.replies_stored = RepliesStored(self.database, grace_seconds=settings.reply_grace_seconds)
        self.sessions = self._make_sessions(url)
        self.pool = self._make_pool()
        self.local_steps = LocalSteps(
            self.orchestrator, follow_up=self.pool.follow_up, reread=self.relay.reread, announce=self.pool.announce
        )  # fmt: skip
        self.activities = self._make_activities()
        self._turns = asyncio.Semaphore(max(1, settings.pool_size // 2))  # of the partitions in the database
        self.intake = Intake(
            lambda name: BrokerConnection(amqp_url, name, amqp_path), self.topology, self._make_consumer,
            prefetch=min(settings.prefetch, BATCHES_IN_HAND * settings.batch_size),
            on_caught_up=self._caught_up, on_behind=self._behind,
        )  # fmt: skip
        self.deliveries, self.consumer = self.intake.deliveries, self.intake.consumer
        self.sweepers = self._make_sweepers()
        self.teller = Teller(url, settings.schema_) if "advance" not in self.roles else None
        self.end_teller = EndTeller(self.database)
        can_listen = "advance" in self.roles and not settings.pgbouncer
        self.listener = self._make_listener(url) if can_listen else None
        self._telling: asyncio.Task[None] | None = None

    # -- building ---------------------------------------------------------------------------------------------------

    def _make_pool(self) -> InboxPool:
        settings = self.settings
        limits = Limits(
            attempts=Retry.exponential(settings.max_attempts),
            crashes=settings.max_crashes,
            parking=timedelta(seconds=settings.parking_seconds),
        )
        plan = Plan(
            self.registry,
            limits,
            settings.namespace,
            timedelta(seconds=settings.dedup_window_seconds),
            settings.partitions,
            settings.begin_traces,
        )
        self.orchestrator = Orchestrator(
            self.database, plan, worker_id=self.lease.worker_id, replies_are_in=self.replies_stored.are_stored,
            has_relay="relay" in self.roles, sessions=self.sessions,
        )  # fmt: skip
        return InboxPool(
            self.database, self.orchestrator, PoolSettings(settings.batch_size, poll_seconds=settings.poll_seconds),
            definitions=self.registry.names(), worker_id=self.lease.worker_id, hand_over=self._hand_over,
            reread=self.relay.reread, on_own_work=self._own_work,
        )  # fmt: skip

    def _make_sessions(self, url: str) -> Sessions | None:
        if "advance" not in self.roles or not has_local_steps(self.registry):
            return None
        from saga_worker.sql.sessions import Sessions  # only here: importing it takes as long as all of the start

        return Sessions(url, self.settings.schema_, size=LOCAL_STEPS_AT_ONCE, pgbouncer=self.settings.pgbouncer)

    def _make_activities(self) -> Activities | None:
        if "advance" not in self.roles or not has_activities(self.registry):
            return None
        activities = Activities(
            self.database, self.registry, worker_id=self.lease.worker_id,
            concurrency=self.settings.activity_concurrency, poll_seconds=self.settings.poll_seconds,
            on_stored=self._stored, on_taken_in=self.pool.follow_up, reread=self.relay.reread,
            take_results=self.orchestrator.take_results if self.settings.fast_path else None,
        )  # fmt: skip
        self.orchestrator.slots = activities.slots
        return activities

    def _make_listener(self, url: str) -> Listener:
        waits = self.end_teller.somebody_waits
        return Listener(url, self.settings.schema_, on_news=self.pool.look, on_waiting=waits)

    def _own_work(self, advanced: Advanced) -> None:
        """What a commit wants from this process besides messages."""
        if self.end_teller.is_wanted and any(change.has_ended for change in advanced.changes):
            self.end_teller.tell()
        if self.activities is not None:
            self.activities.hand_over(advanced.activities, advanced.slots)
        if advanced.local:
            self.local_steps.wake(advanced.local)

    def _make_consumer(self, deliveries: Deliveries, *, on_caught_up: Callback, on_behind: Callback) -> Consumer:
        limits = EnvelopeLimits(
            body_bytes=self.settings.body_limit_bytes, parking_seconds=self.settings.parking_seconds
        )
        return Consumer(
            self.database, deliveries, limits=limits, turns=self._turns, batch_size=self.settings.batch_size,
            on_stored=self._stored, on_taken_in=self.pool.follow_up, reread=self.relay.reread,
            take_in=self.orchestrator.take_in if self.settings.fast_path and "advance" in self.roles else None,
            on_caught_up=on_caught_up, on_behind=on_behind,
        )  # fmt: skip

    def _make_sweepers(self) -> list[Sweeper]:
        window = timedelta(seconds=self.settings.dedup_window_seconds)
        sweepers: list[Sweeper] = [self.replies_stored]
        if "advance" in self.roles:
            sweepers += [DueTimers(self.database, self.pool), Parking(self.database, self.pool)]
            if self.activities is not None:
                sweepers.append(LostActivities(self.database, self.pool, self.activities, self.registry))
        if "sweep" in self.roles:
            sweepers += [
                ExpiredLeases(self.database, self.pool),
                AbsentDefinitions(self.database, self.pool, self.registry),
                Retention(self.database, window=window),
            ]
        return sweepers

    def _stored(self, refs: Sequence[UUID]) -> None:
        if self.teller is not None:
            self.teller.tell()
        else:
            self.pool.wake(refs)

    def _hand_over(self, rows: Sequence[outbox.OutboxRow], held_back: set[tuple[UUID, str]]) -> None:
        if "relay" in self.roles:
            self.relay.hand_over(rows, held_back)

    def readiness(self) -> dict[str, Callable[[], bool]]:
        """What has to be true for this process to do its part, by name; cheap, no I/O."""
        parts: dict[str, Callable[[], bool]] = {"started": lambda: self.is_ready, "database": self.replies_stored.is_up}
        if "relay" in self.roles:
            parts["publisher"] = lambda: self.publisher.is_up
        if "consume" in self.roles:
            parts["consumer"] = lambda: self.intake.is_up
        return parts

    # -- starting ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect and start every stage of the roles, in the direction against the flow of messages."""
        log.info(Event.WORKER_STARTED, extra={"roles": sorted(self.roles)})
        await self._wait_for_database()
        await self.lease.start()
        async with self.database.transaction() as connection:
            await routes.register(connection, self.registry.routes())
            await self._register_structures(connection)
            known = await routes.load(connection)
            await timers.wake_stranded(connection, self.registry.names())
            self.topology.former_partitions = await routes.note_partitions(
                connection, self.settings.namespace, self.settings.partitions
            )
        if "relay" in self.roles:
            await self.publisher.start()
            self.notices.start()
            await self.relay.start()
        for first in self.sweepers:
            if isinstance(first, ExpiredLeases):
                await first.sweep()  # before any code of an author runs: the last process may have died of it
        for sweeper in self.sweepers:
            sweeper.start()
        if self.teller is not None:
            self.teller.start()
        if self.listener is not None:
            self.listener.start()
        if "advance" in self.roles:
            self.pool.start()
            self.local_steps.start()
            if self.activities is not None:
                self.activities.start()
        if "consume" in self.roles:
            await self.intake.start(known.by_type)
        self.is_ready = True
        log.info(Event.WORKER_READY, extra={Field.WORKER: self.lease.worker_id()})

    async def _register_structures(self, connection: Connection) -> None:
        """Refuse to start with, or warn of, definitions that were changed under sagas that run by them."""
        changed = await fingerprints.register(connection, [structure(saga) for saga in self.registry.sagas()])
        if changed and self.settings.definition_changes == "refuse":
            raise DefinitionError(" ".join(str(each) for each in changed))
        for each in changed:
            log.warning(Event.DEFINITION_CHANGED, extra={Field.DEFINITION: each.name, Field.REASON: str(each)})

    async def _wait_for_database(self) -> None:
        url = self.settings.database_url.get_secret_value()
        while True:
            try:
                await self.database.open()
                await check(url, schema=self.settings.schema_)
                return
            except SchemaMismatch:
                raise
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning(Event.DATABASE_LOST, extra={Field.STAGE: "start", Field.ERROR: describe(error)})
                await self.database.close()
                await asyncio.sleep(CONNECT_RETRY_SECONDS)

    def stages(self) -> list[asyncio.Task[None]]:
        """The tasks that never end by themselves while the worker runs."""
        sweeping = [sweeper.task for sweeper in self.sweepers if sweeper.task is not None]
        working = [*self.local_steps.loops, *(self.activities.tasks if self.activities is not None else ())]
        return [*self.intake.tasks, *self.pool.loops, *working, *sweeping]

    def refuse_to_limp(self) -> None:
        """Raises `StageEnded` when a stage has ended by itself: better no worker than half of one."""
        for stage in self.stages():
            if stage.done():
                error = None if stage.cancelled() else stage.exception()
                why = describe(error) if error is not None else "nobody said why"
                raise StageEnded(f"The stage {stage.get_name()} ended by itself ({why}); start the worker again.")

    # -- stopping ---------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Drain: nothing new, finish what runs, leave nothing to a lease."""
        log.info(Event.WORKER_DRAINING, extra={Field.WORKER: self.lease.worker_id()})
        self.is_ready = False  # no new work is sent here
        if "consume" in self.roles:
            await self.intake.stop()  # the batches in hand are stored and acknowledged; what is behind goes back
        for hint in (self.teller, self.listener, self.end_teller):
            if hint is not None:
                await hint.stop()
        for sweeper in self.sweepers:  # they hand work to the pool, so they end before it
            await sweeper.stop()
        if self.activities is not None:
            await self.activities.stop(self.settings.grace_seconds)  # what still runs then is given back
        await self.local_steps.stop()
        await self.pool.stop()  # the step transactions that run are finished
        await self.relay.stop(self.settings.grace_seconds)  # what they committed goes out, the rest is given up
        await self.notices.stop()
        await self.publisher.close()
        await self.lease.stop()
        if self.sessions is not None:
            await self.sessions.close()
        await self.database.close()
        log.info(Event.WORKER_STOPPED)

    # -- what the stages tell each other ----------------------------------------------------------------------------

    def _lease_lost(self) -> None:
        """Somebody else may have taken our rows: what is in memory is not ours any more."""
        self.relay.drop_memory()
        if self.activities is not None:
            self.activities.drop()
        if self.intake.is_caught_up:
            self._telling = asyncio.create_task(self._caught_up())  # the new number has to say so again

    async def _caught_up(self) -> None:
        async with self.database.transaction() as connection:
            await workers.caught_up(connection, self.lease.worker_id())

    async def _behind(self) -> None:
        async with self.database.transaction() as connection:
            await workers.lost_broker(connection, self.lease.worker_id())


def has_local_steps(registry: Registry) -> bool:
    sagas = (registry.find(name, version) for name, version in registry.versions())
    return any(isinstance(step, LocalStep) for saga in sagas if saga is not None for step in saga.steps.values())
