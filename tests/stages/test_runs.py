"""Further runs of a key in the database: one open saga at most, the ended ones kept, their ends known to who waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from saga_worker import SecondStart, inbox, instances
from saga_worker.admin.check import verify
from saga_worker.client import Accepted, Client, StartRefused
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.routing import ref_of
from saga_worker.saga.transitions import Status
from saga_worker.settings import Settings
from saga_worker.sql.connection import Database
from tests.stages.jobs import Crew, Job, JobAsked, JobDone, Packed, crew, job_saga
from tests.stages.pool_harness import row
from tests.stages.stored_rows import ORDER, PausingConnection, applied, keep, saga, two_sessions

Eventually = Callable[..., Awaitable[Any]]
RUNS = "SELECT saga_id, ref IS NULL AS is_earlier, status, seq FROM saga_worker.saga ORDER BY started_at"


async def holds(database_url: str) -> list[str]:
    verdicts = await verify(Settings(database_url=database_url))
    return [f"{v.promise.id}: {', '.join(v.examples)}" for v in verdicts if not v.holds]


async def finish(c: Crew, box: str, *, seq: int) -> None:
    await c.answer(Packed(box=box), "a", seq=seq)
    await c.say(JobDone(job="a"))


@pytest.mark.parametrize("policy", [SecondStart.RESTART, SecondStart.QUEUE])
async def test_the_next_run_of_a_key_and_the_history_of_the_last(database_url: str, policy: SecondStart) -> None:
    """features: 55, 68"""
    definition, asked = job_saga(second_start=policy)
    async with crew(database_url, definition) as c:
        first = await c.client.start(asked, JobAsked(job="a", cents=1))
        await finish(c, "one", seq=1)
        one = await first.ended(30)
        second = await c.client.start(asked, JobAsked(job="a", cents=2))
        present = await c.client.get(definition, "a")
        await finish(c, "two", seq=2)
        two = await second.ended(30)

        assert present is not None and present.saga_id == two.saga_id != one.saga_id
        assert ((one.state.cents, one.state.box), (two.state.cents, two.state.box)) == ((1, "one"), (2, "two"))
        assert await first.ended(30) == one
        runs = await c.harness.query(RUNS)
        assert [(r["saga_id"], r["is_earlier"], r["seq"]) for r in runs] == [(one.saga_id, True, 1), (two.saga_id, False, 2)]  # fmt: skip  # noqa: E501
        journal = await c.harness.query(
            "SELECT revision, to_status, sent_ids FROM saga_worker.v_journal WHERE saga_id = $1 ORDER BY revision",
            one.saga_id,
        )
        assert [(r["revision"], r["to_status"]) for r in journal] == [(1, "running"), (2, "waiting"), (3, "completed")]
    assert await holds(database_url) == []


async def test_an_answer_to_the_last_run_does_nothing_to_the_next(database_url: str, eventually: Eventually) -> None:
    """features: 55, 89"""
    definition, asked = job_saga(second_start=SecondStart.RESTART)
    async with crew(database_url, definition) as c:
        first = await c.client.start(asked, JobAsked(job="a"))
        await finish(c, "one", seq=1)
        await first.ended(30)
        await c.client.start(asked, JobAsked(job="a"))
        await c.answer(Packed(box="one"), "a", seq=1)

        async def is_known() -> bool:
            found = await c.harness.query("SELECT state, reason FROM saga_worker.v_inbox ORDER BY id DESC LIMIT 1")
            return (found[0]["state"], found[0]["reason"]) == ("ignored", "earlier_run")

        await eventually(is_known)
        present = await c.client.get(definition, "a")
        assert present is not None and (present.status, present.state.box) == (Status.RUNNING, None)
    assert await holds(database_url) == []


async def test_queued_starts_take_their_turns_one_after_the_other(database_url: str, eventually: Eventually) -> None:
    """features: 55; L3"""
    definition, asked = job_saga(second_start=SecondStart.QUEUE)
    async with crew(database_url, definition) as c:
        runs = [await c.client.start(asked, JobAsked(job="a", cents=number)) for number in range(4)]
        assert [await run.accepted() for run in runs] == [Accepted.STARTED, *[Accepted.QUEUED] * 3]
        ends = []
        for number, run in enumerate(runs):

            async def has_begun(number: int = number) -> bool:
                present = await c.client.get(definition, "a")
                return present is not None and present.state.cents == number

            await eventually(has_begun)
            await finish(c, f"box {number}", seq=number + 1)
            ends.append(await run.ended(30))

        assert [(end.state.cents, end.state.box) for end in ends] == [(n, f"box {n}") for n in range(4)]
        assert len({end.saga_id for end in ends}) == 4
        assert set(await c.harness.states()) == {"done"}
    assert await holds(database_url) == []


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (SecondStart.JOIN, {Accepted.STARTED: 1, Accepted.JOINED: 19}),
        (SecondStart.RESTART, {Accepted.STARTED: 1, "duplicate_start": 19}),
        (SecondStart.QUEUE, {Accepted.STARTED: 1, Accepted.QUEUED: 19}),
    ],
)
async def test_of_many_starts_at_once_one_makes_a_run(
    database_url: str, policy: SecondStart, told: dict[str, int]
) -> None:
    """features: 55, 66, 164; M3"""
    definition, asked = job_saga(second_start=policy)
    async with crew(database_url, definition) as c:
        runs = await asyncio.gather(*(c.client.send(asked, JobAsked(job="a")) for _ in range(20)))
        words = await asyncio.gather(*(run.accepted(30) for run in runs), return_exceptions=True)

        assert Counter(w.reason if isinstance(w, StartRefused) else w for w in words) == told
        assert len(await c.harness.query(RUNS)) == 1
    assert await holds(database_url) == []


async def test_both_callers_of_a_saga_that_is_joined_get_the_same_end(database_url: str) -> None:
    """features: 66; L22"""
    definition, asked = job_saga(second_start=SecondStart.JOIN)
    async with crew(database_url, definition) as c:
        first = await c.client.start(asked, JobAsked(job="a", cents=1))
        second = await c.client.start(asked, JobAsked(job="a", cents=2))
        await finish(c, "one", seq=1)
        third = await c.client.start_and_wait(asked, JobAsked(job="a", cents=3), timeout=30)

        assert await first.ended(30) == await second.ended(30) == third
        assert third.state.cents == 1
    assert await holds(database_url) == []


# -- the window of an idempotency key -------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [SecondStart.RESTART, SecondStart.REJECT])
async def test_an_idempotency_key_is_free_again_after_its_window(database_url: str, policy: SecondStart) -> None:
    """features: 67"""
    definition, asked = job_saga(second_start=policy)
    window = timedelta(days=14)
    async with crew(database_url, definition) as c:

        async def start(client: Client) -> Any:
            return await client.start(asked, JobAsked(job="a"), idempotency_key="i-1")

        async def pass_time(by: timedelta) -> None:
            """What has ended and was stored is so much older now; then the retention looks."""
            for table, column in (("inbox", "received_at"), ("inbox", "settled_at"), ("saga", "finished_at")):
                await c.harness.query(f"UPDATE saga_worker.{table} SET {column} = {column} - $1::interval", by)
            async with c.harness.database.transaction() as conn:
                assert await inbox.retain(conn, window)
            async with c.harness.database.transaction() as conn:
                await instances.retain(conn, window)

        first = await start(c.client)
        await finish(c, "one", seq=1)
        one = await first.ended(30)
        await c.harness.query("DELETE FROM saga_worker.outbox")  # the broker has confirmed it
        await pass_time(window - timedelta(hours=1))
        inside = await start(c.client)
        assert (inside.is_repeat, (await inside.ended(30)).saga_id) == (True, one.saga_id)

        await pass_time(timedelta(hours=2))
        if policy is SecondStart.REJECT:
            with pytest.raises(StartRefused, match="already"):  # the saga itself is kept for another window
                await start(c.client)
            await pass_time(window)
        after = await start(c.client)
        present = await c.client.get(definition, "a")

        assert not after.is_repeat
        assert present is not None and (present.saga_id != one.saga_id, present.has_ended) == (True, False)
    assert await holds(database_url) == []


# -- the race -------------------------------------------------------------------------------------------------------


async def test_who_looks_while_the_next_run_begins_finds_that_run_or_nobody(database_url: str) -> None:
    """The row of the ended run gives up its ref, and another row takes it, between two looks of somebody else."""
    async with Database(database_url, max_size=4) as database:
        ended = saga(status=Status.COMPLETED, finished_at=saga().updated_at)
        await keep(database, ended)
        next_run = replace(saga(), seq=5)
        change = SagaChange(ORDER, before=ended, after=next_run, journal=[applied(1)])
        async with two_sessions(database) as (beginning, looking):
            await instances.lock(beginning.conn, [ORDER])
            await instances.save(beginning.conn, [change], worker_id=7)
            assert (await instances.lock(looking.conn, [ORDER])).busy == {ORDER}
            locked = await instances.lock(PausingConnection(looking.conn, "lock_gaps", beginning.commit), [ORDER])

            assert (locked.found, locked.absent) == ({ORDER: next_run}, frozenset())


async def test_a_start_on_the_fast_path_begins_the_next_run(database_url: str) -> None:
    """features: 55"""
    definition, _ = job_saga(second_start=SecondStart.RESTART)
    async with crew(database_url, definition, works=False) as c:
        for number in (1, 2):
            event = JobAsked(job="a", cents=number)
            await c.harness.orchestrator.take_in([row(event, "a", message_id=f"s{number}", definition="job")])
            if number == 1:
                await c.answer(Packed(box="one"), "a", seq=1)
                await c.say(JobDone(job="a"))
                await c.harness.orchestrator.advance([ref_of("job", "a")])

        assert await c.harness.states() == ["done"] * 4
        runs = await c.harness.query(RUNS)
        assert [(r["is_earlier"], r["status"]) for r in runs] == [(True, 3), (False, 0)]
        snapshot = await c.client.get(definition, "a")
        assert snapshot is not None and snapshot.state == Job(job="a", cents=2)
    assert await holds(database_url) == []


async def test_an_end_and_the_next_start_in_one_batch_are_two_transactions(database_url: str) -> None:
    """features: 55"""
    definition, _ = job_saga(second_start=SecondStart.RESTART)
    async with crew(database_url, definition, works=False) as c:
        take_in = c.harness.orchestrator.take_in
        await take_in([row(JobAsked(job="a"), "a", message_id="s1", definition="job")])
        await c.answer(Packed(box="one"), "a", seq=1)
        await c.harness.orchestrator.advance([ref_of("job", "a")])
        taken = await take_in(
            [
                row(JobDone(job="a"), "a", message_id="d1", definition="job"),
                row(JobAsked(job="a", cents=2), "a", message_id="s2", definition="job"),
            ]
        )
        assert await c.harness.states() == ["done", "done", "done", "ready"]
        assert taken.later == {ref_of("job", "a")}
        await c.harness.orchestrator.advance([ref_of("job", "a")])

        assert await c.harness.states() == ["done"] * 4
        assert [r["is_earlier"] for r in await c.harness.query(RUNS)] == [True, False]
    assert await holds(database_url) == []
