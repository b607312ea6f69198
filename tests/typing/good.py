"""Every form of the authoring surface once, as a type checker has to accept it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from saga_worker import (
    ActivityContext,
    ActivityFailed,
    ChildFailed,
    Command,
    Compensate,
    CompensationContext,
    Complete,
    Entity,
    Event,
    KeyKind,
    Message,
    OnExhausted,
    OnTimeout,
    OnUndoFailed,
    Query,
    Retry,
    Saga,
    Step,
    StepContext,
    Tally,
    TerminalError,
    Undo,
    UndoOf,
    Verdict,
    clear_hooks,
    days,
    hours,
    minutes,
    pivot,
    register_hooks,
    seconds,
    upcast,
    when,
)
from saga_worker.testing import SagaTest


class TripRequested(Event):
    trip: UUID
    nights: int


class TripWithdrawn(Event, type="trip.withdrawn"):
    trip: UUID


class PassportSeen(Event, types=("passport.seen", "passport.scanned")):
    trip: UUID
    valid: bool


class RoomHeld(Message):
    room: str


class HotelFull(Message):
    until: str


class HoldRoom(Command[RoomHeld, HotelFull]):
    trip: UUID
    nights: int


class RoomFreed(Message):
    fee_cents: int


class FreeRoom(UndoOf[HoldRoom, RoomFreed]):
    trip: UUID
    room: str | None


class SeatBooked(Message):
    seat: str


class OnWaitingList(Message):
    place: int


class NoFlight(Message): ...


class PassportWrong(Message): ...


class BookSeat(Command[SeatBooked | OnWaitingList, NoFlight | PassportWrong]):
    trip: UUID


class CancelSeat(UndoOf[BookSeat]):
    trip: UUID


class SendTickets(Command):
    trip: UUID


class TripBooked(Event):
    trip: UUID


class PassportMissing(Event):
    trip: UUID


class Trip(BaseModel):
    trip: UUID
    nights: int
    room: str | None = None
    seat: str | None = None
    waiting: bool = False


booking = Saga("booking", state=Trip, version=3, deadline=days(10), key_kind=KeyKind.UUID)


@booking.starts_on(TripRequested, key=lambda e: e.trip)
def requested(event: TripRequested) -> Trip:
    return Trip(trip=event.trip, nights=event.nights)


@booking.on(TripWithdrawn, key=lambda e: e.trip)
def withdrawn(trip: Trip, event: TripWithdrawn) -> Compensate:
    return Compensate("withdrawn")


@booking.command("hotel", timeout=seconds(30))
def hold(trip: Trip) -> HoldRoom:
    return HoldRoom(trip=trip.trip, nights=trip.nights)


@hold.reply
def held(trip: Trip, reply: RoomHeld) -> None:
    trip.room = reply.room


@hold.rejected
def full(trip: Trip, why: HotelFull) -> Verdict:
    return Compensate(f"full until {why.until}")


@hold.undo
def free(trip: Trip) -> FreeRoom:
    return FreeRoom(trip=trip.trip, room=trip.room)


@booking.command(
    "airline",
    timeout=minutes(2),
    retry=Retry.exponential(4, base=seconds(2), cap=minutes(5)),
    undo=Undo.STRICT,
    undo_timeout=hours(1),
    undo_retry=Retry.fixed(10, seconds(30)),
    name="seat",
)
def book(trip: Trip) -> BookSeat:
    return BookSeat(trip=trip.trip)


@book.reply
def booked(trip: Trip, reply: SeatBooked | OnWaitingList) -> None:
    match reply:
        case SeatBooked():
            trip.seat = reply.seat
        case OnWaitingList():
            trip.waiting = True


@book.rejected
def not_booked(trip: Trip, why: NoFlight | PassportWrong) -> Verdict:
    return Compensate("no flight") if isinstance(why, NoFlight) else None


@book.undo
def cancel(trip: Trip) -> CancelSeat:
    return CancelSeat(trip=trip.trip)


passport = booking.wait("passport check", timeout=days(2), on_timeout=OnTimeout.CONTINUE)


@passport.on(PassportSeen, key=lambda e: e.trip, where=lambda trip, event: event.valid or trip.nights > 1)
def seen(trip: Trip, event: PassportSeen) -> Verdict:
    return None if event.valid else Complete(f"nothing to book ({event.wire_type})")


@passport.every(hours(12), times=3)
def remind(trip: Trip) -> PassportMissing:
    return PassportMissing(trip=trip.trip)


class Fare(BaseModel):
    cents: int


def watch() -> None:
    def failed(context: StepContext) -> None:
        print(context.saga_id, context.step, context.attempt, context.error)

    def back(context: CompensationContext) -> str | None:
        return context.original_error

    register_hooks(step_failed=failed, compensation_triggered=back)
    clear_hooks()


def forward_only() -> Step[Trip]:
    forward = Saga("forward", state=Trip, compensate=False, on_undo_failed=OnUndoFailed.STOP, lifecycle=True)
    return forward.savepoint("front", times=3, on_exhausted=OnExhausted.PAUSE)


@booking.activity(
    timeout=seconds(10), retry=Retry.exponential(5), undo=Undo.HYBRID, terminal=(ValueError,), undo_repeatable=False
)
async def price(trip: Trip, ctx: ActivityContext) -> Fare:
    if ctx.attempt > 3:
        raise TerminalError(f"{ctx.idempotency_key} of {ctx.saga_key} until {ctx.deadline}", may_have_worked=True)
    return Fare(cents=trip.nights)


@price.result
def priced(trip: Trip, fare: Fare) -> Verdict:
    return Compensate("too dear") if fare.cents > 100 else None


@price.failed
def not_priced(trip: Trip, why: ActivityFailed) -> Verdict:
    return None if why.is_terminal else Compensate(why.error)


@price.undo
async def forget_price(trip: Trip, ctx: ActivityContext) -> None: ...


@booking.local
async def count(trip: Trip, session: AsyncSession) -> None:
    trip.nights += 1


@count.undo
async def count_back(trip: Trip, session: AsyncSession) -> None: ...


@booking.local(retry=Retry.none(), undo=Undo.NONE, name="note")
async def write_down(trip: Trip, session: AsyncSession) -> Verdict:
    return Compensate("no")


@booking.command(
    "tickets", timeout=hours(1), retry=Retry.none(), undo=Undo.NONE, repeatable=False, undo_repeatable=True
)
def send(trip: Trip) -> SendTickets:
    return SendTickets(trip=trip.trip)


@booking.emit
def announce(trip: Trip) -> TripBooked:
    return TripBooked(trip=trip.trip)


class Guest(BaseModel):
    trips: int = 0


guests = Entity("guest", state=Guest)


@guests.on(TripRequested, key=lambda e: e.trip, sequence=lambda e: e.nights)
def guest_requested(guest: Guest, event: TripRequested) -> None:
    guest.trips += 1


@guests.on(TripWithdrawn, key=lambda e: e.trip)
def guest_withdrew(guest: Guest, event: TripWithdrawn) -> Verdict:
    return Complete("gone") if guest.trips == 0 else Compensate("no")


@guests.emit
def counted(guest: Guest) -> PassportMissing:
    return PassportMissing(trip=UUID(int=guest.trips))


guests.flow(when(lambda guest: guest.trips > 3, counted))
guests.check()


class Progress(BaseModel):
    seat: str | None


@booking.query
def progress(trip: Trip) -> Progress:
    return Progress(seat=trip.seat)


@booking.query(name="everything")
def everything(trip: Trip) -> Trip:
    return trip


asked: Query[Trip, Progress] = progress


def answered(test: SagaTest[Trip]) -> Progress:
    return test.ask(progress) if test.status == "waiting" else progress(test.state)


@booking.emit(name="announce again")
def announce_again(trip: Trip) -> TripBooked:
    return TripBooked(trip=trip.trip)


def is_waiting(trip: Trip) -> bool:
    return trip.waiting


class Leg(BaseModel):
    number: int
    seat: str | None = None


leg = Saga("leg", state=Leg, deadline=hours(1))
leg.flow(leg.sleep("a while", hours(1)))


@booking.subsaga(leg, timeout=hours(1), key=lambda child: str(child.number))
def first_leg(trip: Trip) -> Leg:
    return Leg(number=1)


@first_leg.result
def first_leg_ended(trip: Trip, child: Leg) -> Verdict:
    trip.seat = child.seat
    return None


@first_leg.failed
def first_leg_failed(trip: Trip, why: ChildFailed) -> Verdict:
    return Compensate(f"{why.status}: {why.reason}")


def more_legs(trip: Trip) -> Iterator[Leg]:
    return (Leg(number=n) for n in range(trip.nights))


each_leg = booking.for_each(more_legs, leg, max_in_flight=3, tolerate=None)


@each_leg.result
def leg_ended(trip: Trip, child: Leg) -> None: ...


@each_leg.joined
def legs_ended(trip: Trip, tally: Tally) -> Verdict:
    return Compensate("none") if tally.done == 0 else None


child_story: SagaTest[Leg] = SagaTest(leg).begin(Leg(number=1))
last: Step[Trip] = announce

booking.flow(
    hold,
    price,
    count,
    write_down,
    first_leg,
    each_leg,
    when(lambda trip: trip.nights > 0, book, when(is_waiting, passport), otherwise=announce_again),
    pivot(send),
    last,
)
booking.check()


class LongTrip(BaseModel):
    trip: UUID
    legs: list[str]


@upcast(LongTrip)
def of_older_trips(payload: dict[str, Any]) -> dict[str, Any]:
    return {"legs": [], **payload}


long_trips = Saga("booking", state=LongTrip, version=booking.version + 1, key_kind=KeyKind.UUID)


@long_trips.starts_on(TripRequested, key=lambda e: e.trip)
def long_trip(event: TripRequested) -> LongTrip:
    return LongTrip(trip=event.trip, legs=[])


@long_trips.command("hotel", timeout=minutes(1), undo=Undo.NONE, name="hold the room")
def hold_again(trip: LongTrip) -> HoldRoom:
    return HoldRoom(trip=trip.trip, nights=1)


@hold_again.reply
def held_again(trip: LongTrip, reply: RoomHeld) -> None: ...


long_trips.flow(hold_again)


@long_trips.upgrade_from(booking, steps={"hold": "hold the room", "price": None})
def from_trip(trip: Trip) -> LongTrip:
    return LongTrip(trip=trip.trip, legs=["there"] * trip.nights)


@long_trips.upgrade_from(1)
def from_stored(stored: dict[str, Any]) -> LongTrip:
    return LongTrip(**stored)


def is_typed(saga: Saga[LongTrip]) -> Callable[[Trip], LongTrip]:
    return saga.upgrade_from(booking)(from_trip)
