"""Cars for rent: a deposit is held on the customer's card, and taken in part when the car is back.

What talks to the card gateway is written once, as activity classes, and used by two sagas: a rental, which waits for
the car between holding the money and taking it, and a fine, which takes it at once. The gateway is given to them when
they get their places; it is any service that answers these three requests with JSON::

    POST /holds               {"card", "cents"}  →  201 {"hold"}        402: the card does not cover it
    POST /holds/HOLD/capture  {"cents"}          →  200 {"payment"}     402: refused, the hold stands
    POST /holds/HOLD/release  {}                 →  200 {}

A repeated request is told by its header Idempotency-Key.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pydantic import BaseModel

from saga_worker import (
    Activity,
    ActivityContext,
    Event,
    Outputs,
    Retry,
    Saga,
    TerminalError,
    Undo,
    Verdict,
    WaitFor,
    days,
    minutes,
    seconds,
)

GATEWAY: Final = os.environ.get("RENTAL_CARD_GATEWAY", "http://127.0.0.1:8499")
PAYMENT_REQUIRED: Final = 402


class CardGateway:
    """A client of the card gateway; raises `TerminalError` for what the customer's bank refuses."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def hold(self, card: str, cents: int, key: str) -> str:
        return str((await self._post("/holds", {"card": card, "cents": cents}, key))["hold"])

    async def capture(self, hold: str, cents: int, key: str) -> str:
        return str((await self._post(f"/holds/{hold}/capture", {"cents": cents}, key))["payment"])

    async def release(self, hold: str, key: str) -> None:
        await self._post(f"/holds/{hold}/release", {}, key)

    async def _post(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        request = Request(self.url + path, data=json.dumps(body).encode(), headers=headers)
        try:
            return await asyncio.to_thread(_answer, request)
        except HTTPError as error:
            error.close()
            if error.code == PAYMENT_REQUIRED:
                raise TerminalError("the bank refuses it") from error
            raise


def _answer(request: Request) -> dict[str, Any]:
    with urlopen(request, timeout=5) as response:  # the url is the operator's
        answer: dict[str, Any] = json.load(response)
        return answer


# -- what is done with cards, for any saga ----------------------------------------------------------------------------


class Amount(BaseModel):
    card: str
    cents: int


class Held(BaseModel):
    hold: str
    payment: str | None = None  # None: held, and nothing taken


class HoldMoney(Activity[Amount, Held], timeout=seconds(10), retry=Retry.exponential(None, within=minutes(5))):
    def __init__(self, gateway: CardGateway) -> None:
        self.gateway = gateway

    async def execute(self, inp: Amount, ctx: ActivityContext) -> Held:
        return Held(hold=await self.gateway.hold(inp.card, inp.cents, ctx.idempotency_key))

    async def compensate(self, inp: Amount, out: Held, ctx: ActivityContext) -> None:
        await self.gateway.release(out.hold, ctx.idempotency_key)


class TakeMoney(HoldMoney):
    """Holds and takes in one step. When only the taking is refused, its own undo releases the hold."""

    async def execute(self, inp: Amount, ctx: ActivityContext) -> Held:
        held = await super().execute(inp, ctx)
        try:
            held.payment = await self.gateway.capture(held.hold, inp.cents, f"{ctx.idempotency_key}:capture")
        except TerminalError as error:
            raise TerminalError(error.reason, partial=held) from error
        return held


# -- a rental -------------------------------------------------------------------------------------------------------


class RentalBooked(Event):
    rental: str
    card: str
    deposit_cents: int


class CarReturned(Event):
    rental: str
    due_cents: int


class RentalSettled(Event):
    rental: str
    paid_cents: int


class Rental(BaseModel):
    rental: str
    card: str
    deposit_cents: int
    paid_cents: int = 0


class Deposit(BaseModel):
    hold: str
    cents: int


class Settled(BaseModel):
    payment: str
    cents: int


class SettleOnReturn(Activity[Deposit, Settled], timeout=seconds(10), retry=Retry.exponential(10)):
    """Waits for the car, then takes what is due, as far as the deposit goes."""

    def __init__(self, gateway: CardGateway) -> None:
        self.gateway = gateway

    async def execute(self, inp: Deposit, ctx: ActivityContext, event: CarReturned | None = None) -> Settled | WaitFor:
        if event is None:
            return WaitFor(CarReturned, timeout=days(60))
        cents = min(inp.cents, event.due_cents)
        return Settled(payment=await self.gateway.capture(inp.hold, cents, ctx.idempotency_key), cents=cents)


gateway = CardGateway(GATEWAY)
rental = Saga("rental", state=Rental)


@rental.starts_on(RentalBooked, key=lambda e: e.rental)
def booked(event: RentalBooked) -> Rental:
    return Rental(**event.model_dump())


def deposit(rental: Rental, outputs: Outputs) -> Deposit:
    return Deposit(hold=outputs[held].hold, cents=rental.deposit_cents)


def settled(rental: Rental, taken: Settled) -> Verdict:
    rental.paid_cents = taken.cents
    return None


held = rental.step(HoldMoney(gateway), input=lambda rental: Amount(card=rental.card, cents=rental.deposit_cents))
settle = rental.step(SettleOnReturn(gateway), input=deposit, result=settled, undo=Undo.NONE)  # nothing follows
settle.resumes_on(CarReturned, key=lambda e: e.rental)


@rental.emit
def tell(rental: Rental) -> RentalSettled:
    return RentalSettled(rental=rental.rental, paid_cents=rental.paid_cents)


rental.flow(held, settle, tell)

# -- a fine ---------------------------------------------------------------------------------------------------------


class FineReceived(Event):
    fine: str
    card: str
    cents: int


class FinePaid(Event):
    fine: str


class Fine(BaseModel):
    fine: str
    card: str
    cents: int


fine = Saga("parking_fine", state=Fine)


@fine.starts_on(FineReceived, key=lambda e: e.fine)
def received(event: FineReceived) -> Fine:
    return Fine(**event.model_dump())


taken = fine.step(TakeMoney(gateway), input=lambda fine: Amount(card=fine.card, cents=fine.cents))


@fine.emit
def paid(fine: Fine) -> FinePaid:
    return FinePaid(fine=fine.fine)


fine.flow(taken, paid)
