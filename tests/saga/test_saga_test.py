"""The kit for authors: its stories pass and fail as they should, with sentences that say what went wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from definitions.checkout import (
    CancelCharge,
    ChargeCard,
    Charged,
    Cleared,
    OrderCancelled,
    OrderPlaced,
    Quote,
    ReleaseStock,
    ReserveStock,
    ScoreOrder,
    StockReserved,
    checkout,
    price,
)
from saga_worker import Done, Event, minutes
from saga_worker.testing import SagaTest
from tests.saga.scripted import Begun, Cancel, DoA, DoB, No, Signal, State, Told, UndoA, Yes, line, waits

PLACED = OrderPlaced(order_id="4711", lines={"tea": 1}, cents=100, card="tok_1")


def begun() -> SagaTest[State]:
    return SagaTest(line()).given(Begun())


def sentence(failing: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as failed:
        failing()
    return str(failed.value)


def test_the_story_of_the_docstring() -> None:
    """features: L28"""
    test = SagaTest(checkout)
    test.given(PLACED).expect(ScoreOrder(order_id="4711", cents=100))
    test.reply(Cleared()).expect(ReserveStock).reply(StockReserved(reservation="r1"))
    test.expect_activity(price).result(Quote(cents=100))
    test.expect(ChargeCard).advance(minutes(1))
    test.expect(CancelCharge).reply(Done()).expect(ReleaseStock).reply(Done())
    test.expect_status("compensated").expect_nothing()
    test.late_reply(Charged(payment="p1"), to=ChargeCard)
    test.expect_outcome("applied: late_reply").expect_nothing()


def test_two_tests_of_one_saga_know_nothing_of_each_other() -> None:
    first = begun().reply(Yes())

    assert begun().sent == [DoA(step="a", seen=["begun"])]
    assert len(first.sent) == 2


def test_ids_and_times_are_the_same_every_time() -> None:
    stories = [begun().advance(minutes(5)).one for _ in range(2)]

    assert stories[0].journal == stories[1].journal
    assert stories[0].effects == stories[1].effects


def test_what_is_sent_and_what_is_published_are_expected_apart() -> None:
    test = SagaTest(waits()).given(Begun(), Begun())

    test.expect(DoA).expect(Told).expect_nothing()
    assert (len(test.sent), len(test.published)) == (1, 1)


def test_again_is_the_same_message_under_a_new_id() -> None:
    test = begun().reply(Yes()).again().expect_outcome("ignored: duplicate_reply")

    assert len({row.message_id for row in test.one.rows.values()}) == 3


def test_a_command_that_did_not_come_is_named_with_the_one_that_did_and_the_story() -> None:
    said = sentence(lambda: begun().reply(Yes(note="!")).expect(DoA).expect(UndoA))

    assert said.startswith("expected UndoA to go out next, but it is DoB(step='b'")
    assert "So far:\n  Begun(key='k', review=False, then='go'): applied → running\n  Yes(" in said


@pytest.mark.parametrize(
    ("failing", "start"),
    [
        (lambda: begun().expect(DoA(step="x", seen=[])), "expected DoA(step='x', seen=[]) to go out next, but it is"),
        (lambda: begun().expect(DoA).expect(DoB), "expected DoB to go out next, but nothing more did"),
        (lambda: begun().expect_nothing(), "expected nothing more to go out, but there is DoA(step='a'"),
        (lambda: begun().expect_status("completed"), "expected the saga to be completed, but it is running"),
        (lambda: begun().given(Cancel()).expect_status("compensating", reason="x"), "expected the reason 'x', but it"),
        (lambda: begun().expect_attention("no_answer: a"), "expected attention for ['no_answer: a'], but it is []"),
        (lambda: begun().expect_outcome("dead: x"), "expected the last message to be dead: x, but it is applied"),
        (lambda: begun().given(Begun()), "expected the last message to be applied, but it is ignored: duplicate_start"),
        (lambda: begun().event(Cancel(key="other")), "Cancel(key='other', then='compensate') is for the saga other"),
        (lambda: begun().event(Told(key="k", seen=[])), "saga line takes no told; it takes: begun, cancel, signal"),
        (lambda: begun().reply(No()), "no is no reply to do_a; that would be: yes"),
        (lambda: begun().reject(Yes()), "yes is no rejection to do_a; that would be: no"),
        (lambda: begun().reply(Yes(), to=DoB), "no DoB was sent that could be answered"),
        (lambda: begun().late_reply(Yes(), to=DoA), "do_a is still waiting for its answer, so a reply is not late"),
        (lambda: SagaTest(line()).reply(Yes()), "there is no saga yet: begin with given(…)"),
        (lambda: SagaTest(line()).again(), "nothing has arrived yet that could arrive again"),
        (lambda: SagaTest(line()).event(Signal()).state, "the saga has not started, so it has no state"),
    ],
)  # fmt: skip
def test_a_failure_says_what_was_expected_and_what_is(failing: Callable[[], object], start: str) -> None:
    assert sentence(failing).startswith(start)


def test_an_exception_of_the_saga_fails_the_test_unless_it_is_tolerant() -> None:
    assert "cancel: ValueError: cancel cannot be handled at scripted.py" in sentence(
        lambda: begun().event(Cancel(then="raise"))
    )
    SagaTest(line(), tolerant=True).given(Begun()).event(Cancel(then="raise"))


def test_an_exception_in_a_timer_fails_the_test_unless_it_is_tolerant() -> None:
    from tests.saga.scripted import BROKEN

    BROKEN.add("undo_a")
    try:
        said = sentence(lambda: begun().reply(Yes()).advance(minutes(1)))
        SagaTest(line(), tolerant=True).given(Begun()).reply(Yes()).advance(minutes(1))
    finally:
        BROKEN.clear()

    assert said.startswith("the code of timer timeout:2 raised 1 times")


def test_before_the_start_a_saga_is_absent() -> None:
    test = SagaTest(checkout).event(OrderCancelled(order_id="4711", by="me"))

    test.expect_outcome("parked: unknown_saga").expect_status("absent").expect_attention().expect_nothing()
    assert (test.reason, test.unsettled) == (None, 0)


def test_a_definition_with_a_mistake_is_refused_before_the_story() -> None:
    from saga_worker import DefinitionError, Saga

    with pytest.raises(DefinitionError):
        SagaTest(Saga("empty", state=State))


def test_the_kit_needs_no_server_and_no_driver() -> None:
    """features: 79; L28"""
    heavy = ("asyncpg", "aio_pika", "aiormq", "sqlalchemy", "testcontainers")
    code = f"import sys; from saga_worker.testing import SagaTest; print([m for m in {heavy} if m in sys.modules])"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert ran.stdout.strip() == "[]"


def test_an_event_can_be_anything_that_the_saga_takes() -> None:
    events: list[Event] = [Begun(), Cancel(then="go")]

    assert SagaTest(line()).given(*events).state.seen == ["begun", "cancel"]
