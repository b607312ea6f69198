"""A subscription from its first month to its last: access, then month by month a sleep and a charge.

An unpaid month is asked for again a few times with reminders between; when it stays unpaid the saga compensates, which
takes the access back and keeps the months that were paid. A cancelled one runs to the end of its month.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Final

from pydantic import BaseModel

from saga_worker import (
    Command,
    Event,
    Message,
    Retry,
    Saga,
    Undo,
    UndoOf,
    Verdict,
    days,
    minutes,
    repeat_until,
    seconds,
    when,
)

MONTH: Final = seconds(float(os.environ.get("SUBSCRIPTION_MONTH_SECONDS", str(30 * 24 * 3600))))
DUNNING_PAUSE: Final = seconds(float(os.environ.get("SUBSCRIPTION_DUNNING_SECONDS", str(3 * 24 * 3600))))
DUNNING_TIMES: Final = 3
MONTHS_AT_MOST: Final = 240


class SubscriptionOrdered(Event):
    subscription: str
    plan: str
    cents: int
    trial_days: int = 0


class SubscriptionCancelled(Event):
    subscription: str


class PaymentOverdue(Event):
    subscription: str
    cents: int


class SubscriptionEnded(Event):
    subscription: str
    months_paid: int


class GrantAccess(Command):
    subscription: str
    plan: str


class RevokeAccess(UndoOf[GrantAccess]):
    subscription: str


class EndAccess(Command):
    subscription: str


class Charged(Message):
    payment: str


class Declined(Message):
    code: str


class ChargeMonth(Command[Charged, Declined]):
    subscription: str
    month: int
    cents: int


class Subscription(BaseModel):
    subscription: str
    plan: str
    cents: int
    trial_days: int
    months_paid: int = 0
    overdue: bool = False
    cancelled: bool = False

    @property
    def this_month(self) -> timedelta:
        """The first one begins with the trial."""
        return MONTH + (days(self.trial_days) if self.months_paid == 1 else timedelta(0))


renewal = Saga("subscription_renewal", state=Subscription)


@renewal.starts_on(SubscriptionOrdered, key=lambda e: e.subscription)
def ordered(event: SubscriptionOrdered) -> Subscription:
    return Subscription(**event.model_dump())


@renewal.on(SubscriptionCancelled, key=lambda e: e.subscription)
def cancelled(it: Subscription, event: SubscriptionCancelled) -> Verdict:
    it.cancelled = True  # it ends with the month that is paid
    return None


@renewal.command("accounts", timeout=minutes(5), retry=Retry.exponential(5))
def grant(it: Subscription) -> GrantAccess:
    return GrantAccess(subscription=it.subscription, plan=it.plan)


@grant.undo
def revoke(it: Subscription) -> RevokeAccess:
    return RevokeAccess(subscription=it.subscription)


@renewal.command("payment", timeout=minutes(5), retry=Retry.exponential(5), undo=Undo.NONE)
def charge(it: Subscription) -> ChargeMonth:
    return ChargeMonth(subscription=it.subscription, month=it.months_paid + 1, cents=it.cents)


@charge.reply
def charged(it: Subscription, reply: Charged) -> Verdict:
    it.months_paid += 1
    it.overdue = False
    return None


@charge.rejected
def declined(it: Subscription, why: Declined) -> Verdict:
    it.overdue = True
    return None


@renewal.emit
def remind(it: Subscription) -> PaymentOverdue:
    return PaymentOverdue(subscription=it.subscription, cents=it.cents)


@renewal.command("payment", timeout=minutes(5), retry=Retry.exponential(5), undo=Undo.NONE)
def charge_again(it: Subscription) -> ChargeMonth:
    return ChargeMonth(subscription=it.subscription, month=it.months_paid + 1, cents=it.cents)


@charge_again.reply
def charged_after_all(it: Subscription, reply: Charged) -> Verdict:
    return charged(it, reply)


@charge_again.rejected
def declined_again(it: Subscription, why: Declined) -> Verdict:
    return None


grace = renewal.sleep("grace", DUNNING_PAUSE)
month = renewal.sleep("month", lambda it: it.this_month)


@renewal.command("accounts", timeout=minutes(5), retry=Retry.exponential(10), undo=Undo.NONE)
def end_access(it: Subscription) -> EndAccess:
    return EndAccess(subscription=it.subscription)


@renewal.emit
def announce(it: Subscription) -> SubscriptionEnded:
    return SubscriptionEnded(subscription=it.subscription, months_paid=it.months_paid)


renewal.flow(
    grant,
    repeat_until(
        lambda it: it.cancelled,
        charge,
        when(
            lambda it: it.overdue,
            repeat_until(
                lambda it: not it.overdue, remind, grace, charge_again, times=DUNNING_TIMES, name="until it is paid"
            ),
        ),
        month,
        times=MONTHS_AT_MOST,
        name="month by month",
    ),
    end_access,
    announce,
)
