"""What has to be refused of reusable activities; see bad.py."""

from __future__ import annotations

from good import BookSeat, book, booking, price
from good_activities import (
    Charge,
    ChargeCard,
    Charged,
    Order,
    OrderPaid,
    OrderPlaced,
    Parcel,
    Ship,
    Shipped,
    asked,
    charged,
    courier,
    orders,
    print_label,
    shipped,
)
from pydantic import BaseModel

from saga_worker import Activity, Outputs, Retry, TerminalError, WaitFor, activity, days, minutes, seconds


class WrongOutput(Activity[Charge, Charged]):
    async def execute(self, inp: Charge) -> Shipped:  # error: the class says Charged
        return Shipped(tracking="")


class WrongUndo(ChargeCard):
    async def compensate(self, inp: Charge, out: Shipped) -> None: ...  # error: the output is Charged


class NoModel(Activity[int, Charged]):  # error: an input is a model
    async def execute(self, inp: int) -> Charged:
        return Charged(payment="")


class NotAwaited(Activity[Charge, Charged]):
    def execute(self, inp: Charge) -> Charged:  # error: it is awaited
        return Charged(payment="")


class WrongKeyword(Activity[Charge, Charged], timeout=10): ...  # error: a duration is no number


class Forgotten(Activity[Charge, Charged], timeout=minutes(1)): ...


def to_parcel(order: Order) -> Parcel:
    return Parcel(paid_by=order.order)


def from_shipped(shipped: Shipped) -> Parcel:
    return Parcel(paid_by=shipped.tracking)


def with_outputs(order: Order, outputs: Outputs) -> Parcel:
    return Parcel(paid_by=outputs[charged].tracking)  # error: no such field


def kept(order: Order, out: Charged) -> None: ...


Forgotten()  # error: it does nothing
ChargeCard()  # error: without its gateway
orders.step(Ship(), input=lambda order: Charge(order="", cents=1))  # error: another input
orders.step(Ship(), input=lambda order: Parcel(paid_by=order.nothing))  # error: no such field
orders.step(Ship(), input=lambda: Parcel(paid_by=""))  # error: a map takes the state
orders.step(Ship(), input=to_parcel, after=charged)  # error: takes the state, not what came out
orders.step(Ship(), after=charged, input=from_shipped)  # error: takes another output
orders.step(Ship(), after=charged, input=lambda charged: Parcel(paid_by=charged.tracking))  # error: no such field
orders.step(Ship(), after=price, input=lambda fare: Parcel(paid_by=""))  # error: a step of another saga
orders.step(Ship(), after="charged", input=from_shipped)  # error: a name is no step
orders.step(Ship, input=to_parcel)  # error: a class is no object of it
orders.step(Ship(), input=to_parcel, result=kept)  # error: another output
orders.step(Ship(), input=to_parcel, timeout=3)  # error: a duration is no number
booking.step(Ship(), input=to_parcel)  # error: another state
booking.flow(shipped)  # error: a step of another saga
shipped.result(kept)  # error: another output
asked.resumes_on(OrderPaid, key=lambda event: event.nights)  # error: no such field
asked.resumes_on(BookSeat, key=lambda event: event.order)  # error: a command is no event
WaitFor(timeout=days(1))  # error: for nothing
WaitFor(OrderPaid)  # error: for ever
WaitFor(Charged, timeout=days(1))  # error: no event
WaitFor(OrderPlaced, timeout=5)  # error: a duration is no number
TerminalError("no", partial="a part")  # error: a part is a model
Retry.fixed(3, within=60)  # error: a duration is no number
Retry.by(lambda failures: seconds(1))  # error: the rule also takes the elapsed time


@activity  # error: what comes out is a model
async def nothing(inp: Charge) -> None: ...


@activity(timeout=seconds(1))  # error: it is awaited
def plain(inp: Charge) -> Charged:
    return Charged(payment="")


@print_label.undo  # error: another output
async def wrong_undo(inp: Parcel, out: Charged) -> None: ...


@courier.undo  # error: another input
async def wrong_undo_input(inp: Charge, out: Shipped) -> None: ...


def unused(book: object = book, model: type[BaseModel] = BaseModel) -> None: ...
