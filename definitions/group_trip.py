"""A trip for a group: each traveller's seat and room, and the coach for all, are sagas of their own.

The travellers are booked a few at a time, beside the coach. If too many of them cannot be booked, or the group does not
pay, all of it goes back, each booking by its own saga. Once the group has paid it only goes on.
"""

from __future__ import annotations

from pydantic import BaseModel

from saga_worker import (
    ChildFailed,
    Command,
    Compensate,
    Done,
    Event,
    Message,
    Retry,
    Saga,
    Tally,
    UndoOf,
    Verdict,
    hours,
    minutes,
    parallel,
    pivot,
    seconds,
)

# -- one traveller ------------------------------------------------------------------------------------------------


class SeatReserved(Message):
    seat: str


class ReserveSeat(Command[SeatReserved]):
    trip: str
    traveller: str


class ReleaseSeat(UndoOf[ReserveSeat]):
    trip: str
    traveller: str


class RoomReserved(Message):
    room: str


class ReserveRoom(Command[RoomReserved]):
    trip: str
    traveller: str


class ReleaseRoom(UndoOf[ReserveRoom]):
    trip: str
    traveller: str


class Booking(BaseModel):
    trip: str
    traveller: str
    seat: str | None = None
    room: str | None = None


booking = Saga("traveller_booking", state=Booking, deadline=hours(2))


@booking.command("seats", timeout=seconds(20), retry=Retry.exponential(3))
def reserve_seat(state: Booking) -> ReserveSeat:
    return ReserveSeat(trip=state.trip, traveller=state.traveller)


@reserve_seat.reply
def seat_reserved(state: Booking, reply: SeatReserved) -> None:
    state.seat = reply.seat


@reserve_seat.undo
def release_seat(state: Booking) -> ReleaseSeat:
    return ReleaseSeat(trip=state.trip, traveller=state.traveller)


@booking.command("hotel", timeout=seconds(20), retry=Retry.exponential(3))
def reserve_room(state: Booking) -> ReserveRoom:
    return ReserveRoom(trip=state.trip, traveller=state.traveller)


@reserve_room.reply
def room_reserved(state: Booking, reply: RoomReserved) -> None:
    state.room = reply.room


@reserve_room.undo
def release_room(state: Booking) -> ReleaseRoom:
    return ReleaseRoom(trip=state.trip, traveller=state.traveller)


booking.flow(reserve_seat, reserve_room)


# -- the coach ----------------------------------------------------------------------------------------------------


class CoachHired(Message):
    plate: str


class HireCoach(Command[CoachHired]):
    trip: str
    seats: int


class CancelCoach(UndoOf[HireCoach]):
    trip: str


class CoachConfirmed(Event):
    """The coach company has found a driver."""

    trip: str


class Coach(BaseModel):
    trip: str
    seats: int
    plate: str | None = None


coach = Saga("coach_hire", state=Coach)


@coach.command("coaches", timeout=seconds(20))
def hire_coach(state: Coach) -> HireCoach:
    return HireCoach(trip=state.trip, seats=state.seats)


@hire_coach.reply
def coach_hired(state: Coach, reply: CoachHired) -> None:
    state.plate = reply.plate


@hire_coach.undo
def cancel_coach(state: Coach) -> CancelCoach:
    return CancelCoach(trip=state.trip)


driver = coach.wait("driver", timeout=hours(24))


@driver.on(CoachConfirmed, key=lambda event: event.trip)
def driver_found(state: Coach, event: CoachConfirmed) -> None: ...


coach.flow(hire_coach, driver)


# -- the trip -----------------------------------------------------------------------------------------------------


class TripPlanned(Event):
    trip: str
    travellers: list[str]
    cents_each: int


class ChargeGroup(Command[Done]):
    trip: str
    cents: int


class TripConfirmed(Event):
    trip: str
    plate: str
    travellers: int
    left_out: list[str]


class Trip(BaseModel):
    trip: str
    travellers: list[str]
    cents_each: int
    plate: str | None = None
    booked: int = 0
    left_out: list[str] = []


trip = Saga("group_trip", state=Trip, deadline=hours(48))


@trip.starts_on(TripPlanned, key=lambda event: event.trip)
def planned(event: TripPlanned) -> Trip:
    return Trip(trip=event.trip, travellers=event.travellers, cents_each=event.cents_each)


@trip.subsaga(coach, key=lambda state: state.trip)
def find_coach(state: Trip) -> Coach:
    return Coach(trip=state.trip, seats=len(state.travellers))


@find_coach.result
def coach_found(state: Trip, hired: Coach) -> None:
    state.plate = hired.plate


def travellers(state: Trip) -> list[Booking]:
    return [Booking(trip=state.trip, traveller=name) for name in state.travellers]


book_travellers = trip.for_each(travellers, booking, max_in_flight=5, tolerate=2)


@book_travellers.failed
def left_out(state: Trip, why: ChildFailed) -> None:
    assert why.item is not None
    state.left_out.append(state.travellers[why.item - 1])


@book_travellers.joined
def all_asked(state: Trip, tally: Tally) -> Verdict:
    state.booked = tally.done
    return Compensate("nobody could be booked") if tally.done == 0 else None


@trip.command("bank", timeout=minutes(1))
def charge_group(state: Trip) -> ChargeGroup:
    return ChargeGroup(trip=state.trip, cents=state.cents_each * state.booked)


@trip.emit
def trip_confirmed(state: Trip) -> TripConfirmed:
    return TripConfirmed(
        trip=state.trip, plate=state.plate or "", travellers=state.booked, left_out=sorted(state.left_out)
    )


trip.flow(parallel(find_coach, book_travellers), pivot(charge_group), trip_confirmed)
