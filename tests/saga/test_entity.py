"""Entities on the pure core: made by their first event, one event at a time, at rest in between, cleared, made anew."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from saga_worker import (
    Command,
    Compensate,
    Complete,
    DefinitionError,
    Done,
    Entity,
    Event,
    Message,
    Retry,
    Saga,
    Undo,
    UndoOf,
    Verdict,
    days,
    hours,
    minutes,
    parallel,
    pivot,
    when,
)
from saga_worker.saga.fold import Limits
from saga_worker.saga.messages import Rejected
from saga_worker.saga.records import dump_progress
from saga_worker.saga.routing import command_id
from saga_worker.saga.rows import Role
from saga_worker.testing import SagaTest


class Deposited(Event):
    account: str
    cents: int
    number: int = 0


class Asked(Event):
    account: str
    cents: int


class Closed(Event):
    account: str


class Confirmed(Event):
    account: str


class PaidOut(Event):
    account: str
    balance: int


class Receipt(Message):
    receipt: str


class Pay(Command[Receipt]):
    account: str
    cents: int


class TakeBack(UndoOf[Pay]):
    account: str


class Tell(Command):
    account: str


class Account(BaseModel):
    cents: int = 0
    asked: int = 0
    receipt: str | None = None


class Balance(BaseModel):
    cents: int


def accounts(
    *, undo: Undo = Undo.HYBRID, undo_retry: Retry | None = None, pivoted: bool = False, numbered: bool = False
) -> Entity[Account]:
    """Deposits only add; what is asked for is paid out, told, and published."""
    account = Entity("account", state=Account)

    @account.on(Deposited, key=lambda e: e.account, sequence=(lambda e: e.number) if numbered else None)
    def deposited(account: Account, event: Deposited) -> Verdict:
        account.cents += event.cents
        return None

    @account.on(Asked, key=lambda e: e.account)
    def asked(account: Account, event: Asked) -> Verdict:
        if event.cents > account.cents:
            return Compensate("not so much")
        account.asked = event.cents
        return None

    @account.on(Closed, key=lambda e: e.account)
    def closed(account: Account, event: Closed) -> Verdict:
        return Complete("closed by its owner")

    @account.command("bank", timeout=minutes(1), undo=undo, undo_retry=undo_retry)
    def pay(account: Account) -> Pay:
        return Pay(account="a", cents=account.asked)

    @pay.reply
    def paid(account: Account, reply: Receipt) -> None:
        account.cents -= account.asked
        account.receipt = reply.receipt

    if undo is not Undo.NONE:

        @pay.undo
        def take_back(account: Account) -> TakeBack:
            return TakeBack(account="a")

    @account.command("post", timeout=minutes(1), undo=Undo.NONE)
    def tell(account: Account) -> Tell:
        return Tell(account="a")

    @tell.rejected
    def not_told(account: Account, why: Rejected) -> Verdict:
        account.asked = 0
        return Compensate("nobody could be told")

    @tell.reply
    def told(account: Account, reply: Done) -> None:
        account.asked = 0

    @account.emit
    def announce(account: Account) -> PaidOut:
        return PaidOut(account="a", balance=account.cents)

    @account.query
    def balance(account: Account) -> Balance:
        return Balance(cents=account.cents)

    account.flow(when(lambda account: account.asked > 0, pivot(pay) if pivoted else pay, tell, announce))
    return account


def deposit(cents: int = 100, number: int = 0) -> Deposited:
    return Deposited(account="a", cents=cents, number=number)


def ask(cents: int) -> Asked:
    return Asked(account="a", cents=cents)


def at_rest(test: SagaTest[Account]) -> SagaTest[Account]:
    """Nothing is left of what followed from earlier events."""
    instance = test.one.instance
    assert instance is not None
    progress = instance.progress
    assert progress.active == {"idle": None}
    assert (progress.commands, progress.timers, progress.undo_failures, progress.withdrawn) == ({}, {}, {}, ())
    assert not progress.pivoted and set(progress.savepoints) == {"round"}
    return test.expect_status("waiting").expect_nothing()


# -- one event after another ------------------------------------------------------------------------------------------


def test_the_first_event_makes_the_entity_and_is_the_first_that_it_takes() -> None:
    """features: 69, 71"""
    test = SagaTest(accounts()).given(deposit(100))

    assert test.state == Account(cents=100)
    assert len(test.one.journal) == 1
    at_rest(test)


def test_the_state_of_a_key_is_kept_between_its_events() -> None:
    """features: 71"""
    test = SagaTest(accounts())

    for _ in range(5):
        test.given(deposit(100)).advance(days(400))

    assert test.state.cents == 500
    at_rest(test)


def test_what_follows_from_an_event_is_over_before_the_next_has_its_turn() -> None:
    """features: 69"""
    account = accounts()
    test = SagaTest(account).given(deposit(100), ask(40)).expect(Pay(account="a", cents=40))

    test.event(ask(30)).expect_outcome("parked: not_expected_yet")
    test.event(deposit(5)).expect_outcome("parked: not_expected_yet")
    assert test.ask(account.queries["balance"]) == Balance(cents=100)  # whoever only reads does not wait
    test.reply(Receipt(receipt="1")).expect(Tell).reply(Done()).expect(PaidOut(account="a", balance=60))
    test.expect(Pay(account="a", cents=30)).reply(Receipt(receipt="2")).expect(Tell).reply(Done())
    test.expect(PaidOut(account="a", balance=30))

    assert test.state == Account(cents=35, receipt="2")
    at_rest(test)


def test_events_that_wait_for_their_turn_keep_their_order() -> None:
    """features: 69"""
    account = Entity("account", state=Account)
    seen: list[int] = []

    @account.on(Deposited, key=lambda e: e.account)
    def deposited(account: Account, event: Deposited) -> None:
        seen.append(event.cents)

    @account.command("post", timeout=minutes(1), undo=Undo.NONE)
    def tell(account: Account) -> Tell:
        return Tell(account="a")

    account.flow(tell)
    test = SagaTest(account).given(deposit(0)).expect(Tell)
    for number in range(1, 20):
        test.event(deposit(number)).expect_outcome("parked: not_expected_yet")
    for _ in range(19):
        test.reply(Done()).expect(Tell)
    test.reply(Done())

    assert seen == list(range(20))
    at_rest(test)


def test_an_entity_does_not_grow_with_its_events() -> None:
    """features: 69, 71"""
    test = SagaTest(accounts()).given(deposit(10_000))
    sizes = []
    for _ in range(50):
        test.given(ask(100)).expect(Pay).reply(Receipt(receipt="r")).expect(Tell).reply(Done()).expect(PaidOut)
        assert test.one.instance is not None
        sizes.append(len(dump_progress(test.one.instance.progress)))

    assert test.state.cents == 5000
    assert max(sizes) - sizes[10] <= 8  # digits
    at_rest(test)


def test_an_answer_that_comes_again_in_a_later_round_is_one_to_an_earlier_run() -> None:
    test = SagaTest(accounts()).given(deposit(100), ask(40)).expect(Pay).reply(Receipt(receipt="1"))
    test.expect(Tell).reply(Done()).expect(PaidOut)

    test.again().expect_outcome("ignored: earlier_run")
    at_rest(test)


def test_a_pivot_holds_for_one_round() -> None:
    test = SagaTest(accounts(pivoted=True, undo=Undo.NONE)).given(deposit(100))
    for _ in range(2):
        test.given(ask(40)).expect(Pay).reply(Receipt(receipt="1")).expect(Tell).reply(Done()).expect(PaidOut)

    test.event(ask(40)).expect_outcome("applied: not so much")
    at_rest(test)


# -- taken back -------------------------------------------------------------------------------------------------------


def test_a_handler_that_refuses_an_event_leaves_the_entity_at_rest() -> None:
    """features: 69"""
    test = SagaTest(accounts()).given(deposit(100))

    test.event(ask(200)).expect_outcome("applied: not so much")

    assert test.state == Account(cents=100)
    at_rest(test)


def test_the_first_event_may_be_refused_too() -> None:
    test = SagaTest(accounts()).event(ask(200)).expect_outcome("applied: not so much")

    at_rest(test).given(deposit(5))
    assert test.state.cents == 5


def test_what_followed_from_an_event_is_taken_back_and_the_entity_goes_on() -> None:
    """features: 69; L8"""
    test = SagaTest(accounts()).given(deposit(100), ask(40)).expect(Pay).reply(Receipt(receipt="1")).expect(Tell)
    test.event(deposit(7)).expect_outcome("parked: not_expected_yet")

    test.reject().expect(TakeBack).expect_nothing().expect_status("running")
    test.reply(Done(), to=TakeBack)

    assert test.state == Account(cents=107)  # as if it had not come, and the deposit that waited
    at_rest(test)


def test_rounds_that_are_taken_back_do_not_add_up() -> None:
    test = SagaTest(accounts()).given(deposit(10_000))
    for _ in range(10):
        test.given(ask(100)).expect(Pay).reply(Receipt(receipt="1")).expect(Tell).reject()
        test.expect(TakeBack).reply(Done(), to=TakeBack)
        at_rest(test)


def test_a_silent_command_is_taken_back_as_if_its_event_had_not_come() -> None:
    """features: 41, 69; L1"""
    test = SagaTest(accounts()).given(deposit(100), ask(40)).expect(Pay)
    assert test.state.asked == 40

    test.advance(minutes(2)).expect(TakeBack).expect_status("running")
    test.late_reply(Receipt(receipt="late"), to=Pay)  # the undo is under way
    test.reply(Done(), to=TakeBack)

    assert test.state == Account(cents=100)
    at_rest(test).given(deposit(5)).expect_nothing()
    assert test.unsettled == 0


def test_a_success_that_comes_after_the_round_was_taken_back_changes_nothing() -> None:
    test = SagaTest(accounts()).given(deposit(100), ask(40)).expect(Pay).advance(minutes(2))
    test.expect(TakeBack).reply(Done(), to=TakeBack)

    late = command_id(test.one.ref, test.one.commands()[0].seq)
    row = test.one.store(Role.REPLY, "receipt", b'{"receipt": "late"}', message_id="late", correlation_id=late)
    test.one.drain()

    assert row is not None and test.one.rows[row.id].reason == "earlier_run"
    assert test.state == Account(cents=100)
    at_rest(test)


def test_an_undo_that_keeps_failing_asks_for_attention_and_later_events_wait() -> None:
    test = SagaTest(accounts(undo_retry=Retry.none())).given(deposit(100), ask(40)).expect(Pay)
    test.reply(Receipt(receipt="1")).expect(Tell).reject().expect(TakeBack).reject(to=TakeBack)

    test.expect_attention("undo_failed: pay").event(deposit(7)).expect_outcome("parked: not_expected_yet")
    test.operator("retry").expect(TakeBack).reply(Done(), to=TakeBack)

    assert test.state.cents == 107
    at_rest(test)


def test_a_branch_that_lost_its_join_is_taken_back_while_the_next_round_goes_on() -> None:
    """features: L2"""
    account = Entity("account", state=Account)

    @account.on(Asked, key=lambda e: e.account)
    def asked(account: Account, event: Asked) -> None:
        account.asked = event.cents

    @account.command("bank", timeout=minutes(1))
    def pay(account: Account) -> Pay:
        return Pay(account="a", cents=account.asked)

    @pay.reply
    def paid(account: Account, reply: Receipt) -> None:
        account.receipt = reply.receipt

    @pay.undo
    def take_back(account: Account) -> TakeBack:
        return TakeBack(account="a")

    @account.command("post", timeout=minutes(1), undo=Undo.NONE)
    def tell(account: Account) -> Tell:
        return Tell(account="a")

    account.flow(parallel(pay, tell, join="any"))
    test = SagaTest(account).given(ask(1)).expect(Pay).expect(Tell).reply(Done(), to=Tell)

    test.expect(TakeBack).expect_status("waiting")
    test.given(ask(2)).expect(Pay).expect(Tell).reply(Receipt(receipt="1"), to=Pay)
    assert test.one.instance is not None and test.one.instance.progress.active == {"idle": None}
    withdrawn = test.one.instance.progress.withdrawn
    test.reply(Done(), to=TakeBack)

    assert len(withdrawn) == 1  # the first round's; of this round the other branch has lost, and has nothing to undo
    test.expect_status("waiting")


def test_an_operator_takes_back_what_followed_from_an_event_or_nothing() -> None:
    """features: 47"""
    test = SagaTest(accounts()).given(deposit(100), ask(40)).expect(Pay).reply(Receipt(receipt="1")).expect(Tell)

    test.operator("compensate").expect(TakeBack).reply(Done(), to=TakeBack)

    assert test.state == Account(cents=100)
    at_rest(test).operator("compensate").expect_outcome("applied: taken back by an operator: no reason given")
    at_rest(test).operator("wake", b'{"step": "idle"}').expect_outcome("ignored: not_waiting")
    test.operator("cancel").expect_status("failed").given(deposit(1)).expect_status("waiting")


# -- the end ----------------------------------------------------------------------------------------------------------


def test_an_entity_ends_itself_and_a_later_event_makes_it_anew() -> None:
    """features: 71"""
    test = SagaTest(accounts()).given(deposit(100), Closed(account="a"))
    test.expect_status("completed", reason="closed by its owner")

    test.given(deposit(7))

    assert test.state == Account(cents=7)
    at_rest(test)


def test_an_event_that_waits_when_the_entity_ends_makes_it_anew() -> None:
    test = SagaTest(accounts()).given(deposit(100), ask(40)).expect(Pay)
    test.event(Closed(account="a")).expect_outcome("parked: not_expected_yet")
    test.event(deposit(7)).expect_outcome("parked: not_expected_yet")

    test.reply(Receipt(receipt="1")).expect(Tell).reply(Done()).expect(PaidOut)

    assert test.state == Account(cents=7)
    at_rest(test)


# -- numbered events --------------------------------------------------------------------------------------------------


def test_numbered_events_make_an_entity_in_their_order() -> None:
    """features: 69; L31"""
    test = SagaTest(accounts(numbered=True))
    test.event(deposit(20, 2)).expect_outcome("parked: out_of_sequence")
    test.event(deposit(30, 3)).expect_outcome("parked: out_of_sequence")
    assert test.status == "absent"

    test.given(deposit(10, 1))

    assert test.state.cents == 60
    test.event(deposit(10, 1)).expect_outcome("ignored: already_passed")
    at_rest(test)


# -- another version --------------------------------------------------------------------------------------------------


def test_an_entity_is_moved_in_the_middle_of_a_round_with_the_state_that_it_may_go_back_to() -> None:
    """features: 71, 80; L19"""

    class Purse(BaseModel):
        euros: float = 0
        asked: int = 0
        note: str | None = None

    old = accounts()
    new = Entity("account", state=Purse, version=2)

    @new.on(Deposited, key=lambda e: e.account)
    def deposited(purse: Purse, event: Deposited) -> None:
        purse.euros += event.cents / 100

    @new.command("bank", timeout=minutes(1))
    def pay(purse: Purse) -> Pay:
        return Pay(account="a", cents=purse.asked)

    @pay.reply
    def paid(purse: Purse, reply: Receipt) -> None: ...

    @pay.undo
    def take_back(purse: Purse) -> TakeBack:
        return TakeBack(account="a")

    new.flow(when(lambda purse: purse.asked > 0, pay))

    @new.upgrade_from(old)
    def upgraded(account: Account) -> Purse:
        return Purse(euros=account.cents / 100, asked=account.asked)

    test = SagaTest[Any](old).given(deposit(100), ask(40)).expect(Pay).deploy(old, new)

    test.advance(minutes(2)).expect(TakeBack).reply(Done(), to=TakeBack)
    assert test.state.model_dump() == {"euros": 1.0, "asked": 0, "note": None}
    test.given(deposit(50)).expect_nothing()
    assert test.state.euros == 1.5


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_handler_that_raises_on_the_first_event_makes_nothing() -> None:
    account = Entity("account", state=Account)

    @account.on(Deposited, key=lambda e: e.account)
    def deposited(account: Account, event: Deposited) -> None:
        raise RuntimeError("no")

    test = SagaTest(account, tolerant=True, limits=Limits(attempts=Retry.none())).event(deposit(1))

    test.expect_outcome("dead: handler_error")
    assert test.status == "absent"


def test_wrong_entities_are_refused() -> None:
    """features: 16"""

    class Needy(BaseModel):
        owner: str
        cents: int = 0

    with pytest.raises(DefinitionError, match="Needy cannot be made without values for owner; its first event makes"):
        Entity("needy", state=Needy)
    with pytest.raises(DefinitionError, match=r"entity empty takes no event; declare one with @empty.on"):
        Entity("empty", state=Account).check()
    with pytest.raises(DefinitionError, match=r"test_entity.py:\d+: entity account has no start but its first event"):
        accounts().starts_on(Deposited, key=lambda e: e.account)
    with pytest.raises(DefinitionError, match="wait idle has an arm for deposited already"):
        accounts().on(Deposited, key=lambda e: e.account)(lambda account, event: None)
    with pytest.raises(DefinitionError, match=r"step pay has undo=Undo\.STRICT, and its late success would meet the"):
        accounts(undo=Undo.STRICT).check()
    with pytest.raises(DefinitionError, match="has a step idle at"):
        accounts().sleep("idle", hours(1))


def test_an_entity_has_no_sub_saga_and_is_none() -> None:
    account = accounts()
    parent = Saga("parent", state=Account, deadline=days(1))
    child = Saga("child", state=Account, deadline=days(1))
    child.flow(child.sleep("nap", hours(1)))

    @parent.subsaga(account, key=lambda child: "a")
    def own(state: Account) -> Account:
        return Account()

    entity = Entity("other", state=Account)
    entity.on(Confirmed, key=lambda e: e.account)(lambda account, event: None)

    @entity.subsaga(child, key=lambda child: "a")
    def child_of(state: Account) -> Account:
        return Account()

    parent.starts_on(Confirmed, key=lambda e: e.account)(lambda event: Account())
    parent.flow(own)
    entity.flow(child_of)

    with pytest.raises(DefinitionError, match="waits for the end of the entity account, which has none"):
        parent.check()
    with pytest.raises(DefinitionError, match="is a sub-saga of an entity, which lives on"):
        entity.check()


def test_a_wait_inside_a_round_takes_its_event_and_no_other_round_does() -> None:
    account = Entity("account", state=Account)

    @account.on(Asked, key=lambda e: e.account)
    def asked(account: Account, event: Asked) -> None:
        account.asked = event.cents

    confirmation = account.wait("confirmation", timeout=hours(1))

    @confirmation.on(Confirmed, key=lambda e: e.account)
    def confirmed(account: Account, event: Confirmed) -> None:
        account.cents += account.asked

    account.flow(confirmation)
    test = SagaTest(account).given(ask(1), Confirmed(account="a"))

    test.event(Confirmed(account="a")).expect_outcome("parked: not_expected_yet")  # for the next round
    test.given(ask(2))
    assert test.state.cents == 3
    test.given(ask(4)).advance(hours(2))  # nobody confirms: this round is taken back, and the entity goes on
    assert test.state.cents == 3
    at_rest(test)


def test_the_definition_of_an_entity_is_one_like_any_other(tmp_path: Any) -> None:
    account = accounts()
    account.check()

    assert account.lives_on and not Saga.lives_on
    assert set(account.starts) == set(account.arms) == {"deposited", "asked", "closed"}
    assert list(account.steps) == ["idle", "round", "pay", "tell", "announce"]
