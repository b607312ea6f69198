"""What a definition records, and what it refuses with file, step and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from saga_worker import (
    Command,
    Compensate,
    DefinitionError,
    Event,
    KeyKind,
    Message,
    OnTimeout,
    Rejected,
    Retry,
    Saga,
    Undo,
    UndoOf,
    Verdict,
    days,
    minutes,
    pivot,
    seconds,
    when,
)
from saga_worker.saga.definition import On, Start
from saga_worker.saga.registry import Registry
from saga_worker.saga.routing import Route
from saga_worker.saga.rows import Role
from saga_worker.saga.steps import Arm, CommandOf


class Ordered(Event):
    order: str


class Reviewed(Event, types=("review.done", "review.skipped")):
    order: str


class Withdrawn(Event):
    order: str


class Counted(Event):
    number: int


class Reserved(Message):
    shelf: str


class Reserve(Command[Reserved]):
    order: str


class Release(UndoOf[Reserve]):
    order: str


class Ship(Command):
    order: str


class Recall(UndoOf[Ship]):
    order: str


class Nudge(Event):
    order: str


class Order(BaseModel):
    order: str


def ordered(event: Ordered) -> Order:
    return Order(order=event.order)


def taken(order: Order, event: Event) -> Verdict:
    return None


def reserve(order: Order) -> Reserve:
    return Reserve(order=order.order)


def reserved(order: Order, reply: Reserved) -> None: ...


def release(order: Order) -> Release:
    return Release(order=order.order)


def ship(order: Order) -> Ship:
    return Ship(order=order.order)


def nudge(order: Order) -> Nudge:
    return Nudge(order=order.order)


def new_saga(**options: Any) -> Saga[Order]:
    saga = Saga(**{"name": "orders", "state": Order, **options})
    saga.starts_on(Ordered, key=lambda e: e.order)(ordered)
    return saga


def reservation(saga: Saga[Order], **options: Any) -> CommandOf[Order, Reserve]:
    step = saga.command("stock", timeout=minutes(1), **options)(reserve)
    step.reply(reserved)
    return step


def refusal(act: Callable[[], object]) -> str:
    """The text of the refusal; every line of it has to begin with a place in this file."""
    with pytest.raises(DefinitionError) as error:
        act()
    text = str(error.value)
    assert all(line.startswith(f"{__file__}:") for line in text.splitlines())
    return text


def test_a_definition_records_what_the_core_reads() -> None:
    """features: 1, 9"""
    saga = new_saga(version=2, deadline=days(3))
    saga.on(Withdrawn, key=lambda e: e.order)(taken)
    step = reservation(saga, retry=Retry.fixed(3), undo=Undo.STRICT, undo_timeout=minutes(9))
    step.undo(release)
    review = saga.wait("fraud review", timeout=days(2), on_timeout=OnTimeout.CONTINUE)
    review.on(Reviewed, key=lambda e: e.order)(taken)
    review.every(days(1), times=3)(nudge)
    saga.flow(step, review)
    saga.check()

    start, on, arm = saga.starts["ordered"], saga.handlers["withdrawn"], saga.arms["review.skipped"][0]
    assert (saga.name, saga.version, saga.deadline, saga.key_kind) == ("orders", 2, timedelta(days=3), KeyKind.TEXT)
    assert isinstance(start, Start) and (start.model, start.pointer, start.handler) == (Ordered, "/order", ordered)
    assert isinstance(on, On) and (on.model, on.pointer, on.handler) == (Withdrawn, "/order", taken)
    assert isinstance(arm, Arm) and (arm.step_id, arm.model, arm.pointer) == ("fraud review", Reviewed, "/order")
    assert start.key(Ordered(order="7")) == "7"
    assert saga.steps == {"reserve": step, "fraud review": review}
    assert (step.to, step.timeout, step.command_model) == ("stock", minutes(1), Reserve)
    assert (step.undo_mode, step.undo_model, step.make_undo) == (Undo.STRICT, Release, release)
    assert (review.timeout, review.on_timeout) == (days(2), OnTimeout.CONTINUE)
    assert review.reminder is not None and (review.reminder.period, review.reminder.times) == (days(1), 3)


def test_a_command_has_one_try_and_its_undo_five() -> None:
    """features: 26, 32"""
    step = reservation(new_saga())

    assert (step.retry.attempts, step.undo_mode) == (1, Undo.HYBRID)
    assert (step.undo_timeout, step.undo_retry.attempts) == (step.timeout, 5)


def test_decorated_handlers_stay_plain_functions() -> None:
    saga = new_saga()
    step = saga.command("stock", timeout=minutes(1))(reserve)

    assert step.reply(reserved) is reserved
    assert step.undo(release) is release
    assert saga.on(Withdrawn, key=lambda e: e.order)(taken) is taken


def test_a_definition_may_stand_inside_a_function() -> None:
    class Told(Message):
        what: str

    class Tell(Command[Told]):
        what: str

    saga = new_saga()

    @saga.command("ear", timeout=seconds(1))
    def tell(order: Order) -> Tell:
        return Tell(what=order.order)

    assert tell.command_model is Tell


def test_a_function_means_the_names_of_its_own_module_wherever_it_is_used() -> None:
    class Reserve(Command):  # not the one that reserve() returns
        what: str

    assert reservation(new_saga()).command_model is not Reserve


def test_the_kind_of_key_is_read_off_the_field_or_given() -> None:
    class ByNumber(Event):
        number: int

    saga = Saga("by_number", state=Order)
    saga.starts_on(ByNumber, key=lambda e: e.number)(lambda event: Order(order=str(event.number)))

    assert saga.key_kind is KeyKind.INT
    assert Saga("by_id", state=Order, key_kind=KeyKind.UUID).key_kind is KeyKind.UUID


def without_start() -> Saga[Order]:
    saga = Saga("orders", state=Order)
    saga.flow(reservation(saga))
    return saga


def without_flow() -> Saga[Order]:
    return new_saga()


def with_empty_flow() -> Saga[Order]:
    saga = new_saga()
    saga.flow()
    return saga


def with_unreachable_step() -> Saga[Order]:
    saga = new_saga()
    reservation(saga)
    saga.flow(saga.emit(nudge))
    return saga


def with_foreign_step() -> Saga[Order]:
    saga = new_saga()
    saga.flow(reservation(new_saga()))
    return saga


def with_step_placed_twice() -> Saga[Order]:
    saga = new_saga()
    step = reservation(saga)
    saga.flow(step, when(lambda order: True, step))
    return saga


def with_missing_undo() -> Saga[Order]:
    saga = new_saga()
    saga.flow(reservation(saga), pivot(saga.command("carrier", timeout=days(1))(ship)))
    return saga


def with_endless_wait() -> Saga[Order]:
    saga = new_saga()
    review = saga.wait("review")
    review.on(Reviewed, key=lambda e: e.order)(taken)
    saga.flow(review)
    return saga


def with_wait_without_arm() -> Saga[Order]:
    saga = new_saga()
    saga.flow(saga.wait("review", timeout=days(1)))
    return saga


def with_unhandled_reply() -> Saga[Order]:
    saga = new_saga()
    saga.flow(saga.command("stock", timeout=minutes(1))(reserve))
    return saga


def with_ambiguous_event() -> Saga[Order]:
    saga = new_saga()
    review = saga.wait("review", timeout=days(1))
    review.on(Reviewed, key=lambda e: e.order)(taken)
    saga.on(Reviewed, key=lambda e: e.order)(taken)
    saga.flow(review)
    return saga


def with_two_kinds_of_key() -> Saga[Order]:
    saga = new_saga()
    saga.on(Counted, key=lambda e: e.number)(taken)
    saga.flow(reservation(saga))
    return saga


def with_two_classes_for_one_type() -> Saga[Order]:
    class Again(Event, type="ordered"):
        order: str

    saga = new_saga()
    saga.on(Again, key=lambda e: e.order)(taken)
    saga.flow(reservation(saga))
    return saga


def with_reply_that_is_a_rejection() -> Saga[Order]:
    class Odd(Command[Reserved, Reserved]): ...

    def odd(order: Order) -> Odd:
        return Odd()

    saga = new_saga()
    step = saga.command("stock", timeout=minutes(1))(odd)
    step.reply(reserved)
    saga.flow(step)
    return saga


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (without_start, "saga orders has no start; declare one with @orders.starts_on"),
        (without_flow, r"saga orders has no steps in its flow; call orders\.flow"),
        (with_empty_flow, r"saga orders has no steps in its flow; call orders\.flow"),
        (with_unreachable_step, "step reserve is unreachable; place it in"),
        (with_foreign_step, "step reserve belongs to another saga; declare it on orders"),
        (with_step_placed_twice, "step reserve stands 2 times in the flow; place it once"),
        (with_missing_undo, "step reserve may have to be undone before the pivot; declare @reserve.undo, or"),
        (with_endless_wait, "wait review may last for ever; give it a timeout"),
        (with_wait_without_arm, r"wait review has no arm; declare what ends it with \.on"),
        (with_unhandled_reply, "step reserve does not handle its reply reserved; declare a handler with @"),
        (with_ambiguous_event, "review.done is an arm of wait review and handled at any time at .*keep one"),
        (with_two_kinds_of_key, "saga orders has text keys, but Counted gives int; use one kind"),
        (with_two_classes_for_one_type, "reads the event ordered in another way at .*use one class and one key"),
        (with_reply_that_is_a_rejection, "cannot tell reply from rejection by type: reserved is both"),
    ],
)  # fmt: skip
def test_check_names_place_step_and_remedy(build: Callable[[], Saga[Order]], problem: str) -> None:
    """features: 16, 81; L7, L17"""
    assert re.search(problem, refusal(build().check))


def test_check_lists_all_problems_at_once() -> None:
    saga = Saga("orders", state=Order)
    saga.flow(saga.wait("review"))

    assert len(refusal(saga.check).splitlines()) == 3


def test_a_wait_is_bounded_by_the_deadline_of_its_saga() -> None:
    saga = new_saga(deadline=days(1))
    review = saga.wait("review")
    review.on(Reviewed, key=lambda e: e.order)(taken)
    saga.flow(review)

    saga.check()


@pytest.mark.parametrize("undo", [Undo.NONE, None])
def test_a_step_before_the_pivot_is_undone_or_says_that_it_need_not(undo: Undo | None) -> None:
    """features: L7"""
    saga = new_saga()
    step = reservation(saga, undo=undo or Undo.HYBRID)
    if undo is None:
        step.undo(release)
    saga.flow(step, pivot(saga.command("carrier", timeout=days(1))(ship)))

    saga.check()


def test_without_a_pivot_no_undo_is_demanded() -> None:
    saga = new_saga()
    saga.flow(reservation(saga), saga.command("carrier", timeout=days(1))(ship))

    saga.check()


def unannotated(order: Order):  # type: ignore[no-untyped-def]
    return Ship(order=order.order)


def returns_event(order: Order) -> Nudge:
    return nudge(order)


def unresolved(order: Order) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821  # does not exist
    return None


def either(order: Order) -> Ship | Reserve:
    return ship(order)


def recall(order: Order) -> Recall:
    return Recall(order=order.order)


async def later(order: Order, event: Event) -> None: ...


def one_argument(order: Order) -> None: ...


# What follows is wrong for type checkers too (tests/typing); here it has to be refused without them.
MakeSaga: Any = Saga
make_reservation: Any = reservation


def too_long_together(saga: Saga[Order]) -> None:
    class Long(Ship, type="y" * 100): ...

    @saga.command("x" * 199, timeout=days(1))
    def make(order: Order) -> Long:
        return Long(order=order.order)


def two_steps_of_one_name(saga: Saga[Order]) -> None:
    reservation(saga)
    reservation(saga)


def two_arms_for_one_type(saga: Saga[Order]) -> None:
    review = saga.wait("review", timeout=days(1))
    review.on(Reviewed, key=lambda e: e.order)(taken)
    review.on(Reviewed, key=lambda e: e.order)(taken)


def two_flows(saga: Saga[Order]) -> None:
    saga.flow(reservation(saga))
    saga.flow()


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (lambda _: MakeSaga("", state=Order), "the name of this saga has to be 1 to 200 bytes"),
        (lambda _: MakeSaga("a\0b", state=Order), "the name of this saga has to be 1 to 200 bytes"),
        (lambda _: MakeSaga("orders", state=dict), "give a pydantic BaseModel class"),
        (lambda _: MakeSaga("orders", state=Order, version=0), "count from 1"),
        (lambda _: MakeSaga("orders", state=Order, deadline=timedelta(0)), "give a duration above zero"),
        (lambda saga: saga.command("stock", timeout=timedelta(0)), "give a duration above zero"),
        (lambda saga: saga.command("", timeout=days(1)), "the name of this destination"),
        (too_long_together, "shorten the destination"),
        (lambda saga: saga.command("stock", timeout=days(1))(unannotated), "annotate unannotated's function"),
        (lambda saga: saga.command("stock", timeout=days(1))(returns_event), "one Command class that it returns"),
        (lambda saga: saga.command("stock", timeout=days(1))(unresolved), "NameError: name 'Nowhere'"),
        (lambda saga: saga.command("stock", timeout=days(1))(either), "one Command class that it returns"),
        (lambda saga: saga.command("stock", timeout=days(1))(lambda order: ship(order)), "give it name="),
        (lambda saga: saga.wait("review", timeout=timedelta(0)), "give a duration above zero"),
        (lambda saga: saga.starts_on(Ordered, key=lambda e: e.order)(ordered), "starts it at .*keep one of the two"),
        (lambda saga: saga.starts_on(Reserved, key=lambda e: e.shelf)(ordered), "derive the class from Event"),
        (lambda saga: saga.on(Ordered, key=lambda e: e.oder)(taken), "Ordered has no field oder; it has order"),
        (lambda saga: saga.on(Ordered, key=lambda e: e.order)(later), "make it a plain function"),
        (lambda saga: saga.on(Ordered, key=lambda e: e.order)(one_argument), r"as one_argument\(state, event\)"),
        (lambda saga: make_reservation(saga).reply(reserved), "has a reply handler already"),
        (lambda saga: make_reservation(saga).undo(recall), r"Recall undoes Ship; derive it from UndoOf\[Reserve\]"),
        (lambda saga: make_reservation(saga, undo=Undo.NONE).undo(release), "declared undo=Undo.NONE"),
        (lambda saga: saga.wait("w").every(days(1), times=0)(nudge), "times is 0; give at least 1"),
        (two_steps_of_one_name, "has a step reserve at .*another name=…"),
        (two_arms_for_one_type, "has an arm for review.done already"),
        (two_flows, "has a flow already"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_refused_where_it_stands(act: Callable[[Any], object], problem: str) -> None:
    """features: 5, 8, 14, 15, 16"""
    assert re.search(problem, refusal(lambda: act(new_saga())))


def complete(name: str = "orders", version: int = 1, **options: Any) -> Saga[Order]:
    saga = new_saga(name=name, version=version, **options)
    saga.flow(reservation(saga))
    return saga


def test_the_registry_finds_versions_and_the_latest() -> None:
    """features: 80"""
    first, second, other = complete(version=1), complete(version=10), complete("others")
    registry = Registry([second, other, first])

    assert registry.find("orders", 1) is first
    assert registry.find("orders", 2) is None
    assert registry.latest("orders") is second
    assert registry.latest("gone") is None
    assert registry.names() == ("orders", "others")
    assert registry.versions() == (("orders", 1), ("orders", 10), ("others", 1))


def test_there_is_one_route_for_each_type_that_a_definition_takes() -> None:
    saga = new_saga()
    for name in ("first", "second"):
        wait = saga.wait(name, timeout=days(1))
        wait.on(Reviewed, key=lambda e: e.order)(taken)
    saga.on(Ordered, key=lambda e: e.order)(taken)
    saga.flow(saga.steps["first"], saga.steps["second"])

    assert Registry([saga]).routes() == tuple(
        Route("orders", 1, wire_type, Role.EVENT, "/order", KeyKind.TEXT)
        for wire_type in ("ordered", "review.done", "review.skipped")
    )


def test_the_registry_checks_every_saga() -> None:
    with pytest.raises(DefinitionError, match="has no steps"):
        Registry([complete(), new_saga(name="broken")])


def test_two_sagas_of_one_name_and_version_are_refusal() -> None:
    """features: 17"""
    text = refusal(lambda: Registry([complete(), complete()]))

    assert "saga orders version 1 is defined at" in text


def test_versions_of_a_saga_have_to_find_the_key_in_the_same_place() -> None:
    class Moved(Event, type="ordered"):
        id: UUID

    second = Saga("orders", state=Order, version=2)
    second.starts_on(Moved, key=lambda e: e.id)(lambda event: Order(order=str(event.id)))
    second.flow(reservation(second))

    assert "finds the key of ordered in another way than version 1" in refusal(lambda: Registry([complete(), second]))


def test_an_unhandled_rejection_is_allowed_and_so_is_a_reply_that_says_nothing() -> None:
    saga = new_saga()
    step = saga.command("carrier", timeout=days(1))(ship)
    saga.flow(step)
    saga.check()

    assert step.rejections == {"rejected": Rejected}
    assert step.on_rejected is None


def test_handlers_may_judge() -> None:
    step = reservation(new_saga())
    verdict = Compensate("because")

    step.rejected(lambda order, why: verdict)
    assert step.on_rejected is not None and step.on_rejected(Order(order="1"), Rejected()) is verdict
