"""Sagas that start others: a trip of bookings, and a nightly import of chunks. Used by the tests of several folders."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from saga_worker import (
    ChildFailed,
    Command,
    Compensate,
    Done,
    Event,
    Message,
    Rejected,
    Saga,
    Tally,
    UndoOf,
    Verdict,
    hours,
    minutes,
)


class Booked(Message):
    code: str = "?"


class Book(Command[Booked, Rejected]):
    what: str


class Unbook(UndoOf[Book, Done, Rejected]):
    code: str | None


class Booking(BaseModel):
    what: str
    code: str | None = None


class Approved(Event):
    what: str


booking = Saga("booking", state=Booking, deadline=hours(4))


@booking.command("desk", timeout=minutes(1))
def book(state: Booking) -> Book:
    return Book(what=state.what)


@book.reply
def booked(state: Booking, reply: Booked) -> None:
    state.code = reply.code


@book.undo
def unbook(state: Booking) -> Unbook:
    return Unbook(code=state.code)


booking.flow(book)


class TripPlanned(Event):
    trip: str
    rooms: int = 0


class Pay(Command[Done, Rejected]):
    trip: str


class Trip(BaseModel):
    trip: str
    rooms: int = 0
    flight: str | None = None
    codes: list[str] = []
    lost: list[str] = []
    tally: tuple[int, int] | None = None


trip = Saga("trip", state=Trip, deadline=hours(8))


@trip.starts_on(TripPlanned, key=lambda event: event.trip)
def planned(event: TripPlanned) -> Trip:
    return Trip(trip=event.trip, rooms=event.rooms)


@trip.subsaga(booking)
def flight(state: Trip) -> Booking:
    return Booking(what=f"flight of {state.trip}")


@flight.result
def flown(state: Trip, child: Booking) -> None:
    state.flight = child.code


def rooms(state: Trip) -> Iterator[Booking]:
    return (Booking(what=f"room {n} of {state.trip}") for n in range(1, state.rooms + 1))


each_room = trip.for_each(rooms, booking, max_in_flight=2, tolerate=1)


@each_room.result
def room_booked(state: Trip, child: Booking) -> None:
    state.codes.append(child.code or "?")


@each_room.failed
def no_room(state: Trip, why: ChildFailed) -> None:
    state.lost.append(f"{why.item} {why.status}: {why.reason}")


@each_room.joined
def all_rooms(state: Trip, tally: Tally) -> Verdict:
    state.tally = (tally.done, tally.failed)
    return Compensate("no room at all") if state.rooms and not tally.done else None


@trip.command("bank", timeout=minutes(1))
def pay(state: Trip) -> Pay:
    return Pay(trip=state.trip)


trip.flow(flight, each_room, pay)
