"""What an input leads to: the closed set that the input files return and `decide` carries out."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from saga_worker.saga.definition import Saga
from saga_worker.saga.inputs import EventArrived, Ignored, Parked, Postponed, Refused
from saga_worker.saga.instance import Taken
from saga_worker.saga.retry import Compensate, Complete, Rollback, Verdict


class Stay(Struct, frozen=True):
    """Applied; the saga stays where it is."""

    reason: str | None = None


class Begin(Struct, frozen=True):
    """A new saga: open its first steps."""


class StartOver(Struct, frozen=True):
    """The run of this key is over: begin the next one, by this definition."""

    saga: Saga[Any]
    event: EventArrived


class Leave(Struct, frozen=True):
    """This step is over: go on."""

    step_id: str


class OpenAgain(Struct, frozen=True):
    """Send this step's command under a new id."""

    step_id: str


class EnterAgain(Struct, frozen=True):
    """An activity has waited for this event: enter it again."""

    step_id: str
    event: Taken


class Undo(Struct, frozen=True):
    """Leave the flow and take everything back."""

    reason: str


class RollBack(Struct, frozen=True):
    """Take back what was done since this savepoint, then go on from there."""

    to: str
    reason: str


class Finish(Struct, frozen=True):
    """Leave the flow and keep everything."""

    reason: str


class Fail(Struct, frozen=True):
    """Leave the flow, or stop going back, and leave everything where it is."""

    reason: str


class Proceed(Struct, frozen=True):
    """Compensation goes on with its next undo, if it is time."""

    reason: str | None = None


class UndoAgain(Struct, frozen=True):
    """Try a refused undo once more."""

    undone_seq: int


Next = (
    Stay
    | Begin
    | StartOver
    | Leave
    | OpenAgain
    | EnterAgain
    | Undo
    | RollBack
    | Finish
    | Fail
    | Proceed
    | UndoAgain
    | Ignored
    | Parked
    | Refused
    | Postponed
)
BACK: Final = (Undo, RollBack)


def by_verdict(verdict: Verdict, otherwise: Next) -> Next:
    """What a handler's verdict means; None means `otherwise`."""
    match verdict:
        case Compensate(reason):
            return Undo(reason)
        case Rollback(to, reason):
            return RollBack(to, reason)
        case Complete(reason):
            return Finish(reason)
        case None:
            return otherwise
        case _:
            raise TypeError(
                f"a handler returned {type(verdict).__name__}; return Compensate, Complete, Rollback or None"
            )
