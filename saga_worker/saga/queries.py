"""Questions that an author lets others ask about one saga: read-only functions of its state.

Takes the author's function, guarantees that it knows the class of its answer; `asking` asks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from pydantic import BaseModel

from saga_worker.saga.source import check_handler, returned_class, step_name, where

if TYPE_CHECKING:
    from saga_worker.saga.definition import Saga

S = TypeVar("S", bound=BaseModel)
A = TypeVar("A", bound=BaseModel)


class Query(Generic[S, A]):
    """One question about a saga over state `S`, answered by `A`. Called with a state it is the author's function."""

    def __init__(self, saga: Saga[S], answer: Callable[[S], A], *, name: str | None) -> None:
        check_handler(answer, "state")
        self.saga: Final = saga
        self.answer: Final = answer
        self.name: Final = step_name(answer, name, what="query")
        self.source: Final = where(answer)
        self.answer_model: Final = returned_class(answer, BaseModel, step=self.name, what="query")

    def __call__(self, state: S) -> A:
        return self.answer(state)
