"""Money from one account to another, both kept in a table beside the sagas.

The two bookings are local steps: each commits in the same transaction as the step of its saga, so that no money is
booked twice or lost, whatever dies in between. If the payee turns out to be closed, the payer's booking is taken back.

The table is the user's own::

    CREATE TABLE account (id text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0), closed boolean NOT NULL)
"""

from __future__ import annotations

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from saga_worker import Compensate, Event, Retry, Saga, TerminalError, Undo, Verdict, seconds


class TransferOrdered(Event):
    transfer_id: str
    payer: str
    payee: str
    cents: int


class TransferBooked(Event):
    transfer_id: str
    cents: int


class Transfer(BaseModel):
    transfer_id: str
    payer: str
    payee: str
    cents: int


transfer = Saga("account_transfer", state=Transfer)


@transfer.starts_on(TransferOrdered, key=lambda e: e.transfer_id)
def ordered(event: TransferOrdered) -> Transfer:
    return Transfer(**event.model_dump())


@transfer.local(undo=Undo.STRICT)
async def debit(order: Transfer, session: AsyncSession) -> Verdict:
    if not await book(session, order.payer, -order.cents):
        raise TerminalError("the payer's account does not cover it")
    return None


@debit.undo
async def give_back(order: Transfer, session: AsyncSession) -> None:
    await book(session, order.payer, order.cents)


@transfer.local(retry=Retry.exponential(5, base=seconds(0.2)), undo=Undo.NONE)
async def credit(order: Transfer, session: AsyncSession) -> Verdict:
    if not await book(session, order.payee, order.cents):
        return Compensate(f"the account {order.payee} is closed")
    return None


@transfer.emit
def announce(order: Transfer) -> TransferBooked:
    return TransferBooked(transfer_id=order.transfer_id, cents=order.cents)


async def book(session: AsyncSession, account: str, cents: int) -> bool:
    """Whether the account is open and covers it."""
    booked = await session.execute(
        text(
            "UPDATE account SET cents = cents + :cents"
            " WHERE id = :account AND NOT closed AND cents + :cents >= 0 RETURNING id"
        ),
        {"account": account, "cents": cents},
    )
    return booked.first() is not None


transfer.flow(debit, credit, announce)
