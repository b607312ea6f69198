"""Sagas that stand under an older version of their definition go on under a newer one, or stay where they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from saga_worker import (
    Command,
    Event,
    Message,
    Retry,
    Saga,
    Undo,
    UndoOf,
    Verdict,
    days,
    minutes,
)
from saga_worker.saga.registry import Registry
from saga_worker.testing import SagaTest


class Ordered(Event):
    order: str


class Approved(Event):
    order: str


class Held(Message):
    place: str = ""


class Hold(Command[Held]):
    order: str


class Free(UndoOf[Hold]):
    order: str


class Ship(Command):
    order: str


class Old(BaseModel):
    order: str
    place: str = ""


class New(BaseModel):
    order: str
    places: list[str]
    by: str = "nobody"


def first(*, version: int = 1) -> Saga[Old]:
    """hold → review (a wait) → ship"""
    saga = Saga("order", state=Old, version=version, deadline=days(10))

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> Old:
        return Old(order=event.order)

    @saga.command("store", timeout=minutes(1), retry=Retry.fixed(2, minutes(1)))
    def hold(state: Old) -> Hold:
        return Hold(order=state.order)

    @hold.reply
    def held(state: Old, reply: Held) -> Verdict:
        state.place = reply.place
        return None

    @hold.undo
    def free(state: Old) -> Free:
        return Free(order=f"{state.order} by 1")

    review = saga.wait("review", timeout=days(2))

    @review.on(Approved, key=lambda e: e.order)
    def approved(state: Old, event: Approved) -> Verdict:
        return None

    @saga.command("post", timeout=minutes(1), undo=Undo.NONE)
    def ship(state: Old) -> Ship:
        return Ship(order=f"{state.order} by 1")

    saga.flow(hold, review, ship)
    return saga


def second(
    old: Saga[Old] | int, *, hold_name: str = "hold", wait_name: str = "review",
    steps: dict[str, str | None] | None = None, breaks: Callable[[], bool] = lambda: False, version: int = 2,
) -> Saga[New]:  # fmt: skip
    """The same with another state, and under other names; the maker of the new state raises while `breaks` says so."""
    saga = Saga("order", state=New, version=version, deadline=days(10))

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> New:
        return New(order=event.order, places=[])

    @saga.command("store", timeout=minutes(1), retry=Retry.fixed(2, minutes(1)), name=hold_name)
    def hold(state: New) -> Hold:
        return Hold(order=state.order)

    @hold.reply
    def held(state: New, reply: Held) -> Verdict:
        state.places.append(reply.place)
        return None

    @hold.undo
    def free(state: New) -> Free:
        return Free(order=f"{state.order} by 2")

    review = saga.wait(wait_name, timeout=days(2))

    @review.on(Approved, key=lambda e: e.order)
    def approved(state: New, event: Approved) -> Verdict:
        return None

    @saga.command("post", timeout=minutes(1), undo=Undo.NONE)
    def ship(state: New) -> Ship:
        return Ship(order=f"{state.order} by 2")

    saga.flow(hold, review, ship)

    def from_old(state: Old) -> New:
        if breaks():
            raise ValueError("this upgrade is broken")
        return New(order=state.order, places=[state.place], by="upgrade")

    def from_stored(state: dict[str, Any]) -> New:
        return from_old(Old(**state))

    if isinstance(old, int):
        saga.upgrade_from(old, steps=steps)(from_stored)
    else:
        saga.upgrade_from(old, steps=steps)(from_old)
    return saga


def at_review(saga: Saga[Old]) -> SagaTest[Old]:
    return SagaTest(saga).given(Ordered(order="1")).expect(Hold(order="1")).reply(Held(place="a"))


@pytest.mark.parametrize("by_number", [False, True])
def test_a_saga_goes_on_under_the_newer_version_from_its_next_input(by_number: bool) -> None:
    """features: 80, 158, L19"""
    v1 = first()
    v2 = second(1 if by_number else v1)
    test = at_review(v1).deploy(*([v2] if by_number else [v1, v2]))
    assert test.one.instance is not None and test.one.instance.definition_version == 1

    test.given(Approved(order="1")).expect(Ship(order="1 by 2")).reject()
    test.expect(Free(order="1 by 2"))

    assert test.state == New(order="1", places=["a"], by="upgrade")
    assert [(row.input_kind, row.definition_version) for row in test.one.journal] == [
        ("event", 1), ("reply", 1), ("upgrade", 2), ("event", 2), ("reply", 2),
    ]  # fmt: skip


def test_without_an_upgrade_a_saga_stays_under_its_version_and_new_ones_take_the_newest() -> None:
    """features: 80"""
    v1, v2 = first(), second(7, version=8)
    at_review(v1).deploy(v1, v2).given(Approved(order="1")).expect(Ship(order="1 by 1"))

    assert (latest := Registry([v1, v2]).latest("order")) is not None and latest.version == 8
