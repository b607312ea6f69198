"""An operator moves an armed timer: it fires at once, at another time, or not by itself.

Only under the epoch that the operator has seen: a timer that has fired, was cancelled by its saga or armed anew since
then is another one. It keeps its epoch, so the step that armed it stays the one that the journal names.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from saga_worker.saga.decide.next import Next, Stay
from saga_worker.saga.draft import Draft
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.inputs import Ignored
from saga_worker.saga.instance import NEVER

COMMANDS: Final = {
    "timer_fire": "a timer is due now",
    "timer_move": "a timer is due at another time",
    "timer_cancel": "a timer does not fire by itself any more; it can still be moved",
}


def apply(draft: Draft, command: str, arguments: Mapping[str, object]) -> Next:
    """What `command`, one of COMMANDS, does to the timer `<name>:<epoch>`. It fires behind all rows that are ready."""
    name, _, epoch = str(arguments.get("timer")).rpartition(":")
    timer = draft.timers.get(name)
    if timer is None or str(timer.epoch) != epoch:
        return Ignored("timer_not_armed")
    match command:
        case "timer_fire":
            due_at = draft.given.now
        case "timer_move":
            due_at = _due_at(draft, arguments)
        case _:
            due_at = NEVER
    draft.timers[name] = replace(timer, due_at=due_at, failures=0, deaths=0)
    return Stay()


def _due_at(draft: Draft, arguments: Mapping[str, object]) -> datetime:
    """A time, or seconds from now on the clock of the database."""
    match arguments:
        case {"due_at": str(text)}:
            try:
                due_at = datetime.fromisoformat(text)
            except ValueError:
                due_at = None
            if due_at is not None and due_at.tzinfo is not None and due_at < NEVER:
                return due_at
        case {"after_seconds": int() | float() as seconds}:
            try:
                due_at = draft.given.now + timedelta(seconds=seconds)
            except (OverflowError, ValueError):
                due_at = NEVER
            if due_at < NEVER:
                return due_at
    raise PoisonMessage(
        "bad_operator_command", "timer_move needs due_at, a time with its zone, or after_seconds, both before 9999."
    )
