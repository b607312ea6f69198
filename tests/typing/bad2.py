"""More of what has to be refused, over the two whole sagas; see bad.py."""

from __future__ import annotations

from sagas import (
    AddressWrong,
    Applied,
    CardPrinted,
    Confirmed,
    DeviceReceived,
    Inspect,
    Membership,
    PartsTaken,
    PrintCard,
    Quote,
    QuoteAnswered,
    Repair,
    VoidCard,
    answer,
    customer,
    inspect,
    membership,
    mend,
    print_card,
    repair,
    send_letter,
)

from saga_worker import Compensate, Retry, Saga, UndoOf, days, minutes, when


@answer.on(Confirmed, key=lambda e: e.mail)  # error: no such field
def confirmed(person: Membership, event: Confirmed) -> None: ...


@answer.on(Confirmed, key=lambda e: e.member)  # error: the handler takes another event
def applied(person: Membership, event: Applied) -> None: ...


@customer.on(QuoteAnswered, key=lambda e: e.accepted is None or 1.5)  # error: a key is no number with a point
def answered(device: Repair, event: QuoteAnswered) -> None: ...


@repair.starts_on(DeviceReceived, key=lambda e: e.owner)  # error: a model is no key
def received(event: DeviceReceived) -> Repair:
    return Repair(ticket=event.ticket, owner=event.owner.id)


@send_letter.reply  # error: nothing but Done comes back
def letter_sent(person: Membership, reply: CardPrinted) -> None: ...


@inspect.rejected  # error: the default rejection is Rejected
def not_inspected(device: Repair, why: AddressWrong) -> None: ...


@inspect.reply  # error: a verdict of a wrong kind
def inspected(device: Repair, reply: Quote) -> bool:
    return True


@print_card.reply  # error: handlers are plain functions
async def printed(person: Membership, reply: CardPrinted) -> None: ...


@print_card.undo  # error: an undo makes a command
def void_card(person: Membership) -> None: ...


class ReturnCard(UndoOf[CardPrinted]):  # error: only commands are undone
    member: int


@membership.command("print shop", timeout=60)  # error: a duration is no number
def print_again(person: Membership) -> PrintCard:
    return PrintCard(member=person.member)


@membership.command("print shop")  # error: a command has a time-out
def print_for_ever(person: Membership) -> PrintCard:
    return PrintCard(member=person.member)


@membership.command("print shop", timeout=minutes(1), retry=3)  # error: a policy is no number
def print_thrice(person: Membership) -> PrintCard:
    return PrintCard(member=person.member)


wrong_state = Saga("wrong", state=dict)  # error: the state is a model
membership.flow(send_letter, when(lambda person: person.confirmd, print_card))  # error: no such field
membership.flow(send_letter, mend)  # error: a step of another saga
membership.wait("answer", timeout=days(1), on_timeout="continue")  # error: no word, an OnTimeout
Compensate()  # error: a verdict has a reason
Retry(attempts="three")  # error: no word
Inspect(ticket=1)  # error: no text
VoidCard(member=1)  # error: a field is missing
print_card.reply(PartsTaken)  # error: a class is no handler
