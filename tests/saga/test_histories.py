"""Random histories: whatever is answered, repeated, late, lost or broken, no promise is broken at any transaction.

`World` checks after every transaction, and that the saga settles when the faults end. Histories that once broke a
promise are kept at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saga_worker import OnExhausted, OnTimeout, OnUndoFailed, Retry, Saga, Undo, days, hours, minutes, seconds
from tests.saga.acts import Act, Answer, Batched, Broken, Event, Nonsense, Operator, Suspect, Time, histories, play
from tests.saga.scripted import BROKEN, State, forked, line, waits
from tests.saga.world import World

SAGAS: dict[str, Saga[State]] = {
    "strict": line(deadline=days(5), retry_q=Retry.fixed(3, seconds(10))),
    "hybrid": line(undo_b=Undo.HYBRID, on_timeout=OnTimeout.CONTINUE, deadline=hours(1)),
    "no pivot": line(undo_b=Undo.NONE, pivoted=False),
    "waits": waits(timeout=hours(30), on_timeout=OnTimeout.CONTINUE),
    "pivot on a wait": waits(pivot_on="wait"),
    "pivot on an event": waits(pivot_on="emit", timeout=hours(30)),
    "fork": forked(),
    "race": forked(join="any"),
    "race without pivot": forked(join="any", pivoted=False),
    "two of three": forked(join=2),
    "loop": forked(looped=True),
    "loop of races": forked(join="any", looped=True),
    "savepoint": forked(marked=True, pivoted=False),
    "savepoint before a race": forked(join="any", marked=True),
    "savepoint that pauses": forked(marked=True, pivoted=False, on_exhausted=OnExhausted.PAUSE),
    "undos wait": line(undo_b=Undo.HYBRID, pivoted=False, on_undo_failed=OnUndoFailed.STOP),
    "race whose undos wait": forked(join="any", on_undo_failed=OnUndoFailed.STOP),
    "forward only": line(undo_b=Undo.NONE, pivoted=False, deadline=days(5), compensate=False),
    "race forward only": forked(join="any", pivoted=False, compensate=False),
    "waits forward only": waits(timeout=hours(30), compensate=False),
}


@pytest.fixture(autouse=True)
def mended() -> Iterator[None]:
    yield
    BROKEN.clear()


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]  # other runs share the machine


@settings(max_examples=1000, deadline=None, suppress_health_check=SLOW, print_blob=True)
@given(name=st.sampled_from(sorted(SAGAS)), history=histories(), starts=st.sampled_from([True, True, True, False]))
def test_no_history_breaks_a_promise(name: str, history: list[Act], starts: bool) -> None:
    play(World(SAGAS[name]), history, starts=starts)


YES, NO, REFUSED = Answer(), Answer(is_success=False, then="compensate"), Answer(is_success=False)
CANCEL, MINUTES = Event("cancel", "compensate"), Time(minutes(4))
KEPT: dict[str, tuple[str, list[Act]]] = {
    "a late rejection while its undo stands on the attention list": (
        "strict", [CANCEL, REFUSED, Time(seconds(5)), REFUSED, Answer(2, False)],
    ),
    "a late rejection while its undo is in flight, which is refused then": (
        "strict", [CANCEL, Answer(1, False), REFUSED],
    ),
    "a refusal of an undo that silence had given up, while an older one is in flight": (
        "hybrid", [YES, YES, NO, Time(hours(1)), Answer(1, False)],
    ),
    "a success of a strict step after the end, whose undo fails": (
        "strict", [YES, Time(seconds(61)), YES, Answer(1), REFUSED, Time(seconds(5)), REFUSED],
    ),
    "an undo that cannot be made, and a reply that makes it needless": (
        "strict", [YES, Broken("undo_a"), Time(minutes(2)), YES],
    ),
    "a start behind a discarded start": (
        "strict", [Event("begun", "raise"), Time(minutes(1)), Event("begun"), Operator("discard")],
    ),
    "a parked event that raises, and one behind it": (
        "strict", [Event("cancel", "raise"), Event("cancel"), Event("begun"), Time(minutes(1)), Operator("discard")],
    ),
    "a reply to a number that is issued later, replayed then": (
        "hybrid", [YES, Nonsense(4), YES, YES, Operator("replay")],
    ),
    "a late success of a strict step while an older undo is sent again": (
        "strict", [YES, CANCEL, Time(seconds(61)), Batched(Answer(1)), Time(seconds(5))],
    ),
    "an expired wait past the pivot": ("pivot on an event", [Event("begun"), YES, Time(hours(31)), Operator("retry")]),
    "a suspect that killed its workers, with events behind it": (
        "strict", [Batched(Event("cancel")), Suspect(2), Event("cancel"), Operator("replay")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kept", KEPT)
def test_a_history_that_once_broke_a_promise_keeps_it(kept: str) -> None:
    name, history = KEPT[kept]

    play(World(SAGAS[name]), history, starts="start" not in kept and "parked" not in kept)
