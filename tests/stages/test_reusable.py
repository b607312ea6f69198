"""Reusable activities on a real database: what is recorded outlives the worker, and one object serves many sagas."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import from_json

from saga_worker import Activity, ActivityContext, Event, Retry, Saga, TerminalError, WaitFor, activity, days, seconds
from saga_worker.saga.placed import PlacedStep
from tests.stages.own_work_harness import Stages, event, stages


class Ordered(Event):
    order: str
    cents: int = 100


class Order(BaseModel):
    order: str
    cents: int


class Charge(BaseModel):
    order: str
    cents: int


class Charged(BaseModel):
    payment: str


class Parcel(BaseModel):
    paid_by: str


class Shipped(BaseModel):
    tracking: str


class Gateway:
    """What is outside: told by the activities that were given it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int]] = []
        self.opened = asyncio.Event()
        self.opened.set()
        self.keys: set[str] = set()
        self.undo_hangs = False


class Card(Activity[Charge, Charged], timeout=seconds(30)):
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def execute(self, inp: Charge, ctx: ActivityContext) -> Charged:
        await self.gateway.opened.wait()
        self.gateway.keys.add(ctx.idempotency_key)
        self.gateway.told.append(("charged", inp.order, inp.cents))
        return Charged(payment=f"p-{inp.order}")

    async def compensate(self, inp: Charge, out: Charged) -> None:
        if self.gateway.undo_hangs:
            await asyncio.Event().wait()
        self.gateway.told.append(("gave back", out.payment, inp.cents))


class Carrier(Activity[Parcel, Shipped], timeout=seconds(30)):
    """Fails for good where it was told to."""

    def __init__(self, gateway: Gateway, *, refuses: bool = False) -> None:
        self.gateway = gateway
        self.refuses = refuses

    async def execute(self, inp: Parcel) -> Shipped:
        self.gateway.told.append(("ship", inp.paid_by, 0))
        if self.refuses:
            raise TerminalError("no carrier")
        return Shipped(tracking=f"t-{inp.paid_by}")


def shop(name: str, card: Activity[Charge, Charged], carrier: Carrier) -> Saga[Order]:
    saga = Saga(name, state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    charge = saga.step(card, input=lambda order: Charge(order=order.order, cents=order.cents))
    ship = saga.step(carrier, after=charge, input=lambda charged: Parcel(paid_by=charged.payment))
    saga.flow(charge, ship)
    return saga


async def progress(s: Stages, key: str) -> dict[str, Any]:
    text = (
        "SELECT convert_from(progress, 'UTF8')::json #>> '{recorded}' AS recorded FROM saga_worker.saga WHERE key = $1"
    )
    return (await s.query(text, key))[0]


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])
async def test_a_class_is_a_step(database_url: str, fast: bool) -> None:
    """features: 1, 7, 10"""
    gateway = Gateway()
    async with stages(database_url, shop("shop", Card(gateway), Carrier(gateway)), fast=fast) as s:
        await s.store(event(Ordered(order="a"), "a", "1", consumer="shop"))
        await s.until_status("completed", "a")

        assert gateway.told == [("charged", "a", 100), ("ship", "p-a", 0)]
        assert await progress(s, "a") == {"recorded": None}, "nobody will ask for it any more"


async def test_compensation_gets_what_was_recorded_also_from_another_worker(database_url: str) -> None:
    """features: 3, 7, 146"""
    gateway, later = Gateway(), Gateway()
    saga = shop("shop", Card(gateway), Carrier(gateway, refuses=True))
    async with stages(database_url, saga) as s:
        gateway.undo_hangs = True
        await s.store(event(Ordered(order="a", cents=7), "a", "1", consumer="shop"))
        await s.until("SELECT * FROM saga_worker.v_activity WHERE step = 'card' AND undoes = 1 AND state = 'running'")
        await s.end_lease()
    assert [what for what, *_ in gateway.told] == ["charged", "ship"]

    async with stages(database_url, shop("shop", Card(later), Carrier(later))) as s:
        await s.sweep()
        saga_row = await s.until_status("compensated", "a")

        assert later.told == [("gave back", "p-a", 7)]
        assert saga_row["reason"] == "carrier failed: no carrier"
        assert await progress(s, "a") == {"recorded": None}


async def test_one_object_serves_many_sagas_of_two_definitions_at_once(database_url: str) -> None:
    """features: 7"""
    gateway = Gateway()
    gateway.opened.clear()
    card, carrier = Card(gateway), Carrier(gateway)
    async with stages(database_url, shop("shop", card, carrier), shop("kiosk", card, carrier)) as s:
        keys = [f"o{n}" for n in range(20)]
        await s.store(
            *(
                event(Ordered(order=f"{where}-{key}", cents=n), f"{where}-{key}", key, consumer=where)
                for where in ("shop", "kiosk")
                for n, key in enumerate(keys)
            )
        )
        await s.until("SELECT 1 FROM saga_worker.v_activity WHERE state = 'running' HAVING count(*) = 40")
        gateway.opened.set()
        await s.until("SELECT 1 FROM saga_worker.v_saga WHERE status = 'completed' HAVING count(*) = 40")

        orders = {(f"{where}-{key}", n) for where in ("shop", "kiosk") for n, key in enumerate(keys)}
        assert {(order, cents) for what, order, cents in gateway.told if what == "charged"} == orders
        assert {paid for what, paid, _ in gateway.told if what == "ship"} == {f"p-{order}" for order, _ in orders}
        assert len(gateway.keys) == len(gateway.told) / 2 == 40


# -- waiting, failing in part, bad input ----------------------------------------------------------------------------


class Answered(Event, type="x.ok"):
    order: str
    by: str


class Asking(Activity[Charge, Charged], timeout=seconds(30)):
    def __init__(self) -> None:
        self.seen: list[tuple[str | None, dict[str, Any] | None]] = []
        self.keys: list[str] = []

    async def execute(
        self, inp: Charge, ctx: ActivityContext, event_type: str | None = None,
        event_payload: dict[str, Any] | None = None,
    ) -> Charged | WaitFor:  # fmt: skip
        self.seen.append((event_type, event_payload))
        self.keys.append(ctx.idempotency_key)
        if event_payload is None:
            return WaitFor(Answered, timeout=days(1))
        return Charged(payment=event_payload["by"])

    async def compensate(self, inp: Charge, out: Charged | None) -> None: ...


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])
@pytest.mark.parametrize("early", [True, False], ids=["early", "in time"])
async def test_an_activity_is_entered_again_with_the_event_it_waits_for(
    database_url: str, fast: bool, early: bool
) -> None:
    """features: 2, 72, 170"""
    asking, gateway = Asking(), Gateway()
    saga = shop("shop", asking, Carrier(gateway))
    step = saga.steps["asking"]
    assert isinstance(step, PlacedStep)
    step.resumes_on(Answered, key=lambda e: e.order)
    answer = event(Answered(order="a", by="visa"), "a", "2", consumer="shop")
    async with stages(database_url, saga, fast=fast) as s:
        if early:
            await s.store(answer)
        await s.store(event(Ordered(order="a"), "a", "1", consumer="shop"))
        if not early:
            await s.until_status("waiting", "a")
            await s.store(answer)
        await s.until_status("completed", "a")

        assert asking.seen == [(None, None), ("x.ok", {"order": "a", "by": "visa"})]
        assert len(set(asking.keys)) == 2, "each entry may send requests of its own"
        assert gateway.told == [("ship", "visa", 0)]
        assert await progress(s, "a") == {"recorded": None}
        assert await s.query("TABLE saga_worker.activity") == []


async def test_one_that_waits_goes_on_in_another_worker(database_url: str) -> None:
    """features: 2, 29, 167"""
    asking, later, gateway = Asking(), Asking(), Gateway()
    sagas = [shop("shop", work, Carrier(gateway)) for work in (asking, later)]
    for saga in sagas:
        step = saga.steps["asking"]
        assert isinstance(step, PlacedStep)
        step.resumes_on(Answered, key=lambda e: e.order)
    async with stages(database_url, sagas[0]) as s:
        await s.store(event(Ordered(order="a"), "a", "1", consumer="shop"))
        await s.until_status("waiting", "a")
        await s.end_lease()
    async with stages(database_url, sagas[1]) as s:
        await s.store(event(Answered(order="a", by="visa"), "a", "2", consumer="shop"))
        await s.until_status("completed", "a")
    assert (len(asking.seen), later.seen) == (1, [("x.ok", {"order": "a", "by": "visa"})])


class Half(Card):
    """The money is authorized; to capture it is refused."""

    async def execute(self, inp: Charge, ctx: ActivityContext) -> Charged:
        raise TerminalError("authorized, not captured", partial=Charged(payment=f"auth-{inp.order}"))


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])
async def test_the_undo_of_a_step_that_failed_in_part_gets_the_part(database_url: str, fast: bool) -> None:
    """features: 39"""
    gateway = Gateway()
    async with stages(database_url, shop("shop", Half(gateway), Carrier(gateway)), fast=fast) as s:
        await s.store(event(Ordered(order="a"), "a", "1", consumer="shop"))
        saga = await s.until_status("compensated", "a")

        assert gateway.told == [("gave back", "auth-a", 100)]
        assert (saga["reason"], saga["unsettled"]) == ("half failed: authorized, not captured", 0)


class WrongPart(Card):
    async def execute(self, inp: Charge, ctx: ActivityContext) -> Charged:
        raise TerminalError("half", partial=Shipped(tracking="t"))

    async def compensate(self, inp: Charge, out: Charged) -> None:
        raise AssertionError("there is nothing it could be called with")


async def test_a_part_of_another_model_leaves_the_step_unsettled(database_url: str) -> None:
    async with stages(database_url, shop("shop", WrongPart(Gateway()), Carrier(Gateway()))) as s:
        await s.store(event(Ordered(order="a"), "a", "1", consumer="shop"))
        saga = await s.until_status("compensated", "a")

        assert saga["reason"] == (
            "wrong_part may have worked, but nobody knows: half (its partial is Shipped, and no Charged)"
        )
        assert saga["unsettled"] == 1


async def test_an_input_that_does_not_fit_is_final_before_anything_runs(database_url: str) -> None:
    """features: 1, 13, 22"""
    gateway = Gateway()
    saga = Saga("shop", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    bad = saga.step(
        Card(gateway), input=lambda order: {"order": order.order, "cents": "many"}, retry=Retry.fixed(5, seconds(0))
    )
    saga.flow(bad)
    async with stages(database_url, saga) as s:
        await s.store(event(Ordered(order="a"), "a", "1", consumer="shop"))
        found = await s.until_status("compensated", "a")

        assert found["reason"] == "card failed: its input does not fit Charge: cents: int_parsing"
        assert gateway.told == []
        results = await s.query("SELECT convert_from(body, 'UTF8') AS body FROM saga_worker.inbox WHERE role = 4")
        assert [from_json(str(row["body"]))["attempts"] for row in results] == [1]


# -- tries that are bounded by time ---------------------------------------------------------------------------------


class Flaky(Card):
    """Never works, and is never given back."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self.tries = 0
        self.undos = 0

    async def execute(self, inp: Charge, ctx: ActivityContext) -> Charged:
        self.tries += 1
        raise ConnectionError("down")

    async def compensate(self, inp: Charge, out: Charged | None) -> None:
        self.undos += 1
        raise ConnectionError("down")


async def test_an_activity_and_its_undo_are_tried_for_some_time_only(database_url: str) -> None:
    """features: 30"""
    flaky = Flaky(Gateway())
    saga = Saga("shop", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    for_a_second = Retry.fixed(None, seconds(0.25), within=seconds(1), spread=0)
    saga.flow(
        saga.step(
            flaky,
            input=lambda order: Charge(order=order.order, cents=order.cents),
            retry=for_a_second,
            undo_retry=Retry.fixed(2, seconds(0.1), within=days(1)),
        )
    )
    async with stages(database_url, saga) as s:
        await s.store(event(Ordered(order="a"), "a", "1", consumer="shop"))
        await s.until("SELECT * FROM saga_worker.v_saga WHERE attention = 'undo_failed: flaky'")

        assert 2 <= flaky.tries <= 5, "the first, and one each quarter of a second, as long as it is no second"
        assert flaky.undos == 2, "the number of tries was used up first"


# -- a class, a decorated function, a function by a call ------------------------------------------------------------


class Pay(Activity[Charge, Charged], timeout=seconds(5), retry=Retry.fixed(2, seconds(0))):
    async def execute(self, inp: Charge, ctx: ActivityContext) -> Charged:
        return await pay_by_call(inp, ctx)

    async def compensate(self, inp: Charge, out: Charged) -> None:
        PAID_BACK.append((inp, out))


@activity(timeout=seconds(5), retry=Retry.fixed(2, seconds(0)))
async def pay(inp: Charge, ctx: ActivityContext) -> Charged:
    return await pay_by_call(inp, ctx)


@pay.undo
async def pay_back(inp: Charge, out: Charged) -> None:
    PAID_BACK.append((inp, out))


async def pay_by_call(inp: Charge, ctx: ActivityContext) -> Charged:
    if ctx.attempt == 1:
        raise ConnectionError("once more")
    return Charged(payment=str(inp.cents))


async def pay_back_by_call(inp: Charge, out: Charged) -> None:
    PAID_BACK.append((inp, out))


PAID_BACK: list[tuple[Charge, Charged]] = []
FORMS: dict[str, Activity[Charge, Charged]] = {
    "class": Pay(),
    "decorated": pay,
    "by a call": activity(
        pay_by_call, compensate=pay_back_by_call, timeout=seconds(5), retry=Retry.fixed(2, seconds(0)), name="pay"
    ),
}


async def told(database_url: str, form: str) -> dict[str, Any]:
    """Everything that is stored of a saga that pays, cannot ship and pays back; ids and times left out."""
    PAID_BACK.clear()
    async with stages(database_url, shop("shop", FORMS[form], Carrier(Gateway(), refuses=True))) as s:
        await s.store(event(Ordered(order=form, cents=7), form, form, consumer="shop"))
        found = await s.until_status("compensated", form)
        journal = await s.query(
            "SELECT revision, definition_version, input_kind, consumer, source, from_status, to_status, sent_ids,"
            " epoch, array_length(timer_ids, 1) AS timers FROM saga_worker.v_journal WHERE saga_id = $1"
            " ORDER BY revision",
            found["saga_id"],
        )
        progress = await s.query(
            "SELECT convert_from(progress, 'UTF8') AS json FROM saga_worker.saga WHERE saga_id = $1", found["saga_id"]
        )
        results = await s.query(
            "SELECT type, state, attempts, body FROM saga_worker.inbox WHERE ref = $1 AND role = 4 ORDER BY id",
            found["ref"],
        )
    kept = {name: found[name] for name in ("status", "reason", "attention", "unsettled", "revision")}
    return {"journal": journal, "saga": kept, "commands": from_json(str(progress[0]["json"]))["commands"],
            "results": results, "paid back": list(PAID_BACK)}  # fmt: skip


async def test_all_forms_of_an_activity_have_the_same_history(database_url: str) -> None:
    """features: 19"""
    histories = [await told(database_url, form) for form in FORMS]

    assert [entry["input_kind"] for entry in histories[0]["journal"]] == ["event", "activity", "activity", "activity"]
    assert histories[0]["paid back"] == [(Charge(order="class", cents=7), Charged(payment="7"))]
    for form, history in zip(FORMS, histories, strict=True):
        history["paid back"] = [(inp.cents, out) for inp, out in history["paid back"]]
        assert history == histories[0], f"{form} has another history"


async def test_a_function_that_was_made_an_activity_can_still_be_called() -> None:
    """features: 19"""

    class Second:
        idempotency_key, attempt, saga_key, deadline, trace = "k", 2, "s", None, None

    assert await pay(Charge(order="o", cents=7), Second()) == Charged(payment="7")
