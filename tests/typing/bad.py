"""Each marked line has to be an error for mypy --strict and for pyright, and no other line."""

from __future__ import annotations

from uuid import UUID

from good import (
    BookSeat,
    CancelSeat,
    FreeRoom,
    Guest,
    HoldRoom,
    HotelFull,
    LongTrip,
    PassportMissing,
    PassportSeen,
    RoomHeld,
    SeatBooked,
    Trip,
    TripRequested,
    TripWithdrawn,
    book,
    booking,
    guests,
    hold,
    long_trips,
    passport,
    price,
    progress,
)
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from saga_worker import (
    ActivityContext,
    Entity,
    Saga,
    Undo,
    Verdict,
    choice,
    days,
    minutes,
    parallel,
    pivot,
    register_hooks,
    repeat_until,
    upcast,
    when,
)
from saga_worker.testing import SagaTest


def wrong_trip() -> Trip:
    return Trip(trip=UUID(int=1), nights=1)


class Parcel(BaseModel):
    number: UUID


parcels = Saga("parcels", state=Parcel)
no_mode = Saga("parcels", state=Parcel, on_undo_failed="stop")  # error: a name of OnUndoFailed
register_hooks(compensation_completed=lambda context: context.error)  # error: that is of a step
parcels.savepoint("front", on_exhausted=True)  # error: a name of OnExhausted


@parcels.command("hotel", timeout=minutes(1))
def parcel_step(parcel: Parcel) -> HoldRoom:
    return HoldRoom(trip=parcel.number, nights=1)


@booking.command("hotel", timeout=minutes(1))  # error: another state
def wrong_state(parcel: Parcel) -> HoldRoom:
    return HoldRoom(trip=parcel.number, nights=1)


@booking.command("hotel", timeout=minutes(1))  # error: no command
def not_a_command(trip: Trip) -> RoomHeld:
    return RoomHeld(room="1")


@hold.reply  # error: another command's reply
def wrong_reply(trip: Trip, reply: SeatBooked) -> None: ...


@book.reply  # error: one of two replies is not handled
def half_a_reply(trip: Trip, reply: SeatBooked) -> None: ...


@hold.rejected  # error: a reply is no rejection
def wrong_rejection(trip: Trip, why: RoomHeld) -> None: ...


@hold.undo  # error: undoes another command
def wrong_undo(trip: Trip) -> CancelSeat:
    return CancelSeat(trip=trip.trip)


@hold.undo  # error: undo of another state
def wrong_undo_state(parcel: Parcel) -> FreeRoom:
    return FreeRoom(trip=parcel.number, room=None)


@book.undo  # error: a command that undoes nothing
def not_an_undo(trip: Trip) -> BookSeat:
    return BookSeat(trip=trip.trip)


@booking.starts_on(TripRequested, key=lambda e: e.tripp)  # error: no such field
def begin(event: TripRequested) -> Trip:
    return Trip(trip=event.trip, nights=1)


@booking.starts_on(TripWithdrawn, key=lambda e: e.trip)  # error: the handler takes another event
def begin_wrong(event: TripRequested) -> Trip:
    return Trip(trip=event.trip, nights=1)


@booking.starts_on(HotelFull, key=lambda e: e.until)  # error: no event
def begin_by_message(event: HotelFull) -> Trip:
    return begin(TripRequested(trip=UUID(int=1), nights=1))


@passport.on(PassportSeen, key=lambda e: e.trip, where=lambda trip, event: event.visa)  # error: no such field
def seen_with_visa(trip: Trip, event: PassportSeen) -> None: ...


@passport.every(days(1), times=2)  # error: a reminder is an event
def remind(trip: Trip) -> HoldRoom:
    return HoldRoom(trip=trip.trip, nights=1)


@price.result  # error: another result
def wrong_result(trip: Trip, fare: SeatBooked) -> None: ...


@price.failed  # error: the reason is no text
def wrong_failure(trip: Trip, why: str) -> None: ...


@price.undo  # error: an undo is awaited
def wrong_activity_undo(trip: Trip, ctx: ActivityContext) -> None: ...


@booking.activity(timeout=minutes(1))  # error: another state
async def wrong_activity_state(parcel: Parcel, ctx: ActivityContext) -> Parcel:
    return parcel


@booking.activity(timeout=minutes(1))  # error: a result is a model
async def wrong_activity_result(trip: Trip, ctx: ActivityContext) -> int:
    return 1


@booking.local(undo=Undo.NONE)  # error: another state
async def wrong_local_state(parcel: Parcel, session: AsyncSession) -> None: ...


@booking.local(undo=Undo.NONE)  # error: a verdict is no text
async def wrong_local_verdict(trip: Trip, session: AsyncSession) -> str:
    return ""


@booking.subsaga(parcels)  # error: not the state of the child
def wrong_child(trip: Trip) -> Trip:
    return trip


@booking.subsaga(parcels)
def child(trip: Trip) -> Parcel:
    return Parcel(number=UUID(int=1))


@child.result  # error: the result of another child
def wrong_child_result(trip: Trip, other: Trip) -> None: ...


@child.failed  # error: a failure is no text
def wrong_child_failure(trip: Trip, why: str) -> None: ...


def numbers(trip: Trip) -> list[int]:
    return [1]


def parts(trip: Trip) -> list[Parcel]:
    return [Parcel(number=UUID(int=1))]


booking.for_each(numbers, parcels, max_in_flight=1)  # error: items are states of the child
booking.for_each(parts, booking, max_in_flight=1)  # error: a child of another state
booking.for_each(parts, parcels)  # error: how many at a time
each_part = booking.for_each(parts, parcels, max_in_flight=1)


@each_part.joined  # error: a tally is no model
def wrong_join(trip: Trip, tally: Parcel) -> None: ...


@each_part.result  # error: an item of another child
def wrong_item(trip: Trip, item: Trip) -> None: ...


booking.flow(hold, parcel_step)  # error: a step of another saga
booking.flow(pivot(parcel_step))  # error: also inside a pivot
booking.flow(when(lambda trip: trip.nigths > 1, hold))  # error: no such field
booking.flow(when(lambda trip: True, hold, otherwise=parcel_step))  # error: another saga in the other branch
booking.flow(hold, "passport check")  # error: a name is no step
booking.flow(parallel(hold, parcel_step))  # error: a step of another saga beside it
booking.flow(parallel([hold, parcel_step], book))  # error: the same in a branch of several steps
booking.flow(parallel(hold, book, join="some"))  # error: no such join
booking.flow(choice((lambda trip: trip.nigths > 1, [hold])))  # error: no such field
booking.flow(choice((lambda trip: True, [parcel_step])))  # error: another saga in an arm
booking.flow(repeat_until(lambda trip: True, parcel_step, times=3, name="again"))  # error: another saga in a loop
booking.flow(repeat_until(lambda trip: trip.nigths > 1, hold, times=3, name="again"))  # error: no such field
booking.sleep("nap", lambda trip: 3)  # error: a number is no duration
booking.sleep("nap", lambda trip: days(trip.nigths))  # error: no such field


@booking.on(TripWithdrawn, key=lambda e: e.trip)  # error: a verdict is no text
def withdrawn(trip: Trip, event: TripWithdrawn) -> str:
    return "compensate"


endless = Entity("endless", state=Parcel, deadline=days(1))  # error: an entity has no end


@guests.on(TripWithdrawn, key=lambda e: e.trips)  # error: no such field
def guest_withdrew(guest: Guest, event: TripWithdrawn) -> None: ...


@guests.on(TripWithdrawn, key=lambda e: e.trip)  # error: another state
def parcel_withdrew(parcel: Parcel, event: TripWithdrawn) -> None: ...


guests.flow(parcel_step)  # error: a step of another saga


@booking.query  # error: another state
def wrong_query_state(parcel: Parcel) -> Parcel:
    return parcel


@booking.query  # error: an answer is a model
def wrong_answer(trip: Trip) -> int:
    return trip.nights


SagaTest(parcels).ask(progress)  # error: a question about another saga
seat: Parcel = progress(wrong_trip())  # error: another answer


@booking.emit  # error: the event of another state
def announce(parcel: Parcel) -> PassportMissing:
    return PassportMissing(trip=parcel.number)


@long_trips.upgrade_from(booking)  # error: takes another state than the old one
def from_parcel(parcel: Parcel) -> LongTrip:
    return LongTrip(trip=parcel.number, legs=[])


@long_trips.upgrade_from(booking)  # error: returns another state than the new one
def to_parcel(trip: Trip) -> Parcel:
    return Parcel(number=trip.trip)


@long_trips.upgrade_from(1)  # error: by number there is a dict, no model
def from_nothing(trip: Trip) -> LongTrip:
    return LongTrip(trip=trip.trip, legs=[])


long_trips.upgrade_from("booking")  # error: a name is no saga
long_trips.upgrade_from(booking, steps=["hold"])  # error: names are mapped


@upcast(Trip)  # error: it gets a raw object, no model
def of_model(trip: Trip) -> Trip:
    return trip


upcast("Trip")  # error: a name is no model


def unused(verdict: Verdict) -> None: ...
