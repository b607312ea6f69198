"""An expense claim and the people who have to say yes: the lead, finance for more, two of the board for a lot.

People answer by events, hours or days later, and are reminded until they do. Whoever says no ends the claim; nothing
was done yet, so nothing has to be taken back. Money leaves once, at the end.
"""

from __future__ import annotations

import os
from typing import Final, Literal

from pydantic import BaseModel

from saga_worker import (
    Command,
    Compensate,
    Event,
    Message,
    Retry,
    Saga,
    Step,
    Undo,
    Verdict,
    days,
    minutes,
    parallel,
    pivot,
    seconds,
    when,
)

REMIND_EVERY: Final = seconds(float(os.environ.get("APPROVAL_REMIND_SECONDS", str(24 * 3600))))
REMINDERS: Final = 5
FINANCE_FROM_CENTS: Final = 100_000
BOARD_FROM_CENTS: Final = 1_000_000
BOARD_QUORUM: Final = 2

Seat = Literal["lead", "finance", "chair", "treasurer", "secretary"]


class ExpenseClaimed(Event):
    claim: str
    by: str
    cents: int


class ClaimWithdrawn(Event):
    claim: str


class LeadDecided(Event):
    claim: str
    approved: bool
    who: str


class FinanceDecided(Event):
    claim: str
    approved: bool
    who: str


class ChairDecided(Event):
    claim: str
    approved: bool
    who: str


class TreasurerDecided(Event):
    claim: str
    approved: bool
    who: str


class SecretaryDecided(Event):
    claim: str
    approved: bool
    who: str


class DecisionWanted(Event):
    claim: str
    seat: Seat
    cents: int


class ClaimPaid(Event):
    claim: str
    cents: int
    approved_by: list[str]


class Paid(Message):
    transfer: str


class PayOut(Command[Paid]):
    claim: str
    to: str
    cents: int


class Claim(BaseModel):
    claim: str
    by: str
    cents: int
    approved_by: list[str] = []


Decided = LeadDecided | FinanceDecided | ChairDecided | TreasurerDecided | SecretaryDecided
claims = Saga("approval_chain", state=Claim, deadline=days(60))


@claims.starts_on(ExpenseClaimed, key=lambda e: e.claim)
def claimed(event: ExpenseClaimed) -> Claim:
    return Claim(claim=event.claim, by=event.by, cents=event.cents)


@claims.on(ClaimWithdrawn, key=lambda e: e.claim)
def withdrawn(claim: Claim, event: ClaimWithdrawn) -> Verdict:
    return Compensate("withdrawn")


def judge(claim: Claim, event: Decided) -> Verdict:
    """What every yes and every no means."""
    if not event.approved:
        return Compensate(f"refused by {event.who}")
    claim.approved_by.append(event.who)
    return None


def decision_of(seat: Seat, model: type[Decided]) -> Step[Claim]:
    """The wait for one person, with reminders."""
    step = claims.wait(seat, timeout=days(14))
    step.on(model, key=lambda e: e.claim)(judge)

    @step.every(REMIND_EVERY, times=REMINDERS)
    def remind(claim: Claim) -> DecisionWanted:
        return DecisionWanted(claim=claim.claim, seat=seat, cents=claim.cents)

    return step


@claims.command("payroll", timeout=minutes(10), retry=Retry.exponential(10), undo=Undo.NONE)
def pay_out(claim: Claim) -> PayOut:
    return PayOut(claim=claim.claim, to=claim.by, cents=claim.cents)


@pay_out.reply
def paid(claim: Claim, reply: Paid) -> Verdict:
    return None


@claims.emit
def announce(claim: Claim) -> ClaimPaid:
    return ClaimPaid(claim=claim.claim, cents=claim.cents, approved_by=claim.approved_by)


claims.flow(
    decision_of("lead", LeadDecided),
    when(lambda claim: claim.cents >= FINANCE_FROM_CENTS, decision_of("finance", FinanceDecided)),
    when(
        lambda claim: claim.cents >= BOARD_FROM_CENTS,
        parallel(
            decision_of("chair", ChairDecided),
            decision_of("treasurer", TreasurerDecided),
            decision_of("secretary", SecretaryDecided),
            join=BOARD_QUORUM,
        ),
    ),
    pivot(pay_out),
    announce,
)
