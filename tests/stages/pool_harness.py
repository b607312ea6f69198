"""A small saga and an inbox pool on a database of its own, without a broker: what the tests of the pool stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from saga_worker import Command, Compensate, Event, Message, Saga, UndoOf, Verdict, inbox, outbox, workers
from saga_worker.inbox import NewRow
from saga_worker.inbox_pool import InboxPool, PoolSettings
from saga_worker.orchestrator import Orchestrator, Plan
from saga_worker.saga.fold import Limits
from saga_worker.saga.registry import Registry
from saga_worker.saga.retry import Retry
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql.connection import Connection, Database


class Opened(Event):
    account: str


class Deposited(Event):
    account: str
    cents: int


class Closed(Event):
    account: str


class CardSent(Message):
    number: str


class SendCard(Command[CardSent]):
    account: str


class BlockCard(UndoOf[SendCard]):
    account: str


class Account(BaseModel):
    account: str
    deposits: list[int] = []
    card: str | None = None


def account_saga(
    *, name: str = "account", breaks_at: int | None = None, timeout: timedelta = timedelta(minutes=1)
) -> Saga[Account]:
    """An account that takes deposits in order, gets a card, and ends when it is closed.

    `breaks_at`: the handler raises for a deposit of so many cents, as long as a release is broken. `timeout`: of the
    command that sends the card.
    """
    saga = Saga(name, state=Account, deadline=timedelta(days=30))

    @saga.starts_on(Opened, key=lambda e: e.account)
    def opened(event: Opened) -> Account:
        return Account(account=event.account)

    @saga.on(Deposited, key=lambda e: e.account)
    def deposited(account: Account, event: Deposited) -> Verdict:
        if event.cents == breaks_at:
            raise RuntimeError("this release cannot count so far")
        account.deposits.append(event.cents)
        return Compensate("enough") if event.cents < 0 else None

    @saga.command("cards", timeout=timeout, retry=Retry.exponential(3))
    def send_card(account: Account) -> SendCard:
        return SendCard(account=account.account)

    @send_card.reply
    def card_sent(account: Account, reply: CardSent) -> Verdict:
        account.card = reply.number
        return None

    @send_card.undo
    def block_card(account: Account) -> BlockCard:
        return BlockCard(account=account.account)

    open_account = saga.wait("open")

    @open_account.on(Closed, key=lambda e: e.account)
    def closed(account: Account, event: Closed) -> Verdict:
        return None

    saga.flow(send_card, open_account)
    return saga


def row(message: Message, key: str, *, message_id: str, definition: str = "account", source: str = "test") -> NewRow:
    """`message` as the consumer would store it."""
    return NewRow(
        consumer=definition, source=source, message_id=message_id, type=message.wire_type, role=Role.EVENT,
        ref=ref_of(definition, key), saga_key=key, correlation_id=None, state=RowState.READY, reason=None, error=None,
        suspect=False, prio=1, expires_at_seconds=None, props=b"{}", body=to_json(message.model_dump(mode="json")),
    )  # fmt: skip


def reply(message: Message, command_id: str, key: str, *, message_id: str, definition: str = "account") -> NewRow:
    """`message` as an answer to `command_id`."""
    return NewRow(
        consumer=definition, source="participant", message_id=message_id, type=message.wire_type, role=Role.REPLY,
        ref=ref_of(definition, key), saga_key=None, correlation_id=command_id, state=RowState.READY, reason=None,
        error=None, suspect=False, prio=1, expires_at_seconds=None, props=b"{}",
        body=to_json(message.model_dump(mode="json")),
    )  # fmt: skip


@dataclass
class Harness:
    """A pool and what it handed over."""

    database: Database
    pool: InboxPool
    orchestrator: Orchestrator
    worker_id: int
    sent: list[outbox.OutboxRow] = field(default_factory=list)

    async def store(self, *rows: NewRow) -> inbox.Inserted:
        async with self.database.transaction() as connection:
            return await inbox.insert(connection, rows)

    async def drain(self) -> None:
        """Advance until no row of any saga is ready and due."""
        while refs := await self.due():
            await self.pool.advance(refs, slot=0)

    async def due(self) -> list[UUID]:
        async with self.database.transaction() as connection:
            claimed = await inbox.claim(connection, UUID(int=0), ["account"], 200)
        return claimed.refs

    async def query(self, text: str, *args: object) -> list[dict[str, object]]:
        async with self.database.autocommit() as connection:
            return [dict(record) for record in await connection.raw.fetch(text, *args)]

    async def states(self) -> list[str]:
        return [str(r["state"]) for r in await self.query("SELECT state FROM saga_worker.v_inbox ORDER BY id")]

    async def deposits(self, key: str) -> list[int]:
        found = await self.query("SELECT state::text AS state FROM saga_worker.v_saga WHERE key = $1", key)
        deposits: list[int] = from_json(str(found[0]["state"]))["deposits"]
        return deposits


@asynccontextmanager
async def harness(
    database_url: str, *sagas: Saga[Account], limits: Limits | None = None, pool: PoolSettings | None = None
) -> AsyncIterator[Harness]:
    """A registered worker with a pool that is not started: tests call `drain`, or `pool.start`."""
    async with Database(database_url, max_size=8) as database:
        registry = Registry(sagas or [account_saga()])
        async with database.transaction() as connection:
            worker_id = await register(connection, registry)
        plan = Plan(registry, limits or Limits(), "saga", timedelta(days=14))
        orchestrator = Orchestrator(database, plan, worker_id=lambda: worker_id, replies_are_in=lambda: True)
        sent: list[outbox.OutboxRow] = []

        def hand_over(rows: Sequence[outbox.OutboxRow], held_back: set[tuple[UUID, str]]) -> None:
            sent.extend(rows)

        made = InboxPool(
            database, orchestrator, pool or PoolSettings(), definitions=registry.names(),
            worker_id=lambda: worker_id, hand_over=hand_over, reread=lambda: None,
        )  # fmt: skip
        yield Harness(database, made, orchestrator, worker_id, sent)


async def register(connection: Connection, registry: Registry) -> int:
    definitions = [f"{name}/{version}" for name, version in registry.versions()]
    return await workers.register(connection, definitions, "test", 1)
