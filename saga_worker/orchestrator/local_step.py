"""The transaction of a local step: an author's SQL and the step of the saga commit together, or neither.

Takes a ref whose saga has a local step due; guarantees that the step runs beside no other saga's work, that a step
that raised has left nothing, and that a result which has been overtaken has no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from saga_worker import inbox, instances
from saga_worker.faults import fault_point
from saga_worker.orchestrator import deaths
from saga_worker.orchestrator.contract import Advanced, Announce
from saga_worker.orchestrator.deciding import Decider
from saga_worker.orchestrator.saving import Saver
from saga_worker.saga.decide import describe_error
from saga_worker.saga.definition import Saga
from saga_worker.saga.fold import LocalRefused, due_local, is_blocked
from saga_worker.saga.inputs import LocalDone, LocalFailed
from saga_worker.saga.instance import Instance
from saga_worker.saga.names import LOCAL
from saga_worker.saga.own_work import LocalStep
from saga_worker.saga.terminal import resolve_terminal_error
from saga_worker.saga.upcast import upcasted
from saga_worker.sql.connection import Connection, Database, describe, is_transient
from saga_worker.telemetry import trace_of_logs
from saga_worker.workers import Intent

if TYPE_CHECKING:  # imported by processes that have local steps only: it takes as long as all of a worker's start
    from sqlalchemy.ext.asyncio import AsyncSession

    from saga_worker.sql.sessions import Sessions

LOCK_NOT_AVAILABLE: Final = "55P03"


class Turn(Protocol):
    def __call__(self, advanced: Advanced, *, alone: bool = False) -> AbstractAsyncContextManager[None]: ...


class LocalTransaction:
    """Runs the local step that is due in a saga; `sessions` is what a definition with local steps needs."""

    def __init__(
        self, database: Database, sessions: Sessions | None, decider: Decider, saver: Saver, *,
        worker_id: Callable[[], int], turn: Turn,
    ) -> None:  # fmt: skip
        self._database = database
        self._sessions = sessions
        self._decider = decider
        self._saver = saver
        self._worker_id = worker_id
        self._turn = turn

    async def run(self, ref: UUID, announce: Announce | None = None) -> Advanced:
        """Call the step in the transaction that moves the saga on; `announce` is told of it before.

        A step that raises is rolled back with all it did, and the failure is written in a transaction of its own. One
        that a worker may have died of runs while no other code of an author does.
        """
        try:
            return await self._run(ref, announce, alone=False)
        except _MustBeAlone:
            pass
        try:
            return await self._run(ref, announce, alone=True)
        finally:
            if announce is not None:  # whatever this process dies of from now on, it is not this step
                with suppress(Exception):  # what was committed must reach the caller; a word left standing does no harm
                    await announce(Intent())

    async def _run(self, ref: UUID, announce: Announce | None, *, alone: bool) -> Advanced:
        assert self._sessions is not None, "no definition that is loaded here has local steps"
        advanced = Advanced()
        try:
            async with self._turn(advanced, alone=alone), self._sessions.transaction() as (connection, session):
                await self._call_and_apply(connection, session, ref, advanced, announce, alone=alone)
            fault_point("orchestrator.committed")
            return advanced
        except _LocalRaised as raised:
            failed = raised
        advanced = Advanced()
        async with self._turn(advanced), self._database.transaction() as connection:
            await self._apply(connection, ref, advanced, failed.outcome)
        return advanced

    async def _call_and_apply(
        self, connection: Connection, session: AsyncSession, ref: UUID, advanced: Advanced, announce: Announce | None,
        *, alone: bool,
    ) -> None:  # fmt: skip
        locked = await instances.lock(connection, [ref])
        advanced.busy = locked.busy
        instance = locked.found.get(ref)
        backlog = await inbox.read_backlog(connection, [ref])
        due = due_local(instance, backlog.now)
        if instance is None or due is None or is_blocked(backlog.rows.get(ref, [])):
            return
        if self._decider.is_to_move(instance):
            advanced.again.add(ref)  # it is brought to its version first, and this step may be another there
            return
        saga = self._decider.definition(instance)
        if saga is None:
            advanced.unknown.add(ref)
            return
        name = f"{LOCAL}:{due[0]}"
        if announce is not None:
            advanced.again |= await deaths.report_timers(connection, self._worker_id(), [(ref, f"{name}:{due[1]}")])
            if advanced.again:
                return
        if instance.progress.timers[name].deaths and not alone:
            raise _MustBeAlone
        if announce is not None:
            await announce(Intent(timers=[(ref, f"{name}:{due[1]}")], alone=alone))
        done = await _call(saga, instance, due, session)
        try:
            await self._apply(connection, ref, advanced, done)
        except LocalRefused as refused:
            raise _LocalRaised(LocalFailed(*due, str(refused), is_terminal=False)) from refused

    async def _apply(
        self, connection: Connection, ref: UUID, advanced: Advanced, done: LocalDone | LocalFailed
    ) -> None:
        """Lock (again), apply, save. A failure that has been overtaken has no effect."""
        locked = await instances.lock(connection, [ref])
        advanced.busy = locked.busy
        instance = locked.found.get(ref)
        if instance is None:
            return
        saga = self._decider.definition(instance)
        assert saga is not None
        backlog = await inbox.read_backlog(connection, [ref])
        try:
            advanced.add(self._decider.fold_local(saga, instance, backlog.rows.get(ref, []), backlog.now, done))
        except LocalRefused:
            if isinstance(done, LocalFailed):
                return
            raise
        await self._saver.save(connection, advanced, [ref], self._worker_id())
        fault_point("orchestrator.before_commit")


class _MustBeAlone(Exception):
    """A worker died that had this step in hand."""


class _LocalRaised(Exception):
    """A local step has to be rolled back; `outcome` is what is written instead."""

    def __init__(self, outcome: LocalFailed) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


async def _call(saga: Saga[Any], instance: Instance, due: tuple[int, int], session: AsyncSession) -> LocalDone:
    """The author's function on a copy of the state; what it wrote is flushed, and not committed."""
    from saga_worker.sql.sessions import driver_error

    record = instance.progress.commands[due[0]]
    step = saga.steps[record.step]
    assert isinstance(step, LocalStep)
    read = saga.state_model.__pydantic_validator__.validate_json
    stored = upcasted(saga.state_model, instance.state)
    state = read(stored, by_name=True, by_alias=False)
    trace = instance.progress.trace
    before = trace_of_logs.set(trace.id if trace else None)
    try:
        if record.undoes is not None:
            assert step.undo_work is not None
            await step.undo_work(state, session)
            state, verdict = read(stored, by_name=True, by_alias=False), None
        else:
            verdict = await step.work(state, session)
        await session.commit()  # ends the session's savepoint, not the transaction
    except (SystemExit, KeyboardInterrupt) as error:  # the author's: they end nothing of ours
        raise _LocalRaised(LocalFailed(*due, describe_error(error), is_terminal=False)) from error
    except Exception as error:
        cause = driver_error(error)
        if cause is not error and is_transient(cause) and getattr(cause, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise cause from error
        final = resolve_terminal_error(error, mapper=step.as_terminal)
        words = (final.reason if final is not None else "") or _describe(error)
        raise _LocalRaised(LocalFailed(*due, words, is_terminal=final is not None)) from error
    finally:
        trace_of_logs.reset(before)
    return LocalDone(*due, state, verdict)


def _describe(error: Exception) -> str:
    """One line without the values that SQLAlchemy and the driver quote."""
    from saga_worker.sql.sessions import driver_error

    cause = driver_error(error)
    return describe(cause) if cause is not error else describe_error(error)
