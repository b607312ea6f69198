"""Steps that are sagas of their own: one child (`subsaga`), or one for each of many items (`for_each`).

Takes the child's definition and the author's functions that make its first states, guarantees that what comes back is
read as the child's state, and hands both to the flow and to `decide`. The children are rows of their own; the parent
keeps counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar
from uuid import UUID

from pydantic import BaseModel

from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.retry import Retry, Undo, Verdict
from saga_worker.saga.routing import canonical_key
from saga_worker.saga.source import check_handler, checked_name, returned_class, step_name, where
from saga_worker.saga.steps import S, Step, refuse_second

if TYPE_CHECKING:
    from saga_worker.saga.definition import Saga

C = TypeVar("C", bound=BaseModel)  # the state of a child
MAX_ITEMS: Final = 100_000  # of one `for_each`: all of them are stored in one transaction

ChildKey: TypeAlias = Callable[[C], str | int | UUID]


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """Why a child did not complete. `item`: its number, from 1, if it is one of many."""

    status: str  # compensated | failed | refused
    reason: str
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """How the items of a `for_each` ended."""

    done: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildPolicy:
    """Bounds of a step with children. Without `is_awaited` the children are started, and nothing more."""

    timeout: timedelta | None
    undo_mode: Undo
    is_awaited: bool


class ChildStep(Step[S], Generic[S, C]):
    """What both forms have in common. A child that cannot be taken back asks for attention, it is not tried again."""

    retry: Final = Retry.none()
    undo_retry: Final = Retry.none()

    def __init__(self, name: str, source: str, child: Saga[C], key: ChildKey[C] | None, policy: ChildPolicy) -> None:
        self.id: Final = name
        self.source: Final = source
        self.child: Final = child
        self.key: Final = key
        self.timeout: Final = policy.timeout
        self.undo_mode: Final = policy.undo_mode
        self.is_awaited: Final = policy.is_awaited
        self.on_rejected: Callable[[S, ChildFailed], Verdict] | None = None

    @property
    def has_undo(self) -> bool:
        return self.undo_mode is not Undo.NONE

    def child_key(self, state: C) -> str | None:
        """The key of the child that begins with `state`; None: it is called after the message that starts it."""
        return canonical_key(self.key(state), self.child.key_kind) if self.key is not None else None

    def failed(self, handler: Callable[[S, ChildFailed], Verdict], /) -> Callable[[S, ChildFailed], Verdict]:
        """What it means that a child was taken back, ended as `failed` or could not start.

        Without a handler a saga with a failed sub-saga compensates; of items the handler only keeps the books.
        """
        check_handler(handler, "state", "why")
        refuse_second(self.on_rejected, handler, f"step {self.id} has a failure handler already; keep one")
        self.on_rejected = handler
        return handler


class SubsagaStep(ChildStep[S, C], Generic[S, C]):
    """A step that is a saga of its own, and goes on with the state in which that has completed."""

    def __init__(
        self, make: Callable[[S], C], child: Saga[C], key: ChildKey[C] | None, policy: ChildPolicy,
        *, name: str | None = None,
    ) -> None:  # fmt: skip
        check_handler(make, "state")
        super().__init__(step_name(make, name), where(make), child, key, policy)
        self.make: Final = make
        model = returned_class(make, BaseModel, step=self.id)
        if not issubclass(model, child.state_model):
            raise DefinitionError(
                f"{self.source}: step {self.id} makes {model.__name__}, but saga {child.name} has the state "
                f"{child.state_model.__name__}; return that."
            )
        self.on_reply: Callable[[S, C], Verdict] | None = None

    def result(self, handler: Callable[[S, C], Verdict], /) -> Callable[[S, C], Verdict]:
        """What the last state of the child means."""
        check_handler(handler, "state", "child")
        refuse_second(self.on_reply, handler, f"step {self.id} has a result handler already; keep one")
        self.on_reply = handler
        return handler


class EachStep(ChildStep[S, C], Generic[S, C]):
    """A step with one child for each item: `max_in_flight` of them at a time, and at most `tolerate` may fail."""

    def __init__(
        self, name: str, source: str, items: Callable[[S], Iterable[C]], child: Saga[C], key: ChildKey[C] | None,
        policy: ChildPolicy, *, max_in_flight: int, tolerate: int | None,
    ) -> None:  # fmt: skip
        check_handler_of_items(items)
        super().__init__(checked_name(name, "step", source=source), source, child, key, policy)
        if max_in_flight < 1:
            raise DefinitionError(f"{source}: step {name}: max_in_flight is {max_in_flight}; give at least 1.")
        if tolerate is not None and tolerate < 0:
            raise DefinitionError(f"{source}: step {name}: tolerate is {tolerate}; give 0 or more, or None for any.")
        if policy.undo_mode is Undo.STRICT:
            raise DefinitionError(f"{source}: step {name}: items are taken back at once; use Undo.HYBRID or Undo.NONE.")
        self.items: Final = items
        self.max_in_flight: Final = max_in_flight
        self.tolerate: Final = tolerate
        self.on_item: Callable[[S, C], Verdict] | None = None
        self.on_reply: Callable[[S, Tally], Verdict] | None = None

    def result(self, handler: Callable[[S, C], Verdict], /) -> Callable[[S, C], Verdict]:
        """What the last state of one completed item means."""
        check_handler(handler, "state", "child")
        refuse_second(self.on_item, handler, f"step {self.id} has a result handler already; keep one")
        self.on_item = handler
        return handler

    def joined(self, handler: Callable[[S, Tally], Verdict], /) -> Callable[[S, Tally], Verdict]:
        """What it means that all items have ended."""
        check_handler(handler, "state", "tally")
        refuse_second(self.on_reply, handler, f"step {self.id} has a handler of the join already; keep one")
        self.on_reply = handler
        return handler


@dataclass(frozen=True, slots=True)
class SubsagaDecorator(Generic[S, C]):
    """What `saga.subsaga(…)` returns: turns the function that makes the child's first state into the step."""

    child: Saga[C]
    key: ChildKey[C] | None
    policy: ChildPolicy
    name: str | None
    add: Callable[[SubsagaStep[Any, Any]], None]

    def __call__(self, make: Callable[[S], C], /) -> SubsagaStep[S, C]:
        step = SubsagaStep(make, self.child, self.key, self.policy, name=self.name)
        self.add(step)
        return step


def check_handler_of_items(items: Callable[..., Any]) -> None:
    """Refuses a function of items that is not called as `items(state)`; it may well be a generator."""
    if not callable(items):
        raise DefinitionError(f"{items!r} is no function of the state; give one that returns the items.")
    check_handler(lambda state: items, "state")
