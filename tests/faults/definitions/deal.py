"""A deal in two halves with two partners: book on the left, pay on the right; what the partners do is up to a test."""

from __future__ import annotations

import os
from typing import Final

from pydantic import BaseModel

from saga_worker import Command, Compensate, Event, Message, Retry, Saga, Undo, UndoOf, Verdict, days, seconds

BOOK_TIMEOUT: Final = seconds(float(os.environ.get("DEAL_BOOK_TIMEOUT_SECONDS", "60")))
PAY_TIMEOUT: Final = seconds(float(os.environ.get("DEAL_PAY_TIMEOUT_SECONDS", "60")))
UNDO_TRIES: Final = 3


class DealOpened(Event):
    deal: str


class DealCancelled(Event):
    deal: str


class DealClosed(Event):
    deal: str


class Booked(Message):
    booking: str


class Book(Command[Booked]):
    deal: str


class Unbook(UndoOf[Book]):
    deal: str
    booking: str | None


class Pay(Command):
    deal: str


class Refund(UndoOf[Pay]):
    deal: str


class Deal(BaseModel):
    deal: str
    booking: str | None = None


deal = Saga("deal", state=Deal, deadline=days(1))


@deal.starts_on(DealOpened, key=lambda e: e.deal)
def opened(event: DealOpened) -> Deal:
    return Deal(deal=event.deal)


@deal.on(DealCancelled, key=lambda e: e.deal)
def cancelled(state: Deal, event: DealCancelled) -> Verdict:
    return Compensate("cancelled")


@deal.command(
    "left",
    timeout=BOOK_TIMEOUT,
    undo=Undo.HYBRID,
    undo_timeout=seconds(60),
    undo_retry=Retry.fixed(UNDO_TRIES, seconds(0.1)),
)
def book(state: Deal) -> Book:
    return Book(deal=state.deal)


@book.reply
def booked(state: Deal, reply: Booked) -> None:
    state.booking = reply.booking


@book.undo
def unbook(state: Deal) -> Unbook:
    return Unbook(deal=state.deal, booking=state.booking)


@deal.command("right", timeout=PAY_TIMEOUT, undo=Undo.STRICT, undo_timeout=seconds(60))
def pay(state: Deal) -> Pay:
    return Pay(deal=state.deal)


@pay.undo
def refund(state: Deal) -> Refund:
    return Refund(deal=state.deal)


@deal.emit
def close(state: Deal) -> DealClosed:
    return DealClosed(deal=state.deal)


deal.flow(book, pay, close)
