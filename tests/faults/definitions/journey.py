"""A journey of three stages, the last of which a partner may refuse; the first writes down each of its attempts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from saga_worker import ActivityContext, Command, Event, Message, Retry, Saga, Undo, UndoOf, days, seconds

DIRECTORY: Final = Path(os.environ.get("ERRAND_DIRECTORY", "."))
PAUSE: Final = seconds(float(os.environ.get("DEAL_PAUSE_SECONDS", "0.1")))


class JourneyPlanned(Event):
    deal: str
    fails_first: bool = False


class Weather(BaseModel):
    asked: int


class Booked(Message):
    booking: str


class BookTrain(Command[Booked]):
    deal: str


class ReturnTrain(UndoOf[BookTrain]):
    deal: str
    booking: str | None
    weather: int


class BookHotel(Command[Booked]):
    deal: str


class ReturnHotel(UndoOf[BookHotel]):
    deal: str
    booking: str | None


class BookGuide(Command):
    deal: str


class Journey(BaseModel):
    deal: str
    fails_first: bool = False
    weather: int = 0
    train: str | None = None
    hotel: str | None = None


journey = Saga("journey", state=Journey, deadline=days(1))


@journey.starts_on(JourneyPlanned, key=lambda e: e.deal)
def planned(event: JourneyPlanned) -> Journey:
    return Journey(deal=event.deal, fails_first=event.fails_first)


@journey.activity(timeout=seconds(30), retry=Retry.fixed(3, PAUSE, spread=0), undo=Undo.NONE)
async def look_out(state: Journey, ctx: ActivityContext) -> Weather:
    with (DIRECTORY / "journeys.jsonl").open("a") as file:
        line = {"deal": state.deal, "n": ctx.attempt, "key": ctx.idempotency_key, "pid": os.getpid()}
        file.write(json.dumps(line) + "\n")
    if state.fails_first and ctx.attempt == 1:
        raise ConnectionError("no answer from the weather")
    return Weather(asked=ctx.attempt)


@look_out.result
def looked_out(state: Journey, weather: Weather) -> None:
    state.weather = weather.asked


@journey.command("left", timeout=seconds(60), undo_timeout=seconds(60))
def book_train(state: Journey) -> BookTrain:
    return BookTrain(deal=state.deal)


@book_train.reply
def train_booked(state: Journey, reply: Booked) -> None:
    state.train = reply.booking


@book_train.undo
def return_train(state: Journey) -> ReturnTrain:
    return ReturnTrain(deal=state.deal, booking=state.train, weather=state.weather)


@journey.command("right", timeout=seconds(float(os.environ.get("DEAL_BOOK_TIMEOUT_SECONDS", "60"))),
                 retry=Retry.fixed(2, PAUSE, spread=0), undo_timeout=seconds(60))  # fmt: skip
def book_hotel(state: Journey) -> BookHotel:
    return BookHotel(deal=state.deal)


@book_hotel.reply
def hotel_booked(state: Journey, reply: Booked) -> None:
    state.hotel = reply.booking


@book_hotel.undo
def return_hotel(state: Journey) -> ReturnHotel:
    return ReturnHotel(deal=state.deal, booking=state.hotel)


@journey.command("left", timeout=seconds(60), undo=Undo.NONE)
def book_guide(state: Journey) -> BookGuide:
    return BookGuide(deal=state.deal)


journey.flow(look_out, book_train, book_hotel, book_guide)
