"""A start for a key that has a saga: rejected, joined, the beginning of the next run, or waiting for its turn."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import BaseModel

from saga_worker import (
    Command,
    Compensate,
    DefinitionError,
    Done,
    Event,
    Message,
    Saga,
    SecondStart,
    Undo,
    UndoOf,
    Verdict,
    days,
    minutes,
)
from saga_worker.saga.decide import decide
from saga_worker.saga.inputs import (
    ActivityResult,
    Applied,
    EventArrived,
    Given,
    Ignored,
    ReplyArrived,
    SendCommand,
)
from saga_worker.saga.messages import encode
from saga_worker.saga.routing import command_id
from saga_worker.saga.rows import Role, RowState
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import SAGA_ID, START, OneSaga


class Asked(Event):
    job: str
    about: str = ""


class Over(Event):
    job: str
    well: bool = True


class Packed(Message):
    box: str


class Pack(Command[Packed]):
    about: str


class Unpack(UndoOf[Pack]):
    box: str | None


class Job(BaseModel):
    job: str
    about: str
    box: str | None = None


def saga_of(policy: SecondStart, *, version: int = 1, undo: Undo = Undo.HYBRID) -> Saga[Job]:
    saga = Saga("job", state=Job, deadline=days(1), second_start=policy, version=version)

    @saga.starts_on(Asked, key=lambda e: e.job)
    def asked(event: Asked) -> Job:
        if event.about == "raise":
            raise ValueError("no")
        return Job(job=event.job, about=event.about)

    @saga.command("packers", timeout=minutes(1), undo=undo)
    def pack(job: Job) -> Pack:
        return Pack(about=job.about)

    @pack.reply
    def packed(job: Job, reply: Packed) -> Verdict:
        job.box = reply.box
        return None

    @pack.undo
    def unpack(job: Job) -> Unpack:
        return Unpack(box=job.box)

    over = saga.wait("over")

    @over.on(Over, key=lambda e: e.job)
    def is_over(job: Job, event: Over) -> Verdict:
        return None if event.well else Compensate("not well")

    saga.flow(pack, over)
    return saga


def begun(policy: SecondStart, **options: Any) -> SagaTest[Job]:
    return SagaTest(saga_of(policy, **options)).given(Asked(job="j", about="one")).expect(Pack(about="one"))


def ended(policy: SecondStart) -> SagaTest[Job]:
    return begun(policy).reply(Packed(box="1"), to=Pack).event(Over(job="j")).expect_status("completed")


SECOND = Asked(job="j", about="two")


@pytest.mark.parametrize(
    ("policy", "while_open", "after_the_end"),
    [
        (SecondStart.REJECT, "ignored: duplicate_start", "ignored: duplicate_start"),
        (SecondStart.JOIN, "ignored: joined_run", "ignored: joined_run"),
        (SecondStart.RESTART, "ignored: duplicate_start", "applied"),
        (SecondStart.QUEUE, "parked: run_open", "applied"),
    ],
)
def test_what_becomes_of_a_second_start(policy: SecondStart, while_open: str, after_the_end: str) -> None:
    """features: 55"""
    begun(policy).event(SECOND).expect_outcome(while_open).expect_nothing()
    ended(policy).event(SECOND).expect_outcome(after_the_end)


def test_the_next_run_is_another_saga_whose_messages_are_numbered_on() -> None:
    """features: 55, 68"""
    test = ended(SecondStart.RESTART)
    first = test.one.instance
    test.event(SECOND).expect(Pack(about="two")).expect_status("running")
    second = test.one.instance

    assert first is not None and second is not None
    assert (second.ref, second.key, second.revision) == (first.ref, first.key, 1)
    assert second.saga_id != first.saga_id
    assert (second.seq, list(second.progress.commands)) == (first.seq + 1, [first.seq + 1])
    assert min(timer.epoch for timer in second.progress.timers.values()) > first.progress.epoch
    assert test.state == Job(job="j", about="two")
    assert [(row.revision, row.from_status) for row in test.one.journal[-1:]] == [(1, None)]


def test_answers_to_an_earlier_run_are_known_as_such() -> None:
    """features: 55, 89"""
    test = ended(SecondStart.RESTART)
    test.event(SECOND).expect(Pack(about="two"))
    given = Given(START, 0.0, SAGA_ID)

    for late in (ReplyArrived(1, "packed", b'{"box": "1"}'), ActivityResult(1, "activity_done", b"{}")):
        decision = decide(test.saga, test.one.instance, late, given)
        assert decision.outcome == Ignored("earlier_run")
    test.reply(Packed(box="2"), to=Pack)
    assert test.state.box == "2"


def test_a_start_waits_in_line_and_takes_its_turn_when_the_run_has_ended() -> None:
    """features: 55; L3"""
    test = begun(SecondStart.QUEUE)
    test.event(SECOND).event(Asked(job="j", about="three"))
    waiting = test.one.in_state(RowState.PARKED)
    assert [(row.reason, row.expires_at) for row in waiting] == [("run_open", None)] * 2

    test.reply(Packed(box="1"), to=Pack).event(Over(job="j"))
    test.expect(Pack(about="two")).expect_nothing().expect_status("running")
    test.reply(Packed(box="2"), to=Pack).event(Over(job="j")).expect(Pack(about="three"))
    test.reply(Packed(box="3"), to=Pack).event(Over(job="j")).expect_nothing().expect_status("completed")
    assert test.one.runs == 3


def test_a_run_that_fails_lets_the_next_one_begin_when_all_is_taken_back() -> None:
    """features: 55; M11"""
    test = begun(SecondStart.QUEUE).event(SECOND).reply(Packed(box="1"), to=Pack)
    test.event(Over(job="j", well=False)).expect(Unpack(box="1")).expect_nothing()
    test.reply(Done(), to=Unpack).expect(Pack(about="two"))


@pytest.mark.parametrize("policy", [SecondStart.RESTART, SecondStart.QUEUE])
def test_while_an_effect_may_stand_no_run_begins(policy: SecondStart) -> None:
    """features: 55; L1; M11"""
    test = begun(policy, undo=Undo.STRICT).advance(minutes(1)).expect_status("compensated")
    assert test.unsettled == 1
    test.event(SECOND).expect_outcome("parked: run_unsettled").expect_nothing()

    test.reply(Packed(box="1"), to=Pack).expect(
        Unpack(box="1")
    ).expect_nothing()  # late: the run that asked takes it back
    test.reply(Done(), to=Unpack).expect(Pack(about="two")).expect_status("running")
    assert test.one.runs == 2


def test_an_answer_that_settles_the_run_while_it_runs_alone_lets_the_next_one_begin() -> None:
    """A suspect runs alone, and looks at no early row; nothing else may ever come for this saga."""
    test = begun(SecondStart.QUEUE, undo=Undo.STRICT).advance(minutes(1)).expect_status("compensated")
    test.event(SECOND).reply(Packed(box="1"), to=Pack).expect(Unpack(box="1"))
    one = test.one
    answers = command_id(one.ref, one.commands()[-1].seq)
    one.store(Role.REPLY, "done", b"{}", message_id="alone", correlation_id=answers)
    one.step(alone=True)
    assert one.runs == 1
    one.drain()

    test.expect(Pack(about="two")).expect_status("running")


def test_a_start_that_fails_leaves_the_ended_run_as_it_was() -> None:
    test = ended(SecondStart.RESTART)
    before = test.one.instance
    bad = EventArrived("asked", "j", encode(Asked(job="j", about="raise")))
    decision = decide(test.saga, before, bad, Given(START, 0.0, SAGA_ID))

    assert decision.instance is before
    assert "no" in getattr(decision.outcome, "error", "")


def test_the_next_run_begins_by_the_newest_version() -> None:
    """features: 55, 80"""
    test = ended(SecondStart.REJECT)
    newest = saga_of(SecondStart.RESTART, version=2)
    decision = decide(
        test.saga, test.one.instance, EventArrived("asked", "j", encode(SECOND)), Given(START, 0.0, SAGA_ID), newest
    )

    assert isinstance(decision.outcome, Applied)
    assert decision.instance is not None and decision.instance.definition_version == 2


@pytest.mark.parametrize(
    ("policy", "outcome"), [(SecondStart.RESTART, "applied"), (SecondStart.REJECT, "ignored: duplicate_start")]
)
def test_a_run_whose_version_is_gone_is_followed_all_the_same(policy: SecondStart, outcome: str) -> None:
    """features: 55, 80"""
    test = ended(policy).deploy(saga_of(policy, version=2))
    test.late_reply(Packed(box="1"), to=Pack).expect_outcome("ignored: saga_finished")
    test.event(Over(job="j")).expect_outcome("ignored: saga_finished")
    test.event(SECOND).expect_outcome(outcome)


def test_numbered_starts_cannot_be_queued() -> None:
    saga = Saga("job", state=Job, deadline=days(1), second_start=SecondStart.QUEUE)

    class Numbered(Event):
        job: str
        number: int

    saga.starts_on(Numbered, key=lambda e: e.job, sequence=lambda e: e.number)(lambda e: Job(job=e.job, about=""))
    saga.flow(saga.wait("for nothing"))
    with pytest.raises(DefinitionError, match="numbered is numbered"):
        saga.check()


def test_an_internal_saga_has_its_starts_for_itself() -> None:
    """features: 132"""
    saga = Saga("job", state=Job, deadline=days(1), internal=True)
    saga.starts_on(Asked, key=lambda e: e.job)(lambda e: Job(job=e.job, about=""))
    saga.on(Asked, key=lambda e: e.job)(lambda job, e: None)
    saga.flow(saga.wait("for nothing"))
    with pytest.raises(DefinitionError, match="asked both starts it and comes to it later"):
        saga.check()


# -- histories ------------------------------------------------------------------------------------------------------


def history(policy: SecondStart, undo: Undo, seed: int) -> OneSaga:
    """Starts, answers to whatever was ever asked, ends and pauses, in random order; then everybody answers."""
    dice = random.Random(seed)
    one = OneSaga(saga_of(policy, undo=undo), "j")
    answered: set[int] = set()

    def say(role: Role, message: Message, seq: int | None = None) -> None:
        ref = command_id(one.ref, seq) if seq is not None else None
        one.store(role, message.wire_type, encode(message), message_id=f"m{len(one.rows)}", correlation_id=ref)

    def answer(command: SendCommand) -> None:
        answered.add(command.seq)
        say(Role.REPLY, Packed(box=str(command.seq)) if command.type == "pack" else Done(), command.seq)

    for number in range(25):
        match dice.randrange(7):
            case 0 | 1:
                say(Role.EVENT, Asked(job="j", about=str(number)))
            case 2:
                say(Role.EVENT, Over(job="j", well=dice.random() < 0.6))
            case 3 | 4 if commands := one.commands():
                answer(dice.choice(commands))  # of any run, perhaps for the second time
            case 5:
                one.advance(minutes(dice.choice((1, 2, 10))))
            case _:
                one.step(alone=True)
        if dice.random() < 0.7:
            one.drain()
    for _ in range(200):
        one.drain()
        open_ = [command for command in one.commands() if command.seq not in answered]
        if open_:
            answer(open_[0])
        elif one.instance is not None and not one.instance.status.is_final:
            say(Role.EVENT, Over(job="j"))
        else:
            break
        one.advance(minutes(1))
    return one


@pytest.mark.parametrize("policy", list(SecondStart))
@pytest.mark.parametrize("undo", [Undo.HYBRID, Undo.STRICT])
def test_in_random_histories_no_start_is_lost_and_no_run_meets_another(policy: SecondStart, undo: Undo) -> None:
    """features: 55"""
    most = 0
    for seed in range(60):
        one = history(policy, undo, seed)
        assert one.instance is None or (one.instance.status.is_final and one.instance.unsettled == 0), seed
        assert one.in_state(RowState.READY, RowState.HELD) == [], seed
        starts = [row for row in one.rows.values() if row.type == "asked"]
        begun = [entry for entry in one.journal if entry.from_status is None]
        assert [row.reason for row in starts if row.state is RowState.PARKED] == [], seed
        assert len(begun) == one.runs == sum(row.state is RowState.DONE for row in starts), seed
        assert policy in (SecondStart.RESTART, SecondStart.QUEUE) or one.runs <= 1
        assert policy is not SecondStart.QUEUE or one.runs == len(starts), seed
        sent = [seq for entry in one.journal for seq in entry.sent]
        assert sorted(set(sent)) == list(range(1, len(set(sent)) + 1)), "numbers are given out once, in order"
        first: dict[int, int] = {}  # of each number the run that gave it out
        run = 0
        for entry in one.journal:
            run += entry.from_status is None
            for seq in entry.sent:
                assert first.setdefault(seq, run) == run, "no run sends again what another one has sent"
        most = max(most, one.runs)
    assert most > 2 or policy in (SecondStart.REJECT, SecondStart.JOIN)
