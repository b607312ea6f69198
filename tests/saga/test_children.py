"""Sub-sagas and `for_each`: what a parent decides, and what its children decide."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from saga_worker import DefinitionError, Done, Event, Rejected, Saga, Undo, hours, minutes, pivot
from saga_worker.saga.children import MAX_ITEMS
from saga_worker.testing import SagaTest
from tests.saga.families import (
    Book,
    Booked,
    Booking,
    Pay,
    Trip,
    TripPlanned,
    Unbook,
    booking,
    each_room,
    flight,
    rooms,
    trip,
)


def planned(rooms: int = 0) -> SagaTest[Trip]:
    return SagaTest(trip).given(TripPlanned(trip="t", rooms=rooms))


def test_a_parent_goes_on_with_the_state_in_which_its_child_completes() -> None:
    """features: 140, 145, L6"""
    test = planned().expect_child(flight, Booking(what="flight of t")).expect_nothing().expect_status("running")

    test.child_completes(Booking(what="flight of t", code="f1"))

    assert test.state.flight == "f1"
    test.advance(minutes(0)).expect(Pay(trip="t")).reply(Done()).expect_status("completed")
    assert test.state.tally == (0, 0)


def test_a_child_that_fails_makes_its_parent_compensate_with_nothing_to_take_back() -> None:
    """features: L6"""
    test = planned().expect_child(flight).child_fails("no seat is left")

    test.expect_status("compensated", reason="the sub-saga flight ended compensated: no seat is left").expect_nothing()


def test_a_completed_child_is_taken_back_when_its_parent_goes_back() -> None:
    """features: 140, L6"""
    test = planned().expect_child(flight).child_completes(Booking(what="f", code="f1"))
    test.advance(minutes(0)).expect(Pay).reject(Rejected())

    test.expect_child_undo(flight).expect_status("compensating").child_is_back().expect_status("compensated")


def test_a_child_on_its_way_is_taken_back_when_the_deadline_of_its_parent_passes() -> None:
    """features: L6, 162"""
    test = planned().expect_child(flight).advance(hours(8)).expect_child_undo(flight)
    assert test.unsettled == 1

    test.child_is_back().expect_status("compensated")

    assert test.unsettled == 0


def test_a_child_that_completes_when_its_parent_has_given_up_waits_for_its_undo() -> None:
    """features: L1, L6"""
    test = planned().expect_child(flight).advance(hours(8)).expect_child_undo(flight)

    test.child_completes(Booking(what="f", code="f1"), of=flight).expect_outcome("applied: late_reply")
    assert test.state.flight == "f1"

    test.expect_nothing().child_is_back().expect_status("compensated").expect_nothing()


def test_a_child_that_will_not_go_back_asks_for_attention_and_is_asked_again_by_an_operator() -> None:
    test = planned().expect_child(flight).child_completes(Booking(what="f")).advance(minutes(0)).expect(Pay).reject()
    (asked,) = [test.expect_child_undo(flight)]

    test._child_ends(_asked(test)[-1], "refused", b'{"reason": "it is past its pivot"}', "refused")
    asked.expect_attention("undo_failed: flight").expect_status("compensating")

    test.operator("retry").expect_child_undo(flight)
    test._child_ends(_asked(test)[-1], "compensated", b"{}", "back").expect_status("compensated")


def _asked(test: SagaTest[Any]) -> list[Any]:
    from saga_worker.testing.children import children_asked_back

    return children_asked_back(test.one)


# -- the child's side -------------------------------------------------------------------------------------------------


def test_a_child_tells_its_parent_that_it_has_completed() -> None:
    """features: L6"""
    test = SagaTest(booking).begin(Booking(what="flight")).expect(Book(what="flight"))
    assert test.told == []

    test.reply(Booked(code="f1")).expect_status("completed")

    assert test.told == ["completed"]


def test_a_completed_child_goes_back_when_its_parent_wants_it_to() -> None:
    """features: 140, L6"""
    test = SagaTest(booking).begin(Booking(what="f")).expect(Book).reply(Booked(code="f1")).take_back()
    test.expect(Unbook(code="f1")).expect_status("compensating", reason="its parent is taken back")

    test.reply(Done()).expect_status("compensated")

    assert test.told == ["completed", "compensated"]


def test_a_running_child_goes_back_when_its_parent_wants_it_to() -> None:
    """features: L6"""
    test = SagaTest(booking).begin(Booking(what="f")).expect(Book).take_back().expect(Unbook(code=None))

    test.reply(Done()).expect_status("compensated")

    assert test.told == ["compensated"]


def test_a_child_that_has_gone_back_by_itself_says_so_to_both() -> None:
    test = SagaTest(booking).begin(Booking(what="f")).expect(Book).reject().expect_status("compensated")
    assert test.told == ["compensated"]

    test.take_back().expect_nothing()

    assert test.told == ["compensated", "compensated"]


def test_a_child_past_its_pivot_refuses_to_go_back() -> None:
    child = Saga("child", state=Booking, deadline=hours(1))

    @child.command("desk", timeout=minutes(1), undo=Undo.NONE)
    def final(state: Booking) -> Book:
        return Book(what=state.what)

    @final.reply
    def done(state: Booking, reply: Booked) -> None: ...

    _parent_of(child, undo=Undo.NONE)
    child.flow(pivot(final))
    test = SagaTest(child).begin(Booking(what="f")).expect(Book).take_back().expect_outcome("applied: after_pivot")

    test.reply(Booked()).expect_status("completed")

    assert test.told == ["refused", "completed"]


def test_a_second_parent_of_a_key_is_refused() -> None:
    test = SagaTest(booking).begin(Booking(what="f")).expect(Book)

    test._deliver(test._last[0], "start", b'{"what": "g"}', "another", message_id=f"{'A' * 22}.7", source="saga:other")  # type: ignore[index]

    assert test.told == ["refused"]
    test.expect_outcome("applied: duplicate_start").reply(Booked()).expect_status("completed")
    assert test.told == ["refused", "completed"]


# -- for_each ---------------------------------------------------------------------------------------------------------


def with_rooms(count: int) -> SagaTest[Trip]:
    return planned(count).expect_child(flight).child_completes(Booking(what="f", code="f1"))


def room(n: int) -> Booking:
    return Booking(what=f"room {n} of t")


def test_items_are_started_as_there_is_room_and_joined() -> None:
    """features: L5"""
    test = with_rooms(3).expect_child(each_room, room(1), room(2)).expect_nothing()

    test.child_completes(Booking(what="2", code="r2"), item=2).expect_child(each_room, room(3)).expect_nothing()
    test.child_completes(Booking(what="1", code="r1"), item=1).expect_nothing()
    test.child_completes(Booking(what="3", code="r3"), item=3).expect(Pay)

    assert test.state.codes == ["r2", "r1", "r3"]
    assert test.state.tally == (3, 0)


def test_as_many_items_may_fail_as_are_tolerated() -> None:
    """features: L5"""
    test = with_rooms(3).child_fails("full", item=1).child_completes(room(2), item=2).child_completes(room(3), item=3)

    test.expect(Pay)

    assert test.state.lost == ["1 compensated: full"]
    assert test.state.tally == (2, 1)


def test_one_failure_too_many_takes_back_what_was_started_the_last_first() -> None:
    """features: L5, L2"""
    test = with_rooms(4).child_completes(room(1), item=1).child_fails("full", item=2).child_fails("full", item=3)
    test.expect_status("compensating", reason="2 of the items of each_room failed, 1 may".replace("each_room", "rooms"))

    asked = [(child.step, child.item) for child in _asked(test)]
    assert asked == [("rooms", 4), ("rooms", 3)], "two at a time"
    test.child_is_back(item=4).child_is_back(item=3)
    assert [child.item for child in _asked(test)] == [4, 3, 2, 1]
    test.child_is_back(item=2).expect_status("compensating").child_is_back(item=1)

    assert [child.step for child in _asked(test)][-1] == "flight"
    test.child_is_back().expect_status("compensated")


def test_an_item_that_ends_late_is_only_counted() -> None:
    test = with_rooms(3).child_fails("full", item=1).child_fails("full", item=2)
    assert [child.item for child in _asked(test)] == [3, 2], "the third had been started when the first had failed"

    test.child_completes(room(3), item=3).expect_outcome("applied: late_reply")

    assert test.state.codes == []
    test.child_is_back(item=3).child_is_back(item=2).child_is_back(item=1).child_is_back().expect_status("compensated")


def test_items_that_will_not_go_back_are_one_entry_on_the_attention_list() -> None:
    test = with_rooms(2).child_completes(room(1), item=1).child_completes(room(2), item=2).expect(Pay).reject()
    first, second = _asked(test)
    test._child_ends(first, "refused", b'{"reason": "no"}', "refused")
    test._child_ends(second, "compensated", b"{}", "back")

    test.expect_attention("undo_failed: rooms")
    test.child_is_back(of=flight).operator("retry")
    for child in _asked(test)[-2:]:
        test._child_ends(child, "compensated", b"{}", "back")

    test.expect_attention().expect_status("compensated")


def test_no_items_are_joined_at_once_and_nothing_of_them_is_taken_back() -> None:
    """features: L5"""
    test = with_rooms(0).advance(minutes(0)).expect(Pay).reject()

    test.child_is_back().expect_status("compensated")

    assert test.state.tally == (0, 0)


def test_the_state_of_the_saga_does_not_grow_with_its_items() -> None:
    """features: L5"""
    small, large = with_rooms(10), with_rooms(10_000)
    of_small, of_large = small.one.instance, large.one.instance
    assert of_small is not None and of_large is not None

    from saga_worker.saga.records import dump_progress

    assert len(dump_progress(of_large.progress)) <= len(dump_progress(of_small.progress)) + 10


def test_too_many_items_are_an_error_of_the_author() -> None:
    test = SagaTest(trip, tolerant=True).given(TripPlanned(trip="t", rooms=MAX_ITEMS + 1))

    test.child_completes(Booking(what="f")).expect_outcome("waiting to be tried again")


# -- what is refused when the definition is made ----------------------------------------------------------------------


class Begun(Event):
    key: str


class Whole(BaseModel):
    key: str


def _parent_of(child: Saga[Booking], **options: Any) -> Saga[Whole]:
    parent = Saga("parent", state=Whole)

    @parent.starts_on(Begun, key=lambda event: event.key)
    def begin(event: Begun) -> Whole:
        return Whole(key=event.key)

    @parent.subsaga(child, **options)
    def only(state: Whole) -> Booking:
        return Booking(what=state.key)

    parent.flow(only)
    return parent


def child_of(**options: Any) -> Saga[Booking]:
    child: Saga[Booking] = Saga("child", state=Booking, **options)

    @child.command("desk", timeout=minutes(1))
    def final(state: Booking) -> Book:
        return Book(what=state.what)

    @final.reply
    def done(state: Booking, reply: Booked) -> None: ...

    @final.undo
    def back(state: Booking) -> Unbook:
        return Unbook(code=None)

    child.flow(final)
    return child


def test_a_child_without_any_bound_is_refused() -> None:
    parent = _parent_of(child_of())

    with pytest.raises(DefinitionError, match=r"step only may last for ever; give it a timeout"):
        parent.check()


def test_a_child_past_whose_pivot_nothing_goes_back_has_to_be_the_pivot() -> None:
    child: Saga[Booking] = Saga("child", state=Booking, deadline=hours(1))

    @child.command("desk", timeout=minutes(1), undo=Undo.NONE)
    def final(state: Booking) -> Book:
        return Book(what=state.what)

    @final.reply
    def done(state: Booking, reply: Booked) -> None: ...

    child.flow(pivot(final))

    with pytest.raises(DefinitionError, match="step only may have to be taken back, but saga child has a pivot"):
        _parent_of(child).check()
    _parent_of(child, undo=Undo.NONE).check()


def test_a_child_with_keys_of_another_kind_needs_a_key() -> None:
    from saga_worker import KeyKind

    child = child_of(deadline=hours(1), key_kind=KeyKind.INT)

    with pytest.raises(DefinitionError, match=r"which has int keys; give its key="):
        _parent_of(child).check()
    _parent_of(child, key=lambda state: 7).check()


def test_a_step_has_to_make_the_state_of_its_child() -> None:
    parent = Saga("parent", state=Whole)

    with pytest.raises(DefinitionError, match="step wrong makes Whole, but saga booking has the state Booking"):

        @parent.subsaga(booking)  # type: ignore[arg-type]
        def wrong(state: Whole) -> Whole:
            return state


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_in_flight": 0}, "max_in_flight is 0; give at least 1"),
        ({"max_in_flight": 1, "tolerate": -1}, "tolerate is -1; give 0 or more"),
        ({"max_in_flight": 1, "undo": Undo.STRICT}, "items are taken back at once"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    parent = Saga("parent", state=Trip)

    with pytest.raises(DefinitionError, match=sentence):
        parent.for_each(rooms, booking, **options)


def test_a_saga_that_nobody_starts_is_refused_still() -> None:
    with pytest.raises(DefinitionError, match="saga child has no start"):
        child_of().check()


@pytest.mark.parametrize("what", ["a\0b", "\ud800"])
def test_a_child_that_could_not_be_stored_is_an_error_of_its_parent(what: str) -> None:
    """Else its start would be a dead letter of a saga that never began, and nobody would look at the parent."""
    test = SagaTest(trip, tolerant=True).given(TripPlanned(trip="t", rooms=0))
    assert test.one.instance is not None
    step = flight

    with pytest.raises(Exception, match=r"NUL|surrogate|utf"):
        family_state(step, Booking.model_construct(what=what))


def family_state(step: Any, state: Booking) -> bytes:
    from saga_worker.saga import family

    return family._first_state(step, state)
