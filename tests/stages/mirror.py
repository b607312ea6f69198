"""The same history once more on PostgreSQL: each transaction of the pure world through inbox, orchestrator and tables.

A `Scripted` world writes down what it does; `Mirror.play` does the same on a database whose clock stands where the
script says, with every few transactions thrown away before their commit and done again, and `compare` finds any
difference: the saga byte for byte, its journal, its messages, its inbox rows, what local steps wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, Final

from msgspec.structs import replace

from saga_worker import Saga, faults, inbox, instances, workers
from saga_worker.faults import InjectedFault
from saga_worker.inbox import DeadFilter, NewRow
from saga_worker.orchestrator import Orchestrator, Plan
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.inputs import MESSAGES, LocalDone, LocalFailed
from saga_worker.saga.registry import Registry
from saga_worker.saga.routing import command_id
from saga_worker.saga.rows import InboxRow, Role, RowState
from saga_worker.sql.connection import Database
from saga_worker.sql.sessions import Sessions
from saga_worker.testing.ledgers import Delivery, Publication
from tests.saga.scripted import BROKEN, LOCALS
from tests.saga.world import LIMITS, World

CLOCK: Final = """
CREATE SCHEMA clock;
CREATE TABLE clock.stands (at timestamptz NOT NULL);
INSERT INTO clock.stands VALUES (now());
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM clock.stands';
CREATE FUNCTION clock.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM clock.stands';
CREATE TABLE effect (saga text, step text, is_undo boolean);
"""
POINTS: Final = ("orchestrator.locked", "orchestrator.decided", "orchestrator.before_commit")
EVERY: Final = 2  # every second transaction is lost before it is done


@dataclass
class Act:
    """One thing that was done, and how the world stood then."""

    what: str
    now: datetime
    unsent: frozenset[int]
    replies_are_in: bool
    broken: frozenset[str]
    locals_: tuple[Any, ...]
    arguments: dict[str, Any] = field(default_factory=dict)


class ScriptedWorld(World):
    """`World` that writes down every transaction."""

    def __init__(self, saga: Saga[Any]) -> None:
        super().__init__(saga, authors="generated.py", prefix=f"{saga.name}:")
        self.script: list[Act] = []
        self._depth = 0
        self._next_local: tuple[Any, ...] = ()

    def _note(self, what: str, **arguments: Any) -> None:
        if not self._depth:
            self.script.append(
                Act(what, self.now, frozenset(self.unsent), self.replies_are_in, frozenset(BROKEN), self._next_local,
                    arguments)
            )  # fmt: skip

    def store(self, *args: Any, **kwargs: Any) -> InboxRow | None:
        row = super().store(*args, **kwargs)
        if row is not None:
            self._note("store", row=row)
        return row

    def step(self, **how: Any) -> SagaChange | None:
        self._note("step", **how)
        return super().step(**how)

    def run_due_locals(self) -> None:
        self._next_local = tuple(LOCALS)
        super().run_due_locals()

    def run_local(self, done: LocalDone | LocalFailed) -> SagaChange:
        self._note("local")
        self._next_local = tuple(LOCALS)
        return super().run_local(done)

    def suspect(self, row: InboxRow, crashes: int) -> None:
        self._note("suspect", row=row, crashes=crashes)
        super().suspect(row, crashes)

    def replay(self) -> int:
        self._note("replay", ids=[row.message_id for row in self.in_state(RowState.DEAD)])
        return super().replay()

    def discard(self) -> int:
        dead = self.in_state(RowState.DEAD)
        self._note("discard", ids=[row.message_id for row in dead])
        self._depth += 1
        try:
            return super().discard()
        finally:
            self._depth -= 1


class Mirror:
    """One database for many sagas, one after another."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, min_size=1, max_size=4)
        self.sessions = Sessions(url, "saga_worker", size=1)
        self.worker_id = 0
        self.published: list[Publication] = []
        self.delivered: list[Delivery] = []
        self.lost = 0  # transactions that were thrown away
        self.transactions = 0

    async def open(self) -> None:
        await self.database.open()
        async with self.database.transaction() as connection:
            self.worker_id = await workers.register(connection, ["generated/1"], "test", 1, lease_seconds=1e9)

    async def close(self) -> None:
        await self.database.close()
        await self.sessions.close()

    async def play(self, world: ScriptedWorld) -> None:
        """What the world has done, and then the same saga has to stand here."""
        now = SimpleNamespace(replies_are_in=True)
        plan = Plan(Registry([world.saga]), LIMITS, "saga", timedelta(days=14))
        orchestrator = Orchestrator(
            self.database, plan, worker_id=lambda: self.worker_id, replies_are_in=lambda: bool(now.replies_are_in),
            sessions=self.sessions,
        )  # fmt: skip
        for act in world.script:
            now.replies_are_in = act.replies_are_in
            BROKEN.clear()
            BROKEN.update(act.broken)
            LOCALS[:] = act.locals_
            await self._relay(world, act)
            self.transactions += 1
            if self.transactions % EVERY == 0 and act.what in ("step", "local"):
                faults.arm(f"{POINTS[self.transactions // EVERY % len(POINTS)]}=raise")
                try:
                    await self._do(world, act, orchestrator)
                except InjectedFault:
                    self.lost += 1
                finally:
                    faults.arm(None)
            await self._do(world, act, orchestrator)
        world.relay(runs=True)
        await self._relay(world, None)
        await self.compare(world)
        self._publish(world)

    async def _do(self, world: ScriptedWorld, act: Act, orchestrator: Orchestrator) -> None:
        match act.what:
            case "store":
                async with self.database.transaction() as connection:
                    await inbox.insert(connection, [_new_row(world, act.arguments["row"])])
            case "step":
                await orchestrator.advance(
                    [world.ref], **{k: v for k, v in act.arguments.items() if k != "write_error"}
                )
            case "local":
                await orchestrator.run_local(world.ref)
            case "suspect":
                await self._execute(
                    "UPDATE saga_worker.inbox SET suspect = true, crashes = $3 WHERE ref = $1 AND message_id = $2",
                    world.ref, act.arguments["row"].message_id, act.arguments["crashes"],
                )  # fmt: skip
            case "replay" | "discard":
                found = await self._fetch(
                    "SELECT id FROM saga_worker.inbox WHERE ref = $1 AND message_id = ANY($2) AND state = 5",
                    world.ref, act.arguments["ids"],
                )  # fmt: skip
                which = DeadFilter(ids=[row["id"] for row in found])
                async with self.database.transaction() as connection:
                    do = inbox.replay if act.what == "replay" else inbox.discard
                    await do(connection, which, actor="test")
            case _:
                raise AssertionError(act)

    async def _relay(self, world: ScriptedWorld, act: Act | None) -> None:
        """The clock stands where it stood, and what had left by then is gone from the outbox."""
        unsent = sorted(act.unsent) if act is not None else []
        async with self.database.autocommit() as connection:
            if act is not None:
                await connection.raw.execute("UPDATE clock.stands SET at = $1", act.now)
            gone = await connection.raw.fetch(
                "DELETE FROM saga_worker.outbox WHERE ref = $1 AND NOT seq = ANY($2::int[])"
                " RETURNING seq, destination, type, body", world.ref, unsent,
            )  # fmt: skip
        saga_id = (await self._fetch("SELECT saga_id::text AS id FROM saga_worker.saga WHERE ref = $1", world.ref)) or [
            {"id": ""}
        ]
        self.delivered += [
            Delivery(
                row["destination"], row["type"], command_id(world.ref, row["seq"]), sha256(row["body"]).hexdigest(),
                saga_id[0]["id"], row["seq"], effect=False,
            )
            for row in gone
        ]  # fmt: skip

    async def compare(self, world: ScriptedWorld) -> None:
        async with self.database.transaction() as connection:
            found = (await instances.lock(connection, [world.ref])).found.get(world.ref)
        wanted = world.instance
        assert (found is None) == (wanted is None)
        if found is not None and wanted is not None:
            assert replace(found, saga_id=wanted.saga_id) == wanted
        journal = await self._fetch(
            "SELECT j.revision, j.input_kind, j.source, j.message_id, j.decided_at, j.from_status, j.to_status, j.sent,"
            " j.timers FROM saga_worker.journal j JOIN saga_worker.saga s USING (saga_id) WHERE s.ref = $1"
            " ORDER BY j.revision",
            world.ref,
        )
        assert [tuple(row.values()) for row in journal] == [
            (e.revision, e.input_kind, e.source, e.message_id, e.decided_at, e.from_status, e.to_status, list(e.sent),
             list(e.timers))
            for e in world.journal
        ]  # fmt: skip
        rows = await self._fetch(
            "SELECT message_id, state, reason, attempts, crashes FROM saga_worker.inbox"
            " WHERE ref = $1 AND type <> 'recheck' ORDER BY id",
            world.ref,
        )
        assert [tuple(row.values()) for row in rows] == [
            (row.message_id, row.state, row.reason, row.attempts, row.crashes)
            for row in world.rows.values()
            if row.type != "recheck"
        ]
        sent = {effect.seq: effect.body for effect in world.effects if isinstance(effect, MESSAGES)}
        prefix = command_id(world.ref, 0)[:-1]
        copies = {d.message_id: d.sha256 for d in self.delivered if d.message_id.startswith(prefix)}
        assert copies == {command_id(world.ref, seq): sha256(body).hexdigest() for seq, body in sent.items()}
        await self._compare_effects(world)

    async def _compare_effects(self, world: ScriptedWorld) -> None:
        """What local steps wrote is there exactly as often as one has succeeded."""
        found = await self._fetch("SELECT step, is_undo FROM effect WHERE saga = $1", world.saga.name)
        written = sorted((row["step"], row["is_undo"]) for row in found)
        assert written == sorted(world.effects_of_locals), f"{written} {world.effects_of_locals}"

    def _publish(self, world: ScriptedWorld) -> None:
        """What is parked at the end is in the inbox, and nothing more was promised of it."""
        final = (RowState.DONE, RowState.IGNORED, RowState.DEAD)
        self.published += [
            Publication(
                row.source, row.message_id, row.type, sha256(row.body).hexdigest(),
                "ok" if row.state in final else "unknown",
            )
            for row in world.rows.values()
            if row.role is not Role.OPERATOR
        ]  # fmt: skip

    async def _fetch(self, query: str, *args: object) -> list[Any]:
        async with self.database.autocommit() as connection:
            rows: list[Any] = await connection.raw.fetch(query, *args)
        return rows

    async def _execute(self, query: str, *args: object) -> None:
        async with self.database.autocommit() as connection:
            await connection.raw.execute(query, *args)


def _new_row(world: ScriptedWorld, row: InboxRow) -> NewRow:
    return NewRow(
        consumer=row.consumer, source=row.source, message_id=row.message_id, type=row.type, role=row.role,
        ref=world.ref, saga_key=row.saga_key, correlation_id=row.correlation_id, state=RowState.READY, reason=None,
        error=None, suspect=False, prio=0 if row.role is Role.OPERATOR else 1, expires_at_seconds=None, props=b"{}",
        body=row.body,
    )  # fmt: skip
