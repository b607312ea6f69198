"""Random histories of an entity: answers, silence, repetitions, late and refused undos; no cent is lost or made.

Whatever comes, each event has its turn once and in its order; what followed from it is done whole, or taken back whole
with the state; and at the end the entity rests with nothing left of it all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saga_worker import Event, Message, Retry
from saga_worker.saga.inputs import PublishEvent, SendCommand
from saga_worker.saga.instance import CommandKind, Fate
from saga_worker.saga.messages import Done, Rejected, decode, encode
from saga_worker.saga.routing import command_id
from saga_worker.saga.rows import Role, RowState
from saga_worker.saga.transitions import Status
from saga_worker.testing.one_saga import OneSaga
from tests.saga.test_entity import Account, PaidOut, Pay, Receipt, accounts, ask, deposit

RICH = 1_000_000


@dataclass
class Bank:
    """An account, its participants, and what they have seen."""

    one: OneSaga = field(
        default_factory=lambda: OneSaga(accounts(undo_retry=Retry.fixed(2, timedelta(seconds=5))), "a")
    )
    messages: int = 0
    deposits: int = RICH
    asked: list[int] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)  # numbers of commands that were definitely rejected

    def tell(self, event: Event) -> None:
        self.messages += 1
        self.one.store(Role.EVENT, event.wire_type, encode(event), message_id=str(self.messages))
        self.one.drain()

    def answer(self, command: SendCommand, *, is_success: bool) -> None:
        """The first word of a participant about a command counts; a rejection after a success would be a lie."""
        if not is_success and command.seq not in self.refused and self.has_succeeded(command.seq):
            return
        if is_success and command.seq in self.refused:
            return
        message: Message = Rejected()
        if is_success:
            message = Receipt(receipt=str(command.seq)) if command.type == "pay" else Done()
        else:
            self.refused.add(command.seq)
        self.messages += 1
        self.one.store(
            Role.REPLY, message.wire_type, encode(message), message_id=str(self.messages),
            correlation_id=command_id(self.one.ref, command.seq),
        )  # fmt: skip
        self.successes.update({command.seq} if is_success else ())
        self.one.drain()

    successes: set[int] = field(default_factory=set)

    def has_succeeded(self, seq: int) -> bool:
        return seq in self.successes

    def operator(self, command: str) -> None:
        self.messages += 1
        self.one.store(Role.OPERATOR, command, b"{}", message_id=str(self.messages))
        self.one.drain()

    def open_commands(self) -> list[SendCommand]:
        """Those that the entity still waits for, oldest first."""
        assert self.one.instance is not None
        waits = {seq for seq, c in self.one.instance.progress.commands.items() if c.fate is Fate.SENT}
        return [command for command in self.one.commands() if command.seq in waits]

    def state(self) -> Account:
        assert self.one.instance is not None
        return Account.model_validate_json(self.one.instance.state)

    def settle_down(self) -> None:
        for _ in range(400):
            if self.is_at_rest():
                return
            for command in self.open_commands():
                self.answer(command, is_success=command.seq not in self.refused)
            self.operator("retry")
            self.one.advance(timedelta(seconds=6))
        raise AssertionError(f"it does not come to rest: {self.one.instance}")

    def is_at_rest(self) -> bool:
        waiting = self.one.in_state(RowState.READY, RowState.PARKED, RowState.HELD, RowState.DEAD)
        assert self.one.instance is not None
        return not waiting and self.one.instance.progress.active == {"idle": None}


acts = st.lists(
    st.one_of(
        st.tuples(st.just("deposit"), st.integers(1, 50)),
        st.tuples(st.just("ask"), st.integers(1, 50)),
        st.tuples(st.just("answer"), st.integers(0, 2)),
        st.tuples(st.just("answer"), st.integers(0, 2)),
        st.tuples(st.just("reject"), st.integers(0, 2)),
        st.tuples(st.just("again"), st.integers(0, 20)),
        st.tuples(st.just("time"), st.sampled_from([3, 61, 4000])),
        st.tuples(st.sampled_from(["retry", "compensate", "pause", "resume", "recheck"]), st.just(0)),
    ),
    max_size=25,
)


def act(bank: Bank, what: str, number: int) -> None:
    match what:
        case "deposit":
            bank.deposits += number
            bank.tell(deposit(number))
        case "ask":
            bank.asked.append(number)
            bank.tell(ask(number))
        case "answer" | "reject":
            if len(waiting := bank.open_commands()) > number:
                bank.answer(waiting[number], is_success=what == "answer")
        case "again":
            if len(sent := bank.one.commands()) > number:
                bank.answer(sent[number], is_success=True)
        case "time":
            bank.one.advance(timedelta(seconds=number))
        case _:
            bank.operator(what)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
@given(history=acts)
def test_no_history_loses_or_makes_a_cent(history: list[tuple[str, int]]) -> None:
    """features: 69, 71"""
    bank = Bank()
    bank.tell(deposit(RICH))
    for what, number in history:
        act(bank, what, number)
    bank.operator("resume")
    bank.settle_down()

    sent = {command.seq: command for command in bank.one.commands()}
    pays = {seq: decode(c.body, Pay, "pay").cents for seq, c in sent.items() if c.type == "pay"}
    undone = {c.undoes for c in sent.values() if c.undoes is not None and c.seq in bank.successes}
    published = [decode(e.body, PaidOut, "paid_out") for e in bank.one.effects if isinstance(e, PublishEvent)]
    finished = sum(1 for _ in published)

    assert list(pays.values()) == bank.asked  # each event had its turn, once, in its order
    assert sum(seq not in undone and seq not in bank.refused for seq in pays) == finished
    spent = sum(cents for seq, cents in pays.items() if seq not in undone and seq not in bank.refused)
    assert bank.state().cents == bank.deposits - spent
    instance = bank.one.instance
    assert instance is not None and (instance.status, instance.unsettled) == (Status.WAITING, 0)
    left = instance.progress
    assert not any(c.kind is CommandKind.FORWARD and c.fate is Fate.SENT for c in left.commands.values())
    assert not left.timers and not left.attention
