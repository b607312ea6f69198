"""The fates of commands: the table is complete, and its few holes are impossible for a stated reason."""

from __future__ import annotations

from itertools import product

import pytest

from saga_worker.saga.commands import FATES, Answer, Then, follow
from saga_worker.saga.instance import CommandKind, Fate

FORWARD, UNDO = CommandKind.FORWARD, CommandKind.UNDO
DEFINITE = (Fate.DONE, Fate.REJECTED)
OURS = (Answer.SILENCE, Answer.ABANDONED, Answer.WATCH_ENDED)

# (kind, fates, answers) -> why nobody can say this of such a command
IMPOSSIBLE = {
    (FORWARD, DEFINITE, OURS): "an answer disarms all timers of its command, and compensation abandons open ones only",
    (UNDO, DEFINITE, OURS): "an answer disarms all timers of its command, and undos are never abandoned",
    (FORWARD, (Fate.SENT,), (Answer.WATCH_ENDED,)): "the watch begins when the fate becomes unknown",
    (FORWARD, (Fate.UNKNOWN,), (Answer.SILENCE,)): "its time-out was disarmed when it was given up",
    (FORWARD, (Fate.UNKNOWN,), (Answer.ABANDONED,)): "it was abandoned already: compensation begins once",
    (UNDO, (Fate.SENT,), (Answer.ABANDONED, Answer.WATCH_ENDED)): "an undo is tried until it is answered",
    (UNDO, tuple(Fate), (Answer.PARTIAL,)): "what takes back has itself nothing that takes it back",
    (UNDO, (Fate.UNKNOWN,), tuple(Answer)): "the outcome of an undo is waited for, never given up",
}


def impossible() -> set[tuple[CommandKind, Fate, Answer]]:
    return {(kind, fate, answer) for kind, fates, answers in IMPOSSIBLE for fate in fates for answer in answers}


def test_every_kind_fate_and_answer_is_in_the_table_or_impossible() -> None:
    assert FATES.keys() | impossible() == set(product(CommandKind, Fate, Answer))
    assert not FATES.keys() & impossible()


@pytest.mark.parametrize("place", sorted(FATES))
def test_a_definite_fate_is_never_left(place: tuple[CommandKind, Fate, Answer]) -> None:
    _, fate, _ = place

    assert fate not in DEFINITE or follow(*place)[0] is fate


@pytest.mark.parametrize("place", [place for place in FATES if place[1] in DEFINITE])
def test_the_first_definite_answer_wins(place: tuple[CommandKind, Fate, Answer]) -> None:
    _, fate, answer = place
    agrees = answer is Answer.EXHAUSTED or answer is {Fate.DONE: Answer.SUCCESS, Fate.REJECTED: Answer.REJECTION}[fate]

    assert follow(*place)[1] is (Then.DUPLICATE if agrees else Then.CONTRADICTION)


def test_only_an_answer_of_the_participant_is_definite() -> None:
    made_definite = {
        answer for (_, fate, answer), (after, _) in FATES.items() if after in DEFINITE and fate is not after
    }

    assert made_definite == {Answer.SUCCESS, Answer.REJECTION, Answer.PARTIAL}


def test_a_late_success_is_the_only_way_to_take_back_what_was_unknown() -> None:
    assert [place for place, (_, then) in FATES.items() if then is Then.TAKE_BACK] == [
        (FORWARD, Fate.UNKNOWN, Answer.SUCCESS),
        (FORWARD, Fate.UNKNOWN, Answer.PARTIAL),
    ]


def test_an_impossible_answer_is_a_loud_bug() -> None:
    with pytest.raises(KeyError):
        follow(UNDO, Fate.UNKNOWN, Answer.SUCCESS)
