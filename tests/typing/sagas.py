"""Two whole sagas as authors write them: a membership with a probation, and a repair with a quote."""

from __future__ import annotations

from pydantic import BaseModel, Field

from saga_worker import (
    Command,
    Compensate,
    Complete,
    Event,
    Message,
    OnTimeout,
    Retry,
    Saga,
    Undo,
    UndoOf,
    Verdict,
    days,
    minutes,
    pivot,
    when,
)

# A membership: a letter, time to answer it with reminders, then a card.


class Applied(Event):
    member: int
    mail: str


class Confirmed(Event):
    member: int


class Withdrawn(Event):
    member: int
    why: str = ""


class SendLetter(Command):
    member: int
    mail: str


class CardPrinted(Message):
    number: str


class AddressWrong(Message):
    field: str


class PrintCard(Command[CardPrinted, AddressWrong]):
    member: int


class VoidCard(UndoOf[PrintCard]):
    member: int
    number: str | None


class AnswerOverdue(Event):
    member: int


class Joined(Event):
    member: int
    card: str | None


class Membership(BaseModel):
    member: int
    mail: str
    confirmed: bool = False
    card: str | None = None


membership = Saga("membership", state=Membership, deadline=days(40))


@membership.starts_on(Applied, key=lambda e: e.member)
def applied(event: Applied) -> Membership:
    return Membership(member=event.member, mail=event.mail)


@membership.on(Withdrawn, key=lambda e: e.member)
def withdrawn(person: Membership, event: Withdrawn) -> Verdict:
    return Compensate(event.why or "withdrawn")


@membership.command("mail", timeout=minutes(10), retry=Retry.exponential(5))
def send_letter(person: Membership) -> SendLetter:
    return SendLetter(member=person.member, mail=person.mail)


answer = membership.wait("answer", timeout=days(30), on_timeout=OnTimeout.CONTINUE)


@answer.on(Confirmed, key=lambda e: e.member)
def confirmed(person: Membership, event: Confirmed) -> None:
    person.confirmed = True


@answer.every(days(7), times=3)
def remind(person: Membership) -> AnswerOverdue:
    return AnswerOverdue(member=person.member)


@membership.command("print shop", timeout=days(1))
def print_card(person: Membership) -> PrintCard:
    return PrintCard(member=person.member)


@print_card.reply
def printed(person: Membership, reply: CardPrinted) -> None:
    person.card = reply.number


@print_card.rejected
def not_printed(person: Membership, why: AddressWrong) -> Compensate:
    return Compensate(f"{why.field} is wrong")


@print_card.undo
def void_card(person: Membership) -> VoidCard:
    return VoidCard(member=person.member, number=person.card)


@membership.emit
def joined(person: Membership) -> Joined:
    return Joined(member=person.member, card=person.card)


membership.flow(send_letter, answer, when(lambda person: person.confirmed, print_card, joined))
membership.check()

# A repair: a quote, the customer's word if it is dear, then the work, which cannot be undone.


class Owner(BaseModel):
    id: str


class DeviceReceived(Event):
    owner: Owner
    ticket: str = Field(alias="ticketNo")


class QuoteAnswered(Event):
    ticket: str
    accepted: bool


class Quote(Message):
    cents: int


class BeyondRepair(Message): ...


class Inspect(Command[Quote | BeyondRepair]):
    ticket: str


class PartsTaken(Message):
    shelf: str


class TakeParts(Command[PartsTaken]):
    ticket: str


class ReturnParts(UndoOf[TakeParts]):
    ticket: str


class Mend(Command):
    ticket: str


class Repaired(Event):
    ticket: str


class Repair(BaseModel):
    ticket: str
    owner: str
    cents: int = 0
    shelf: str | None = None


repair = Saga("repair", state=Repair)


@repair.starts_on(DeviceReceived, key=lambda e: e.ticket)
def received(event: DeviceReceived) -> Repair:
    return Repair(ticket=event.ticket, owner=event.owner.id)


@repair.command("workshop", timeout=days(2), undo=Undo.NONE)
def inspect(device: Repair) -> Inspect:
    return Inspect(ticket=device.ticket)


@inspect.reply
def inspected(device: Repair, reply: Quote | BeyondRepair) -> Verdict:
    if isinstance(reply, BeyondRepair):
        return Complete("beyond repair")
    device.cents = reply.cents
    return None


customer = repair.wait("the customer's word", timeout=days(14))


@customer.on(QuoteAnswered, key=lambda e: e.ticket)
def answered(device: Repair, event: QuoteAnswered) -> Verdict:
    return None if event.accepted else Compensate("quote refused")


@repair.command("stock", timeout=minutes(5), retry=Retry.fixed(3))
def take_parts(device: Repair) -> TakeParts:
    return TakeParts(ticket=device.ticket)


@take_parts.reply
def taken(device: Repair, reply: PartsTaken) -> None:
    device.shelf = reply.shelf


@take_parts.undo
def return_parts(device: Repair) -> ReturnParts:
    return ReturnParts(ticket=device.ticket)


@repair.command("workshop", timeout=days(5))
def mend(device: Repair) -> Mend:
    return Mend(ticket=device.ticket)


@repair.emit
def repaired(device: Repair) -> Repaired:
    return Repaired(ticket=device.ticket)


repair.flow(inspect, when(lambda device: device.cents > 10_000, customer), take_parts, pivot(mend), repaired)
repair.check()
