"""The stories in `definitions/` that branch, loop and sleep, each through a whole worker on real servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.flow.records import Records
from tests.flow.wire import Wire
from tests.flow.workers import DEFINITIONS, Workers

Eventually = Callable[..., Awaitable[Any]]
MODEL: dict[str, Any] = {"deployment": "d-1", "model": "ranker", "version": 7}
SERVING: dict[str, Any] = {
    "start_canary": ("canary_started", {"endpoint": "http://canary"}),
    "check_health": ("health", {"healthy": True}),
    "roll_out": ("rolled_out", {"replicas": 3}),
}


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A story whose hours and months last for fractions of a second."""
    for name, seconds in (
        ("DEPLOYMENT_SECONDS_BETWEEN_CHECKS", "0.1"),
        ("DEPLOYMENT_SOAK_SECONDS", "0.5"),
        ("APPROVAL_REMIND_SECONDS", "0.3"),
        ("SUBSCRIPTION_MONTH_SECONDS", "0.3"),
        ("SUBSCRIPTION_DUNNING_SECONDS", "0.2"),
    ):
        monkeypatch.setenv(name, seconds)
    return lambda name: Path(shutil.copy(DEFINITIONS / f"{name}.py", tmp_path))


async def ended(records: Records, eventually: Eventually, key: str, name: str, status: str) -> dict[str, Any]:
    async def has_ended() -> bool:
        assert await records.status(key, name) == status
        return True

    await eventually(has_ended)
    saga = await records.saga(key, name)
    assert saga is not None
    return saga


# -- model deployment ---------------------------------------------------------------------------------------------


async def test_a_healthy_model_goes_everywhere_and_the_old_one_is_retired(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, quick: Callable[[str], Path]
) -> None:
    await workers.start(quick("model_deployment"))
    wire.serve(SERVING)
    await wire.publish("model_approved", MODEL, id="m-1")

    deployed = await wire.next("model_deployed")
    saga = await ended(records, eventually, "d-1", "model_deployment", "completed")

    assert deployed.data == {"deployment": "d-1", "replicas": {"eu": 3, "us": 3}}
    assert (wire.count("check_health"), wire.count("roll_out"), wire.count("retire_old")) == (3, 2, 1)
    assert wire.count("roll_back") == wire.count("stop_canary") == saga["unsettled"] == 0


async def test_a_canary_that_stays_ill_is_stopped(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, quick: Callable[[str], Path]
) -> None:
    await workers.start(quick("model_deployment"))
    wire.serve(SERVING | {"check_health": ("health", {"healthy": False})})
    await wire.publish("model_approved", MODEL, id="m-1")

    saga = await ended(records, eventually, "d-1", "model_deployment", "compensated")

    assert saga["reason"] == "the loop until the canary is well has gone through all its rounds"
    assert (wire.count("check_health"), wire.count("stop_canary"), wire.count("roll_out")) == (20, 1, 0)


async def test_a_region_without_room_takes_the_other_one_back(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, quick: Callable[[str], Path]
) -> None:
    """features: 163; L2, L4"""
    await workers.start(quick("model_deployment"))
    await wire.publish("model_approved", MODEL, id="m-1")
    await wire.obey("start_canary", "canary_started", endpoint="http://canary")
    for _ in range(3):
        await wire.obey("check_health", "health", healthy=True)
    first, second = await wire.next("roll_out"), await wire.next("roll_out")  # both are out before either is answered
    await wire.answer(first, "rolled_out", {"replicas": 2})
    await wire.answer(second, "no_capacity", {"region": second.data["region"]})
    back = await wire.obey("roll_back", "done")
    await wire.obey("stop_canary", "done")

    saga = await ended(records, eventually, "d-1", "model_deployment", "compensated")

    assert {first.data["region"], second.data["region"]} == {"eu", "us"}
    assert back.headers["saga-undoes"] == first.id
    assert (wire.count("roll_back"), saga["reason"]) == (1, f"no room in {second.data['region']}")


async def test_an_alarm_in_the_soak_rolls_both_regions_back_beside_each_other(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, quick: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """features: 163; L4"""
    monkeypatch.setenv("DEPLOYMENT_SOAK_SECONDS", "600")
    await workers.start(quick("model_deployment"))
    await wire.publish("model_approved", MODEL, id="m-1")
    await wire.obey("start_canary", "canary_started", endpoint="http://canary")
    for _ in range(3):
        await wire.obey("check_health", "health", healthy=True)
    for _ in range(2):
        await wire.obey("roll_out", "rolled_out", replicas=2)

    async def soaks() -> bool:
        return await records.status("d-1", "model_deployment") == "waiting"

    await eventually(soaks)
    await wire.publish("alarm_raised", {"deployment": "d-1", "alarm": "latency"}, id="a-1")
    backs = [await wire.next("roll_back"), await wire.next("roll_back")]  # neither waits for the other's answer
    for back in backs:
        await wire.answer(back, "done")
    await wire.obey("stop_canary", "done")

    saga = await ended(records, eventually, "d-1", "model_deployment", "compensated")
    assert saga["reason"] == "alarm: latency"


# -- approval chain -----------------------------------------------------------------------------------------------


async def test_two_of_the_board_are_enough_and_a_yes_may_come_early(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, quick: Callable[[str], Path]
) -> None:
    """features: 72, 143"""
    await workers.start(quick("approval_chain"))
    wire.serve({"pay_out": ("paid", {"transfer": "t"})})
    claim = {"claim": "c-1", "approved": True}
    await wire.publish("finance_decided", claim | {"who": "fay"}, id="f-1")  # before the claim: parked
    await wire.publish("expense_claimed", {"claim": "c-1", "by": "ann", "cents": 2_000_000}, id="e-1")
    reminder = await wire.next("decision_wanted")
    await wire.publish("lead_decided", claim | {"who": "leo"}, id="l-1")
    await wire.publish("chair_decided", claim | {"who": "cho"}, id="b-1")
    await wire.publish("secretary_decided", claim | {"who": "sue"}, id="b-2")

    paid = await wire.next("claim_paid")
    await ended(records, eventually, "c-1", "approval_chain", "completed")
    await wire.publish("treasurer_decided", claim | {"who": "tom"}, id="b-3")

    async def too_late() -> bool:
        return (await records.fates()).get("b-3") == "ignored: saga_finished"

    await eventually(too_late)
    assert reminder.data == {"claim": "c-1", "seat": "lead", "cents": 2_000_000}
    assert paid.data == {"claim": "c-1", "cents": 2_000_000, "approved_by": ["leo", "fay", "cho", "sue"]}


async def test_one_no_ends_the_claim(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, quick: Callable[[str], Path]
) -> None:
    await workers.start(quick("approval_chain"))
    await wire.publish("expense_claimed", {"claim": "c-2", "by": "ann", "cents": 100}, id="e-2")
    await wire.publish("lead_decided", {"claim": "c-2", "approved": False, "who": "leo"}, id="l-2")

    saga = await ended(records, eventually, "c-2", "approval_chain", "compensated")

    assert (saga["reason"], wire.count("pay_out")) == ("refused by leo", 0)


# -- subscription renewal -----------------------------------------------------------------------------------------


async def test_a_subscription_is_charged_month_by_month_until_it_is_cancelled(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, quick: Callable[[str], Path]
) -> None:
    await workers.start(quick("subscription_renewal"))
    wire.serve({"charge_month": ("charged", {"payment": "p"})})
    await wire.publish("subscription_ordered", {"subscription": "s-1", "plan": "tea", "cents": 900}, id="o-1")
    for _ in range(3):
        await wire.next("charge_month")
    await wire.publish("subscription_cancelled", {"subscription": "s-1"}, id="c-1")

    over = await wire.next("subscription_ended")
    await ended(records, eventually, "s-1", "subscription_renewal", "completed")

    months = [heard.data["month"] for heard in wire.heard if heard.type == "charge_month"]
    assert months == list(range(1, len(months) + 1)) and over.data["months_paid"] == len(months) >= 3
    assert (wire.count("grant_access"), wire.count("end_access"), wire.count("revoke_access")) == (1, 1, 0)


async def test_a_month_that_stays_unpaid_takes_the_access_back(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, quick: Callable[[str], Path]
) -> None:
    await workers.start(quick("subscription_renewal"))
    wire.serve({"charge_month": ("declined", {"code": "expired"})})
    await wire.publish("subscription_ordered", {"subscription": "s-2", "plan": "tea", "cents": 900}, id="o-2")

    saga = await ended(records, eventually, "s-2", "subscription_renewal", "compensated")

    assert saga["reason"] == "the loop until it is paid has gone through all its rounds"
    assert (wire.count("payment_overdue"), wire.count("charge_month"), wire.count("revoke_access")) == (3, 4, 1)


# -- own work beside a wait ---------------------------------------------------------------------------------------

RACE = """
import asyncio

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from saga_worker import ActivityContext, Event, Saga, Undo, Verdict, minutes, parallel


class RaceAsked(Event):
    key: str


class RaceHurried(Event):
    key: str


class Found(BaseModel): ...


class Race(BaseModel):
    key: str
    noted: list[str] = []


race = Saga("race", state=Race, deadline=minutes(10))


@race.starts_on(RaceAsked, key=lambda e: e.key)
def asked(event: RaceAsked) -> Race:
    return Race(key=event.key)


@race.activity(timeout=minutes(5))
async def look_far(state: Race, ctx: ActivityContext) -> Found:
    await asyncio.Event().wait()  # until it is cancelled
    return Found()


@look_far.undo
async def forget(state: Race, ctx: ActivityContext) -> None:
    return None


@race.local(undo=Undo.NONE)
async def note_one(state: Race, session: AsyncSession) -> Verdict:
    await session.execute(text("SELECT 1"))
    state.noted.append("one")
    return None


@race.local(undo=Undo.NONE)
async def note_two(state: Race, session: AsyncSession) -> Verdict:
    state.noted.append("two")
    return None


hurry = race.wait("hurry")


@hurry.on(RaceHurried, key=lambda e: e.key)
def hurried(state: Race, event: RaceHurried) -> Verdict:
    return None


race.flow(parallel(note_one, note_two), parallel(look_far, hurry, join="any"))
"""


OPEN_TRANSACTIONS: Final = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""


async def test_own_work_runs_in_branches_and_an_activity_that_lost_is_cancelled_and_undone(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, tmp_path: Path
) -> None:
    """features: 56, L2"""
    (tmp_path / "race.py").write_text(RACE)
    await workers.start(tmp_path / "race.py")
    await wire.publish("race_asked", {"key": "r"}, id="r-1")

    async def runs() -> bool:
        return bool(await records.value("SELECT count(*) = 1 FROM saga_worker.v_activity WHERE step = 'look_far'"))

    async def no_transaction_is_open() -> bool:
        return bool(await records.value(OPEN_TRANSACTIONS) == 0)

    await eventually(runs)
    await eventually(no_transaction_is_open)  # while the activity runs
    await wire.publish("race_hurried", {"key": "r"}, id="r-2")

    saga = await ended(records, eventually, "r", "race", "completed")

    async def settled() -> bool:
        return bool((await records.saga("r", "race") or {})["unsettled"] == 0)

    await eventually(settled)
    assert sorted(json.loads(saga["state"])["noted"]) == ["one", "two"]
    assert await records.value("SELECT count(*) FROM saga_worker.v_activity WHERE state IN ('ready', 'running')") == 0
