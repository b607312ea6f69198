"""Steps that do their own work: an activity (I/O, outside any transaction) and a local step (SQL inside it).

Takes the author's async functions, guarantees that each knows its result, bounds and undo, and hands them to the
flow and to `decide`. Nothing is awaited here: the shell runs the functions and feeds back what became of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel

from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.retry import Retry, Undo, Verdict
from saga_worker.saga.source import check_coroutine, check_handler, returned_class, step_name, where
from saga_worker.saga.steps import (
    REPEATABLE,
    CommandOf,
    EmitStep,
    Repeats,
    S,
    SavepointStep,
    SleepStep,
    Step,
    WaitStep,
    refuse_second,
)
from saga_worker.saga.terminal import ErrorMapper
from saga_worker.saga.upcast import upcasted

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

O = TypeVar("O", bound=BaseModel)  # noqa: E741  # the output of an activity

LOCAL_RETRY: Final = Retry.exponential(5)


class ActivityContext(Protocol):
    """What an attempt of an activity knows about itself."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt, on whatever worker: hand it to those who can tell a repeat by it."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first."""
        ...

    @property
    def saga_key(self) -> str:
        """The key of its saga, as text."""
        ...

    @property
    def deadline(self) -> datetime:
        """When this attempt's time is over, on the database's clock."""
        ...

    @property
    def trace_headers(self) -> Mapping[str, str]:
        """`traceparent`, and `tracestate` if there is one: send them along with calls. Empty: the saga has no trace."""
        ...


@dataclass(frozen=True, slots=True)
class ActivityFailed:
    """Why an activity failed for good: what the last attempt raised, and after how many."""

    error: str
    attempts: int
    is_terminal: bool  # it said that trying again is no use
    partial: dict[str, Any] | None = None  # what it has done all the same, if it said so


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityPolicy:
    """Bounds of an activity and of its undo. `concurrency` bounds the attempts at a time in one worker."""

    timeout: timedelta
    retry: Retry
    undo_mode: Undo
    undo_timeout: timedelta
    undo_retry: Retry
    terminal: tuple[type[Exception], ...]
    as_terminal: ErrorMapper | None
    concurrency: int | None
    repeats: Repeats = REPEATABLE


class ActivityStep(Step[S], Generic[S, O]):
    """A step that does I/O in a worker and goes on with what it returns."""

    def __init__(
        self, work: Callable[[Any, ActivityContext], Awaitable[O]], result_model: type[BaseModel],
        policy: ActivityPolicy, *, step_id: str, source: str,
    ) -> None:  # fmt: skip
        self.id: Final = step_id
        self.source: Final = source
        self.work: Final = work
        self.result_model: Final = result_model
        self.timeout: Final = policy.timeout
        self.retry: Final = policy.retry
        self.undo_mode: Final = policy.undo_mode
        self.undo_timeout: Final = policy.undo_timeout
        self.undo_retry: Final = policy.undo_retry
        self.repeats: Final = policy.repeats
        self.terminal: Final = policy.terminal
        self.as_terminal: Final = policy.as_terminal
        self.concurrency: Final = policy.concurrency
        self.on_reply: Callable[[S, O], Verdict] | None = None
        self.on_rejected: Callable[[S, ActivityFailed], Verdict] | None = None
        self.undo_work: Callable[[Any, ActivityContext], Awaitable[None]] | None = None

    @property
    def has_undo(self) -> bool:
        return self.undo_work is not None

    def call(
        self, stored: bytes, state_model: type[BaseModel], ctx: ActivityContext, *, is_undo: bool
    ) -> Awaitable[object]:
        """An attempt, to be awaited: the work, or what takes it back, on the state that was stored for it."""
        state = state_model.__pydantic_validator__.validate_json(
            upcasted(state_model, stored), by_name=True, by_alias=False
        )
        if not is_undo:
            return self.work(state, ctx)
        assert self.undo_work is not None
        return self.undo_work(state, ctx)

    def result(self, handler: Callable[[S, O], Verdict], /) -> Callable[[S, O], Verdict]:
        """What the result means."""
        check_handler(handler, "state", "result")
        refuse_second(self.on_reply, handler, f"step {self.id} has a result handler already; keep one")
        self.on_reply = handler
        return handler

    def failed(self, handler: Callable[[S, ActivityFailed], Verdict], /) -> Callable[[S, ActivityFailed], Verdict]:
        """What a failure means that left nothing behind, or `why.partial`; without a handler the saga compensates.

        Not called when the activity may have worked (an attempt timed out or its worker died, or every attempt raised
        and its undo is hybrid): then the saga compensates, this step included.
        """
        check_handler(handler, "state", "why")
        refuse_second(self.on_rejected, handler, f"step {self.id} has a failure handler already; keep one")
        self.on_rejected = handler
        return handler

    def undo(
        self, work: Callable[[S, ActivityContext], Awaitable[None]], /
    ) -> Callable[[S, ActivityContext], Awaitable[None]]:
        """Takes this activity back; an activity of its own, with a key, time-outs and retries of its own."""
        check_coroutine(work, "state", "ctx")
        _check_undo(self.undo_work, work, self.id, self.undo_mode)
        self.undo_work = work
        return work


class LocalStep(Step[S], Generic[S]):
    """A step that changes the user's own tables in the transaction of its saga: exactly once, or not at all."""

    def __init__(
        self, work: Callable[[S, AsyncSession], Awaitable[Verdict]], *, retry: Retry, undo_mode: Undo,
        as_terminal: ErrorMapper | None = None, name: str | None,
    ) -> None:  # fmt: skip
        check_coroutine(work, "state", "session")
        self.id: Final = step_name(work, name)
        self.source: Final = where(work)
        self.work: Final = work
        self.retry: Final = retry
        self.as_terminal: Final = as_terminal
        self.undo_mode: Final = undo_mode
        self.undo_retry: Final = retry
        self.undo_work: Callable[[S, AsyncSession], Awaitable[None]] | None = None

    @property
    def has_undo(self) -> bool:
        return self.undo_work is not None

    def undo(
        self, work: Callable[[S, AsyncSession], Awaitable[None]], /
    ) -> Callable[[S, AsyncSession], Awaitable[None]]:
        """Takes this step back, in a transaction of its saga again; what it does to the state is not kept."""
        check_coroutine(work, "state", "session")
        _check_undo(self.undo_work, work, self.id, self.undo_mode)
        self.undo_work = work
        return work


@dataclass(frozen=True, slots=True)
class ActivityDecorator(Generic[S]):
    """What `saga.activity(…)` returns: turns the function that does the work into its step."""

    policy: ActivityPolicy
    name: str | None
    add: Callable[[ActivityStep[Any, Any]], None]

    def __call__(self, work: Callable[[S, ActivityContext], Awaitable[O]], /) -> ActivityStep[S, O]:
        check_coroutine(work, "state", "ctx")
        step_id = step_name(work, self.name)
        model: type[BaseModel] = returned_class(work, BaseModel, step=step_id)
        step: ActivityStep[S, O] = ActivityStep(work, model, self.policy, step_id=step_id, source=where(work))
        self.add(step)
        return step


Children: TypeAlias = SubsagaStep[Any, Any] | EachStep[Any, Any]
Answered: TypeAlias = CommandOf[Any, Any] | ActivityStep[Any, Any] | LocalStep[Any] | Children  # steps with a fate
AnyStep: TypeAlias = (
    CommandOf[Any, Any]
    | ActivityStep[Any, Any]
    | LocalStep[Any]
    | SubsagaStep[Any, Any]
    | EachStep[Any, Any]
    | WaitStep[Any]
    | SleepStep[Any]
    | SavepointStep[Any]
    | EmitStep[Any]
)


def is_undone_at_once(step: Answered) -> bool:
    """Hybrid undo takes back what is merely possible; strict undo waits for the answer."""
    return step.undo_mode is Undo.HYBRID


def _check_undo(present: object, work: Callable[..., Any], step_id: str, mode: Undo) -> None:
    refuse_second(present, work, f"step {step_id} has an undo already; keep one")
    if mode is Undo.NONE:
        raise DefinitionError(f"{where(work)}: step {step_id} is declared undo=Undo.NONE; drop that or this undo.")
