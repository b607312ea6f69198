"""The backlog of one saga in one transaction: order, back-off, dead rows, suspects, parking, timers, the wake row."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from saga_worker import OnTimeout, Retry, Saga, days, hours, minutes, seconds
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.fold import NOT_NOW, Limits, fold, in_hand
from saga_worker.saga.inputs import Given, SendCommand
from saga_worker.saga.instance import Instance
from saga_worker.saga.messages import Message, encode
from saga_worker.saga.routing import command_id, ref_of
from saga_worker.saga.rows import InboxRow, Role, RowChange, RowState
from saga_worker.saga.transitions import Status
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import SAGA_ID, START
from tests.saga.scripted import BROKEN, Begun, Cancel, DoA, DoB, Signal, State, UndoA, Yes, answer, line, waits

LINE, WAITS = line(), waits()
REF = ref_of("line", "k")
GIVEN = Given(START, 0.0, SAGA_ID)
LIMITS = Limits(attempts=Retry.fixed(3, seconds(10)))


@pytest.fixture
def broken() -> Iterator[set[str]]:
    yield BROKEN
    BROKEN.clear()


def row(id_: int, message: Message | str, **fields: object) -> InboxRow:
    """A ready row: a message, or an operator's command."""
    is_operator = isinstance(message, str)
    plain = InboxRow(
        id=id_, dedup=SAGA_ID, consumer="line", source="test", message_id=f"m{id_}",
        type=message if isinstance(message, str) else message.wire_type,
        role=Role.OPERATOR if is_operator else Role.EVENT, ref=REF, saga_key="k", correlation_id=None,
        state=RowState.READY, reason=None, suspect=False, attempts=0, crashes=0, first_failed_at=None, next_at=None,
        expires_at=None, received_at=START, body=b"{}" if isinstance(message, str) else encode(message),
    )  # fmt: skip
    return replace(plain, **fields)


def reply(id_: int, seq: int, message: Message, **fields: object) -> InboxRow:
    return row(id_, message, role=Role.REPLY, correlation_id=command_id(REF, seq), **fields)


def folded(rows: list[InboxRow], instance: Instance | None = None, *, given: Given = GIVEN, alone: bool = False,
           write_error: str | None = None, limits: Limits = LIMITS) -> SagaChange:  # fmt: skip
    return fold(LINE, REF, instance, rows, given, limits, alone=alone, write_error=write_error)


def states(change: SagaChange) -> dict[int, str]:
    """Row → what became of it."""
    return {c.id: f"{c.state.label}: {c.reason}" if c.reason else c.state.label for c in change.rows}


def named(change: SagaChange, id_: int) -> RowChange:
    (found,) = [c for c in change.rows if c.id == id_]
    return found


def started(*more: InboxRow) -> Instance:
    instance = folded([row(1, Begun(review=True)), *more]).after
    assert instance is not None
    return instance


def at(moment: datetime | timedelta, **fields: object) -> Given:
    now = START + moment if isinstance(moment, timedelta) else moment
    return replace(GIVEN, now=now, **fields)


# -- order -------------------------------------------------------------------------------------------------------------


def test_rows_are_applied_in_the_order_of_their_ids_operators_first() -> None:
    change = folded([row(9, "recheck"), row(3, Cancel(then="go")), row(1, Begun()), reply(4, 1, Yes())])

    assert [c.id for c in change.rows] == [9, 1, 3, 4]
    assert [entry.message_id for entry in change.journal] == ["m1", "m3", "m4"]
    assert change.after is not None and change.after.revision == 3


def test_the_journal_is_a_chain_and_names_what_each_input_sent_and_armed() -> None:
    """features: 116"""
    change = folded([row(1, Begun()), reply(2, 1, Yes())])

    first, second = change.journal
    assert (first.from_status, first.to_status, first.sent, first.timers) == (
        None,
        Status.RUNNING,
        (1,),
        ("timeout:1:1",),
    )
    assert (second.from_status, second.to_status, second.sent) == (Status.RUNNING, Status.RUNNING, (2,))
    assert [(e.revision, e.input_kind, e.inbox_id) for e in change.journal] == [(1, "event", 1), (2, "reply", 2)]
    assert [effect.seq for effect in change.effects if isinstance(effect, SendCommand)] == [1, 2]


def test_a_row_in_back_off_stops_those_behind_it_but_no_operator() -> None:
    later = START + seconds(1)
    rows = [row(1, Cancel(then="go"), next_at=later), row(2, Cancel(then="go")), row(3, "recheck")]

    change = folded(rows, started())

    assert states(change) == {3: "ignored: rechecked"}
    assert not change.again


def test_a_row_whose_back_off_is_over_is_tried() -> None:
    rows = [row(2, Cancel(then="go"), next_at=START, attempts=1), row(3, Cancel(then="go"))]

    assert states(folded(rows, started())) == {2: "done", 3: "done"}


def test_a_row_that_raises_waits_and_stops_those_behind_it() -> None:
    change = folded([row(2, Cancel(then="raise")), row(3, Cancel(then="go"))], started())

    failed = named(change, 2)
    assert (failed.state, failed.attempts, failed.next_at) == (RowState.READY, 1, START + seconds(10))
    assert (failed.first_failed_at, failed.last_failed_at) == (START, START)
    assert failed.error is not None and "ValueError: cancel cannot be handled at scripted.py" in failed.error
    assert states(change).keys() == {2}


def test_the_first_failure_is_remembered() -> None:
    before = START - hours(1)

    change = folded([row(2, Cancel(then="raise"), attempts=1, first_failed_at=before)], started())

    assert named(change, 2).first_failed_at == before and named(change, 2).attempts == 2


def test_an_operators_row_that_raises_keeps_its_back_off_and_stops_nobody(broken: set[str]) -> None:
    """The undo's maker raises; events must not burn the tries of the operator's row, nor wait for it."""
    test = SagaTest(LINE).given(Begun()).expect(DoA).given(Cancel()).expect(UndoA)
    test.advance(minutes(5)).expect(UndoA).operator("recheck")
    assert test.one.instance is not None
    failing = row(5, "undeliverable", next_at=test.one.now + seconds(5), attempts=1)

    change = folded([failing, row(6, Cancel(then="go"))], test.one.instance, given=at(test.one.now))

    assert states(change) == {6: "ignored: compensating"}


# -- dead rows ---------------------------------------------------------------------------------------------------------


def test_a_row_out_of_tries_dies_holds_those_behind_it_and_puts_the_saga_on_the_list() -> None:
    rows = [row(2, Cancel(then="raise"), attempts=2), row(3, Cancel(then="go")), row(4, "recheck")]

    change = folded(rows, started())

    assert states(change) == {4: "ignored: rechecked", 2: "dead: handler_error", 3: "held: behind_dead"}
    assert change.after is not None and change.after.attention == "dead_letter"
    assert change.clear_wake and not change.again


def test_a_dead_row_holds_what_comes_later() -> None:
    dead = row(2, Cancel(), state=RowState.DEAD, reason="handler_error")

    change = folded([dead, row(3, Cancel(then="go"))], started())

    assert states(change) == {3: "held: behind_dead"}


@pytest.mark.parametrize("reason", ["schema_mismatch", "id_reused", "key_mismatch", "not_expected", "unknown_command"])
def test_a_row_that_died_of_itself_blocks_nobody(reason: str) -> None:
    dead = row(2, Cancel(), state=RowState.DEAD, reason=reason)

    change = folded([dead, row(3, Cancel(then="go"))], started())

    assert states(change) == {3: "done"}
    assert change.after is not None and change.after.attention is None


@pytest.mark.parametrize("reason", ["handler_error", "worker_killed"])
def test_a_dead_operators_row_blocks_nobody(reason: str) -> None:
    dead = row(2, "retry", state=RowState.DEAD, reason=reason)

    assert states(folded([dead, row(3, Cancel(then="go"))], started())) == {3: "done"}


def test_timers_do_not_fire_behind_a_dead_row() -> None:
    dead = row(2, Cancel(), state=RowState.DEAD, reason="handler_error")

    change = folded([dead], started(), given=at(hours(1)))

    assert change.journal == [] and change.clear_wake


def test_a_replayed_row_frees_those_behind_it_in_the_old_order() -> None:
    """features: M31"""
    rows = [
        row(2, Cancel(then="go")),
        row(3, Signal(), state=RowState.HELD, reason="behind_dead"),
        row(4, Cancel(then="go"), state=RowState.HELD, reason="behind_dead"),
        row(5, Cancel(then="go")),
    ]

    change = folded(rows, started())

    assert states(change) == {3: "ready", 4: "ready"}
    assert change.again and change.journal == []


def test_rows_that_are_freed_come_before_timers() -> None:
    held = reply(2, 1, Yes(), state=RowState.HELD, reason="behind_dead")

    change = folded([held], started(), given=at(hours(1)))

    assert states(change) == {2: "ready"}
    assert change.journal == []


def test_the_wake_row_is_back_when_the_saga_is_freed() -> None:
    test = SagaTest(LINE, tolerant=True).given(Begun()).event(Cancel(then="raise")).advance(seconds(20))
    test.expect_attention("dead_letter")
    assert (test.one.wake_at, test.status) == (None, "running")

    BROKEN.add("fixed")
    test.one.replay()
    test.advance(seconds(0)).expect_attention()
    BROKEN.clear()

    assert test.one.wake_at is not None
    test.advance(minutes(4)).expect(DoA).expect(DoA).expect(DoA).expect(UndoA)


def test_a_discarded_row_frees_those_behind_it() -> None:
    test = SagaTest(LINE, tolerant=True).given(Begun()).event(Cancel(then="raise")).advance(seconds(20))
    test.event(Cancel(then="go")).expect_outcome("held: behind_dead")

    test.one.discard()
    test.advance(seconds(0)).expect_attention()

    assert test.state.seen == ["begun", "cancel"]


def test_a_dead_start_parks_what_comes_later_without_end() -> None:
    rows = [row(1, Begun(then="raise"), attempts=2), row(2, Cancel(then="go"))]

    change = folded(rows)

    assert states(change) == {1: "dead: handler_error", 2: "parked: behind_dead"}
    assert named(change, 2).expires_at is None
    assert change.after is None


def test_what_is_parked_behind_a_dead_start_is_applied_after_its_replay() -> None:
    test = SagaTest(LINE, tolerant=True).event(Begun(then="raise")).advance(seconds(20))
    test.event(Cancel(then="go")).expect_outcome("parked: behind_dead").advance(days(30))
    assert test.one.rows[2].state is RowState.PARKED

    BROKEN.add("fixed")
    test.one.replay()
    test.advance(seconds(0)).expect_status("running")
    BROKEN.clear()

    assert test.state.seen == ["begun", "cancel"]


def test_a_start_parked_behind_a_discarded_start_begins_the_saga() -> None:
    test = SagaTest(LINE, tolerant=True).event(Begun(then="raise")).advance(seconds(20))
    test.event(Cancel(then="go")).event(Begun()).expect_outcome("parked: behind_dead")

    test.one.discard()
    test.advance(seconds(0)).expect_status("running")

    assert test.state.seen == ["begun", "cancel"]


def test_what_was_parked_behind_a_discarded_start_expires_like_any_early_event() -> None:
    test = SagaTest(LINE, tolerant=True).event(Begun(then="raise")).advance(seconds(20)).event(Cancel())
    test.one.discard()

    test.advance(days(13))
    assert (test.one.rows[2].state, test.one.rows[2].reason) == (RowState.PARKED, "unknown_saga")

    test.advance(days(1) + seconds(30))
    assert (test.one.rows[2].state, test.one.rows[2].reason) == (RowState.DEAD, "unknown_saga")


# -- suspects ----------------------------------------------------------------------------------------------------------


def test_a_suspect_is_left_for_a_transaction_of_its_own_with_all_behind_it() -> None:
    rows = [row(2, Cancel(then="go")), row(3, Cancel(then="go"), suspect=True), row(4, Cancel(then="go"))]

    change = folded(rows, started())

    assert states(change) == {2: "done"}
    assert change.suspect == 3


def test_a_suspect_stays_one_until_it_is_decided() -> None:
    dead = row(2, Cancel(), state=RowState.DEAD, reason="handler_error")
    held = folded([dead, row(3, Cancel(then="go"), suspect=True, crashes=1)], started())
    freed = folded([row(3, Cancel(then="go"), suspect=True, state=RowState.HELD, reason="behind_dead")], started())

    assert (named(held, 3).state, named(held, 3).suspect, named(held, 3).crashes) == (RowState.HELD, True, 1)
    assert (named(freed, 3).state, named(freed, 3).suspect) == (RowState.READY, True)


def test_what_a_timer_makes_possible_is_ready_for_a_transaction_that_announces_it() -> None:
    test = SagaTest(waits(timeout=hours(1), on_timeout=OnTimeout.CONTINUE)).given(Begun()).event(Signal())
    test.one.now += hours(1)

    change = test.one.step(from_timers=True)

    assert change is not None and change.again
    assert (test.one.rows[2].state, len(change.journal)) == (RowState.READY, 1)
    test.advance(seconds(0))
    assert test.one.rows[2].reason == "not_expected_yet"


def test_a_suspect_alone_is_applied_cleared_and_nothing_else_runs() -> None:
    rows = [row(2, Cancel(then="go"), suspect=True, crashes=1), row(3, Cancel(then="go"))]

    change = folded(rows, started(), alone=True)

    assert states(change) == {2: "done"}
    assert not named(change, 2).suspect
    assert change.again


def test_alone_no_timer_fires_beside_a_row() -> None:
    change = folded([row(2, Cancel(then="go"), suspect=True)], started(), given=at(hours(1)), alone=True)

    assert len(change.journal) == 1


def suspected(timer: str) -> Instance:
    """A worker has died that had this timer in hand."""
    killed = row(2, "worker_killed", body=b'{"timer": "%s", "alone": false}' % timer.encode())
    instance = folded([killed], started()).after
    assert instance is not None
    return instance


def test_a_timer_that_a_worker_may_have_died_of_fires_alone() -> None:
    instance = suspected("timeout:1:1")
    in_company = folded([], instance, given=at(hours(1)))
    alone = folded([], instance, given=at(hours(1)), alone=True)

    assert (in_company.suspect_timer, in_company.journal) == (True, [])
    assert [entry.input_kind for entry in alone.journal] == ["timer"]
    assert alone.after is not None and "timeout:1" not in alone.after.progress.timers


def test_what_is_announced_of_the_timers_is_what_may_fire() -> None:
    plain, suspect = started(), suspected("timeout:1:1")

    assert in_hand(plain, START, True, alone=False) == []
    assert in_hand(plain, START + hours(1), True, alone=False) == ["timeout:1:1"]
    assert in_hand(plain, START + hours(1), False, alone=False) == []
    assert in_hand(suspect, START + hours(1), True, alone=False) == []
    assert in_hand(suspect, START + hours(1), True, alone=True) == ["timeout:1:1"]


def test_nothing_fires_in_a_transaction_that_announces_nothing() -> None:
    change = fold(LINE, REF, started(), [], at(hours(1)), LIMITS, fires=False)

    assert (change.journal, change.suspect_timer) == ([], False)
    assert change.wake_at == START + hours(1) + NOT_NOW


def test_a_timer_that_raises_has_killed_nobody() -> None:
    change = folded([], suspected("timeout:1:1"), given=at(hours(1)), alone=True, write_error="it raised")

    assert change.after is not None
    timer = change.after.progress.timers["timeout:1"]
    assert (timer.deaths, timer.failures) == (0, 1)


def test_a_suspect_that_killed_its_workers_is_buried_and_blocks_its_saga() -> None:
    rows = [row(2, Cancel(then="go"), suspect=True, crashes=3), row(3, Cancel(then="go"))]

    change = folded(rows, started(), alone=True)

    assert states(change)[2] == "dead: worker_killed"
    assert "3 workers died" in (named(change, 2).error or "")
    assert change.after is not None and change.after.attention == "dead_letter"


def test_an_operators_row_that_kills_workers_runs_alone_and_is_buried_without_blocking() -> None:
    suspect = row(2, "retry", suspect=True)
    change = folded([suspect, row(3, Cancel(then="go"))], started())
    assert states(change) == {3: "done"}
    assert change.suspect == 2

    change = folded([replace(suspect, crashes=3), row(3, Cancel(then="go"))], started(), alone=True)
    assert states(change) == {2: "dead: worker_killed"}
    assert change.after is not None and change.after.attention is None


def test_what_a_lonely_row_makes_possible_is_offered_in_the_next_transaction() -> None:
    instance = started()
    parked = row(2, Signal(), state=RowState.PARKED, reason="not_expected_yet", expires_at=START + days(1))
    first = folded([parked, reply(3, 1, Yes())], instance).after

    change = folded([parked, reply(4, 2, Yes(), suspect=True)], first, alone=True)

    assert states(change) == {4: "done", 2: "ready"}
    assert named(change, 2).expires_at == START + days(1)
    assert change.again


# -- parking -----------------------------------------------------------------------------------------------------------


def test_an_early_event_is_parked_with_an_end() -> None:
    change = folded([row(1, Signal())])

    assert states(change) == {1: "parked: unknown_saga"}
    assert named(change, 1).expires_at == START + days(14)
    assert change.after is None


def test_early_events_and_their_start_in_one_batch_are_applied_at_once() -> None:
    """features: L3"""
    change = folded([row(1, Signal()), row(2, Cancel(then="go")), row(3, Begun(review=True)), reply(4, 1, Yes())])

    assert states(change) == {1: "parked: not_expected_yet", 3: "done", 2: "done", 4: "done"} | {
        1: states(change)[1]
    }  # the signal waits on
    assert [entry.message_id for entry in change.journal] == ["m3", "m2", "m4"]


def test_parked_rows_are_offered_lowest_id_first_until_none_moves_the_saga() -> None:
    test = SagaTest(WAITS).event(Signal()).event(Cancel(then="go")).given(Begun()).expect_status("waiting")
    assert test.one.rows[1].reason == "not_expected_yet"

    test.given(Begun()).reply(Yes()).expect_status("completed")

    assert test.state.seen == ["begun", "cancel", "begun again", "a", "signal"]


def test_the_end_settles_what_is_parked() -> None:
    test = SagaTest(LINE).given(Begun(review=True)).event(Signal()).expect_outcome("parked: not_expected_yet")

    test.given(Cancel(then="complete")).expect_status("completed")

    assert (test.one.rows[2].state, test.one.rows[2].reason) == (RowState.IGNORED, "saga_finished")


def test_the_end_by_a_timer_settles_what_is_parked() -> None:
    test = SagaTest(WAITS).given(Begun()).event(Signal()).expect_outcome("parked: not_expected_yet").advance(days(10))

    assert (test.one.rows[2].state, test.one.rows[2].reason) == (RowState.IGNORED, "saga_finished")


def test_more_parked_rows_than_one_transaction_reads_are_all_settled() -> None:
    test = SagaTest(LINE).given(Begun(review=True)).expect(DoA)
    for n in range(450):
        test.one.store(Role.EVENT, "signal", encode(Signal()), message_id=f"early {n}")
    test.one.drain()

    test.given(Cancel(then="complete"))

    assert {r.reason for r in test.one.rows.values() if r.type == "signal"} == {"saga_finished"}


def test_a_parked_row_that_raises_waits_and_nothing_overtakes_it() -> None:
    test = SagaTest(LINE, tolerant=True).event(Cancel(then="raise")).event(Cancel(then="go")).event(Begun())

    assert test.state.seen == ["begun"]
    assert [test.one.rows[i].state for i in (1, 2)] == [RowState.READY, RowState.READY]

    test.advance(seconds(20))
    assert [test.one.rows[i].reason for i in (1, 2)] == ["handler_error", "behind_dead"]
    test.one.discard()
    test.advance(seconds(0))
    assert test.state.seen == ["begun", "cancel"]


def test_a_parked_row_expires_into_a_dead_letter_that_blocks_nobody() -> None:
    test = SagaTest(WAITS, limits=Limits(parking=days(7))).given(Begun()).event(Signal())

    test.advance(days(7)).expect_status("waiting").expect_attention()

    assert (test.one.rows[2].state, test.one.rows[2].reason) == (RowState.DEAD, "not_expected")
    assert "before its parking period ended" in test.one.errors[2]


def test_an_early_event_without_saga_expires_as_unknown_saga() -> None:
    test = SagaTest(LINE).event(Signal()).advance(days(14))

    assert (test.one.rows[1].state, test.one.rows[1].reason) == (RowState.DEAD, "unknown_saga")


def test_parked_rows_do_not_expire_behind_a_dead_row_nor_are_they_looked_at_for_ever() -> None:
    test = SagaTest(LINE, tolerant=True).given(Begun(review=True)).event(Signal()).event(Cancel(then="raise"))

    test.advance(days(20)).expect_attention("dead_letter")

    assert test.one.rows[2].state is RowState.PARKED
    assert test.one.rows[2].expires_at == START + days(28)


def test_a_parked_row_that_stays_early_is_not_written_again() -> None:
    parked = row(2, Signal(), state=RowState.PARKED, reason="not_expected_yet", expires_at=START + days(1))

    assert states(folded([parked, row(3, Cancel(then="go"))], started())) == {3: "done"}


# -- held for other reasons --------------------------------------------------------------------------------------------


def paused() -> Instance:
    return replace(started(), status=Status.PAUSED)


def test_a_paused_saga_holds_its_rows_and_timers() -> None:
    change = folded([row(2, Cancel(then="go")), row(3, "recheck")], paused(), given=at(hours(1)))

    assert states(change) == {3: "ignored: rechecked", 2: "held: paused"}
    assert change.clear_wake and change.journal == []


@pytest.mark.parametrize("reason", ["paused", "behind_dead", "definition_absent"])
def test_what_is_not_held_back_any_more_is_freed_before_younger_rows(reason: str) -> None:
    rows = [row(2, Cancel(then="go"), state=RowState.HELD, reason=reason), row(3, Cancel(then="go"))]

    change = folded(rows, started())

    assert states(change) == {2: "ready"}
    assert change.again


def test_what_is_held_for_a_reason_of_others_is_left_to_them() -> None:
    rows = [row(2, Cancel(then="go"), state=RowState.HELD, reason="circuit"), row(3, Cancel(then="go"))]

    assert states(folded(rows, started())) == {3: "done"}


# -- writes that the database refuses ----------------------------------------------------------------------------------


def test_what_cannot_be_written_counts_against_the_first_row_only() -> None:
    rows = [row(2, Cancel(then="go")), row(3, Cancel(then="go"))]

    change = folded(rows, started(), alone=True, write_error="DataError: out of range")

    assert states(change) == {2: "ready"}
    assert (named(change, 2).attempts, named(change, 2).error) == (1, "DataError: out of range")
    assert change.journal == []


def test_what_cannot_be_written_counts_against_the_timer_that_led_to_it() -> None:
    change = folded([], started(), given=at(minutes(1)), alone=True, write_error="DataError: out of range")

    assert change.after is not None and change.journal == []
    timer = change.after.progress.timers["timeout:1"]
    assert (timer.failures, timer.due_at) == (1, START + minutes(1) + seconds(10))


# -- timers and the wake row -------------------------------------------------------------------------------------------


def test_rows_come_before_timers() -> None:
    change = folded([reply(2, 1, Yes())], started(), given=at(minutes(1)))

    assert [entry.input_kind for entry in change.journal] == ["reply"]


def test_a_timer_is_journalled_under_its_epoch() -> None:
    change = folded([], started(), given=at(minutes(1)))

    (entry,) = change.journal
    assert (entry.source, entry.message_id, entry.inbox_id) == ("timer", f"timer:{REF}:timeout:1:1", None)


def test_timers_do_not_fire_before_a_row_in_back_off() -> None:
    waiting = row(2, Cancel(then="go"), next_at=START + hours(1))

    change = folded([waiting], started(), given=at(minutes(1)))

    assert change.journal == []
    assert change.wake_at == START + minutes(1) + NOT_NOW


def test_two_due_timers_fire_in_the_order_of_their_due_times() -> None:
    test = SagaTest(LINE).given(Begun(review=True)).expect(DoA).reply(Yes()).expect(DoB).reply(Yes())
    test.one.now += days(3)
    test.advance(seconds(0))

    timers = [entry.message_id.split(":", 2)[2] for entry in test.one.journal if entry.input_kind == "timer"]
    assert timers == ["every:review:4", "wait:review:3"]
    test.expect_status("compensating")


def test_a_timer_waits_for_a_row_that_an_earlier_timer_took_up_and_that_raised() -> None:
    saga = Saga("short", state=State, deadline=hours(2))
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))
    first = saga.wait("first", timeout=hours(1), on_timeout=OnTimeout.CONTINUE)
    first.on(Cancel, key=lambda e: e.key)(lambda state, event: None)
    second = saga.wait("second")
    second.on(Signal, key=lambda e: e.key)(lambda state, event: answer(state, event.then, "signal"))
    saga.flow(first, second)
    test = SagaTest(saga, tolerant=True).given(Begun()).event(Signal(then="raise"))
    test.expect_outcome("parked: not_expected_yet")

    test.one.now += hours(3)  # both timers are due
    test.one.step(from_timers=True)

    assert [entry.input_kind for entry in test.one.journal] == ["event", "timer"]
    assert test.one.rows[2].state is RowState.READY
    test.expect_status("waiting")


def test_a_new_saga_asks_for_its_wake_row() -> None:
    change = folded([row(1, Begun())])

    assert (change.wake_at, change.lower_wake, change.clear_wake) == (START + minutes(1), True, False)


def test_a_later_timer_leaves_the_wake_row_alone() -> None:
    change = folded([reply(2, 1, Yes())], started(), given=at(seconds(30)))

    assert (change.wake_at, change.lower_wake) == (START + seconds(90), False)


def test_an_earlier_timer_lowers_the_wake_row() -> None:
    change = folded([row(2, Cancel())], replace_due(started(), START + hours(1)), given=at(seconds(1)))

    assert (change.wake_at, change.lower_wake) == (START + seconds(61), True)


def replace_due(instance: Instance, due_at: datetime) -> Instance:
    timers = {name: replace(timer, due_at=due_at) for name, timer in instance.progress.timers.items()}
    return replace(instance, progress=replace(instance.progress, timers=timers))


def test_a_saga_without_timers_clears_its_wake_row() -> None:
    change = folded([row(2, Cancel(then="complete"))], started())

    assert (change.wake_at, change.clear_wake) == (None, True)


def test_a_due_timer_that_may_not_fire_is_looked_at_again_soon() -> None:
    change = folded([], started(), given=at(minutes(1), replies_are_in=False))

    assert (change.wake_at, change.journal, change.after) == (START + minutes(1) + NOT_NOW, [], change.before)


def test_a_postponed_time_out_is_saved_without_a_journal_row() -> None:
    before = started()

    change = folded([], before, given=at(minutes(1), unsent=frozenset({1})))

    assert change.journal == [] and change.effects == []
    assert change.after is not None and change.after.revision == before.revision
    assert change.wake_at == START + minutes(2)


def test_a_saga_that_nothing_happens_to_is_not_written() -> None:
    before = started()

    change = folded([], before)

    assert change.after is before and not change.rows and not change.lower_wake


def test_a_reply_for_another_saga_of_our_form_is_refused() -> None:
    change = folded([reply(2, 77, Yes())], started())

    assert states(change) == {2: "dead: unknown_command"}


def test_a_saga_that_ended_while_rows_were_waiting_ignores_them() -> None:
    rows = [row(2, Cancel(then="complete")), row(3, Signal()), reply(4, 1, Yes())]

    assert states(folded(rows, started())) == {2: "done", 3: "ignored: saga_finished", 4: "done: late_reply"}


def test_one_story_from_early_event_to_the_end_in_one_transaction() -> None:
    rows = [row(1, Signal()), row(2, Begun(review=True)), reply(3, 1, Yes()), reply(4, 2, Yes()), reply(5, 3, Yes())]

    change = folded([*rows, reply(6, 4, Yes())])

    assert states(change) == {1: "done", 2: "done", 3: "done", 4: "done", 5: "done", 6: "done"}
    assert change.after is not None and change.after.status is Status.COMPLETED
    assert [entry.message_id for entry in change.journal] == ["m2", "m3", "m4", "m1", "m5", "m6"]
