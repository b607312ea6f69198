"""Payloads of an older shape: events, replies, results and states that were stored before their models changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from pydantic import BaseModel, Field

from saga_worker import (
    ActivityContext,
    Command,
    DefinitionError,
    Event,
    Message,
    Saga,
    Undo,
    Verdict,
    hours,
    minutes,
    upcast,
)
from saga_worker.saga.messages import decode
from saga_worker.saga.rows import Role
from saga_worker.saga.upcast import UPCASTERS, upcasted
from saga_worker.testing import SagaTest


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What a test declares is gone after it."""
    before = dict(UPCASTERS)
    yield
    UPCASTERS.clear()
    UPCASTERS.update(before)


class Opened(Event):
    account: str
    owners: list[str] = Field(alias="owner_names")


class Checked(Message):
    score: int


class Check(Command[Checked]):
    account: str


class Rate(BaseModel):
    percent: int


class Account(BaseModel):
    account: str
    owners: list[str]
    score: int = 0
    percent: int = 0


def one_owner(payload: dict[str, Any]) -> dict[str, Any]:
    if "owner" in payload:
        payload["owner_names"] = [payload.pop("owner")]
    return payload


def account() -> Saga[Account]:
    saga = Saga("account", state=Account, deadline=hours(1))

    @saga.starts_on(Opened, key=lambda e: e.account)
    def opened(event: Opened) -> Account:
        return Account(account=event.account, owners=event.owners)

    @saga.command("bank", timeout=minutes(1), undo=Undo.NONE)
    def check(state: Account) -> Check:
        return Check(account=state.account)

    @check.reply
    def checked(state: Account, reply: Checked) -> Verdict:
        state.score = reply.score
        return None

    @saga.activity(timeout=minutes(1), undo=Undo.NONE)
    async def rate(state: Account, ctx: ActivityContext) -> Rate:
        return Rate(percent=1)

    @rate.result
    def rated(state: Account, rate: Rate) -> Verdict:
        state.percent = rate.percent
        return None

    saga.flow(check, rate)
    return saga


def test_events_replies_results_and_states_of_an_older_shape_are_read() -> None:
    """features: 165"""
    upcast(Opened)(one_owner)
    upcast(Checked)(lambda payload: payload if "score" in payload else {"score": 10 * payload["stars"]})
    upcast(Rate)(lambda payload: payload if "percent" in payload else {"percent": payload["permille"] // 10})
    test = SagaTest(account())
    test.given(Opened(account="1", owner_names=["ann"]))
    assert test.state.owners == ["ann"]

    @upcast(Account)
    def of_state(payload: dict[str, Any]) -> dict[str, Any]:
        return payload if "owners" in payload else {"account": payload["account"], "owners": [payload["owner"]]}

    assert test.one.instance is not None
    test.one.instance = replace(test.one.instance, state=b'{"account":"1","owner":"bob"}')
    test.one.store(Role.REPLY, "checked", b'{"stars":3}', message_id="r", correlation_id=f"{test.one.ref}.1")
    test.one.drain()
    test.one.store(Role.ACTIVITY, "activity_done", b'{"permille":40}', message_id="a", correlation_id="x.2")
    test.one.drain()

    test.expect_status("completed")
    assert test.state == Account(account="1", owners=["bob"], score=30, percent=4)


def test_an_event_is_upcast_by_its_names_on_the_wire() -> None:
    upcast(Opened)(one_owner)

    old = decode(b'{"account": "1", "owner": "ann"}', Opened, "opened")
    new = decode(b'{"account": "1", "owner_names": ["ann"]}', Opened, "opened")
    assert old == new and old.owners == ["ann"]


def test_several_run_in_the_order_they_are_declared_and_for_this_very_class_only() -> None:
    class Derived(Account):
        pass

    upcast(Account)(lambda payload: {**payload, "seen": ["first"]})
    upcast(Account)(lambda payload: {**payload, "seen": [*payload["seen"], "second"]})

    assert upcasted(Account, b"{}") == b'{"seen":["first","second"]}'
    assert upcasted(Derived, b"{}") == b"{}"


@pytest.mark.parametrize("raw", [b"[1]", b"{", b'"text"', b""])
def test_what_is_no_object_is_left_to_the_model(raw: bytes) -> None:
    upcast(Account)(lambda payload: {"account": "never"})

    assert upcasted(Account, raw) is raw


def test_an_upcaster_that_raises_is_an_error_of_the_author_that_is_tried_again() -> None:
    @upcast(Checked)
    def broken(payload: dict[str, Any]) -> dict[str, Any]:
        raise LookupError("no such thing")

    test = SagaTest(account(), tolerant=True).given(Opened(account="1", owner_names=[]))
    test.one.store(Role.REPLY, "checked", b"{}", message_id="r", correlation_id=f"{test.one.ref}.1")
    test.one.drain()

    assert "LookupError: no such thing at test_upcast.py" in test.one.errors[2]
    assert test.one.rows[2].attempts == 1


def test_what_is_no_upcaster_is_refused() -> None:
    with pytest.raises(DefinitionError, match="names no pydantic model; give the class"):
        upcast(int)(lambda payload: payload)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="take exactly these"):
        upcast(Account)(lambda one, two: one)  # type: ignore[arg-type, misc]

    upcast(Account)(lambda payload: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="the upcaster of Account returned NoneType; return a dict"):
        upcasted(Account, b"{}")
