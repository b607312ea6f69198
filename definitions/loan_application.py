"""A bank's loan application, from submission to its end, as a saga.

The bank publishes an event for everything that happens to an application: its own states (`A_…`), those of offers
(`O_…`) and of work items (`W_…`). The saga checks the applicant's credit at once, which places a hold; then it
waits for the bank's decision. An activated loan is paid out. A declined or cancelled application ends by
compensation, which releases the hold. An application that nobody decides stays open until its deadline.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, Field

from saga_worker import Command, Compensate, Event, Message, Retry, Saga, UndoOf, Verdict, pivot

COMMAND_TIMEOUT = timedelta(minutes=10)
OPEN_AT_MOST = timedelta(days=365)


class BankEvent(Event):
    """What all events of the bank carry."""

    application: str
    transition: str = Field(alias="lifecycle:transition")
    resource: str | None = Field(default=None, alias="org:resource")


class Submitted(BankEvent, type="A_SUBMITTED"):
    amount: str = Field(alias="AMOUNT_REQ")
    registered: str = Field(alias="REG_DATE")


class Declined(BankEvent, type="A_DECLINED"): ...


class Cancelled(BankEvent, type="A_CANCELLED"): ...


class Activated(BankEvent, type="A_ACTIVATED"): ...


class StateReached(
    BankEvent,
    types=(
        "A_PARTLYSUBMITTED", "A_PREACCEPTED", "A_ACCEPTED", "A_FINALIZED", "A_APPROVED", "A_REGISTERED",
    ),
): ...  # fmt: skip


class OfferMoved(
    BankEvent,
    types=(
        "O_SELECTED", "O_CREATED", "O_SENT", "O_SENT_BACK", "O_ACCEPTED", "O_CANCELLED", "O_DECLINED",
    ),
): ...  # fmt: skip


class WorkDone(
    BankEvent,
    types=(
        "W_Afhandelen leads", "W_Beoordelen fraude", "W_Completeren aanvraag", "W_Nabellen incomplete dossiers",
        "W_Nabellen offertes", "W_Valideren aanvraag", "W_Wijzigen contractgegevens",
    ),
): ...  # fmt: skip


class CreditChecked(Message):
    hold: str


class CheckCredit(Command[CreditChecked]):
    """Looks at the applicant's credit and places a hold on it."""

    application: str
    amount: str


class ReleaseHold(UndoOf[CheckCredit]):
    application: str
    hold: str | None  # None: the check was never answered


class PayOut(Command):
    application: str
    amount: str


class LoanApplication(BaseModel):
    application: str
    amount: str
    outcome: Literal["declined", "cancelled", "activated"] | None = None
    hold: str | None = None
    reached: list[str] = []
    offers_moved: int = 0
    work_done: int = 0


loan = Saga("loan_application", state=LoanApplication, deadline=OPEN_AT_MOST)


@loan.starts_on(Submitted, key=lambda e: e.application)
def submitted(event: Submitted) -> LoanApplication:
    return LoanApplication(application=event.application, amount=event.amount)


@loan.command("credit", timeout=COMMAND_TIMEOUT, retry=Retry.exponential(3))
def check_credit(loan: LoanApplication) -> CheckCredit:
    return CheckCredit(application=loan.application, amount=loan.amount)


@check_credit.reply
def credit_checked(loan: LoanApplication, reply: CreditChecked) -> Verdict:
    loan.hold = reply.hold
    return None


@check_credit.undo
def release_hold(loan: LoanApplication) -> ReleaseHold:
    return ReleaseHold(application=loan.application, hold=loan.hold)


# What the bank says while the application is open; it may come in any order, and more than once.


@loan.on(StateReached, key=lambda e: e.application)
def state_reached(loan: LoanApplication, event: StateReached) -> Verdict:
    loan.reached.append(event.wire_type)
    return None


@loan.on(OfferMoved, key=lambda e: e.application)
def offer_moved(loan: LoanApplication, event: OfferMoved) -> Verdict:
    loan.offers_moved += 1
    return None


@loan.on(WorkDone, key=lambda e: e.application)
def work_done(loan: LoanApplication, event: WorkDone) -> Verdict:
    loan.work_done += 1
    return None


# The three ends. The first two are heard at any time, also while the credit check is still out.


@loan.on(Declined, key=lambda e: e.application)
def declined(loan: LoanApplication, event: Declined) -> Verdict:
    loan.outcome = "declined"
    return Compensate("declined by the bank")


@loan.on(Cancelled, key=lambda e: e.application)
def cancelled(loan: LoanApplication, event: Cancelled) -> Verdict:
    loan.outcome = "cancelled"
    return Compensate("cancelled by the applicant")


decision = loan.wait("decision")


@decision.on(Activated, key=lambda e: e.application)
def activated(loan: LoanApplication, event: Activated) -> Verdict:
    loan.outcome = "activated"
    return None


@loan.command("credit", timeout=COMMAND_TIMEOUT, retry=Retry.exponential(5))
def pay_out(loan: LoanApplication) -> PayOut:
    return PayOut(application=loan.application, amount=loan.amount)


loan.flow(check_credit, decision, pivot(pay_out))
