"""Every way in which a saga can go, up to a number of faults, and whether the promises hold on each.

Takes an author's saga and what starts it. The other sides are played: each question gets its answer, each wait its
event, and time passes; at every point of that course, faults are put in: a rejection, another answer, silence with a
late success, a repetition, answers in another order, early and unasked events, a time-out, a failed local step. A crash
needs no place of its own: after every transaction the saga goes on from its stored bytes, and every input is decided
twice. Guarantees to have gone through all of it when `run` returns; raises `CounterExample` with the story otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from saga_worker.saga.definition import Entry, Saga
from saga_worker.saga.inputs import (
    ACTIVITY_DONE,
    ACTIVITY_FAILED,
    ACTIVITY_LOST,
    COMPENSATED,
    COMPLETED,
    REFUSED,
    START,
    LocalDone,
    LocalFailed,
    RunActivity,
    SendCommand,
)
from saga_worker.saga.messages import Event, Message, rejection_models, reply_models
from saga_worker.saga.names import UNSETTLED_EXPIRED
from saga_worker.saga.own_work import ActivityStep
from saga_worker.saga.routing import canonical_key
from saga_worker.saga.steps import CommandOf, WaitStep
from saga_worker.testing.children import Child, children_asked_back, children_left
from saga_worker.testing.history import History, Telling
from saga_worker.testing.promises import forks
from saga_worker.testing.samples import sample

S = TypeVar("S", bound=BaseModel)
RETRIES: Final = 5  # of an operator, at the end, when nothing else is left


@dataclass(frozen=True, slots=True)
class Explored:
    """What was gone through: histories to their end, steps in all of them together, histories that were cut off."""

    histories: int
    steps: int
    cut: int


@dataclass(frozen=True, slots=True)
class _Move:
    """Something that may happen next; `is_fault` counts against the bound."""

    says: str
    do: Callable[[History], object]
    is_fault: bool = False


class CrashMatrix(Generic[S]):
    """All histories of `saga` with at most `faults` faults.

    ::

        def test_checkout_keeps_its_promises_whatever_happens() -> None:
            CrashMatrix(checkout, start=OrderPlaced(order_id="4711", items=["tea"], cents=100), faults=2).run()

    Messages that are not given are made up from their fields: `samples` are used in place of those of the same class,
    for replies, events and results alike. `events` arrive at any time although nobody waits for them. `local` says by
    step id what a local step does to the state: its SQL is not run. With `any_order` the state may depend on the order
    in which parallel branches are answered.
    """

    __test__ = False  # for pytest: the name is not that of a test

    def __init__(
        self, saga: Saga[S], *, start: Event | S | None = None, faults: int = 2, events: Sequence[Event] = (),
        samples: Sequence[BaseModel] = (), local: Mapping[str, Callable[[S], object]] | None = None,
        any_order: bool = False, longest: int = 60, most: int = 200_000,
    ) -> None:  # fmt: skip
        """Raises `DefinitionError` when the saga cannot work. `longest` is where a history is cut off: those of a saga
        that goes round for years; `most` bounds the steps of all histories together.
        """
        saga.check()
        self.saga = saga
        self.faults = faults
        self._samples = {type(each): each for each in samples}
        self._local: Mapping[str, Callable[[Any], object]] = local or {}
        self._any_order = any_order
        self._longest = longest
        self._most = most
        self._start: BaseModel = start if start is not None else self._first()
        if isinstance(self._start, Event):
            if self._start.wire_type not in saga.starts:
                raise ValueError(f"{self._start!r} does not start {saga.name}; it starts with {', '.join(saga.starts)}")
            self._key = saga.starts[self._start.wire_type].key(self._start)
        else:
            self._key = "child"
        self._events = [*events, *self._events_at_any_time(events)]
        self._joined = {id(fork) for fork in forks(saga) if fork.wanted == len(fork.branches)}

    def run(self) -> Explored:
        """Go through all of it; raises `CounterExample` at the first history that breaks a promise."""
        begun = History(self.saga, canonical_key(self._key, self.saga.key_kind))
        with Telling(begun, f"{self._start!r} arrives"):
            if isinstance(self._start, Event):
                begun.event(self._start)
            else:
                begun.parent_says(START, self._start.model_dump_json(by_alias=False).encode())
        histories = steps = cut = 0
        stack = [(begun, self.faults)]
        seen: set[object] = set()
        while stack:
            played, left = stack.pop()
            if len(played.story) >= self._longest:
                cut += 1
                continue
            moves = list(self._moves(played))
            if not any(not move.is_fault for move in moves):
                histories += 1
                played.finish()
            if left == self.faults and not self._any_order:
                self._compare_orders(played)
            for move in moves:
                if move.is_fault and not left:
                    continue
                after = played.copy()
                with Telling(after, ("✗ " if move.is_fault else "  ") + move.says):
                    move.do(after)
                steps += 1
                if steps > self._most:
                    raise ValueError(f"more than {self._most} steps: give fewer faults, fewer events, or most=…")
                if (mark := (after.mark(), left - move.is_fault)) not in seen:
                    seen.add(mark)
                    stack.append((after, left - move.is_fault))
        return Explored(histories, steps, cut)

    # -- what may happen next -----------------------------------------------------------------------------------------

    def _moves(self, played: History) -> Iterator[_Move]:
        """What happens if nothing goes wrong, first; then whatever may go wrong."""
        asks = [ask for ask in self._asks(played) if ask[0] not in played.answered]
        spoken = [ask for ask in asks if ask[0] not in played.silent]
        waits = list(self._waits(played))
        due = played.due_local()
        usual: _Move | None = None
        if due is not None and not played.is_blocked():
            usual, wrong = self._local_step(played, due)
            yield usual
            yield wrong
        for seq, name, answers in spoken:
            for place, (says, do) in enumerate(answers):
                is_usual = usual is None and place == 0
                move = _Move(f"{name} {says}", _then(do, seq), is_fault=not is_usual)
                usual = usual or move
                yield move
            yield _Move(f"{name} is not answered, and its success comes late", _silence(seq), is_fault=True)
        for says, event in waits:
            is_usual = usual is None and says not in played.offered
            move = _Move(says, _offer(event, says), is_fault=not is_usual)
            usual = usual or (move if is_usual else None)
            yield move
        moment = played.next_moment()
        if moment is not None:
            time_passes = _Move("time passes", History.wait_for_it, is_fault=usual is not None)
            usual = usual or time_passes
            yield time_passes
        for seq, name, answers in (ask for ask in asks if ask[0] in played.silent):
            move = _Move(f"{name} {answers[0][0]}, late", _then(answers[0][1], seq), is_fault=usual is not None)
            usual = usual or move
            yield move
        if usual is None and not played.is_settled():
            yield from self._help(played)
        yield from self._unasked(played)

    def _help(self, played: History) -> Iterator[_Move]:
        """Nobody will do anything more: an operator has the last word, about what nobody can know as well."""
        for entry in played.attention:
            reason, _, step = entry.partition(": ")
            if reason == UNSETTLED_EXPIRED:
                yield _Move(f"an operator looks at {step}, and marks it undone", _mark_undone(step))
                return
        if played.retries < RETRIES:
            yield _Move("an operator says retry", History.retry)

    def _unasked(self, played: History) -> Iterator[_Move]:
        if played.last is not None:
            yield _Move(f"{played.last[1]} comes once more", History.again, is_fault=True)
        if not isinstance(self._start, Event) and not played.is_asked_back:
            yield _Move("its parent takes it back", History.take_back, is_fault=True)
        for event in self._events:
            yield _Move(f"{event!r} arrives", _offer(event, repr(event)), is_fault=True)

    def _asks(self, played: History) -> Iterator[tuple[object, str, list[_Answer]]]:
        """Everything that somebody was asked for: its number, its name, and what may be answered, success first."""
        for seq, effect in sorted(played.asked.items()):
            if isinstance(effect, SendCommand):
                yield seq, effect.type, self._answers_to(effect)
            else:
                step = self.saga.steps[effect.step]
                assert isinstance(step, ActivityStep)
                name = f"the undo of {effect.step}" if effect.undoes is not None else effect.step
                yield seq, name, self._results_of(effect, step)
        for child in children_asked_back(played):
            yield child.message_id, _name_of(child), _comes_back(child)
        for child in children_left(played):
            yield child.message_id, _name_of(child), _ends_of(child)

    def _answers_to(self, sent: SendCommand) -> list[_Answer]:
        step = self.saga.steps[sent.step]
        assert isinstance(step, CommandOf)
        model = step.command_model if sent.undoes is None else step.undo_model
        assert model is not None
        replies = [self._example(reply) for reply in dict.fromkeys(reply_models(model).values())]
        refusals = [self._example(refusal) for refusal in dict.fromkeys(rejection_models(model).values())]
        return [
            *((f"is answered {reply!r}", _reply(sent.seq, reply)) for reply in replies),
            *((f"is rejected: {refusal!r}", _reply(sent.seq, refusal)) for refusal in refusals),
        ]

    def _results_of(self, asked: RunActivity, step: ActivityStep[Any, Any]) -> list[_Answer]:
        value = self._example(step.result_model) if asked.undoes is None else None
        body = value.model_dump_json(by_alias=False).encode() if value is not None else b"{}"
        failed = to_json({"error": "it failed", "attempts": 1, "is_terminal": True})
        lost = to_json({"error": "nobody knows", "attempts": 1, "is_terminal": False})
        return [
            (f"returns {value!r}", _result(asked.seq, ACTIVITY_DONE, body)),
            ("fails", _result(asked.seq, ACTIVITY_FAILED, failed)),
            ("ends, and nobody knows how", _result(asked.seq, ACTIVITY_LOST, lost)),
        ]

    def _waits(self, played: History) -> Iterator[tuple[str, Event]]:
        """The events that would end a wait which is open now."""
        open_waits = played.instance.progress.active if played.instance is not None else {}
        for arms in self.saga.arms.values():
            for arm in arms:
                if arm.step_id in open_waits and isinstance(self.saga.steps[arm.step_id], WaitStep):
                    number = played.rounds_of(arm.step_id)
                    event = self._event(arm)
                    yield f"{event!r} arrives for {arm.step_id}" + (f" ({number})" if number > 1 else ""), event

    def _local_step(self, played: History, due: tuple[int, int]) -> tuple[_Move, _Move]:
        assert played.instance is not None
        record = played.instance.progress.commands[due[0]]
        state = self.saga.state_model.model_validate_json(played.instance.state, by_name=True, by_alias=False)
        if record.undoes is None and record.step in self._local:
            self._local[record.step](state)
        name = f"the undo of {record.step}" if record.undoes is not None else record.step
        done = LocalDone(*due, state, None)
        failed = LocalFailed(*due, "it failed", is_terminal=True)
        return (
            _Move(f"{name} runs", lambda p: p.run_local_and_drain(done)),
            _Move(f"{name} fails", lambda p: p.run_local_and_drain(failed), is_fault=True),
        )

    # -- orders -------------------------------------------------------------------------------------------------------

    def _compare_orders(self, played: History) -> None:
        """Two branches that are both waited for leave the same state in whatever order they are answered."""
        asks = [
            (seq, name, answers[0])
            for seq, name, answers in self._asks(played)
            if seq not in played.answered and isinstance(seq, int) and played.asked[seq].undoes is None
        ]
        for place, (one, one_name, one_answer) in enumerate(asks):
            for other, other_name, other_answer in asks[place + 1 :]:
                if not self._are_joined(played, one, other):
                    continue
                there, back = played.copy(), played.copy()
                for branch, order in ((there, (one_answer, other_answer)), (back, (other_answer, one_answer))):
                    with Telling(branch, f"{one_name} and {other_name} are answered, in both orders"):
                        for _, do in order:
                            do(branch)
                fields = _differences(there, back)
                if fields and there.status == back.status:
                    there.fail(f"the order decides what the state is: {', '.join(fields)}")

    def _are_joined(self, played: History, one: int, other: int) -> bool:
        """Whether they stand in different branches of a fork that waits for all of them."""
        ours, theirs = (played.places[played.asked[seq].step] for seq in (one, other))
        for mine, yours in zip(ours, theirs, strict=False):
            if mine != yours:
                return mine[0] == yours[0] and mine[0] in self._joined
        return False

    # -- messages -----------------------------------------------------------------------------------------------------

    def _first(self) -> BaseModel:
        """An event that starts the saga; of one that only others start, its first state."""
        for start in self.saga.starts.values():
            first: BaseModel = self._example(start.model)
            return first
        state: BaseModel = self._example(self.saga.state_model)
        return state

    def _example(self, model: type[Any]) -> Any:
        given = self._samples.get(model)
        return given if given is not None else sample(model)

    def _event(self, entry: Entry) -> Event:
        if entry.model in self._samples:
            return self._samples[entry.model]  # type: ignore[return-value]  # by its class
        return sample(entry.model, pointer=entry.pointer, key=self._key)

    def _events_at_any_time(self, given: Sequence[Event]) -> list[Event]:
        """One of each kind that the saga takes at any time, or waits for, unless one was given."""
        models = {type(event) for event in given}
        entries = {entry.model: entry for _, entry in self.saga.entries() if entry.model not in models}
        starts = {type(self._start)}
        return [self._event(entry) for model, entry in entries.items() if model not in starts]


_Answer = tuple[str, Callable[["History"], object]]


def _then(do: Callable[[History], object], seq: object) -> Callable[[History], object]:
    def answer(played: History) -> None:
        played.answered.add(seq)
        played.silent.discard(seq)
        do(played)

    return answer


def _mark_undone(step: str) -> Callable[[History], object]:
    return lambda played: played.operator("mark_undone", step=step)


def _silence(seq: object) -> Callable[[History], object]:
    return lambda played: played.silent.add(seq)


def _offer(event: Event, says: str) -> Callable[[History], object]:
    def arrive(played: History) -> None:
        played.offered.add(says)
        played.event(event)

    return arrive


def _reply(seq: int, message: Message) -> Callable[[History], object]:
    return lambda played: played.reply(seq, message)


def _result(seq: int, outcome: str, body: bytes) -> Callable[[History], object]:
    return lambda played: played.result(seq, outcome, body)


def _name_of(child: Child) -> str:
    return f"the child of {child.step}" if child.item is None else f"item {child.item} of {child.step}"


def _ends_of(child: Child) -> list[_Answer]:
    failed = to_json({"reason": "it failed"})
    return [("completes", _child(child, COMPLETED, child.body)), ("fails", _child(child, COMPENSATED, failed))]


def _comes_back(child: Child) -> list[_Answer]:
    reason = to_json({"reason": "taken back"})
    return [("is taken back", _child(child, COMPENSATED, reason)), ("stays", _child(child, REFUSED, reason))]


def _child(child: Child, outcome: str, body: bytes) -> Callable[[History], object]:
    return lambda played: played.child_ends(child, outcome, body)


def _differences(one: History, other: History) -> list[str]:
    """The fields of the state in which they differ, with both values."""
    assert one.instance is not None and other.instance is not None
    left, right = from_json(one.instance.state), from_json(other.instance.state)
    return [
        f"{name} is {left.get(name)!r} or {right.get(name)!r}" for name in left if left.get(name) != right.get(name)
    ]
