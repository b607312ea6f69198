"""Local steps on a real database: the user's table and the saga move together, once, or not at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from definitions.account_transfer import TransferOrdered, transfer
from saga_worker import Compensate, Event, Retry, Saga, Undo, Verdict, faults, inbox, workers
from saga_worker.inbox import NewRow
from saga_worker.inbox_pool import InboxPool, PoolSettings
from saga_worker.local_steps import LocalSteps
from saga_worker.orchestrator import Advanced, Orchestrator, Plan
from saga_worker.saga.fold import Limits
from saga_worker.saga.registry import Registry
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql.connection import Database
from saga_worker.sql.sessions import Sessions
from saga_worker.sweepers import DueTimers
from saga_worker.testing import eventually

ACCOUNTS = """
CREATE TABLE account (id text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0), closed boolean NOT NULL);
INSERT INTO account VALUES ('a', 1000, false), ('b', 0, false), ('closed', 0, true)
"""


class Stages:
    def __init__(self, database: Database, pool: InboxPool, orchestrator: Orchestrator, name: str) -> None:
        self.database = database
        self.pool = pool
        self.orchestrator = orchestrator
        self.name = name
        self.advanced: list[Advanced] = []

    async def store(self, message: Event, key: str, message_id: str, *, role: Role = Role.EVENT) -> None:
        row = NewRow(
            consumer=self.name, source="test", message_id=message_id, type=message.wire_type, role=role,
            ref=ref_of(self.name, key), saga_key=key, correlation_id=None, state=RowState.READY, reason=None,
            error=None, suspect=False, prio=1, expires_at_seconds=None, props=b"{}",
            body=to_json(message.model_dump(mode="json")),
        )  # fmt: skip
        async with self.database.transaction() as connection:
            inserted = await inbox.insert(connection, [row])
        self.pool.wake([ref for ref, _ in inserted.new if ref is not None])

    async def operator(self, key: str, command: str) -> None:
        row = NewRow(
            consumer=self.name, source="operator", message_id=f"{command}:{os.urandom(4).hex()}", type=command,
            role=Role.OPERATOR, ref=ref_of(self.name, key), saga_key=None, correlation_id=None, state=RowState.READY,
            reason=None, error=None, suspect=False, prio=0, expires_at_seconds=None, props=b"{}", body=b"{}",
        )  # fmt: skip
        async with self.database.transaction() as connection:
            await inbox.insert(connection, [row])
        self.pool.wake([ref_of(self.name, key)])

    async def query(self, sql: str, *args: object) -> list[dict[str, Any]]:
        async with self.database.autocommit() as connection:
            return [dict(record) for record in await connection.raw.fetch(sql, *args)]

    async def until(self, sql: str, *args: object) -> list[dict[str, Any]]:
        """The rows of a query as soon as it has some."""
        try:
            found: list[dict[str, Any]] = await eventually(lambda: self.query(sql, *args))
        except AssertionError as error:
            raise AssertionError(f"no row of {sql}; {await self.query('TABLE saga_worker.v_saga')}") from error
        return found

    async def until_status(self, status: str, key: str = "t") -> dict[str, Any]:
        return (await self.until("SELECT * FROM saga_worker.v_saga WHERE key = $1 AND status = $2", key, status))[0]

    async def balances(self) -> dict[str, int]:
        return {row["id"]: row["cents"] for row in await self.query("SELECT id, cents FROM account")}


@asynccontextmanager
async def stages(database_url: str, saga: Saga[Any] = transfer, *, wakes: bool = True) -> AsyncIterator[Stages]:
    """With `wakes=False` nobody is told of local steps, as if each process had died after the commit."""
    sessions = Sessions(database_url, "saga_worker", size=4)
    async with Database(database_url, max_size=6) as database:
        registry = Registry([saga])
        async with database.autocommit() as connection:
            if await connection.raw.fetchval("SELECT to_regclass('account')") is None:
                await connection.raw.execute(ACCOUNTS)
            worker_id = await workers.register(connection, [f"{saga.name}/1"], "test", 1)
        orchestrator = Orchestrator(
            database, Plan(registry, Limits(), "saga", timedelta(days=14)), worker_id=lambda: worker_id,
            replies_are_in=lambda: True, sessions=sessions,
        )  # fmt: skip

        def own_work(done: Advanced) -> None:
            made.advanced.append(done)
            if wakes:
                local_steps.wake(done.local)

        pool = InboxPool(
            database, orchestrator, PoolSettings(poll_seconds=0.2), definitions=registry.names(),
            worker_id=lambda: worker_id, hand_over=lambda rows, held_back: None, reread=lambda: None,
            on_own_work=own_work,
        )  # fmt: skip
        local_steps = LocalSteps(
            orchestrator, follow_up=pool.follow_up, reread=lambda: None, announce=pool.announce
        )  # fmt: skip
        timers = DueTimers(database, pool, interval_seconds=0.05)
        made = Stages(database, pool, orchestrator, saga.name)
        pool.start()
        local_steps.start()
        timers.start()
        try:
            yield made
        finally:
            await timers.stop()
            await local_steps.stop()
            await pool.stop()
    await sessions.close()


def ordered(payee: str = "b", cents: int = 300, transfer_id: str = "t") -> TransferOrdered:
    return TransferOrdered(transfer_id=transfer_id, payer="a", payee=payee, cents=cents)


async def test_money_moves_with_the_saga(database_url: str) -> None:
    """features: 122"""
    async with stages(database_url) as s:
        await s.store(ordered(), "t", "1")
        await s.until_status("completed")

        assert await s.balances() == {"a": 700, "b": 300, "closed": 0}
        kinds = await s.query("SELECT input_kind FROM saga_worker.v_journal ORDER BY revision")
        assert [row["input_kind"] for row in kinds] == ["event", "local", "local"]


@pytest.mark.parametrize("point", ["orchestrator.before_commit", "orchestrator.committed"])
async def test_a_fault_around_the_commit_books_once(database_url: str, point: str) -> None:
    async with stages(database_url) as s:
        faults.arm(f"{point}:2=raise")  # the first is the transaction of the event
        try:
            await s.store(ordered(), "t", "1")
            await s.until("SELECT 1 FROM saga_worker.v_timer WHERE name LIKE 'local:%'")
            await s.query("UPDATE saga_worker.wake SET due_at = now()")
            await s.until_status("completed")
        finally:
            faults.arm(None)
        assert await s.balances() == {"a": 700, "b": 300, "closed": 0}


async def test_a_terminal_error_ends_the_saga_and_books_nothing(database_url: str) -> None:
    async with stages(database_url) as s:
        await s.store(ordered(cents=5000), "t", "1")
        saga = await s.until_status("compensated")
        assert saga["reason"] == "debit failed: the payer's account does not cover it"
        assert await s.balances() == {"a": 1000, "b": 0, "closed": 0}


async def test_what_was_booked_is_taken_back_once(database_url: str) -> None:
    async with stages(database_url) as s:
        await s.store(ordered("closed"), "t", "1")
        saga = await s.until_status("compensated")
        assert (saga["reason"], saga["unsettled"]) == ("the account closed is closed", 0)
        assert await s.balances() == {"a": 1000, "b": 0, "closed": 0}


async def test_many_transfers_over_the_same_accounts_lose_nothing(database_url: str) -> None:
    async with stages(database_url) as s:
        for n in range(60):
            await s.store(ordered("b" if n % 3 else "closed", 10, f"t{n}"), f"t{n}", f"m{n}")
        await s.until(
            "SELECT 1 FROM saga_worker.v_saga WHERE status IN ('completed', 'compensated') HAVING count(*) = 60"
        )
        assert await s.balances() == {"a": 600, "b": 400, "closed": 0}


# -- failures ---------------------------------------------------------------------------------------------------------


class Noted(Event):
    note: str


class Dropped(Event):
    note: str


class Note(BaseModel):
    note: str
    tries: int = 0


def note_saga(step: Any, *, retry: Retry) -> Saga[Note]:
    saga = Saga("note", state=Note, deadline=timedelta(days=1))

    @saga.starts_on(Noted, key=lambda e: e.note)
    def noted(event: Noted) -> Note:
        return Note(note=event.note)

    @saga.on(Dropped, key=lambda e: e.note)
    def dropped(note: Note, event: Dropped) -> Verdict:
        return Compensate("dropped")

    @saga.local(retry=retry, undo=Undo.NONE)
    async def write(note: Note, session: AsyncSession) -> Verdict:
        await session.execute(text("UPDATE account SET cents = cents + 1 WHERE id = 'b'"))
        note.tries += 1
        result: Verdict = await step(note, session)
        return result

    saga.flow(write)
    return saga


async def test_a_step_that_raises_is_rolled_back_and_tried_again(database_url: str) -> None:
    tries = []

    async def third_time(note: Note, session: AsyncSession) -> None:
        tries.append(note.tries)
        if len(tries) < 3:
            raise RuntimeError("not yet")

    async with stages(database_url, note_saga(third_time, retry=Retry.fixed(5, timedelta(milliseconds=20)))) as s:
        await s.store(Noted(note="t"), "t", "1")
        await s.until_status("completed")
        assert tries == [1, 1, 1]  # the state was rolled back, too
        assert (await s.balances())["b"] == 1


async def test_out_of_tries_it_asks_for_attention_and_a_retry_takes_it_up(database_url: str) -> None:
    is_mended = False

    async def broken(note: Note, session: AsyncSession) -> None:
        if not is_mended:
            await session.execute(text("SELECT 1 / 0"))

    async with stages(database_url, note_saga(broken, retry=Retry.fixed(2, timedelta(0)))) as s:
        await s.store(Noted(note="t"), "t", "1")
        found = await s.until("SELECT * FROM saga_worker.v_saga WHERE attention IS NOT NULL")
        assert (found[0]["attention"], found[0]["status"]) == ("local_failed: write", "running")

        is_mended = True
        await s.operator("t", "retry")
        assert (await s.until_status("completed"))["attention"] is None
        assert (await s.balances())["b"] == 1


async def test_a_commit_inside_the_step_commits_nothing_by_itself(database_url: str) -> None:
    async def commits(note: Note, session: AsyncSession) -> None:
        await session.commit()
        raise RuntimeError("after the commit")

    async with stages(database_url, note_saga(commits, retry=Retry.none())) as s:
        await s.store(Noted(note="t"), "t", "1")
        await s.until("SELECT * FROM saga_worker.v_saga WHERE attention IS NOT NULL")
        assert (await s.balances())["b"] == 0


async def test_an_event_that_turns_the_saga_back_wins_against_a_step_in_back_off(database_url: str) -> None:
    async def fails(note: Note, session: AsyncSession) -> None:
        raise RuntimeError("no")

    async with stages(database_url, note_saga(fails, retry=Retry.fixed(9, timedelta(hours=1)))) as s:
        await s.store(Noted(note="t"), "t", "1")
        await s.until("SELECT 1 FROM saga_worker.v_journal WHERE input_kind = 'local'")
        await s.store(Dropped(note="t"), "t", "2")
        saga = await s.until_status("compensated")
        assert (saga["reason"], saga["unsettled"]) == ("dropped", 0)


async def test_user_locks_do_not_hold_up_other_sagas(database_url: str) -> None:
    """Each local step has its own transaction, so a step that waits for a row waits alone.

    features: 69; M14
    """
    waiting, may_end = asyncio.Event(), asyncio.Event()

    async def slow(note: Note, session: AsyncSession) -> None:
        waiting.set()
        await may_end.wait()

    async with stages(database_url, note_saga(slow, retry=Retry.fixed(9, timedelta(milliseconds=50)))) as s:
        await s.store(Noted(note="t"), "t", "1")
        await waiting.wait()
        async with s.database.transaction() as connection:  # nobody waits on the saga that is in its step
            locked = await connection.raw.fetch(
                "SELECT 1 FROM saga_worker.saga WHERE key = 't' FOR NO KEY UPDATE SKIP LOCKED"
            )
        assert locked == []
        await s.store(Noted(note="other"), "other", "2")  # nor does any other saga wait
        await s.until("SELECT 1 FROM saga_worker.v_saga WHERE key = 'other'")
        may_end.set()
        await s.until_status("completed")


async def test_a_process_that_lost_its_wake_finds_a_due_step_by_the_wake_table(database_url: str) -> None:
    """features: M10"""
    ref: UUID = ref_of("account_transfer", "t")
    async with stages(database_url, wakes=False) as s:
        await s.store(ordered(), "t", "1")
        await s.until("SELECT 1 FROM saga_worker.v_timer WHERE name = 'local:1'")
        assert (await s.balances())["a"] == 1000
    async with stages(database_url) as s:
        await s.query("UPDATE saga_worker.wake SET due_at = now() WHERE ref = $1", ref)
        await s.until_status("completed")
        assert await s.balances() == {"a": 700, "b": 300, "closed": 0}


@pytest.mark.parametrize("size", [20])
async def test_a_batch_leaves_its_local_steps_to_transactions_of_their_own(database_url: str, size: int) -> None:
    async with stages(database_url) as s:
        rows = [
            NewRow(
                consumer=s.name,
                source="test",
                message_id=f"m{n}",
                type="transfer_ordered",
                role=Role.EVENT,
                ref=ref_of(s.name, f"t{n}"),
                saga_key=f"t{n}",
                correlation_id=None,
                state=RowState.READY,
                reason=None,
                error=None,
                suspect=False,
                prio=1,
                expires_at_seconds=None,
                props=b"{}",
                body=to_json(ordered(cents=1, transfer_id=f"t{n}").model_dump()),
            )
            for n in range(size)
        ]
        taken = await s.orchestrator.take_in(rows)
        assert len(taken.advanced.local) == size
        assert (await s.balances())["a"] == 1000
        s.pool.follow_up(taken.advanced)
        await s.until(f"SELECT 1 FROM saga_worker.v_saga WHERE status = 'completed' HAVING count(*) = {size}")
        assert await s.balances() == {"a": 1000 - size, "b": size, "closed": 0}
        local = [done for done in s.advanced if _has_local(done)]
        assert {len(done.changes) for done in local} == {1}


def _has_local(done: Advanced) -> bool:
    return any(entry.input_kind == "local" for change in done.changes for entry in change.journal)
