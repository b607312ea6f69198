"""What happens next: `decide(definition, instance, input, given) -> Decision`.

Pure. Each kind of input has a file that says what it leads to (`next.Next`); `forward` and `undo` carry it out.
An error of the author's code, or of the message, becomes an outcome; the saga is then left as it was.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, assert_never
from uuid import UUID

from pydantic import ValidationError

from saga_worker.saga import starters
from saga_worker.saga.decide import again, child, event, forward, local, operator, reply, result, timer, undo
from saga_worker.saga.decide.next import (
    Begin,
    EnterAgain,
    Fail,
    Finish,
    Leave,
    Next,
    OpenAgain,
    Proceed,
    RollBack,
    StartOver,
    Stay,
    Undo,
    UndoAgain,
)
from saga_worker.saga.definition import Saga
from saga_worker.saga.draft import Draft
from saga_worker.saga.errors import IllegalTransition, PoisonMessage
from saga_worker.saga.finishing import finish
from saga_worker.saga.flow import HOME
from saga_worker.saga.inputs import (
    START,
    ActivityResult,
    Applied,
    ChildEnded,
    Decision,
    EventArrived,
    Given,
    Ignored,
    Input,
    LocalDone,
    LocalFailed,
    OperatorCommand,
    ParentAsked,
    Parked,
    Postponed,
    Raised,
    Refused,
    ReplyArrived,
    TimerFired,
)
from saga_worker.saga.instance import Instance, Progress
from saga_worker.saga.lines import FIRST
from saga_worker.saga.routing import ref_of
from saga_worker.saga.source import where
from saga_worker.saga.trace import new_trace
from saga_worker.saga.transitions import Status


def decide(
    saga: Saga[Any], instance: Instance | None, given_input: Input, given: Given, newest: Saga[Any] | None = None
) -> Decision:
    """What `given_input` does to the saga (`None`: there is none yet), and what has to be sent.

    `newest`: the version that another run would begin by; default: `saga`. The next run of a key has another saga id.

    The instance handed in is never changed. Unless the outcome is Applied or Postponed, the decision carries it
    back unchanged and has no effects.
    """
    draft: Draft | None = None
    try:
        if instance is None:
            return _decide_new(saga, given_input, given)
        draft = Draft(saga, instance, given)
        if instance.definition_version != saga.version:
            return _carry_out(draft, again.judge(draft, given_input, newest or saga))
        return _carry_out(draft, _read(draft, given_input, newest or saga))
    except PoisonMessage as poison:
        return Decision(instance, (), Refused(poison.reason, poison.error))
    except IllegalTransition:
        raise  # ours: roll back and be loud
    except BaseException as error:
        # The author's code is no task of ours: its SystemExit or CancelledError has nobody else to end.
        if isinstance(error, AssertionError) and _is_ours(error):
            raise
        return Decision(instance, (), Raised(describe_error(error, draft.near if draft is not None else None)))


def _read(draft: Draft, given_input: Input, newest: Saga[Any]) -> Next:
    match given_input:
        case EventArrived():
            draft.follow(given_input.trace)
            return event.apply(draft, given_input, newest)
        case ReplyArrived():
            draft.follow(given_input.trace)
            return reply.apply(draft, given_input)
        case ActivityResult():
            return result.apply(draft, given_input)
        case ParentAsked():
            return child.apply_asked(draft, given_input)
        case ChildEnded():
            return child.apply_ended(draft, given_input)
        case LocalDone() | LocalFailed():
            return local.apply(draft, given_input)
        case TimerFired():
            return timer.apply(draft, given_input)
        case OperatorCommand():
            return operator.apply(draft, given_input)
        case _:
            assert_never(given_input)


def _decide_new(saga: Saga[Any], given_input: Input, given: Given) -> Decision:
    """The saga does not exist: only a start makes it, other events are early, the rest is nobody's."""
    match given_input:
        case EventArrived():
            if given_input.type not in saga.starts:
                return Decision(None, (), Parked("unknown_saga", event.number_of(saga, given_input)))
            return _start(saga, given_input, given, None)
        case ReplyArrived():
            raise PoisonMessage("unknown_command", "The reply names a saga that does not exist.")
        case ParentAsked() if given_input.type == START:
            draft = Draft(saga, _blank(saga, given_input.key, given, None), given, is_new=True)
            draft.parent = child.parent_of(given_input)
            draft.follow(given_input.trace or (new_trace(given.saga_id) if given.begins_traces else None))
            draft.start(child.first_state(saga, given_input))
            return _carry_out(draft, Begin())
        case ParentAsked():
            return Decision(None, (), Parked("unknown_saga"))
        case ActivityResult():
            raise PoisonMessage("unknown_activity", "The result names a saga that does not exist.")
        case ChildEnded():
            raise PoisonMessage("unknown_child", "The child names a parent that does not exist.")
        case OperatorCommand() | TimerFired() | LocalDone() | LocalFailed():
            return Decision(None, (), Ignored("unknown_saga"))
        case _:
            assert_never(given_input)


def _start(saga: Saga[Any], given_input: EventArrived, given: Given, former: Instance | None) -> Decision:
    """The first step of a saga; of the next run of a key after `former`."""
    start = saga.starts[given_input.type]
    number = event.number_of(saga, given_input)
    if saga.lives_on and former is None and (number or FIRST) > FIRST:
        return Decision(None, (), Parked("out_of_sequence", number))
    message = event.read(start, given_input, saga)
    draft = Draft(saga, _blank(saga, given_input.key, given, former), given, is_new=True)
    draft.follow(given_input.trace or (new_trace(given.saga_id) if given.begins_traces else None))
    draft.start(start.handler(message))
    starters.join(draft, given_input.starter)
    if saga.lives_on:  # it comes to rest, and the event that made it is the first that it takes
        if number is not None:
            draft.sequences[given_input.source] = number
        forward.begin(draft)
        return _carry_out(draft, event.apply(draft, given_input, saga))
    if number is not None:
        draft.pass_number(given_input.source, number)
    return _carry_out(draft, Begin())


def _blank(saga: Saga[Any], key: str, given: Given, former: Instance | None) -> Instance:
    ref: UUID = ref_of(saga.name, key)
    seq, progress = 0, Progress()
    if former is not None:
        seq, progress = former.seq, Progress(epoch=former.progress.epoch, since=former.seq)
    return Instance(
        saga_id=given.saga_id, ref=ref, definition=saga.name, definition_version=saga.version, key=key,
        status=Status.RUNNING, revision=0, seq=seq, unsettled=0, attention=None, reason=None, state=b"{}",
        progress=progress, started_at=given.now, updated_at=given.now,
    )  # fmt: skip


def _carry_out(draft: Draft, following: Next) -> Decision:
    match following:
        case Begin():
            return _gone_on(draft, forward.begin(draft))
        case StartOver(newest, start):
            return _start(newest, start, draft.given, draft.instance)
        case Leave(step_id):
            return _gone_on(draft, forward.leave(draft, step_id))
        case OpenAgain(step_id):
            return _gone_on(draft, forward.open_again(draft, step_id))
        case EnterAgain(step_id, event_taken):
            forward.enter_again(draft, step_id, event_taken)
        case Undo(reason) if draft.saga.lives_on:  # what followed from its last event; the entity itself goes on
            return _carry_out(draft, RollBack(HOME, reason))
        case Undo(reason) if draft.saga.compensate:
            undo.begin(draft, reason)
        case Undo(reason):
            forward.stand_failed(draft, reason)
        case Finish(reason):
            forward.complete(draft, reason)
        case Fail(reason):
            forward.fail(draft, reason)
        case RollBack(to, reason):
            return _gone_on(draft, undo.roll_back(draft, to, reason), Applied(reason))
        case Proceed(reason):
            undo.proceed(draft)
            return _gone_on(draft, None, Applied(reason))
        case UndoAgain(undone_seq):
            undo.take_back(draft, draft.commands[undone_seq])
        case Stay(reason):
            return finish(draft, Applied(reason))
        case Postponed():
            return finish(draft, following)
        case Ignored() | Parked() | Refused():
            return Decision(draft.instance, (), following)
        case _:
            assert_never(following)
    return finish(draft)


def _gone_on(draft: Draft, instead: Next | None, outcome: Applied | None = None) -> Decision:
    """The flow has moved; what lost a join on the way is taken back beside it, and from a savepoint it goes on."""
    if instead is not None:
        return _carry_out(draft, instead)
    if draft.withdrawn:
        undo.proceed(draft)
    savepoint = undo.is_back_at(draft)
    if savepoint == HOME and draft.saga.lives_on:
        if draft.before is not None:  # an operator may want an entity at rest to be taken back
            draft.take_back_state(draft.before)
        return _gone_on(draft, forward.rest(draft), outcome)
    if savepoint is not None:
        return _gone_on(draft, forward.leave(draft, savepoint), outcome)
    return finish(draft, outcome)


def _is_ours(error: BaseException) -> bool:
    """Whether a line of the core raised it, not one of the author's that the core has called."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not frames or _is_core(frames[-1])


def describe_error(error: BaseException, near: Callable[..., Any] | str | None = None) -> str:
    """One line for the dead letter: class, text and the author's line; of validation errors no values.

    `near`: what of the author's was run last, for errors that the core raises about it.
    """
    place = _place(error, near)
    if isinstance(error, ValidationError):
        fields = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['type']}" for e in error.errors(include_input=False))
        return f"{type(error).__name__} of {error.title}: {fields}{place}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _place(error: BaseException, near: Callable[..., Any] | str | None) -> str:
    """The innermost line in the author's file, which is the first that is not of the core; else what was run last."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    of_others = [frame for frame, _ in frames if not _is_core(frame)]
    if not of_others and near is not None:
        return f" at {(near if isinstance(near, str) else where(near)).rpartition('/')[2]}"
    for frame, line in reversed(frames):
        if not of_others or frame.f_code.co_filename == of_others[0].f_code.co_filename:
            return f" at {frame.f_code.co_filename.rpartition('/')[2]}:{line} in {frame.f_code.co_name}"
    return ""


def _is_core(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("saga_worker.saga.")
