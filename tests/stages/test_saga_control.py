"""`saga-worker saga compensate | pause | resume | cancel | mark-undone`, with a pool and PostgreSQL behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel
from pydantic_core import from_json

from saga_worker import (
    Command,
    Event,
    Message,
    Rejected,
    Saga,
    StepContext,
    UndoOf,
    clear_hooks,
    days,
    minutes,
    operator_requests,
    pivot,
    register_hooks,
)
from saga_worker.client import Client, NotDecided, NotTaken
from saga_worker.operator_requests import Request, Target
from saga_worker.outbox import EVENTS, OutboxRow
from saga_worker.saga.messages import Done
from saga_worker.saga.routing import command_id, ref_of
from saga_worker.testing import eventually
from tests.stages.command_line import Ran, Run
from tests.stages.operator_rows import audit
from tests.stages.pool_harness import CardSent, Harness, Opened, harness, reply, row


class Ordered(Event):
    order: str


class Reserve(Command):
    order: str


class Release(UndoOf[Reserve]):
    order: str


class Charge(Command):
    order: str


class Refund(UndoOf[Charge]):
    order: str


class Ship(Command):
    order: str


class Recall(UndoOf[Ship]):
    order: str


class Order(BaseModel):
    order: str


def shop(*, pivoted: bool = False, compensate: bool = True, lifecycle: bool = False) -> Saga[Order]:
    """reserve → charge → ship, each with its undo, or with ship as the pivot."""
    saga = Saga(  # of the name that the harness claims for
        "account", state=Order, deadline=days(1), compensate=compensate, lifecycle=lifecycle
    )
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order))

    @saga.command("stock", timeout=minutes(1))
    def reserve(order: Order) -> Reserve:
        return Reserve(order=order.order)

    @reserve.undo
    def release(order: Order) -> Release:
        return Release(order=order.order)

    @saga.command("bank", timeout=minutes(1))
    def charge(order: Order) -> Charge:
        return Charge(order=order.order)

    @charge.undo
    def refund(order: Order) -> Refund:
        return Refund(order=order.order)

    @saga.command("post", timeout=minutes(1))
    def ship(order: Order) -> Ship:
        return Ship(order=order.order)

    if not pivoted:

        @ship.undo
        def recall(order: Order) -> Recall:
            return Recall(order=order.order)

    saga.flow(reserve, charge, pivot(ship) if pivoted else ship)
    return saga


class Shop:
    """A saga behind a running pool, its participants played by the test, and an operator at the command line."""

    def __init__(self, h: Harness, run: Run) -> None:
        self.h = h
        self._run = run

    async def operate(self, *arguments: str) -> Ran:
        return await asyncio.to_thread(self._run, "saga", *arguments, "--actor", "ann", "--json")

    async def has_sent(self, *types: str) -> None:
        await eventually(lambda: [sent.type for sent in self.commands()] == list(types))

    async def has_sent_last(self, type_: str) -> None:
        await eventually(lambda: self.commands()[-1].type == type_)

    def commands(self) -> list[OutboxRow]:
        return [sent for sent in self.h.sent if sent.destination != EVENTS]

    async def answer(self, number: int, message: Message | None = None) -> None:
        """To the command that went out as number so many."""
        await eventually(lambda: len(self.commands()) >= number)
        sent = self.commands()[number - 1]
        await self.h.store(reply(message or Done(), sent.message_id, "7", message_id=f"r{number}"))

    async def status(self) -> tuple[object, object]:
        (saga,) = await self.h.query("SELECT status, reason FROM saga_worker.v_saga")
        return saga["status"], saga["reason"]

    async def becomes(self, status: str) -> None:
        async def is_so() -> bool:
            return (await self.status())[0] == status

        await eventually(is_so)


@asynccontextmanager
async def at_ship(
    database_url: str, run: Run, *, pivoted: bool = False, compensate: bool = True, lifecycle: bool = False
) -> AsyncIterator[Shop]:
    """Two steps are done, the third is asked for."""
    saga = shop(pivoted=pivoted, compensate=compensate, lifecycle=lifecycle)
    async with harness(database_url, saga) as h:  # type: ignore[arg-type]  # of another state
        h.pool.start()
        try:
            told = Shop(h, run)
            await h.store(row(Ordered(order="7"), "7", message_id="start"))
            await told.has_sent("reserve")
            await told.answer(1)
            await told.has_sent("reserve", "charge")
            await told.answer(2)
            await told.has_sent("reserve", "charge", "ship")
            yield told
        finally:
            await h.pool.stop()


async def test_a_running_saga_is_taken_back_from_outside(run: Run, database: str) -> None:
    """features: 47"""
    async with at_ship(database, run) as told:
        ran = await told.operate("compensate", "account/7", "--why", "a mistake")

        assert (ran.code, ran.documents) == (0, [{"asked": 1, "applied": 1, "waiting": 0}])
        assert await told.status() == ("compensating", "taken back by an operator: a mistake")
        for seq, sent in enumerate(["recall", "refund", "release"], 4):
            await told.has_sent_last(sent)
            await told.answer(seq)
        await told.becomes("compensated")
        assert len(told.h.sent) == 6  # nothing forward any more

        again = await told.operate("compensate", "account/7", "--why", "a mistake")
        assert (again.code, again.documents) == (1, [{"asked": 1, "applied": 0, "waiting": 0, "saga_finished": 1}])
    line = {"actor": "ann", "action": "compensate", "target": "saga/account/7", "reason": "a mistake"}
    assert await asyncio.to_thread(audit, database) == [line, line]


async def test_a_saga_past_its_pivot_is_not_taken_back_and_the_operator_is_told_why(run: Run, database: str) -> None:
    """features: 47"""
    async with at_ship(database, run, pivoted=True) as told:
        ran = await told.operate("compensate", "account/7", "--why", "a mistake")

        assert ran.code == 1
        assert "did not take it: it is past its pivot, where nothing is taken back" in ran.err
        assert await told.status() == ("running", None)


async def test_a_paused_saga_holds_what_comes_until_it_is_resumed(run: Run, database: str) -> None:
    async with at_ship(database, run) as told:
        assert (await told.operate("pause", "account/7")).code == 0
        await told.answer(3)

        async def is_held() -> bool:
            return bool(await told.h.query("SELECT FROM saga_worker.v_inbox WHERE state='held' AND reason='paused'"))

        await eventually(is_held)
        assert await told.status() == ("paused", None)
        assert await told.h.query("SELECT FROM saga_worker.wake") == []

        assert (await told.operate("resume", "account/7")).code == 0
        await told.becomes("completed")
        assert (await told.operate("resume", "account/7")).code == 1


async def test_timers_of_a_paused_saga_fire_when_it_is_resumed(run: Run, database: str) -> None:
    async with at_ship(database, run) as told:
        await told.operate("pause", "account/7")
        await told.operate("resume", "account/7")

        ((wake),) = await told.h.query(
            "SELECT due_at - (SELECT min(due_at) FROM saga_worker.v_timer) AS late FROM saga_worker.wake"
        )
        assert not wake["late"]


async def test_a_wait_is_ended_from_outside_without_its_event(run: Run, database: str) -> None:
    """features: 96"""
    async with harness(database) as h:
        h.pool.start()
        try:
            told = Shop(h, run)
            await h.store(row(Opened(account="7"), "7", message_id="start"))
            await told.has_sent("send_card")
            early = await told.operate("wake", "account/7", "open", "--why", "closed on paper")
            card = reply(CardSent(number="1"), command_id(ref_of("account", "7"), 1), "7", message_id="r1")
            await h.store(card)
            await told.becomes("waiting")
            ran = await told.operate("wake", "account/7", "open", "--why", "closed on paper")
        finally:
            await h.pool.stop()

        assert (early.code, early.documents) == (1, [{"asked": 1, "applied": 0, "waiting": 0, "not_waiting": 1}])
        assert "it does not stand at this wait or sleep" in early.err
        assert (ran.code, ran.documents) == (0, [{"asked": 1, "applied": 1, "waiting": 0}])
        assert await told.status() == ("completed", None)
    line = {"actor": "ann", "action": "wake", "target": "saga/account/7", "reason": "closed on paper"}
    assert await asyncio.to_thread(audit, database) == [line, line]


async def test_a_cancelled_saga_ends_failed_with_its_effects(run: Run, database: str) -> None:
    async with at_ship(database, run) as told:
        ran = await told.operate("cancel", "account/7", "--why", "by hand")

        assert (ran.code, await told.status()) == (0, ("failed", "cancelled by an operator: by hand"))
        assert await told.h.query("SELECT FROM saga_worker.wake") == []
        assert [sent.type for sent in told.h.sent] == ["reserve", "charge", "ship"]


async def test_what_was_undone_outside_is_not_undone_again(run: Run, database: str) -> None:
    """features: 48"""
    async with at_ship(database, run) as told:
        ran = await told.operate("mark-undone", "account/7", "charge", "--why", "refunded by hand")

        assert ran.code == 0
        nothing = await told.operate("mark-undone", "account/7", "ship")
        assert nothing.code == 1 and "nothing that this step has done is left" in nothing.err
        await told.operate("compensate", "account/7", "--why", "a mistake")
        await told.answer(4)
        await told.has_sent("reserve", "charge", "ship", "recall", "release")
        shown = (
            (await told.operate("show", "account/7"))
            if False
            else await asyncio.to_thread(run, "saga", "show", "account/7", "--json")
        )
        assert [c["step"] for c in shown.documents[0]["commands"] if c["undone"]] == ["charge", "ship"]


async def test_a_timer_is_listed_moved_cancelled_and_fired(run: Run, database: str) -> None:
    """features: L9"""
    async with at_ship(database, run) as told:
        assert (await told.operate("timer", "move", "account/7", "deadline", "--due", "7d")).code == 0
        assert (await told.operate("timer", "cancel", "account/7", "timeout:3", "--why", "no hurry")).code == 0

        listed = await asyncio.to_thread(run, "saga", "timer", "list", "account/7", "--json")
        deadline, timeout = listed.documents
        in_seven_days = datetime.now(UTC) + days(7)
        assert deadline["name"] == "deadline"
        assert abs(datetime.fromisoformat(deadline["due_at"]) - in_seven_days) < timedelta(minutes=5)
        assert (timeout["name"], timeout["due_at"]) == ("timeout:3", None)
        shown = await asyncio.to_thread(run, "saga", "show", "account/7")
        assert "its time-out does not pass by itself" in shown.out

        assert (await told.operate("timer", "fire", "account/7", "timeout:3")).code == 0
        await told.has_sent("reserve", "charge", "ship", "recall")
        gone = await told.operate("timer", "fire", "account/7", "timeout:3")
        assert gone.code == 1 and "has no timer timeout:3; armed are: timeout:4" in gone.err
    by_whom = [(line["actor"], line["action"]) for line in await asyncio.to_thread(audit, database)]
    assert by_whom == [("ann", "timer_move"), ("ann", "timer_cancel"), ("ann", "timer_fire")]


async def test_a_timer_that_has_fired_since_it_was_looked_at_is_left_alone(run: Run, database: str) -> None:
    """features: L9"""
    async with at_ship(database, run) as told:
        target = Target(ref_of("account", "7"), "account", "7", None)
        old = Request("timer_cancel", {"timer": "timeout:3:1"})
        ids = await operator_requests.request(told.h.database, [target], old, actor="ann", why=None)

        found = await operator_requests.outcomes(told.h.database, ids, wait_seconds=30)

        assert found == {"timer_not_armed": 1}


async def test_a_saga_without_compensation_fails_and_is_retried(run: Run, database: str) -> None:
    """features: 18"""
    async with at_ship(database, run, compensate=False) as told:
        no = await told.operate("compensate", "account/7", "--why", "a mistake")
        assert no.code == 1 and "never takes anything back" in no.err
        await told.answer(3, Rejected(reason="closed"))
        await told.becomes("failed")
        (failed,) = await told.h.query("SELECT finished_at FROM saga_worker.v_saga")
        assert failed["finished_at"] is not None
        assert await told.h.query("SELECT FROM saga_worker.wake") == []

        shown = await asyncio.to_thread(run, "saga", "show", "account/7")
        assert "`saga-worker saga retry` goes on from there" in shown.out.splitlines()[0]

        assert (await told.operate("retry", "account/7")).code == 0
        await told.has_sent("reserve", "charge", "ship", "ship")
        assert await told.status() == ("running", None)
        await told.answer(4)
        await told.becomes("completed")


async def test_hooks_are_called_once_after_the_commit_and_break_nothing(
    run: Run, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """features: 133"""
    told: list[tuple[str, str, str | None]] = []

    def executed(context: StepContext) -> None:
        told.append(("executed", context.step, None))
        raise ConnectionError("nobody listens")

    register_hooks(
        step_executed=executed,
        compensation_triggered=lambda c: told.append(("triggered", c.step, c.original_error)),
        compensation_completed=lambda c: told.append(("completed", c.step, c.original_error)),
    )
    try:
        async with at_ship(database, run) as at:
            assert told == [("executed", "reserve", None), ("executed", "charge", None)]
            await at.operate("mark-undone", "account/7", "charge")
            await at.operate("compensate", "account/7", "--why", "a mistake")
            await at.answer(4)
            await at.answer(5)
            await at.becomes("compensated")
            await eventually(lambda: len(told) == 7)
    finally:
        clear_hooks()

    why = "taken back by an operator: a mistake"
    assert told[2:] == [
        ("completed", "charge", None), ("triggered", "ship", why), ("completed", "ship", why),
        ("triggered", "reserve", why), ("completed", "reserve", why),
    ]  # fmt: skip
    raised = [record for record in caplog.records if record.message == "hook_raised"]
    assert [record.__dict__["step"] for record in raised] == ["reserve", "charge"]


async def test_the_life_of_a_saga_is_published_to_the_exchange_with_its_steps(run: Run, database: str) -> None:
    """features: 134"""
    async with at_ship(database, run, lifecycle=True) as told:
        await told.answer(3)
        await told.becomes("completed")

        await eventually(lambda: len([sent for sent in told.h.sent if sent.destination == EVENTS]) == 2)
        events = [sent for sent in told.h.sent if sent.destination == EVENTS]
        rows = await told.h.query("SELECT unnest(sent_ids) AS id FROM saga_worker.v_journal")
    assert [(event.exchange, event.routing_key, event.mandatory) for event in events] == [
        ("saga.events", "account.started", False), ("saga.events", "account.completed", False),
    ]  # fmt: skip
    assert from_json(events[1].body)["key"] == "7"
    assert {event.message_id for event in events} <= {row["id"] for row in rows}


async def test_a_program_has_a_saga_taken_back_and_asks_what_was_undone(run: Run, database: str) -> None:
    """features: 47; 48"""
    async with at_ship(database, run) as told, Client(source="desk") as client:
        saga = shop()
        await client.mark_undone(saga, "7", "charge", why="refunded by hand")
        await client.compensate(saga, "7", why="a mistake")
        await told.answer(4)
        await told.answer(5)
        await told.becomes("compensated")

        undone = [await client.was_undone(saga, "7", step) for step in ("reserve", "charge", "ship")]
        assert undone == [True, True, True]
        assert await client.was_undone(saga, "8", "reserve") is False
        with pytest.raises(ValueError, match="has no step pay"):
            await client.was_undone(saga, "7", "pay")
        with pytest.raises(NotTaken, match="it has ended") as refused:
            await client.compensate(saga, "7", why="again")
        assert refused.value.reason == "saga_finished"
        with pytest.raises(NotTaken, match="There is no saga account/8"):
            await client.compensate(saga, "8", why="a mistake")
    assert await asyncio.to_thread(audit, database) == [
        {"actor": "desk", "action": action, "target": "saga/account/7", "reason": why}
        for action, why in (("mark_undone", "refunded by hand"), ("compensate", "a mistake"), ("compensate", "again"))
    ]


async def test_a_program_is_told_when_no_worker_decides(run: Run, database: str) -> None:
    async with at_ship(database, run) as told, Client() as client:
        await told.h.pool.stop()

        with pytest.raises(NotDecided, match="it is stored and will be"):
            await client.compensate(shop(), "7", why="a mistake", timeout=0.2)


@pytest.mark.parametrize("command", ["compensate", "cancel"])
def test_what_cannot_be_taken_back_wants_a_reason(run: Run, database: str, command: str) -> None:
    assert run("saga", command, "account/7").code == 2


def test_a_saga_that_is_not_there_is_named(run: Run, database: str) -> None:
    ran = run("saga", "pause", "account/7")

    assert ran.code == 1 and "There is no saga account/7" in ran.err
