"""An attempt of an activity that is lost while its saga goes back, and is told of afterwards."""

from __future__ import annotations

from saga_worker import ActivityContext, Compensate, Saga, Verdict, minutes
from saga_worker.saga.routing import command_id
from saga_worker.saga.rows import Role
from saga_worker.testing import SagaTest
from tests.saga.scripted import Begun, Cancel, Out, State

LOST = b'{"error": "its worker died", "attempts": 1, "is_terminal": false}'


def picking() -> Saga[State]:
    saga = Saga("picking", state=State)

    @saga.starts_on(Begun, key=lambda event: event.key)
    def begun(event: Begun) -> State:
        return State(key=event.key)

    @saga.on(Cancel, key=lambda event: event.key)
    def cancel(state: State, event: Cancel) -> Verdict:
        return Compensate("cancelled")

    @saga.activity(timeout=minutes(1), name="pick")
    async def pick(state: State, ctx: ActivityContext) -> Out:
        return Out()

    @pick.result
    def picked(state: State, out: Out) -> None: ...

    @pick.undo
    async def put_back(state: State, ctx: ActivityContext) -> None: ...

    saga.flow(pick)
    return saga


def test_a_loss_that_is_told_after_the_undo_is_no_reason_to_look() -> None:
    """Found by a newcomer: five children stood on the attention list although each had been taken back."""
    test = SagaTest(picking()).given(Begun(), Cancel()).result().expect_status("compensated")

    test._deliver(Role.ACTIVITY, "activity_lost", LOST, "lost", correlation_id=command_id(test.one.ref, 1))

    test.expect_attention().expect_outcome("applied: late_reply")
    assert test.unsettled == 0


def test_nor_is_one_that_is_told_while_the_undo_is_under_way() -> None:
    test = SagaTest(picking()).given(Begun(), Cancel())

    test._deliver(Role.ACTIVITY, "activity_lost", LOST, "lost", correlation_id=command_id(test.one.ref, 1))

    test.expect_attention().expect_status("compensating")
    test.result().expect_status("compensated").expect_attention()
