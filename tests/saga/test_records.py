"""A long chain of commands: what is settled is packed, and read again when somebody asks for it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from saga_worker import Command, Done, Event, Rejected, Saga, Step, UndoOf, minutes
from saga_worker.saga.instance import CommandKind, CommandRecord, Fate, Progress
from saga_worker.saga.records import PACK, Commands, dump_progress, load_progress
from saga_worker.testing import SagaTest

LENGTH = 3 * PACK


class Go(Event):
    key: str


class Do(Command[Done]):
    number: int


class Back(UndoOf[Do]):
    number: int


class Chain(BaseModel):
    key: str


chain = Saga("chain", state=Chain)


@chain.starts_on(Go, key=lambda event: event.key)
def go(event: Go) -> Chain:
    return Chain(key=event.key)


def link(number: int) -> Step[Chain]:
    @chain.command("echo", timeout=minutes(1), name=f"step_{number}")
    def step(state: Chain) -> Do:
        return Do(number=number)

    @step.undo
    def back(state: Chain) -> Back:
        return Back(number=number)

    return step


chain.flow(*(link(number) for number in range(LENGTH)))


def stored(test: SagaTest[Chain]) -> dict[str, Any]:
    assert test.one.instance is not None
    document: dict[str, Any] = json.loads(dump_progress(test.one.instance.progress))
    return document


def test_settled_commands_are_packed_while_the_saga_goes_on_and_unpacked_at_its_end() -> None:
    test = SagaTest(chain).given(Go(key="k"))
    for number in range(LENGTH - 1):
        test.expect(Do(number=number)).reply(Done())
    document = stored(test)

    assert len(document["packed"]) + len(document["commands"]) == LENGTH
    assert len(document["commands"]) < PACK

    test.reply(Done()).expect(Do(number=LENGTH - 1)).expect_status("completed")
    assert "packed" not in stored(test)
    assert len(stored(test)["commands"]) == LENGTH


def test_packed_commands_are_undone_the_newest_first() -> None:
    test = SagaTest(chain).given(Go(key="k"))
    for number in range(LENGTH - 1):
        test.expect(Do(number=number)).reply(Done())
    test.expect(Do(number=LENGTH - 1)).reject(Rejected())

    for number in reversed(range(LENGTH - 1)):
        test.expect(Back(number=number)).reply(Done())
    test.expect_status("compensated").expect_nothing()


def test_a_second_answer_to_a_packed_command_is_known_as_one() -> None:
    test = SagaTest(chain).given(Go(key="k")).expect(Do(number=0)).reply(Done())
    for number in range(1, LENGTH - 1):
        test.expect(Do(number=number)).reply(Done())
    assert test.one.instance is not None
    first = test.one.commands()[0]

    test._answer(Done(), first, lambda _: {"done": Done}, "reply")

    test.expect_outcome("ignored: duplicate_reply").expect(Do(number=LENGTH - 1)).expect_nothing()


def records(count: int, *, fate: Fate = Fate.DONE) -> dict[int, CommandRecord]:
    return {
        seq: CommandRecord(f"s{seq}", CommandKind.FORWARD, fate, "echo", "do", None, seq=seq)
        for seq in range(1, count + 1)
    }


def test_what_is_packed_reads_as_what_it_was() -> None:
    progress = Progress(active={"s41": 41}, commands=records(40))

    again = load_progress(dump_progress(progress))

    assert isinstance(again.commands, Commands)
    assert again == progress
    assert list(again.commands) == list(range(1, 41))


def test_looking_at_one_that_is_at_hand_reads_no_other() -> None:
    open_ = CommandRecord("s41", CommandKind.FORWARD, Fate.SENT, "echo", "do", "{}", seq=41)
    again = load_progress(dump_progress(Progress(active={"s41": 41}, commands={**records(40), 41: open_})))
    commands = again.commands
    assert isinstance(commands, Commands)

    assert commands[41] == open_
    assert commands.packed
    assert commands[7].step == "s7"
    assert not commands.packed


def test_what_is_open_or_unknown_is_never_packed() -> None:
    progress = Progress(active={"s1": 1}, commands={**records(40, fate=Fate.UNKNOWN)})

    assert "packed" not in json.loads(dump_progress(progress))


def test_the_size_at_hand_does_not_grow_with_the_chain() -> None:
    packed = load_progress(dump_progress(Progress(active={"s": 1}, commands=records(400)))).commands
    again = load_progress(dump_progress(Progress(active={"s": 1}, commands=Commands.of(packed)))).commands

    assert isinstance(again, Commands)
    assert dict.__len__(again) < PACK
    assert len(again) == 400
