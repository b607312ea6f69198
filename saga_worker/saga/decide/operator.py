"""An operator, or the worker itself, says something: try again, look again, this cannot be delivered.

What an operator does to the course of a saga stands in `control`, and to its timers in `timer_control`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace
from pydantic_core import from_json

from saga_worker.saga import flow, lifecycle, recording
from saga_worker.saga.decide import control, timer_control
from saga_worker.saga.decide.next import Next, OpenAgain, Proceed, Stay
from saga_worker.saga.draft import Draft
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.finishing import AFRESH
from saga_worker.saga.inputs import Ignored, Input, OperatorCommand
from saga_worker.saga.instance import NEVER, CommandKind, CommandRecord, Fate, Instance
from saga_worker.saga.names import (
    CANNOT_COMPENSATE,
    DEADLINE,
    DEADLINE_PASSED,
    ITEMS_FAILED,
    LOCAL,
    LOCAL_FAILED,
    NO_ANSWER,
    REJECTED_AFTER_PIVOT,
    ROUNDS_EXHAUSTED,
    TIMER_FAILED,
    UNDELIVERABLE,
    UNDO_AGAIN,
    UNDO_FAILED,
    UNSETTLED_EXPIRED,
    WAIT,
    WAIT_EXPIRED,
    WATCH,
)
from saga_worker.saga.steps import WaitStep
from saga_worker.saga.transitions import Status

COMMANDS: Final = {
    **control.COMMANDS,
    **timer_control.COMMANDS,
    "retry": "try again whatever put the saga on the attention list",
    "recheck": "judge held and parked rows anew",
    "undeliverable": "a command found no queue; the relay keeps trying",
    "delivered": "the command that found no queue has found one",
    "attention_listed": "a row or a timer put the saga on the attention list: say so (`lifecycle`)",
    "worker_killed": "a worker died that had a timer or a local step in hand",
}


def apply(draft: Draft, command: OperatorCommand) -> Next:
    """What the command does to this saga."""
    if command.type in control.COMMANDS:
        return control.apply(draft, command.type, _arguments(command))
    if command.type in timer_control.COMMANDS:
        return timer_control.apply(draft, command.type, _arguments(command))
    match command.type:
        case "retry":
            return _retry_any(draft)
        case "recheck":
            return Ignored("rechecked")
        case "undeliverable":
            destination = _destination(command)
            if f"{UNDELIVERABLE}: {destination}" in draft.attention:
                return Ignored("listed_already")
            draft.attend(UNDELIVERABLE, destination)
            return Stay()
        case "delivered":
            return Stay() if draft.lift(_destination(command), UNDELIVERABLE) else Ignored("not_listed")
        case "worker_killed":
            return _worker_killed(draft, command)
        case "attention_listed":
            lifecycle.tell_of(draft, [str(entry) for entry in _entries(command)])
            return Stay()
        case _:
            known = ", ".join(COMMANDS)
            raise PoisonMessage("unknown_operator_command", f"{command.type!r} is none of: {known}.")


def _arguments(command: OperatorCommand) -> dict[str, object]:
    try:
        arguments = from_json(command.body)
    except ValueError:
        arguments = None
    return arguments if isinstance(arguments, dict) else {}


def _entries(command: OperatorCommand) -> list[object]:
    entries = _arguments(command).get("entries")
    if not isinstance(entries, list):
        raise PoisonMessage("bad_operator_command", f"{command.type} needs a list of entries in its arguments.")
    return entries


def _destination(command: OperatorCommand) -> str:
    destination = _arguments(command).get("destination")
    if not isinstance(destination, str):
        raise PoisonMessage("bad_operator_command", f"{command.type} needs the name of a destination in its arguments.")
    return destination


def is_listed_already(instance: Instance, given_input: Input) -> bool:
    """Whether this tells of one death more over a timer that fires no more because of others."""
    if not isinstance(given_input, OperatorCommand) or given_input.type != "worker_killed":
        return False
    name, _, epoch = str(_arguments(given_input).get("timer")).rpartition(":")
    timer = instance.progress.timers.get(name)
    return timer is not None and str(timer.epoch) == epoch and timer.due_at == NEVER


def _worker_killed(draft: Draft, command: OperatorCommand) -> Next:
    """From the first death on it runs alone; when it has killed as many workers alone as it may, somebody must look."""
    arguments = _arguments(command)
    name, _, epoch = str(arguments.get("timer")).rpartition(":")
    timer = draft.timers.get(name)
    if timer is None or str(timer.epoch) != epoch:
        return Ignored("timer_not_armed")
    if timer.due_at == NEVER:  # its name is on the list, or it is cancelled; this worker had it in hand before that
        return Ignored("listed_already")
    deaths = max(1, timer.deaths + bool(arguments.get("alone")))
    alone = deaths - 1
    if alone < draft.given.crashes:
        draft.timers[name] = replace(timer, deaths=deaths)
        return Stay()
    kind, _, seq = name.partition(":")
    if kind != LOCAL:
        draft.timers[name] = replace(timer, deaths=deaths, due_at=NEVER)
        draft.attend(TIMER_FAILED, f"{name}: {alone} workers died of it, alone")
        return Stay()
    draft.disarm(name)
    record = draft.commands[int(seq)]
    is_undo = record.kind is CommandKind.UNDO
    draft.attend(UNDO_FAILED if is_undo else LOCAL_FAILED, record.step)
    return Proceed() if is_undo else Stay()


def _retry_any(draft: Draft) -> Next:
    if draft.status is Status.PAUSED:
        return Ignored("paused")
    following = _retry_failed(draft) if draft.stands_still else _retry(draft)
    if following == Ignored("nothing_to_retry") and any(_unrepeatable(draft)):
        return Ignored("not_repeatable")
    return following


def _retry_failed(draft: Draft) -> Next:
    """Where the saga stands, everything that stopped begins again: the failed step, and what waits for nobody.

    A wait, or the deadline, whose time has passed gets all of it once more.
    """
    if any(_unrepeatable(draft)):
        return Ignored("not_repeatable")
    draft.reason = None
    draft.go_on()
    _ask_silent(draft)
    for step_id, seq in draft.active.items():
        step = draft.saga.steps[step_id]
        re_entered = recording.wait_of(draft, step_id) if seq is None else None
        timeout = step.timeout if isinstance(step, WaitStep) else re_entered
        if timeout is not None and _is_over(draft, f"{WAIT}:{step_id}"):
            draft.arm(f"{WAIT}:{step_id}", timeout)
    if draft.saga.deadline is not None and _is_over(draft, DEADLINE):
        draft.arm(DEADLINE, draft.saga.deadline)
    for step_id, seq in draft.active.items():
        if seq is not None and (record := draft.commands[seq]).fate in (Fate.DONE, Fate.REJECTED):
            is_allowed = record.fate is Fate.REJECTED or draft.may_repeat(record)
            return OpenAgain(step_id) if is_allowed else Ignored("not_repeatable")
    return Proceed()


def _is_over(draft: Draft, timer: str) -> bool:
    return timer not in draft.timers or draft.timers[timer].due_at <= draft.given.now


def _retry(draft: Draft) -> Next:
    """Take up again whatever has run out of tries or of time; what can only be known is acknowledged."""
    takers = (_ask_silent, _watch_again, _wait_again, _hurry_failed_timers, _acknowledge)
    is_taken_up = [take_up(draft) for take_up in takers]
    for step_id, seq in draft.active.items():
        if seq is not None and draft.lift(step_id, REJECTED_AFTER_PIVOT):
            return OpenAgain(step_id)
    if _refused_undos_afresh(draft):
        return Proceed()
    return Stay() if any(is_taken_up) else Ignored("nothing_to_retry")


def _ask_silent(draft: Draft) -> bool:
    """Send again, as they are, the commands for which no time-out is armed any more; run own work again."""
    silent = [
        record for record in list(draft.commands.values()) if _is_silent(draft, record) and draft.may_repeat(record)
    ]
    for record in silent:
        draft.lift(record.step, *((NO_ANSWER, LOCAL_FAILED) if record.kind is CommandKind.FORWARD else (UNDO_FAILED,)))
        draft.begin_anew(record)
        draft.resend(record)
    return bool(silent)


def _is_silent(draft: Draft, record: CommandRecord) -> bool:
    return record.fate is Fate.SENT and draft.is_awaited(record) and not draft.is_under_way(record)


def _unrepeatable(draft: Draft) -> Iterator[CommandRecord]:
    """What would have to be sent or run again, and must not be: only its answer, or an operator's word, settles it."""
    return (c for c in draft.commands.values() if _is_silent(draft, c) and not draft.may_repeat(c))


def _refused_undos_afresh(draft: Draft) -> bool:
    """Count the refusals anew; each undo goes out when its turn comes."""
    in_flight = {undo.undoes for undo in draft.in_flight(CommandKind.UNDO)}
    refused = [
        seq
        for seq, failures in draft.undo_failures.items()
        if failures != AFRESH and f"{UNDO_AGAIN}:{seq}" not in draft.timers and seq not in in_flight
    ]
    for seq in refused:
        draft.undo_failures[seq] = AFRESH
        draft.begun.pop(f"undo:{seq}", None)
        draft.lift(draft.commands[seq].step, UNDO_FAILED)
    return bool(refused)


def _watch_again(draft: Draft) -> bool:
    expired = [
        record
        for record in draft.commands.values()
        if record.fate is Fate.UNKNOWN and draft.lift(record.step, UNSETTLED_EXPIRED)
    ]
    for record in expired:
        draft.arm(f"{WATCH}:{record.seq}", draft.given.watch)
    return bool(expired)


def _wait_again(draft: Draft) -> bool:
    """An expired wait, or the deadline, gets its whole time once more: else nobody would look again."""
    is_armed = False
    for step_id in draft.active:
        step = draft.saga.steps[step_id]
        timeout = step.timeout if isinstance(step, WaitStep) else recording.wait_of(draft, step_id)
        if timeout is not None and draft.lift(step_id, WAIT_EXPIRED):
            draft.arm(f"{WAIT}:{step_id}", timeout)
            is_armed = True
    if draft.saga.deadline is not None and draft.lift(None, DEADLINE_PASSED):
        draft.arm(DEADLINE, draft.saga.deadline)
        is_armed = True
    return is_armed


def _acknowledge(draft: Draft) -> bool:
    """Nothing can be done about what wanted to go back past the pivot, except to know it."""
    steps = [step_id for step_id in draft.saga.steps if draft.lift(step_id, CANNOT_COMPENSATE)]
    loops = [loop for loop in flow.loops(draft.saga.flow_root) if draft.lift(loop.name, ROUNDS_EXHAUSTED)]
    items = [step_id for step_id in draft.saga.steps if draft.lift(step_id, ITEMS_FAILED)]
    return bool(steps or loops or items)


def _hurry_failed_timers(draft: Draft) -> bool:
    """Timers whose code raised do not wait for their next try; those that killed are tried once more."""
    failed = {name: timer for name, timer in draft.timers.items() if timer.failures or timer.has_killed}
    for name, timer in failed.items():
        draft.timers[name] = replace(timer, due_at=draft.given.now, failures=0, deaths=0)
    return bool(failed)
