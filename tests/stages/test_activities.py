"""Activities on a real database: claim, lease, epoch, cancel, retries, fates, late results, groups; in both modes."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from saga_worker import ActivityContext, Retry, TerminalError, Undo, activity_rows, workers
from saga_worker.activity_rows import Attempt, Ended
from saga_worker.saga.routing import command_id, ref_of
from saga_worker.testing import eventually
from tests.stages.own_work_harness import Stages, TripAsked, TripDropped, World, event, stages, trip_saga

ASKED = event(TripAsked(trip="t"), "t", "1")
DROPPED = event(TripDropped(trip="t"), "t", "2")
REF = ref_of("trip", "t")
SEAT = command_id(REF, 2)
AT_ONCE = Retry.fixed(3, timedelta(0))
RUNNING_SEAT = "SELECT * FROM saga_worker.v_activity WHERE step = 'seat' AND state = 'running'"

modes = pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])


class Gate:
    """A call that waits until the test lets it end."""

    def __init__(self, answer: str = "1A") -> None:
        self.answer = answer
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self.was_cancelled = False

    async def __call__(self, step: str, ctx: ActivityContext) -> str:
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return self.answer


class Stubborn(Gate):
    """A call that cannot be cancelled: the request is on the wire."""

    async def __call__(self, step: str, ctx: ActivityContext) -> str:
        self.entered.set()
        waiting = asyncio.ensure_future(self.opened.wait())
        while not waiting.done():
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                self.was_cancelled = True
        return self.answer


@modes
async def test_a_saga_of_activities_runs_to_its_end_and_leaves_no_activity(database_url: str, fast: bool) -> None:
    """features: 2, 12"""
    world = World()
    async with stages(database_url, trip_saga(world), fast=fast) as s:
        await s.store(ASKED)
        saga = await s.until_status("completed")

        assert world.names() == ["fare", "seat", "ticket"]
        assert '"cents":101' in str(saga["state"]).replace(" ", "")
        assert await s.query("TABLE saga_worker.activity") == []
        kinds = await s.query("SELECT input_kind, source FROM saga_worker.v_journal ORDER BY revision")
        assert [(r["input_kind"], r["source"]) for r in kinds] == [("event", "test")] + [("activity", "activity")] * 3
        assert {ctx.attempt for _, ctx in world.calls} == {1}
        assert [ctx.idempotency_key for _, ctx in world.calls] == [command_id(REF, n) for n in (1, 2, 3)]
        assert {ctx.saga_key for _, ctx in world.calls} == {"t"}


@modes
async def test_what_raises_is_tried_again_under_the_same_key(database_url: str, fast: bool) -> None:
    """features: 31, 35"""
    world = World()

    async def third_time(step: str, ctx: ActivityContext) -> str:
        if ctx.attempt < 3:
            raise ConnectionError("down")
        return "9C"

    world.ends["seat"] = third_time
    async with stages(database_url, trip_saga(world, retry=AT_ONCE), fast=fast) as s:
        await s.store(ASKED)
        await s.until_status("completed")

    seats = [ctx for step, ctx in world.calls if step == "seat"]
    assert [ctx.attempt for ctx in seats] == [1, 2, 3]
    assert {ctx.idempotency_key for ctx in seats} == {SEAT}


@modes
async def test_a_terminal_error_is_not_tried_again_and_its_words_are_the_reason(database_url: str, fast: bool) -> None:
    """features: 35, 44"""
    world = World()

    async def full(step: str, ctx: ActivityContext) -> str:
        raise TerminalError("the train is full")

    world.ends["seat"] = full
    async with stages(database_url, trip_saga(world, retry=AT_ONCE), fast=fast) as s:
        await s.store(ASKED)
        saga = await s.until_status("compensated")

    assert saga["reason"] == "seat failed: the train is full"
    assert world.names() == ["fare", "seat"]  # nothing was done, so there is nothing to take back
    assert saga["unsettled"] == 0


async def test_a_failure_that_is_handled_lets_the_saga_go_on(database_url: str) -> None:
    world = World()

    async def full(step: str, ctx: ActivityContext) -> str:
        raise TerminalError("full")

    world.ends["seat"] = full
    async with stages(database_url, trip_saga(world, handles_failure=True)) as s:
        await s.store(ASKED)
        saga = await s.until_status("completed")
    assert "full after 1" in str(saga["state"])


async def test_a_hybrid_step_whose_attempts_all_raised_is_taken_back(database_url: str) -> None:
    """features: 41, 146"""
    world = World()

    async def fails(step: str, ctx: ActivityContext) -> str:
        raise ConnectionError("reset while reading")  # it may have been done

    world.ends["seat"] = fails
    async with stages(database_url, trip_saga(world, retry=AT_ONCE)) as s:
        await s.store(ASKED)
        saga = await s.until_status("compensated")
    assert world.names() == ["fare", "seat", "seat", "seat", "free"]
    assert (saga["unsettled"], saga["attention"]) == (0, None)


async def test_a_strict_step_whose_attempts_all_raised_is_not_taken_back(database_url: str) -> None:
    """features: 42"""
    world = World()

    async def fails(step: str, ctx: ActivityContext) -> str:
        raise ConnectionError("refused")

    world.ends["seat"] = fails
    async with stages(database_url, trip_saga(world, retry=AT_ONCE, undo=Undo.STRICT)) as s:
        await s.store(ASKED)
        saga = await s.until_status("compensated")
    assert "free" not in world.names()
    assert saga["unsettled"] == 0


@modes
async def test_an_attempt_that_takes_too_long_counts_as_unknown(database_url: str, fast: bool) -> None:
    """features: 34, 53"""
    world = World()
    gate = Gate()
    world.ends["seat"] = gate
    async with stages(database_url, trip_saga(world, timeout=0.05), fast=fast) as s:
        await s.store(ASKED)
        saga = await s.until_status("compensated")

    assert gate.was_cancelled
    assert str(saga["reason"]).startswith("seat may have worked, but nobody knows: no result within 0.05 s")
    assert world.names() == ["fare", "seat", "free"]


async def test_a_strict_step_that_timed_out_is_unsettled(database_url: str) -> None:
    world = World()
    world.ends["seat"] = Gate()
    async with stages(database_url, trip_saga(world, timeout=0.05, undo=Undo.STRICT)) as s:
        await s.store(ASKED)
        saga = await s.until_status("compensated")
        assert saga["unsettled"] == 1
        assert "free" not in world.names()
        assert await s.query("SELECT 1 FROM saga_worker.v_timer WHERE name = 'watch:2'")


@modes
async def test_a_cancelled_saga_waits_for_the_running_attempt_before_it_takes_back(
    database_url: str, fast: bool
) -> None:
    """The undo of an attempt that is still on the wire would come too early."""
    world = World()
    call = Stubborn()
    world.ends["seat"] = call
    async with stages(database_url, trip_saga(world), fast=fast) as s:
        await s.store(ASKED)
        await s.until(RUNNING_SEAT)
        await call.entered.wait()

        await s.store(DROPPED)
        await s.until("SELECT 1 FROM saga_worker.v_activity WHERE undoes = 2 AND state = 'ready'")
        async with s.database.transaction() as connection:
            assert await activity_rows.claim(connection, s.worker_id, ["trip/1"], 10) == []
        assert "free" not in world.names()

        call.opened.set()
        await s.until_status("compensated")
        assert world.names() == ["fare", "seat", "free"]
        assert list(world.effects.values())[-2:] == ["seat", "free"]
        assert (await s.query("SELECT unsettled FROM saga_worker.v_saga"))[0]["unsettled"] == 0


async def test_a_cancelled_activity_that_never_ran_is_not_run(database_url: str) -> None:
    world = World()
    async with stages(database_url, trip_saga(world), runs=False) as s:
        await s.store(ASKED)
        await s.until("SELECT 1 FROM saga_worker.v_activity WHERE state = 'ready'")
        await s.store(DROPPED)
        await s.until_status("compensated")
        assert (await s.query("SELECT state FROM saga_worker.v_activity"))[0]["state"] == "cancelled"
        async with s.database.transaction() as connection:
            assert await activity_rows.claim(connection, s.worker_id, ["trip/1"], 10) == []


@modes
async def test_a_strict_step_runs_on_when_its_saga_turns_back_and_its_success_is_taken_back(
    database_url: str, fast: bool
) -> None:
    world = World()
    gate = Gate("7F")
    world.ends["seat"] = gate
    async with stages(database_url, trip_saga(world, undo=Undo.STRICT), fast=fast) as s:
        await s.store(ASKED)
        await gate.entered.wait()
        await s.store(DROPPED)
        assert (await s.until_status("compensated"))["unsettled"] == 1

        gate.opened.set()
        await s.until("SELECT 1 FROM saga_worker.v_saga WHERE unsettled = 0")
    assert world.names() == ["fare", "seat", "free"]
    assert not gate.was_cancelled


# -- leases and epochs ------------------------------------------------------------------------------------------------


async def claimed_seat(s: Stages) -> Attempt:
    """The seat, in the hands of a worker that does not answer."""
    async with s.database.transaction() as connection:
        return (await activity_rows.claim(connection, s.worker_id, ["trip/1"], 10))[0]


async def answer(s: Stages, attempt: Attempt, value: bytes = b'{"number":"Z"}') -> list[str]:
    """The zombie comes back with its result; the types of the inbox rows that this makes."""
    async with s.database.transaction() as connection:
        rows = await activity_rows.settle(connection, [Ended(attempt, value=value)])
    return [f"{row.message_id}={row.type}" for row in rows]


async def to_seat(s: Stages) -> None:
    """Up to the seat, by hand."""
    await s.store(ASKED)
    await s.until("SELECT 1 FROM saga_worker.v_activity WHERE step = 'fare'")
    async with s.database.transaction() as connection:
        fare = (await activity_rows.claim(connection, s.worker_id, ["trip/1"], 10))[0]
        rows = await activity_rows.settle(connection, [Ended(fare, value=b'{"cents":5}')])
    await s.store(*rows)
    await s.until("SELECT 1 FROM saga_worker.v_activity WHERE step = 'seat'")


async def test_a_zombie_has_no_say_after_its_activity_was_handed_out_again(database_url: str) -> None:
    """features: 58; M8"""
    async with stages(database_url, trip_saga(World(), retry=AT_ONCE), runs=False) as s:
        await to_seat(s)
        zombie = await claimed_seat(s)
        await s.end_lease()
        await s.sweep()

        again = await claimed_seat(s)
        assert (again.key, again.number) == (zombie.key, 2)
        assert again.epoch > zombie.epoch
        assert await answer(s, zombie) == []
        assert await answer(s, again) == [f"activity:{SEAT}=activity_done"]
        assert await answer(s, again) == []  # one result ever


async def test_an_activity_whose_workers_all_died_has_an_unknown_outcome(database_url: str) -> None:
    world = World()
    async with stages(database_url, trip_saga(world), runs=False) as s:
        await to_seat(s)
        zombie = await claimed_seat(s)
        await s.end_lease()
        await s.sweep()

        saga = await s.until_status("compensating")
        assert "nobody knows" in str(saga["reason"])
        assert await answer(s, zombie) == [f"activity:{SEAT}:late=activity_done"]


async def test_the_late_success_of_a_strict_step_is_taken_back_after_the_end(database_url: str) -> None:
    async with stages(database_url, trip_saga(World(), undo=Undo.STRICT), runs=False) as s:
        await to_seat(s)
        zombie = await claimed_seat(s)
        await s.end_lease()
        await s.sweep()
        assert (await s.until_status("compensated"))["unsettled"] == 1

        async with s.database.transaction() as connection:
            rows = await activity_rows.settle(connection, [Ended(zombie, value=b'{"number":"Z"}')])
        await s.store(*rows)
        undo = await s.until("SELECT * FROM saga_worker.v_activity WHERE undoes = 2")
        assert undo[0]["state"] == "ready"
        assert '"Z"' in str((await s.query("SELECT state FROM saga_worker.v_saga"))[0]["state"])


async def test_an_attempt_that_hangs_past_its_time_is_handed_out_again(database_url: str) -> None:
    """features: 34, 53"""
    async with stages(database_url, trip_saga(World(), retry=AT_ONCE), runs=False) as s:
        await to_seat(s)
        hung = await claimed_seat(s)
        await s.lost.sweep()
        assert await s.query(RUNNING_SEAT)  # its worker lives, and its time is not over

        await s.query("UPDATE saga_worker.activity SET timeout_at = now() - interval '1 minute'")
        await s.lost.sweep()
        assert (await claimed_seat(s)).number == 2
        assert await answer(s, hung) == []


async def test_two_claims_never_get_the_same_activity(database_url: str) -> None:
    """features: 60"""
    async with stages(database_url, trip_saga(World()), runs=False) as s:
        await s.store(*(event(TripAsked(trip=f"k{n}"), f"k{n}", f"m{n}") for n in range(100)))
        await s.until("SELECT 1 FROM saga_worker.activity HAVING count(*) = 100")

        async def claims() -> list[Attempt]:
            async with s.database.transaction() as connection:
                return await activity_rows.claim(connection, s.worker_id, ["trip/1"], 30)

        found = [attempt for batch in await asyncio.gather(*(claims() for _ in range(4))) for attempt in batch]
        assert len(found) == len({attempt.key for attempt in found}) == 100


# -- bounds and groups ------------------------------------------------------------------------------------------------


async def test_no_more_run_at_a_time_than_the_settings_and_the_step_say(database_url: str) -> None:
    world = World()
    gates = {"fare": Gate(), "seat": Gate()}
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()

    async def counted(step: str, ctx: ActivityContext) -> str:
        running[step] += 1
        most[step] = max(most[step], running[step])
        answer = await gates[step](step, ctx)
        running[step] -= 1
        return answer

    world.ends |= {"fare": counted, "seat": counted}
    async with stages(database_url, trip_saga(world, concurrency=2), concurrency=5) as s:
        await s.store(*(event(TripAsked(trip=f"k{n}"), f"k{n}", f"m{n}") for n in range(40)))
        await eventually(lambda: running["fare"] == 5)
        gates["fare"].opened.set()
        await eventually(lambda: running["seat"] == 2)
        gates["seat"].opened.set()
        await s.until("SELECT 1 FROM saga_worker.v_saga WHERE status = 'completed' HAVING count(*) = 40")
    assert most == {"fare": 5, "seat": 2}


async def test_a_saga_goes_on_in_its_slot_while_others_wait_for_one(database_url: str) -> None:
    """features: M14"""
    world = World()
    gate = Gate()
    world.ends["fare"] = gate
    async with stages(database_url, trip_saga(world), concurrency=1) as s:
        await s.store(*(event(TripAsked(trip=f"k{n}"), f"k{n}", f"m{n}") for n in range(3)))
        await s.until("SELECT 1 FROM saga_worker.v_activity WHERE state = 'ready' HAVING count(*) = 2")
        gate.opened.set()
        await s.until("SELECT 1 FROM saga_worker.v_saga WHERE status = 'completed' HAVING count(*) = 3")

    assert world.names() == ["fare", "seat", "ticket"] * 3


async def test_results_that_come_together_are_committed_together(database_url: str) -> None:
    groups: list[int] = []
    world = World()
    gate = Gate()
    world.ends["fare"] = gate
    async with stages(database_url, trip_saga(world), on_results=lambda group: groups.append(len(group))) as s:
        await s.store(*(event(TripAsked(trip=f"k{n}"), f"k{n}", f"m{n}") for n in range(50)))
        await s.until("SELECT 1 FROM saga_worker.v_activity WHERE state = 'running' HAVING count(*) = 50")
        await eventually(lambda: len(world.calls) == 50)
        gate.opened.set()
        await s.until("SELECT 1 FROM saga_worker.v_saga WHERE status = 'completed' HAVING count(*) = 50")
    assert sum(groups) == 150
    assert groups[0] == 50
    assert len(groups) < 15


async def test_a_worker_that_ends_gives_back_what_still_runs(database_url: str) -> None:
    world = World()
    gate = Gate()
    world.ends["seat"] = gate
    async with stages(database_url, trip_saga(world)) as s:
        await s.store(ASKED)
        await gate.entered.wait()
        await s.activities.stop(0.05)

        left = (await s.query("SELECT state, attempts FROM saga_worker.v_activity"))[0]
        assert (left["state"], left["attempts"]) == ("ready", 0)  # it does not count: no try is lost by a deploy
        assert gate.was_cancelled
        world.ends.clear()
    async with stages(database_url, trip_saga(world)) as s:
        await s.until_status("completed")
    assert len({ctx.idempotency_key for step, ctx in world.calls if step == "seat"}) == 1


async def test_what_must_not_be_repeated_is_not_begun_anew_after_a_worker_has_ended(database_url: str) -> None:
    """features: 49"""
    world = World()
    gate = Gate()
    world.ends["seat"] = gate
    saga = trip_saga(world, retry=Retry.fixed(5, timedelta(0)), repeatable=False)
    async with stages(database_url, saga) as s:
        await s.store(ASKED)
        await gate.entered.wait()
        await s.activities.stop(0.05)
        assert gate.was_cancelled
        world.ends.clear()
    async with stages(database_url, saga) as s:
        await s.until_status("compensated")

    assert world.names().count("seat") == 1
    assert world.names()[-1] == "free"  # it may have worked, so it is taken back


async def test_what_must_not_be_repeated_is_not_run_again_when_it_raises(database_url: str) -> None:
    """features: 49"""
    world = World()

    async def refused(step: str, ctx: ActivityContext) -> str:
        raise ConnectionError("refused")

    world.ends["seat"] = refused
    async with stages(database_url, trip_saga(world, retry=Retry.fixed(5, timedelta(0)), repeatable=False)) as s:
        await s.store(ASKED)
        await s.until_status("compensated")

    assert world.names().count("seat") == 1


async def test_a_worker_that_ends_waits_for_what_is_nearly_done(database_url: str) -> None:
    world = World()
    gate = Gate("2B")
    world.ends["seat"] = gate
    async with stages(database_url, trip_saga(world)) as s:
        await s.store(ASKED)
        await gate.entered.wait()
        stopping = asyncio.create_task(s.activities.stop(60))
        asyncio.get_running_loop().call_soon(gate.opened.set)  # behind the first step of the stop
        await stopping
        rows = await s.query("SELECT step FROM saga_worker.v_activity WHERE state = 'ready'")
        assert [row["step"] for row in rows] == ["ticket"]


async def test_a_saga_that_lost_its_lease_leaves_its_activities_to_others(database_url: str) -> None:
    world = World()
    gate = Gate()
    world.ends["seat"] = gate
    async with stages(database_url, trip_saga(world, retry=AT_ONCE)) as s:
        await s.store(ASKED)
        await gate.entered.wait()
        await s.end_lease()
        await s.sweep()
        s.activities.drop()
        world.ends.clear()
        async with s.database.transaction() as connection:
            s.worker_id = await workers.register(connection, ["trip/1"], "test", 2)
        await s.until_status("completed")
    assert world.names().count("seat") == 2
