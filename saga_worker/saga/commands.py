"""The fates of a command: one table, fate × answer → fate and what follows.

A command is sent, then done or rejected by an answer, or unknown when nobody answered in time. An unknown
command may have worked: with hybrid undo it is taken back at once, with strict undo it is watched until the
answer comes, also after its saga has ended. The first definite answer wins; later ones are recorded only.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final

from saga_worker.saga.instance import CommandKind, Fate


class Answer(StrEnum):
    """What can be said about a command that was sent."""

    SUCCESS = "success"
    REJECTION = "rejection"
    PARTIAL = "partial"  # own work that failed for good, and says what it has done before
    SILENCE = "silence"  # a time-out with tries left
    EXHAUSTED = "exhausted"  # a time-out without
    ABANDONED = "abandoned"  # the saga leaves the flow while it is in flight
    WATCH_ENDED = "watch_ended"


class Then(Enum):
    """What follows from an answer."""

    ADVANCE = "run the reply handler and go on"
    REJECT = "run the rejection handler, which usually compensates"
    RESEND = "send the same id and bytes again after the back-off"
    GIVE_UP = "compensate; past the pivot ask for attention and keep waiting"
    TAKE_BACK = "keep what the reply says, and undo"
    RECORD = "record that the fate is known now"
    UNDONE = "the step is taken back; undo the next one"
    UNDO_AGAIN = "a new undo with a new id after the back-off"
    ATTEND = "ask for attention"
    DUPLICATE = "ignore: this answer was given before"
    CONTRADICTION = "ignore: another answer was given before"


_F, _U = CommandKind.FORWARD, CommandKind.UNDO

FATES: Final[dict[tuple[CommandKind, Fate, Answer], tuple[Fate, Then]]] = {
    (_F, Fate.SENT, Answer.SUCCESS): (Fate.DONE, Then.ADVANCE),
    (_F, Fate.SENT, Answer.REJECTION): (Fate.REJECTED, Then.REJECT),
    (_F, Fate.SENT, Answer.PARTIAL): (Fate.DONE, Then.REJECT),
    (_F, Fate.SENT, Answer.SILENCE): (Fate.SENT, Then.RESEND),
    (_F, Fate.SENT, Answer.EXHAUSTED): (Fate.SENT, Then.GIVE_UP),
    (_F, Fate.SENT, Answer.ABANDONED): (Fate.UNKNOWN, Then.RECORD),
    (_F, Fate.UNKNOWN, Answer.SUCCESS): (Fate.DONE, Then.TAKE_BACK),
    (_F, Fate.UNKNOWN, Answer.PARTIAL): (Fate.DONE, Then.TAKE_BACK),
    (_F, Fate.UNKNOWN, Answer.REJECTION): (Fate.REJECTED, Then.RECORD),
    (_F, Fate.UNKNOWN, Answer.WATCH_ENDED): (Fate.UNKNOWN, Then.ATTEND),
    (_F, Fate.UNKNOWN, Answer.EXHAUSTED): (Fate.UNKNOWN, Then.ATTEND),
    (_F, Fate.DONE, Answer.SUCCESS): (Fate.DONE, Then.DUPLICATE),
    (_F, Fate.DONE, Answer.PARTIAL): (Fate.DONE, Then.CONTRADICTION),
    (_F, Fate.DONE, Answer.REJECTION): (Fate.DONE, Then.CONTRADICTION),
    (_F, Fate.DONE, Answer.EXHAUSTED): (Fate.DONE, Then.DUPLICATE),
    (_F, Fate.REJECTED, Answer.PARTIAL): (Fate.REJECTED, Then.CONTRADICTION),
    (_F, Fate.REJECTED, Answer.REJECTION): (Fate.REJECTED, Then.DUPLICATE),
    (_F, Fate.REJECTED, Answer.EXHAUSTED): (Fate.REJECTED, Then.DUPLICATE),
    (_F, Fate.REJECTED, Answer.SUCCESS): (Fate.REJECTED, Then.CONTRADICTION),
    (_U, Fate.SENT, Answer.SUCCESS): (Fate.DONE, Then.UNDONE),
    (_U, Fate.SENT, Answer.REJECTION): (Fate.REJECTED, Then.UNDO_AGAIN),
    (_U, Fate.SENT, Answer.SILENCE): (Fate.SENT, Then.RESEND),
    (_U, Fate.SENT, Answer.EXHAUSTED): (Fate.SENT, Then.ATTEND),
    (_U, Fate.DONE, Answer.SUCCESS): (Fate.DONE, Then.DUPLICATE),
    (_U, Fate.DONE, Answer.EXHAUSTED): (Fate.DONE, Then.DUPLICATE),
    (_U, Fate.DONE, Answer.REJECTION): (Fate.DONE, Then.CONTRADICTION),
    (_U, Fate.REJECTED, Answer.REJECTION): (Fate.REJECTED, Then.DUPLICATE),
    (_U, Fate.REJECTED, Answer.EXHAUSTED): (Fate.REJECTED, Then.DUPLICATE),
    (_U, Fate.REJECTED, Answer.SUCCESS): (Fate.REJECTED, Then.CONTRADICTION),
}


def follow(kind: CommandKind, fate: Fate, answer: Answer) -> tuple[Fate, Then]:
    """The new fate and what follows. Every pair that can occur is in the table; a KeyError is a bug of ours."""
    return FATES[kind, fate, answer]
