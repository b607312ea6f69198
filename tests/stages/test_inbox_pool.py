"""The pool and the orchestrator on a real database: order, parking, back-off, dead rows, suspects, refused writes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from saga_worker import inbox, workers
from saga_worker.faults import InjectedFault
from saga_worker.inbox import DeadFilter
from saga_worker.inbox_pool import PoolSettings
from saga_worker.saga.fold import Limits
from saga_worker.saga.retry import Retry
from saga_worker.saga.routing import ref_of
from saga_worker.sql.connection import Connection
from saga_worker.sweepers import ExpiredLeases
from saga_worker.workers import Intent
from tests.stages.pool_harness import CardSent, Closed, Deposited, Opened, account_saga, harness, reply, row

Eventually = Callable[..., Awaitable[Any]]

AT_ONCE = Limits(attempts=Retry.fixed(3, timedelta(0)))


async def test_a_saga_runs_from_start_to_end(database_url: str) -> None:
    async with harness(database_url) as h:
        await h.store(row(Opened(account="a"), "a", message_id="1"))
        await h.drain()
        await h.store(reply(CardSent(number="7"), h.sent[0].message_id, "a", message_id="2"))
        await h.store(row(Closed(account="a"), "a", message_id="3"))
        await h.drain()

        saga = (await h.query("SELECT * FROM saga_worker.v_saga"))[0]
        assert (saga["status"], saga["revision"], saga["key"]) == ("completed", 3, "a")
        assert await h.states() == ["done", "done", "done"]
        journal = await h.query("SELECT * FROM saga_worker.v_journal ORDER BY revision")
        assert [j["input_kind"] for j in journal] == ["event", "reply", "event"]
        assert journal[0]["sent_ids"] == [h.sent[0].message_id]


async def test_events_that_come_before_their_saga_are_parked_and_taken_up_by_its_start(database_url: str) -> None:
    """features: M2"""
    async with harness(database_url) as h:
        await h.store(*(row(Deposited(account="a", cents=n), "a", message_id=f"d{n}") for n in (1, 2, 3)))
        await h.drain()
        assert await h.states() == ["parked"] * 3

        await h.store(row(Opened(account="a"), "a", message_id="o"))
        await h.drain()

        assert await h.states() == ["done"] * 4
        assert await h.deposits("a") == [1, 2, 3]


async def test_rows_of_one_saga_are_applied_in_their_order_by_many_loops(database_url: str) -> None:
    """features: 7, 69; M37"""
    async with harness(database_url) as h:
        keys = [f"k{n}" for n in range(20)]
        await h.store(*(row(Opened(account=key), key, message_id=f"o{key}") for key in keys))
        for n in range(10):
            await h.store(*(row(Deposited(account=key, cents=n), key, message_id=f"{key}:{n}") for key in keys))
        refs = [ref_of("account", key) for key in keys]

        async def hammer(slot: int) -> None:
            chosen = random.sample(refs, len(refs))
            await h.orchestrator.advance(chosen)
            await h.orchestrator.advance(refs)

        await asyncio.gather(*(hammer(slot) for slot in range(6)))
        await h.drain()

        assert all([await h.deposits(key) == list(range(10)) for key in keys])


async def test_a_handler_that_raises_is_retried_then_dead_and_holds_what_comes_behind(database_url: str) -> None:
    """features: M4"""
    async with harness(database_url, account_saga(breaks_at=2), limits=AT_ONCE) as h:
        await h.store(row(Opened(account="a"), "a", message_id="o"))
        await h.store(*(row(Deposited(account="a", cents=n), "a", message_id=f"d{n}") for n in (1, 2, 3)))
        await h.store(row(Opened(account="b"), "b", message_id="ob"))
        await h.drain()

        rows = await h.query("SELECT * FROM saga_worker.v_inbox ORDER BY id")
        assert [r["state"] for r in rows] == ["done", "done", "dead", "held", "done"]
        assert (rows[2]["reason"], rows[2]["attempts"], rows[3]["reason"]) == ("handler_error", 3, "behind_dead")
        dead = (await h.query("SELECT * FROM saga_worker.v_dead"))[0]
        assert "this release cannot count so far" in str(dead["error"])
        attention = await h.query("SELECT attention FROM saga_worker.v_saga WHERE key = 'a'")
        assert attention[0]["attention"] == "dead_letter"


async def test_a_replayed_row_is_applied_once_and_frees_what_stood_behind_it(database_url: str) -> None:
    """features: M26"""
    async with harness(database_url, account_saga(breaks_at=2), limits=AT_ONCE) as broken:
        await broken.store(row(Opened(account="a"), "a", message_id="o"))
        await broken.store(*(row(Deposited(account="a", cents=n), "a", message_id=f"d{n}") for n in (1, 2, 3)))
        await broken.drain()
    async with harness(database_url, limits=AT_ONCE) as fixed:
        async with fixed.database.transaction() as connection:
            replayed = await inbox.replay(connection, DeadFilter(reason="handler_error"), actor="test")
        await fixed.drain()

        assert len(replayed.ids) == 1
        assert await fixed.deposits("a") == [1, 2, 3]
        assert await fixed.states() == ["done"] * 4
        saga = (await fixed.query("SELECT attention FROM saga_worker.v_saga"))[0]
        assert saga["attention"] is None


async def test_a_hint_that_comes_during_a_look_brings_the_next_one_forward(
    database_url: str, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    claim, looks = inbox.claim, 0

    async def claim_and_hear(*arguments: Any) -> inbox.Claimed:
        nonlocal looks
        looks += 1
        claimed = await claim(*arguments)
        if looks == 1:  # too late for this look
            await h.store(row(Opened(account="a"), "a", message_id="o"))
            h.pool.look()
        return claimed

    async with harness(database_url, pool=PoolSettings(concurrency=1, poll_seconds=600)) as h:
        monkeypatch.setattr("saga_worker.inbox_pool.inbox.claim", claim_and_hear)
        h.pool.start()

        async def is_applied() -> bool:
            return await h.states() == ["done"]

        await eventually(is_applied)
        await h.pool.stop()


async def test_a_dead_start_keeps_what_follows_parked_until_it_is_replayed(database_url: str) -> None:
    saga = account_saga()
    start = saga.starts["opened"]
    broken = account_saga()
    broken.starts["opened"] = replace(start, handler=lambda event: 1 / 0)  # type: ignore[arg-type,return-value]
    async with harness(database_url, broken, limits=AT_ONCE) as h:
        await h.store(row(Opened(account="a"), "a", message_id="o"))
        await h.store(row(Deposited(account="a", cents=1), "a", message_id="d"))
        await h.drain()
        rows = await h.query("SELECT * FROM saga_worker.v_inbox ORDER BY id")
        assert [r["state"] for r in rows] == ["dead", "parked"]
        assert (rows[1]["reason"], rows[1]["expires_at"]) == ("behind_dead", None)
    async with harness(database_url, saga) as h:
        async with h.database.transaction() as connection:
            await inbox.replay(connection, DeadFilter(), actor="test")
        await h.drain()

        assert await h.deposits("a") == [1]


async def test_a_suspect_runs_alone_and_is_buried_after_its_last_crash(database_url: str) -> None:
    async with harness(database_url, limits=Limits(crashes=2)) as h:
        stored = await h.store(
            row(Opened(account="a"), "a", message_id="o"), row(Deposited(account="a", cents=1), "a", message_id="d")
        )
        suspect = stored.outcomes[0].id
        assert suspect is not None
        for _ in range(3):  # the first death makes it a suspect, the next two count as crashes
            async with h.database.transaction() as connection:
                dying = await workers.register(connection, [], "dying", 2, lease_seconds=-1)
                await workers.write_intent(connection, dying, 0, Intent([suspect], alone=True))
                assert await workers.expire(connection) == [dying]
                await workers.mark_suspects(connection, [dying])
                await workers.forget(connection, [dying])
        await h.drain()

        rows = await h.query("SELECT state, reason, crashes FROM saga_worker.v_inbox ORDER BY id")
        assert (rows[0]["state"], rows[0]["reason"], rows[0]["crashes"]) == ("dead", "worker_killed", 2)
        assert rows[1]["state"] == "parked"


@pytest.mark.parametrize(("alone_deaths", "state"), [(0, "done"), (1, "done"), (2, "dead")])
async def test_what_a_worker_died_of_runs_alone_before_its_lease_is_over(
    database_url: str, alone_deaths: int, state: str
) -> None:
    """Workers that are restarted at once would die of it again and again until the first lease is over."""
    async with harness(database_url, limits=Limits(crashes=2)) as h:
        stored = await h.store(row(Opened(account="a"), "a", message_id="o"))
        (outcome,) = stored.outcomes
        assert outcome.id is not None
        async with h.database.transaction() as connection:
            for alone in (False, *[True] * alone_deaths):
                dead = await workers.register(connection, [], "dead, with a lease", 2)
                await workers.write_intent(connection, dead, 0, Intent([outcome.id], alone=alone))
            if alone_deaths:
                await connection.raw.execute("UPDATE saga_worker.inbox SET suspect = true")
        announced: list[Intent] = []
        first = await h.orchestrator.advance([ref_of("account", "a")], announce=_noting(announced))
        assert first.suspects == {ref_of("account", "a")}

        await h.drain()

        (stands,) = await h.query("SELECT state, crashes FROM saga_worker.v_inbox")
        assert stands == {"state": state, "crashes": alone_deaths}
        assert await h.query("SELECT FROM saga_worker.intent WHERE ids <> '{}' AND worker_id <> $1", h.worker_id) == []


def _noting(announced: list[Intent]) -> Callable[[Intent], Awaitable[None]]:
    async def announce(intent: Intent) -> None:
        announced.append(intent)

    return announce


async def test_what_was_committed_is_sent_though_the_word_cannot_be_taken_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness(database_url, account_saga(breaks_at=1)) as h:
        await h.store(row(Opened(account="a"), "a", message_id="o"))
        await h.store(row(Deposited(account="a", cents=1), "a", message_id="d"))
        write = workers.write_intent

        async def fails(connection: Connection, worker_id: int, slot: int, intent: Intent) -> None:
            if intent == Intent():
                raise OSError("the connection is lost")
            await write(connection, worker_id, slot, intent)

        monkeypatch.setattr(workers, "write_intent", fails)
        with pytest.raises(OSError, match="lost"):
            await h.pool.advance([ref_of("account", "a")], slot=0)

        assert [sent.seq for sent in h.sent] == [1]


async def test_who_leaves_rows_ready_takes_its_word_back(database_url: str) -> None:
    async with harness(database_url, account_saga(breaks_at=1)) as h:
        await h.store(row(Opened(account="a"), "a", message_id="o"))
        await h.store(row(Deposited(account="a", cents=1), "a", message_id="d"))
        await h.pool.advance([ref_of("account", "a")], slot=0)

        assert "ready" in await h.states()
        assert await h.query("SELECT ids FROM saga_worker.intent") == [{"ids": []}]


async def test_a_suspect_that_does_not_kill_is_applied_with_what_stands_behind_it(database_url: str) -> None:
    async with harness(database_url) as h:
        await h.store(row(Opened(account="a"), "a", message_id="o"))
        await h.store(*(row(Deposited(account="a", cents=n), "a", message_id=f"d{n}") for n in (1, 2)))
        await h.query("UPDATE saga_worker.inbox SET suspect = true")
        await h.drain()

        assert await h.deposits("a") == [1, 2]
        assert await h.query("SELECT FROM saga_worker.inbox WHERE suspect") == []


async def test_a_write_that_the_database_refuses_costs_only_the_guilty_saga(database_url: str) -> None:
    """features: M5"""
    async with harness(database_url, limits=AT_ONCE) as h:
        await h.query("ALTER TABLE saga_worker.saga ADD CONSTRAINT no_b CHECK (key <> 'b')")
        await h.store(*(row(Opened(account=key), key, message_id=key) for key in "abcdef"))
        await h.drain()

        rows = await h.query("SELECT saga_key, state, reason FROM saga_worker.v_inbox ORDER BY id")
        assert {r["saga_key"]: r["state"] for r in rows} == {k: "dead" if k == "b" else "done" for k in "abcdef"}
        assert rows[1]["reason"] == "handler_error"


async def test_a_compensated_saga_ignores_what_comes_later(database_url: str) -> None:
    async with harness(database_url) as h:
        await h.store(row(Opened(account="a"), "a", message_id="o"))
        await h.store(row(Deposited(account="a", cents=-1), "a", message_id="d"))
        await h.drain()
        undo = h.sent[-1]
        assert undo.type == "block_card"
        from saga_worker import Done

        await h.store(reply(Done(), undo.message_id, "a", message_id="r"))
        await h.store(row(Deposited(account="a", cents=5), "a", message_id="d2"))
        await h.drain()

        rows = await h.query("SELECT state, reason FROM saga_worker.v_inbox ORDER BY id")
        assert [(r["state"], r["reason"]) for r in rows][-1] == ("ignored", "saga_finished")
        saga = (await h.query("SELECT status, unsettled, reason FROM saga_worker.v_saga"))[0]
        assert (saga["status"], saga["unsettled"], saga["reason"]) == ("compensated", 0, "enough")


async def test_a_timer_that_workers_died_of_becomes_suspect_runs_alone_and_waits_for_an_operator(
    database_url: str,
) -> None:
    ref, timer = ref_of("account", "a"), "timeout:1:2"
    quick = account_saga(timeout=timedelta(milliseconds=1))
    async with harness(database_url, quick, limits=Limits(crashes=1)) as h:
        await h.store(row(Opened(account="a"), "a", message_id="o"))
        await h.orchestrator.advance([ref])

        async def dies(intent: Intent) -> None:
            async with h.database.autocommit() as connection:
                dying = await workers.register(connection, [], "dying", 2, lease_seconds=-1)
                await workers.write_intent(connection, dying, 0, intent)
            assert list(intent.timers) == [(ref, timer)]
            raise InjectedFault

        for alone in (False, True):
            with pytest.raises(InjectedFault):
                await h.orchestrator.advance([ref], announce=dies, alone=alone)
            await ExpiredLeases(h.database, h.pool).sweep()
            told = await h.orchestrator.advance([ref])
            assert told.suspects == (set() if alone else {ref})
            assert [e.input_kind for change in told.changes for e in change.journal] == ["operator"]

        saga = (await h.query("SELECT attention FROM saga_worker.v_saga"))[0]
        assert saga["attention"] == "timer_failed: timeout:1: 1 workers died of it, alone"
        await h.orchestrator.advance([ref])
        assert len(await h.query("SELECT FROM saga_worker.v_journal WHERE input_kind = 'timer'")) == 0


async def test_a_suspect_waits_until_no_other_code_of_an_author_can_kill_the_process(database_url: str) -> None:
    async with harness(database_url) as h:
        await h.store(row(Opened(account="a"), "a", message_id="1"), row(Opened(account="b"), "b", message_id="2"))
        others_run, let_others_go, suspect_runs = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def others(intent: Intent) -> None:
            others_run.set()
            await let_others_go.wait()

        async def suspect(intent: Intent) -> None:
            suspect_runs.set()

        batch = asyncio.create_task(h.orchestrator.advance([ref_of("account", "a")], announce=others))
        await others_run.wait()
        alone = asyncio.create_task(h.orchestrator.advance([ref_of("account", "b")], announce=suspect, alone=True))
        late = asyncio.create_task(h.orchestrator.take_in([row(Opened(account="c"), "c", message_id="3")]))
        running = asyncio.create_task(suspect_runs.wait())
        too_early, _ = await asyncio.wait({late, running}, timeout=0.3, return_when=asyncio.FIRST_COMPLETED)
        assert not too_early

        let_others_go.set()
        await asyncio.gather(batch, alone, late, running)

        assert await h.states() == ["done"] * 3
