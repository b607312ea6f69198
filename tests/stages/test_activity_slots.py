"""Counting the room for activities: in all, by step, and what a saga keeps from one step to the next."""

from __future__ import annotations

from uuid import UUID

from saga_worker.activity_slots import ActivitySlots

A, B = UUID(int=1), UUID(int=2)


class Told:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def test_no_more_are_given_than_there_are() -> None:
    slots = ActivitySlots(2, {}, on_free=Told())

    assert [slots.take(A, "trip", "fare") for _ in range(3)] == [True, True, False]
    assert slots.is_full


def test_a_step_is_bounded_by_itself_as_well() -> None:
    slots = ActivitySlots(3, {"trip/seat": 1}, on_free=Told())

    assert [slots.take(A, "trip", "seat"), slots.take(A, "trip", "seat"), slots.take(A, "trip", "fare")] == [
        True, False, True,
    ]  # fmt: skip


def test_what_has_ended_keeps_its_slot_for_its_saga() -> None:
    told = Told()
    slots = ActivitySlots(1, {}, on_free=told)
    slots.begin("trip", "fare")
    slots.end(A, "trip", "fare")

    assert not slots.take(B, "trip", "fare")
    assert slots.take(A, "trip", "seat")
    assert not slots.take(A, "trip", "seat")
    slots.settle([A])
    assert slots.free() == 0
    assert told.times == 1


def test_what_a_saga_kept_is_free_when_it_does_not_go_on() -> None:
    """features: 53"""
    slots = ActivitySlots(1, {}, on_free=Told())
    slots.begin("trip", "ticket")
    slots.end(A, "trip", "ticket")
    slots.settle([A])

    assert slots.take(B, "trip", "fare")


def test_a_transaction_that_fails_gives_back_what_it_took() -> None:
    slots = ActivitySlots(1, {}, on_free=Told())
    slots.begin("trip", "fare")
    slots.end(A, "trip", "fare")
    assert slots.take(A, "trip", "seat")
    slots.give_back([("trip", "seat")])

    assert slots.free() == 1
    slots.settle([A])
    assert slots.free() == 1


def test_nothing_is_taken_once_the_worker_ends() -> None:
    slots = ActivitySlots(1, {}, on_free=Told())
    slots.is_closed = True

    assert not slots.take(A, "trip", "fare")
