"""Sagas that a program starts through the client: stored at once, applied by a worker, and waited for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from saga_worker import Done, Event, Retry
from saga_worker.client import Accepted, Client, NotDecided, StartRefused, StillOpen, tracing
from saga_worker.saga.errors import ConfigurationError, QueryRefused
from saga_worker.saga.fold import Limits
from saga_worker.saga.transitions import Status
from saga_worker.settings import Settings
from tests.stages.jobs import Crew, Delivered, Job, JobAsked, JobDone, Packed, crew, delivered, job_saga


class Cost(BaseModel):
    cents: int


Eventually = Callable[..., Awaitable[Any]]


async def test_a_program_starts_a_saga_and_gets_its_end(database_url: str) -> None:
    """features: 54, 145; L22"""
    saga, asked = job_saga()
    async with crew(database_url, saga) as c:
        run = await c.client.start(asked, JobAsked(job="a", cents=5))
        open_ = await c.client.get(saga, "a")
        await c.answer(Packed(box="7"), "a", seq=1)
        await c.say(JobDone(job="a"))
        ended = await run.ended(timeout=30)

        assert (run.key, str(run), run.is_repeat) == ("a", "job/a", False)
        assert open_ is not None and (open_.status, open_.has_ended) == (Status.RUNNING, False)
        assert (ended.saga_id, ended.status, ended.is_completed) == (open_.saga_id, Status.COMPLETED, True)
        assert (ended.state.box, ended.state.cents, ended.reason, ended.unsettled) == ("7", 5, None, 0)


async def test_a_failure_is_an_end_as_well(database_url: str, eventually: Eventually) -> None:
    """features: L22"""
    saga, asked = job_saga()
    async with crew(database_url, saga) as c:
        waiting = asyncio.create_task(c.client.start_and_wait(asked, JobAsked(job="a"), timeout=30))
        await eventually(lambda: c.client.get(saga, "a"))
        await c.answer(Packed(box="7"), "a", seq=1)
        await c.say(JobDone(job="a", well=False))

        async def compensates() -> bool:
            found = await c.client.get(saga, "a")
            return found is not None and found.status is Status.COMPENSATING

        await eventually(compensates)
        await c.answer(Done(), "a", seq=2)
        ended = await waiting

        assert (ended.status, ended.reason, ended.is_completed) == (Status.COMPENSATED, "badly done", False)


async def test_a_program_asks_a_saga_and_sends_it_a_signal(database_url: str) -> None:
    """features: 70, 72"""
    saga, asked = job_saga()

    @saga.query
    def cost(job: Job) -> Cost:
        return Cost(cents=job.cents)

    async with crew(database_url, saga) as c:
        early = await c.client.signal(saga, JobDone(job="a"))  # before there is a saga
        with pytest.raises(QueryRefused, match="There is no saga job/a"):
            await c.client.ask(cost, "a")
        run = await c.client.start(asked, JobAsked(job="a", cents=5))
        answer: Cost = await c.client.ask(cost, "a")
        await c.answer(Packed(box="7"), "a", seq=1)
        ended = await run.ended(timeout=30)
        taken = await c.client.events(saga, "a")

        assert [event.type for event in taken] == ["job_asked", "job_done"]
        assert early.row_id is not None
        assert (answer, ended.status) == (Cost(cents=5), Status.COMPLETED)


async def test_a_declared_result_comes_with_the_end(database_url: str) -> None:
    """features: L22"""
    saga, asked = job_saga(result=delivered)
    async with crew(database_url, saga) as c:
        run = await c.client.start(asked, JobAsked(job="a", cents=5))
        open_ = await c.client.get(saga, "a")
        await c.answer(Packed(box="7"), "a", seq=1)
        await c.say(JobDone(job="a"))
        ended = await run.ended(timeout=30)

        assert open_ is not None and open_.result is None
        assert ended.result == Delivered(box="7", cents=5)


async def test_a_signal_is_sent_with_the_transaction_of_the_applications_own_session(
    database_url: str, eventually: Eventually
) -> None:
    """features: 72, 122"""
    saga, _ = job_saga()
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://"))
    sessions = async_sessionmaker(engine)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE jobs (name text)"))

    async def order(c: Crew, job: str, *, commits: bool) -> None:
        async with sessions() as session:
            await session.execute(text("INSERT INTO jobs VALUES (:job)"), {"job": job})
            sent = await c.client.signal(saga, JobAsked(job=job), message_id=job, session=session)
            assert sent.row_id is not None
            assert await c.client.get(saga, job) is None  # nobody has seen it yet
            await (session.commit() if commits else session.rollback())

    async with crew(database_url, saga) as c:
        await order(c, "lost", commits=False)
        await order(c, "kept", commits=True)
        found = await eventually(lambda: c.client.get(saga, "kept"))
        rows = await c.harness.query("SELECT saga_key FROM saga_worker.inbox")
        jobs = await c.harness.query("SELECT name FROM jobs")
    await engine.dispose()

    assert found.status is Status.RUNNING
    assert ([row["saga_key"] for row in rows], [job["name"] for job in jobs]) == (["kept"], ["kept"])


async def test_many_wait_at_a_time_with_one_statement_for_a_look(database_url: str, eventually: Eventually) -> None:
    """features: L22"""
    saga, asked = job_saga()
    keys = [f"k{number}" for number in range(40)]
    async with crew(database_url, saga) as c:
        waiting = [asyncio.create_task(c.client.start_and_wait(asked, JobAsked(job=k), timeout=60)) for k in keys]
        for key in keys:
            await eventually(lambda key=key: c.client.get(saga, key))
            await c.answer(Packed(box=key), key, seq=1)
            await c.say(JobDone(job=key))
        ended = await asyncio.gather(*waiting)

        assert [each.state.box for each in ended] == keys


async def test_a_saga_goes_on_with_the_trace_of_the_call(database_url: str) -> None:
    """features: 123, 161"""
    saga, asked = job_saga()
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with crew(database_url, saga) as c:
        with tracing({"host": "shop", "traceparent": parent, "tracestate": "a=1"}):
            await c.client.start(asked, JobAsked(job="traced"))
            with tracing({"traceparent": "no such thing"}):
                await c.client.start(asked, JobAsked(job="invalid"))
            sent = await c.client.signal(saga, JobDone(job="early"))
        await c.client.start(asked, JobAsked(job="none"))

        rows = await c.harness.query("SELECT key, trace_id FROM saga_worker.v_saga")
        assert {row["key"]: row["trace_id"] for row in rows} == {"traced": parent[3:35], "invalid": None, "none": None}
        (early,) = await c.harness.query("SELECT trace_id FROM saga_worker.v_inbox WHERE id = $1", sent.row_id)
        assert early["trace_id"] == parent[3:35]
        (command,) = await c.harness.query(
            "SELECT convert_from(props, 'UTF8')::jsonb -> 'headers' ->> 'tracestate' AS state FROM saga_worker.outbox"
            " WHERE position('traceparent'::bytea IN props) > 0"
        )
        assert command["state"] == "a=1"


# -- idempotency ----------------------------------------------------------------------------------------------------


async def test_the_same_idempotency_key_is_the_same_start(database_url: str) -> None:
    """features: 66, 67"""
    saga, asked = job_saga()
    async with crew(database_url, saga) as c:
        first = await c.client.start(asked, JobAsked(job="a"), idempotency_key="i-1")
        second = await c.client.start(asked, JobAsked(job="a"), idempotency_key="i-1")
        await c.answer(Packed(box="7"), "a", seq=1)
        await c.say(JobDone(job="a"))
        one, two = await first.ended(30), await second.ended(30)

        assert (first.is_repeat, second.is_repeat) == (False, True)
        assert await second.accepted() is Accepted.STARTED
        assert one == two
        assert len(await c.harness.query("SELECT FROM saga_worker.saga")) == 1


async def test_another_event_under_the_same_idempotency_key_is_refused_and_not_stored(database_url: str) -> None:
    """features: 67"""
    saga, asked = job_saga()
    async with crew(database_url, saga) as c:
        await c.client.start(asked, JobAsked(job="a"), idempotency_key="i-1")
        with pytest.raises(StartRefused, match="i-1") as refused:
            await c.client.send(asked, JobAsked(job="a", cents=7), idempotency_key="i-1")

        assert refused.value.reason == "id_reused"
        assert await c.harness.states() == ["done"]


async def test_keys_of_two_programs_are_not_the_same(database_url: str) -> None:
    saga, asked = job_saga()
    async with crew(database_url, saga) as c, Client(Settings(database_url=database_url), source="desk") as desk:
        await c.client.start(asked, JobAsked(job="a"), idempotency_key="i-1")
        other = await desk.start(asked, JobAsked(job="b"), idempotency_key="i-1")

        assert not other.is_repeat


# -- refusals -------------------------------------------------------------------------------------------------------


async def test_of_fifty_starts_at_once_under_ids_of_their_own_one_makes_a_saga(
    database_url: str, eventually: Eventually
) -> None:
    """features: 55, 66, 164"""
    saga, asked = job_saga()
    async with crew(database_url, saga) as c:
        event = JobAsked(job="a")
        runs = await asyncio.gather(*(c.client.send(asked, event) for _ in range(50)))
        told = await asyncio.gather(*(run.accepted(30) for run in runs), return_exceptions=True)

        words = Counter(t if isinstance(t, Accepted) else t.reason for t in told if isinstance(t, (str, StartRefused)))
        assert words == {Accepted.STARTED: 1, "duplicate_start": 49}
        assert [r["key"] for r in await c.harness.query("SELECT key FROM saga_worker.v_saga")] == ["a"]
        await eventually(lambda: [message.type for message in c.harness.sent] == ["pack"])


async def test_a_start_that_cannot_be_one_is_refused_before_it_is_stored(database_url: str) -> None:
    """features: 86, 87"""
    saga, asked = job_saga()
    stranger, _ = job_saga("stranger")

    class Another(Event, type="job_asked"):
        job: str

    async with crew(database_url, saga) as c:
        for attempt, reason in (
            (c.client.send(saga, JobDone(job="a")), "not_a_start"),
            (c.client.send(saga, Another(job="a")), "not_a_start"),
            (c.client.send(asked, JobAsked(job="")), "bad_key"),
            (c.client.send(asked, JobAsked(job="a" * 300)), "bad_key"),
            (c.client.send_raw(saga, "job_asked", b'{"job": "a", "cents": "many"}'), "schema_mismatch"),
            (c.client.send_raw(saga, "job_asked", b"{"), "invalid_json"),
            (c.client.send(stranger, JobAsked(job="a")), "no_definition"),
            (c.client.send(asked, JobAsked(job="a"), idempotency_key="a\nb"), "invalid_message_id"),
        ):
            with pytest.raises(StartRefused) as refused:
                await attempt
            assert refused.value.reason == reason

        assert await c.harness.states() == []


async def test_a_start_whose_code_fails_for_good_is_refused_with_its_error(database_url: str) -> None:
    """features: 86"""
    saga, asked = job_saga()
    async with crew(database_url, saga, limits=Limits(attempts=Retry.none())) as c:
        run = await c.client.send(asked, JobAsked(job="a", cents=-1))
        with pytest.raises(StartRefused, match="less than nothing") as refused:
            await run.ended(30)

        assert refused.value.reason == "handler_error"


async def test_what_is_sent_is_kept_until_a_worker_runs(database_url: str) -> None:
    """features: 54"""
    saga, asked = job_saga()
    async with crew(database_url, saga, works=False) as c:
        run = await c.client.send(asked, JobAsked(job="a"))
        with pytest.raises(NotDecided, match="Is a worker running"):
            await run.accepted(0.05)
        with pytest.raises(StillOpen):
            await run.ended(0.05)
        assert await c.harness.states() == ["ready"]

        c.harness.pool.start()
        assert await run.accepted(30) is Accepted.STARTED


async def test_a_client_needs_the_database_and_its_tables(empty_database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        Client(Settings())
    with pytest.raises(Exception, match="db upgrade"):
        async with Client(Settings(database_url=empty_database_url)):
            pass
